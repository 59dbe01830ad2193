//! What all states of a session share: settings, metadata, counters, and the way out for replies and requests.
//! Invariant: replies leave in the order they were written; every refusal that is to be recorded is recorded here.
use super::command::{self, Command};
use super::io::{Asked, Disconnect, Output, Question, Rejection, Verdict};
use super::session::{Settings, State};
use crate::address::{Mailbox, ReversePath};
use crate::id::SpoolIdGenerator;
use crate::limits;
use crate::message::Meta;
use crate::port::TlsInfo;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::time::{Mono, Now};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};
use core::fmt;
use core::fmt::Write;

pub struct Context {
    pub settings: Settings,
    pub ids: SpoolIdGenerator,
    /// When what is being handled happened.
    pub now: Now,
    /// Of the connection. Empty while lent to policy.
    pub meta: Meta,
    pub tls: Option<TlsInfo>,
    pub authenticated: bool,
    /// The peer is one of `relay_hosts`.
    pub is_relay_host: bool,
    /// Messages accepted on this connection.
    pub messages: u64,
    /// The command being answered, for records. Empty where it must not be recorded.
    pub line: Vec<u8>,
    /// Until when the next command has to be complete, or the handshake done.
    pub deadline: Mono,
    /// The command after the one being answered is to be read from a fresh buffer (STARTTLS).
    pub discard_input: bool,
    /// The client said AUTH and nothing since that we understand: it may be telling us a password.
    may_tell_secrets: bool,
    errors: u32,
    junk: u32,
    replies: BytesMut,
    outputs: VecDeque<Output>,
}

/// Whose refusal it is, for the record.
#[derive(Clone, Copy)]
pub struct About<'a> {
    pub sender: &'a ReversePath,
    pub recipients: &'a [Mailbox],
    pub size: u64,
}

impl About<'_> {
    pub const NOBODY: About<'static> =
        About { sender: &ReversePath::Null, recipients: &[], size: 0 };
}

/// Policy's no.
pub struct Refusal {
    pub reply: Reply,
    pub end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stay,
    Close,
    CloseWith421,
}

impl Context {
    pub fn new(settings: Settings, ids: SpoolIdGenerator) -> Context {
        let peer = settings.peer.ip();
        let is_relay_host = settings.listener.relay_hosts.iter().any(|block| block.contains(peer));
        let mut meta = settings.listener.meta.clone();
        let mut set = |name: &str, value: String| meta.insert(name.into(), value.into());
        set("reception_protocol", "ESMTP".into());
        set("received_via", settings.local.to_string());
        set("orig_received_via", settings.local.to_string());
        set("received_from", settings.peer.to_string());
        set("orig_received_from", settings.peer.to_string());
        set("hostname", settings.hostname.to_string());
        Context {
            settings,
            ids,
            now: Now::default(),
            meta,
            tls: None,
            authenticated: false,
            is_relay_host,
            messages: 0,
            line: Vec::new(),
            deadline: Mono(0),
            discard_input: false,
            may_tell_secrets: false,
            errors: 0,
            junk: 0,
            replies: BytesMut::new(),
            outputs: VecDeque::new(),
        }
    }

    pub fn pop_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn has_output(&self) -> bool {
        !self.outputs.is_empty()
    }

    pub fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub fn is_backlogged(&self) -> bool {
        self.replies.len() > limits::REPLY_BACKLOG_OCTETS
    }

    /// Hands over the replies written so far.
    pub fn flush(&mut self) {
        if !self.replies.is_empty() {
            let replies = self.replies.split().freeze();
            self.outputs.push_back(Output::Send(replies));
        }
    }

    pub fn ask(&mut self, what: Asked) {
        let meta = core::mem::take(&mut self.meta);
        self.outputs.push_back(Output::Ask(Question { meta, what }));
    }

    /// Keeps the command for records, unless it may be what a client says that takes a refused AUTH for an accepted one.
    pub fn note_line(&mut self, line: &[u8], parsed: &Result<Command<'_>, Reply>) {
        let is_understood = !matches!(parsed, Ok(Command::Unknown) | Err(_));
        let is_authentication = command::is_authentication(line);
        self.may_tell_secrets = is_authentication || (self.may_tell_secrets && !is_understood);
        if is_authentication || !self.may_tell_secrets {
            self.line.extend_from_slice(line);
        }
    }

