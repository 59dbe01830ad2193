//! The states from MAIL to the final dot: envelope, relay decision (core.md 2.1), content. Invariants: every recipient
//! in a [`Transaction`] was answered 250, and every other one was not; all of them take the same kinds of content, so
//! that the one reply after the final dot is true of each.
use super::command::{self, Command, MailArguments};
use super::context::{About, Context};
use super::data::{DataLimits, Deframer};
use super::greeting::{ExpectMail, Greeted, greet, reset, without_effect};
use super::io::{Asked, Verdict};
use super::permission::{Permission, Permissions};
use super::reception;
use super::session::{State, WakeReason};
use crate::address::{Mailbox, ReversePath};
use crate::limits;
use crate::smtp::reply::Reply;
use crate::time::{Duration, Mono};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

/// A client has to send its message at this rate, measured over [`RATE_WINDOW`] (Postfix asks for the same).
const MINIMUM_OCTETS_PER_SECOND: u64 = 500;
const RATE_WINDOW: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Transaction {
    pub greeted: Greeted,
    pub sender: ReversePath,
    pub recipients: Vec<Mailbox>,
    utf8: bool,
    announced: u64,
    /// Whether the sender's domain lets this peer relay, once that was asked.
    sender_relays: Option<bool>,
    /// The recipient domain asked about last, and what mail to it may be.
    asked_domain: Option<(Box<str>, Permission)>,
    /// Of the recipients' domains.
    pub permissions: Permissions,
}

impl Transaction {
    pub fn about(&self) -> About<'_> {
        About { sender: &self.sender, recipients: &self.recipients, size: 0 }
    }
}

#[derive(Debug)]
pub struct AwaitMail {
    pub greeted: Greeted,
    pub arguments: MailArguments,
}

impl AwaitMail {
    pub fn on_verdict(self, verdict: Verdict, cx: &mut Context) -> State {
        match cx.resolve(verdict) {
            Ok(_) => ExpectRcpt::begin(self.greeted, self.arguments, cx),
            Err(refusal) => {
                let about = About { sender: &self.arguments.sender, recipients: &[], size: 0 };
                cx.deny(refusal, about, ExpectMail { greeted: self.greeted })
            }
        }
    }
}

/// In a transaction, perhaps still without a recipient.
#[derive(Debug)]
pub struct ExpectRcpt {
    pub transaction: Transaction,
}

impl ExpectRcpt {
    pub fn begin(greeted: Greeted, arguments: MailArguments, cx: &mut Context) -> State {
        cx.say(format_args!("250 OK <{}>", arguments.sender));
        let transaction = Transaction {
            greeted,
            sender: arguments.sender,
            recipients: Vec::new(),
            utf8: arguments.utf8,
            announced: arguments.size.unwrap_or(0),
            sender_relays: None,
            asked_domain: None,
            permissions: Permissions::default(),
        };
        ExpectRcpt { transaction }.into()
    }

    pub fn on_command(self, command: Command<'_>, cx: &mut Context) -> State {
        let out_of_sequence = match command {
            Command::Rcpt(arguments) => return self.on_rcpt(arguments, cx),
            Command::Data => return self.on_data(cx),
            Command::Rset => {
                return reset(ExpectMail { greeted: self.transaction.greeted }, cx);
            }
            Command::Helo(domain) => return greet(domain, false, self.into(), cx),
            Command::Ehlo(domain) => return greet(domain, true, self.into(), cx),
            Command::Mail(_) => "5.5.0 MAIL FROM already issued; you must RSET first",
            Command::Auth { .. } => "5.5.1 AUTH not permitted inside a transaction",
            _ => "5.5.1 not permitted inside a transaction",
        };
        without_effect(command, out_of_sequence, self, cx)
    }

    fn on_rcpt(self, arguments: &str, cx: &mut Context) -> State {
        let utf8 = self.transaction.utf8;
        let recipient = match command::rcpt_arguments(arguments, utf8, &cx.settings.hostname) {
            Ok(recipient) => recipient,
            Err(reply) => {
                let sender = self.transaction.sender.clone();
                let about = About { sender: &sender, recipients: &[], size: 0 };
                return cx.fault(reply, about, self);
            }
        };
        let count = self.transaction.recipients.len() as u64;
        let listener = &cx.settings.listener;
        let most = listener.max_recipients_per_message.min(limits::RECIPIENTS_PER_MESSAGE as u64);
        // Each recipient may become a message of its own.
        let is_last = cx.messages + count >= listener.max_messages_per_connection;
        let text = match () {
            () if is_last && count == 0 => {
                return cx.end_with("4.5.3", "too many recipients on this connection");
            }
            () if count >= most => "4.5.3 too many recipients",
            () if is_last => "4.5.3 too many recipients on this connection",
            () => return decide_relay(self.transaction, recipient, cx),
        };
        self.transaction.refuse_recipient(Reply::new(452, text), &recipient, cx);
        self.into()
    }

