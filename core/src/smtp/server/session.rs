//! One SMTP connection as a machine: takes inputs, cuts lines, moves from state to state.
//! Invariant: octets are looked at only in states that read; while a question, a handshake or a submission is
//! outstanding they wait. Replies to what came in one read leave in one [`Output::Send`] where possible.
use super::command;
use super::context::{About, Context};
use super::greeting::{
    AwaitAuth, AwaitGreeting, AwaitHelo, AwaitTls, ExpectAuthResponse, ExpectHelo, ExpectMail,
    banner, early_talk, line_limit, line_too_long, not_smtp,
};
use super::io::{Answer, Asked, Handled, Input, Output, Submitted};
use super::reception::{AfterAnswer, AwaitAbandoned, AwaitData, AwaitDurable, AwaitMessage};
use super::transaction::{
    AwaitMail, AwaitRcpt, AwaitRecipientDomain, AwaitSenderDomain, ExpectRcpt, ReadData,
};
use crate::config::EsmtpListener;
use crate::id::SpoolIdGenerator;
use crate::limits;
use crate::port::TlsInfo;
use crate::smtp::reply::Reply;
use crate::time::{Mono, Now};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::net::SocketAddr;
use memchr::{memchr, memmem};

/// The first octet of a TLS record that begins a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

#[derive(Clone, Debug)]
pub struct Settings {
    pub listener: Arc<EsmtpListener>,
    /// What we call ourselves.
    pub hostname: Arc<str>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub handled: Handled,
    pub tls_available: bool,
}

/// Why a session wants a [`Input::Tick`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// The next command isn't complete.
    Command,
    /// No content arrives.
    DataBlock,
    /// Content arrives, perhaps too slowly.
    DataRate,
    TlsHandshake,
    /// Policy works on a message.
    Processing,
}

/// One type for each state; what a state can't do it has no method for.
#[derive(Debug)]
pub enum State {
    Unopened,
    AwaitGreeting(AwaitGreeting),
    ExpectHelo(ExpectHelo),
    AwaitHelo(AwaitHelo),
    ExpectMail(ExpectMail),
    AwaitTls(AwaitTls),
    ExpectAuthResponse(ExpectAuthResponse),
    AwaitAuth(AwaitAuth),
    AwaitMail(AwaitMail),
    ExpectRcpt(ExpectRcpt),
    AwaitSenderDomain(AwaitSenderDomain),
    AwaitRecipientDomain(AwaitRecipientDomain),
    AwaitRcpt(AwaitRcpt),
    ReadData(ReadData),
    AwaitData(AwaitData),
    AwaitMessage(AwaitMessage),
    AwaitAbandoned(AwaitAbandoned),
    AwaitDurable(AwaitDurable),
    Closed,
}

impl From<ExpectHelo> for State {
    fn from(state: ExpectHelo) -> State {
        State::ExpectHelo(state)
    }
}

impl From<ExpectMail> for State {
    fn from(state: ExpectMail) -> State {
        State::ExpectMail(state)
    }
}

impl From<ExpectRcpt> for State {
    fn from(state: ExpectRcpt) -> State {
        State::ExpectRcpt(state)
    }
}

impl State {
    /// Waits for a line of the client.
    fn reads_lines(&self) -> bool {
        matches!(
            self,
            State::ExpectHelo(_)
                | State::ExpectMail(_)
                | State::ExpectRcpt(_)
                | State::ExpectAuthResponse(_)
        )
    }

    fn on_answer(self, answer: Answer, cx: &mut Context) -> State {
        if matches!(self, State::Closed) {
            // Asked before the client went away.
            return self;
        }
        cx.meta = answer.meta;
        let verdict = answer.verdict;
        match self {
            State::AwaitGreeting(state) => state.on_verdict(verdict, cx),
            State::AwaitHelo(state) => state.on_verdict(verdict, cx),
            State::AwaitAuth(state) => state.on_verdict(verdict, cx),
            State::AwaitMail(state) => state.on_verdict(verdict, cx),
            State::AwaitSenderDomain(state) => state.on_verdict(verdict, cx),
            State::AwaitRecipientDomain(state) => state.on_verdict(verdict, cx),
            State::AwaitRcpt(state) => state.on_verdict(verdict, cx),
            State::AwaitData(state) => state.on_verdict(verdict, cx),
            State::AwaitMessage(state) => state.on_verdict(verdict, cx),
            State::AwaitAbandoned(state) => state.on_verdict(),
            other => panic!("an answer to a question that wasn't asked, in {other:?}"),
        }
    }