    /// Starts the time for the next command.
    pub fn restart_deadline(&mut self) {
        self.deadline = self.now.mono + self.settings.listener.client_timeout;
    }

    /// A positive or intermediate reply of one line.
    pub fn say(&mut self, line: fmt::Arguments<'_>) {
        self.replies.write_fmt(line).expect("a BytesMut grows");
        self.replies.put_slice(b"\r\n");
    }

    pub fn write(&mut self, reply: &Reply) {
        let mut wire = Vec::with_capacity(64);
        reply.write(&mut wire);
        self.replies.put_slice(&wire);
    }

    /// Writes a 4yz or 5yz reply and has it recorded.
    pub fn refuse(&mut self, mut reply: Reply, about: About<'_>) {
        assert!(reply.is_transient() || reply.is_permanent(), "a refusal is 4yz or 5yz: {reply}");
        self.write(&reply);
        let not_served = Some(EnhancedCode { class: 4, subject: 3, detail: 2 });
        if reply.code == 421 && reply.enhanced == not_served {
            return;
        }
        if reply.command.is_none() && !self.line.is_empty() {
            reply.command = Some(command::for_records(&self.line));
        }
        self.outputs.push_back(Output::Rejected(Rejection {
            sender: about.sender.clone(),
            recipients: about.recipients.to_vec(),
            reply,
            meta: self.meta.clone(),
            size: about.size,
        }));
    }

    /// Refuses what breaks the protocol or the relay rules; too much of it ends the session.
    pub fn fault(&mut self, reply: Reply, about: About<'_>, back: impl Into<State>) -> State {
        self.refuse(reply, about);
        self.errors += 1;
        if self.errors >= limits::SESSION_ERRORS {
            return self.end_with("4.7.0", "too many errors");
        }
        back.into()
    }

    /// Counts a command that leads nowhere; too many of them end the session.
    pub fn junk(&mut self, back: impl Into<State>) -> State {
        self.junk += 1;
        if self.junk > limits::SESSION_JUNK_COMMANDS {
            return self.end_with("4.7.0", "too many commands without a message");
        }
        back.into()
    }

    pub fn message_was_accepted(&mut self, count: u64) {
        self.messages += count;
        self.errors = 0;
        self.junk = 0;
    }

    /// `421 <enhanced> H <text>`, and the end.
    pub fn end_with(&mut self, enhanced: &str, text: &str) -> State {
        let reply = Reply::new(421, &format!("{enhanced} {} {text}", self.settings.hostname));
        self.refuse(reply, About::NOBODY);
        self.close()
    }

    pub fn close(&mut self) -> State {
        self.flush();
        self.outputs.push_back(Output::Close);
        State::Closed
    }

    /// Answers a policy's no and goes `back`, unless it ends the session.
    pub fn deny(&mut self, refusal: Refusal, about: About<'_>, back: impl Into<State>) -> State {
        let closes = refusal.end == End::Close || refusal.reply.code == 421;
        self.refuse(refusal.reply, about);
        match refusal.end {
            _ if closes => self.close(),
            End::CloseWith421 => self.end_with("4.3.0", "closing the connection"),
            End::Stay | End::Close => back.into(),
        }
    }

    /// Tells policy's yes, with what it gave, from its no.
    pub fn resolve(&self, verdict: Verdict) -> Result<Verdict, Refusal> {
        let (reply, end) = match verdict {
            Verdict::Reject(reply) => (reply, End::Stay),
            Verdict::Disconnect { reply, how } => match how {
                Disconnect::If421 => (reply, End::Stay),
                Disconnect::ForceDisconnect => (reply, End::Close),
                Disconnect::FollowWith421 => (reply, End::CloseWith421),
            },
            Verdict::Failed(text) => return Err(self.policy_failure(text)),
            other => return Ok(other),
        };
        if reply.is_transient() || reply.is_permanent() {
            return Err(Refusal { reply, end });
        }
        let code = reply.code;
        Err(self
            .policy_failure(format!("policy rejected with {code}, which is no 4yz or 5yz code")))
    }

    pub fn policy_failure(&self, text: String) -> Refusal {
        let difficulties = format!("4.3.0 {} technical difficulties", self.settings.hostname);
        let mut reply = Reply::new(421, &difficulties);
        reply.command = Some(text);
        Refusal { reply, end: End::Close }
    }
}