    fn on_data(self, cx: &mut Context) -> State {
        if self.transaction.recipients.is_empty() {
            let reply = Reply::new(503, "5.5.0 RCPT TO must be issued first");
            return cx.fault(reply, About::NOBODY, self);
        }
        cx.say(format_args!("354 Send body; end with CRLF.CRLF"));
        State::ReadData(ReadData::begin(self.transaction, cx))
    }
}

impl Transaction {
    fn refuse_recipient(&self, reply: Reply, recipient: &Mailbox, cx: &mut Context) {
        let recipients = core::slice::from_ref(recipient);
        cx.refuse(reply, About { sender: &self.sender, recipients, size: 0 });
    }

    fn sender_domain(&self) -> Option<&str> {
        match &self.sender {
            ReversePath::Null => None,
            ReversePath::Mailbox(mailbox) => Some(mailbox.domain()),
        }
    }
}

/// Goes through the reasons to take mail for the recipient, and asks policy for a domain's rules where they matter.
fn decide_relay(transaction: Transaction, recipient: Mailbox, cx: &mut Context) -> State {
    if !cx.settings.handled.listener_domain {
        let permission = Permission::relay(cx.is_relay_host);
        return permit(permission, transaction, recipient, cx);
    }
    let listener = cx.settings.listener.listen.to_string();
    if !cx.is_relay_host
        && transaction.sender_relays.is_none()
        && let Some(domain) = transaction.sender_domain()
    {
        cx.ask(Asked::ListenerDomain { domain: domain.into(), listener });
        return State::AwaitSenderDomain(AwaitSenderDomain { transaction, recipient });
    }
    match &transaction.asked_domain {
        Some((domain, permission)) if **domain == *recipient.domain() => {
            permit(*permission, transaction, recipient, cx)
        }
        _ => {
            cx.ask(Asked::ListenerDomain { domain: recipient.domain().into(), listener });
            State::AwaitRecipientDomain(AwaitRecipientDomain { transaction, recipient })
        }
    }
}

fn permit(
    permission: Permission,
    transaction: Transaction,
    recipient: Mailbox,
    cx: &mut Context,
) -> State {
    if !permission.takes_anything() {
        return refuse_relay(transaction, &recipient, cx);
    }
    if !transaction.permissions.agree_with(permission) {
        // The content may be fit for some and not for others: a transaction of its own, please.
        let reply = Reply::new(452, "4.5.3 too many recipients");
        transaction.refuse_recipient(reply, &recipient, cx);
        return ExpectRcpt { transaction }.into();
    }
    let state = AwaitRcpt { transaction, recipient, permission };
    if !cx.settings.handled.rcpt_to {
        return state.accept(cx);
    }
    cx.ask(Asked::RcptTo { recipient: state.recipient.clone() });
    State::AwaitRcpt(state)
}

fn refuse_relay(transaction: Transaction, recipient: &Mailbox, cx: &mut Context) -> State {
    let peer = cx.settings.peer.ip();
    let reply = Reply::new(550, &format!("5.7.1 relaying not permitted for {peer}"));
    let sender = transaction.sender.clone();
    let recipients = core::slice::from_ref(recipient);
    cx.fault(reply, About { sender: &sender, recipients, size: 0 }, ExpectRcpt { transaction })
}

#[derive(Debug)]
pub struct AwaitSenderDomain {
    transaction: Transaction,
    recipient: Mailbox,
}

impl AwaitSenderDomain {
    pub fn on_verdict(mut self, verdict: Verdict, cx: &mut Context) -> State {
        match cx.resolve(verdict) {
            Ok(verdict) => {
                let peer = cx.settings.peer.ip();
                let relays = match verdict {
                    Verdict::ListenerDomain(Some(domain)) => {
                        domain.relay_from.iter().any(|block| block.contains(peer))
                    }
                    _ => false,
                };
                self.transaction.sender_relays = Some(relays);
                decide_relay(self.transaction, self.recipient, cx)
            }
            Err(refusal) => deny_recipient(self.transaction, &self.recipient, refusal, cx),
        }
    }
}

#[derive(Debug)]
pub struct AwaitRecipientDomain {
    transaction: Transaction,
    recipient: Mailbox,
}