    fn on_line(self, line: &[u8], cx: &mut Context) -> State {
        cx.line.clear();
        if let State::ExpectAuthResponse(state) = self {
            return state.on_line(line, cx);
        }
        let parsed = command::parse(line);
        cx.note_line(line, &parsed);
        let command = match parsed {
            Ok(command) => command,
            Err(reply) => return cx.fault(reply, About::NOBODY, self),
        };
        match self {
            State::ExpectHelo(state) => state.on_command(command, cx),
            State::ExpectMail(state) => state.on_command(command, cx),
            State::ExpectRcpt(state) => state.on_command(command, cx),
            other => unreachable!("{other:?} reads no lines"),
        }
    }

    /// A line that can't be looked at: too long, or not ended by CRLF.
    fn on_bad_line(self, bad: BadLine, cx: &mut Context) -> State {
        cx.line.clear();
        match (self, bad) {
            (State::ExpectAuthResponse(state), BadLine::TooLong { .. }) => {
                state.on_overlong_line(cx)
            }
            // A cancelled exchange rather than one that waits for ever.
            (State::ExpectAuthResponse(state), BadLine::NoCarriageReturn) => {
                state.on_line(b"*", cx)
            }
            (state, BadLine::Answered) => state,
            (state, BadLine::TooLong { is_authentication }) => {
                cx.fault(line_too_long(is_authentication), About::NOBODY, state)
            }
            (state, BadLine::NoCarriageReturn) => {
                let reply = Reply::new(501, "5.5.2 command lines must end with CRLF");
                cx.fault(reply, About::NOBODY, state)
            }
        }
    }

    fn on_wake(self, cx: &mut Context) -> State {
        match self {
            State::ReadData(state) => state.on_wake(cx),
            State::AwaitData(state) => state.on_wake(cx),
            State::AwaitMessage(state) => state.on_wake(cx),
            State::AwaitTls(_) => cx.close(),
            state if state.reads_lines() => {
                cx.line.clear();
                cx.end_with("4.3.2", "idle too long")
            }
            other => other,
        }
    }

    fn on_stop(self, cx: &mut Context) -> State {
        match self {
            State::Closed => State::Closed,
            State::AwaitTls(_) => State::AwaitTls(AwaitTls { stopping: true }),
            State::AwaitDurable(mut state) => {
                if state.after == AfterAnswer::Continue {
                    state.after = AfterAnswer::Stop;
                }
                State::AwaitDurable(state)
            }
            _ => cx.end_with("4.3.2", "shutting down"),
        }
    }

    fn on_ended(self, cx: &mut Context) -> State {
        match self {
            State::Closed => State::Closed,
            State::AwaitDurable(mut state) => {
                state.after = AfterAnswer::Close;
                State::AwaitDurable(state)
            }
            _ => cx.close(),
        }
    }
}

#[derive(Clone, Copy)]
enum BadLine {
    TooLong {
        is_authentication: bool,
    },
    NoCarriageReturn,
    /// The rest of a line that had a bare LF in it: never a command, whatever it looks like.
    Answered,
}

/// What stands at the beginning of the input.
enum Line {
    /// Without its CRLF; its octets and those to go past.
    Good {
        length: usize,
        octets: usize,
    },
    /// A bare LF ended it; what follows up to CRLF belongs to it.
    Broken {
        octets: usize,
    },
    /// Everything up to the next CRLF is to be passed over.
    TooLong {
        is_authentication: bool,
    },
    /// The end of what was passed over, or so much of it.
    Passed {
        octets: usize,
        is_complete: bool,
    },
    Incomplete,
}

pub struct Session {
    context: Context,
    state: State,
    /// What came and isn't used up yet, from `used`.
    input: Vec<u8>,
    used: usize,
    /// In the middle of a line that was too long already.
    passing_over: Option<BadLine>,
}

impl Session {
    /// `ids`: a clone of the node's one generator.
    pub fn new(settings: Settings, ids: SpoolIdGenerator) -> Session {
        Session {
            context: Context::new(settings, ids),
            state: State::Unopened,
            input: Vec::new(),
            used: 0,
            passing_over: None,
        }
    }

    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.context.now = now;
        let cx = &mut self.context;
        let state = mem::replace(&mut self.state, State::Closed);
        self.state = match input {
            Input::Bytes(octets) => {
                self.state = state;
                return self.on_octets(octets);
            }
            Input::Tick => {
                self.state = state;
                return self.wake_if_due();
            }
            Input::Opened { refusal } => open(state, refusal, cx),
            Input::Ended => state.on_ended(cx),
            Input::Answer(answer) => state.on_answer(answer, cx),
            Input::TlsDone(outcome) => tls_done(state, outcome, cx),
            Input::Submitted(outcome) => submitted(state, outcome, cx),
            Input::Stop => state.on_stop(cx),
        };
        self.context.restart_deadline();
        self.run();
    }

    pub fn poll(&mut self) -> Option<Output> {
        if !self.context.has_output() {
            // Where the backlog of replies stopped it.
            self.run();
        }
        self.context.pop_output()
    }

    /// When a [`Input::Tick`] is wanted, and why.
    pub fn next_wake(&self) -> Option<(Mono, WakeReason)> {
        match &self.state {
            State::ReadData(state) => Some(state.next_wake(&self.context)),
            State::AwaitData(state) => Some((state.deadline(), WakeReason::Processing)),
            State::AwaitMessage(state) => Some((state.deadline(), WakeReason::Processing)),
            State::AwaitTls(_) => Some((self.context.deadline, WakeReason::TlsHandshake)),
            state if state.reads_lines() => Some((self.context.deadline, WakeReason::Command)),
            _ => None,
        }
    }

    /// Whether the driver should read. Not while something is outstanding or replies wait to be taken.
    pub fn wants_bytes(&self) -> bool {
        let reads = self.state.reads_lines() || matches!(self.state, State::ReadData(_));
        // Before the greeting only to notice a client that speaks first.
        let listens = matches!(self.state, State::AwaitGreeting(_));
        (reads || listens) && !self.context.is_backlogged() && !self.context.has_output()
    }

    /// Octets held back from the client's input, for tests of their bound.
    #[cfg(test)]
    pub fn buffered(&self) -> usize {
        self.input.capacity()
    }

    fn wake_if_due(&mut self) {
        if self.next_wake().is_some_and(|(when, _)| when <= self.context.now.mono) {
            let state = mem::replace(&mut self.state, State::Closed);
            self.state = state.on_wake(&mut self.context);
            self.context.flush();
        }
    }

    fn on_octets(&mut self, octets: &[u8]) {
        self.wake_if_due();
        match &mut self.state {
            State::Closed => return,
            // Sent before the answer to STARTTLS: not part of the encrypted session.
            State::AwaitTls(_) => return,
            State::Unopened | State::AwaitGreeting(_) if !octets.is_empty() => {
                self.state = early_talk(&mut self.context);
                return;
            }
            State::ReadData(state) => state.note_arrival(octets.len(), &self.context),
            _ => {}
        }
        self.input.extend_from_slice(octets);
        self.run();
    }

    /// Goes on as far as the input and the state allow.
    fn run(&mut self) {
        let cx = &mut self.context;
        while !cx.is_backlogged() {
            if mem::take(&mut cx.discard_input) {
                self.used = self.input.len();
            }
            let input = &self.input[self.used..];
            let state = mem::replace(&mut self.state, State::Closed);
            if let State::ReadData(state) = state {
                let progress = state.on_octets(input, cx);
                self.used += progress.octets;
                self.state = progress.state;
                if progress.starved {
                    break;
                }
                cx.restart_deadline();
                continue;
            }
            if !state.reads_lines() {
                self.state = state;
                break;
            }
            if self.passing_over.is_none() && input.first() == Some(&TLS_HANDSHAKE) {
                cx.line.clear();
                self.state = not_smtp(cx);
                break;
            }
            match next_line(input, self.passing_over.is_some(), &state, cx) {
                Line::Good { length, octets } => {
                    self.state = state.on_line(&input[..length], cx);
                    self.used += octets;
                }
                Line::Broken { octets } => {
                    self.state = state.on_bad_line(BadLine::NoCarriageReturn, cx);
                    self.passing_over = Some(BadLine::Answered);
                    self.used += octets;
                }
                Line::TooLong { .. } if command::begins_http_request(input) => {
                    cx.line.clear();
                    self.state = not_smtp(cx);
                    break;
                }
                Line::TooLong { is_authentication } => {
                    self.state = state;
                    self.passing_over = Some(BadLine::TooLong { is_authentication });
                    continue;
                }
                Line::Passed { octets, is_complete } => {
                    self.used += octets;
                    let Some(bad) = self.passing_over.filter(|_| is_complete) else {
                        self.state = state;
                        break;
                    };
                    self.passing_over = None;
                    self.state = state.on_bad_line(bad, cx);
                }
                Line::Incomplete => {
                    self.state = state;
                    break;
                }
            }
            cx.restart_deadline();
        }
        self.settle();
    }

    /// Gives back what isn't needed until the next input.
    fn settle(&mut self) {
        if mem::take(&mut self.context.discard_input) || matches!(self.state, State::Closed) {
            self.used = self.input.len();
        }
        self.input.drain(..self.used);
        self.used = 0;
        if self.input.capacity() > 2 * limits::READ_CHUNK_OCTETS && self.input.is_empty() {
            self.input = Vec::new();
        }
        // Replies to a batch leave together: those before a question with the one that follows its answer.
        let is_reading = self.state.reads_lines() || matches!(self.state, State::ReadData(_));
        if is_reading || self.context.is_backlogged() {
            self.context.flush();
        }
    }
}