impl AwaitRecipientDomain {
    pub fn on_verdict(mut self, verdict: Verdict, cx: &mut Context) -> State {
        match cx.resolve(verdict) {
            Ok(verdict) => {
                let relays = cx.is_relay_host || self.transaction.sender_relays == Some(true);
                let mut permission = Permission::relay(relays);
                if let Verdict::ListenerDomain(Some(domain)) = verdict {
                    permission.add(&domain);
                }
                self.transaction.asked_domain = Some((self.recipient.domain().into(), permission));
                decide_relay(self.transaction, self.recipient, cx)
            }
            Err(refusal) => deny_recipient(self.transaction, &self.recipient, refusal, cx),
        }
    }
}

#[derive(Debug)]
pub struct AwaitRcpt {
    transaction: Transaction,
    recipient: Mailbox,
    permission: Permission,
}

impl AwaitRcpt {
    pub fn on_verdict(self, verdict: Verdict, cx: &mut Context) -> State {
        match cx.resolve(verdict) {
            Ok(_) => self.accept(cx),
            Err(refusal) => deny_recipient(self.transaction, &self.recipient, refusal, cx),
        }
    }

    fn accept(mut self, cx: &mut Context) -> State {
        cx.say(format_args!("250 OK <{}>", self.recipient));
        self.transaction.permissions.note(self.recipient.domain(), self.permission);
        self.transaction.recipients.push(self.recipient);
        ExpectRcpt { transaction: self.transaction }.into()
    }
}

fn deny_recipient(
    transaction: Transaction,
    recipient: &Mailbox,
    refusal: super::context::Refusal,
    cx: &mut Context,
) -> State {
    let sender = transaction.sender.clone();
    let recipients = core::slice::from_ref(recipient);
    cx.deny(refusal, About { sender: &sender, recipients, size: 0 }, ExpectRcpt { transaction })
}

/// Between 354 and the final dot.
#[derive(Debug)]
pub struct ReadData {
    transaction: Transaction,
    deframer: Deframer,
    last_octets: Mono,
    window_begin: Mono,
    window_octets: u64,
}

/// What became of some octets of content.
pub struct Progress {
    pub octets: usize,
    pub state: State,
    /// More octets are needed.
    pub starved: bool,
}

impl ReadData {
    fn begin(transaction: Transaction, cx: &Context) -> ReadData {
        let listener = &cx.settings.listener;
        let limits = DataLimits {
            octets: listener.max_message_size,
            line_octets: listener.line_length_hard_limit,
            line_endings: listener.invalid_line_endings,
        };
        let expected = usize::try_from(transaction.announced).unwrap_or(usize::MAX);
        let now = cx.now.mono;
        let deframer = Deframer::new(limits, expected);
        ReadData { transaction, deframer, last_octets: now, window_begin: now, window_octets: 0 }
    }

    pub fn on_octets(mut self, input: &[u8], cx: &mut Context) -> Progress {
        let taken = self.deframer.take(input);
        if taken.is_complete {
            let content = self.deframer.finish();
            let state = reception::end_of_data(self.transaction, content, cx);
            return Progress { octets: taken.octets, state, starved: false };
        }
        Progress { octets: taken.octets, state: State::ReadData(self), starved: true }
    }

    /// Counts what arrived for the rate the client has to keep.
    pub fn note_arrival(&mut self, octets: usize, cx: &Context) {
        if octets > 0 {
            self.last_octets = cx.now.mono;
            self.window_octets += octets as u64;
        }
    }

    pub fn next_wake(&self, cx: &Context) -> (Mono, WakeReason) {
        let idle = self.last_octets + cx.settings.listener.client_timeout;
        let window = self.window_begin + RATE_WINDOW;
        match idle <= window {
            true => (idle, WakeReason::DataBlock),
            false => (window, WakeReason::DataRate),
        }
    }

    pub fn on_wake(mut self, cx: &mut Context) -> State {
        let now = cx.now.mono;
        let hostname = cx.settings.hostname.clone();
        let about = About { size: self.deframer.size(), ..self.transaction.about() };
        if now.since(self.last_octets) >= cx.settings.listener.client_timeout {
            cx.refuse(Reply::new(421, &format!("4.3.2 {hostname} idle too long")), about);
            return cx.close();
        }
        if now.since(self.window_begin) >= RATE_WINDOW {
            if self.window_octets < MINIMUM_OCTETS_PER_SECOND * RATE_WINDOW.as_secs() {
                let text = format!("4.4.2 {hostname} the message arrives too slowly");
                cx.refuse(Reply::new(421, &text), about);
                return cx.close();
            }
            self.window_begin = now;
            self.window_octets = 0;
        }
        State::ReadData(self)
    }
}