fn next_line(input: &[u8], is_passing_over: bool, state: &State, cx: &Context) -> Line {
    if is_passing_over {
        return pass_over(input);
    }
    let is_authentication = matches!(state, State::ExpectAuthResponse(_))
        || input.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
    let limit = line_limit(is_authentication, cx);
    let Some(end) = memchr(b'\n', input) else {
        // One more may be the CR.
        return match input.len() > limit + 1 {
            true => Line::TooLong { is_authentication },
            false => Line::Incomplete,
        };
    };
    let octets = end + 1;
    let line = input[..end].strip_suffix(b"\r");
    match line {
        _ if line.unwrap_or(&input[..end]).len() > limit => Line::TooLong { is_authentication },
        Some(line) => Line::Good { length: line.len(), octets },
        None => Line::Broken { octets },
    }
}

fn pass_over(input: &[u8]) -> Line {
    if let Some(end) = memmem::find(input, b"\r\n") {
        return Line::Passed { octets: end + 2, is_complete: true };
    }
    // A CR at the end may be half of what is looked for.
    let octets = input.len() - usize::from(input.ends_with(b"\r"));
    Line::Passed { octets, is_complete: false }
}

fn open(state: State, refusal: Option<Reply>, cx: &mut Context) -> State {
    match (state, refusal) {
        (State::Unopened, Some(refusal)) => {
            cx.refuse(refusal, About::NOBODY);
            cx.close()
        }
        (State::Unopened, None) if cx.settings.handled.connection_accepted => {
            cx.ask(Asked::ConnectionAccepted);
            State::AwaitGreeting(AwaitGreeting)
        }
        (State::Unopened, None) => banner(cx),
        // It spoke, or went away, or we stopped, before we knew.
        (State::Closed, _) => State::Closed,
        (other, _) => panic!("opened twice, in {other:?}"),
    }
}

fn tls_done(state: State, outcome: Option<TlsInfo>, cx: &mut Context) -> State {
    match state {
        State::AwaitTls(state) => state.on_done(outcome, cx),
        State::Closed => State::Closed,
        other => panic!("a handshake that wasn't asked for is done, in {other:?}"),
    }
}

fn submitted(state: State, outcome: Submitted, cx: &mut Context) -> State {
    match state {
        State::AwaitDurable(state) => state.on_submitted(outcome, cx),
        other => panic!("a submission completed twice or was never made, in {other:?}"),
    }
}
