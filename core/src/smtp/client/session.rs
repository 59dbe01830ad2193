//! One connection as a machine: takes inputs, cuts replies, moves from state to state. Invariant: when it is our turn
//! to speak the server has nothing left to say; what it said nevertheless answers nothing, and ends the session.
use super::completion::{AwaitLoneDot, AwaitReset, AwaitVerdict, Conclusion, SendBody};
use super::context::{Context, Loss, Phase};
use super::greeting::{
    AwaitAuth, AwaitBanner, AwaitHandshake, AwaitHello, AwaitStartTls, Hello, tls_connect,
};
use super::io::{Closed, Fate, Input, Job, Output};
use super::reply_parser::ReplyParser;
use super::transaction::{AwaitData, AwaitMail, AwaitRcpt, Transaction};
use crate::config::EgressPath;
use crate::dispatcher::{self, Detail};
use crate::port::{TlsConnect, TlsInfo};
use crate::smtp::reply::Reply;
use crate::time::{Mono, Now};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::mem;

#[derive(Clone, Debug)]
pub struct Settings {
    pub path: Arc<EgressPath>,
    /// What we call ourselves.
    pub ehlo_domain: String,
    /// Whom we mean to talk to; its certificate has to say so.
    pub host: String,
    /// TLS was found broken at this host: do without, if the path allows.
    pub skip_tls: bool,
}

/// One type for each state that can do something of its own.
#[derive(Debug)]
pub enum State {
    Unconnected,
    AwaitBanner(AwaitBanner),
    AwaitHello(AwaitHello),
    AwaitStartTls(AwaitStartTls),
    AwaitHandshake(AwaitHandshake),
    AwaitAuth(AwaitAuth),
    Ready,
    AwaitMail(AwaitMail),
    AwaitRcpt(AwaitRcpt),
    AwaitData(AwaitData),
    SendBody(SendBody),
    AwaitVerdict(AwaitVerdict),
    AwaitLoneDot(AwaitLoneDot),
    AwaitReset(AwaitReset),
    AwaitGoodbye,
    Turn(Turn),
    Closed,
}

/// Our turn: every command was answered. Never outlives the input that led to it.
#[derive(Debug)]
pub enum Turn {
    Hello(Hello),
    StartTls,
    Handshake,
    Auth,
    Ready,
    Rcpt { transaction: Transaction, position: usize },
    Data(Transaction),
    Body(Transaction),
    LoneDot(Transaction),
    Conclude(Conclusion),
}

impl From<Turn> for State {
    fn from(turn: Turn) -> State {
        State::Turn(turn)
    }
}

impl Turn {
    const PHASE: Phase = Phase::Doing("preparing the next command");

    fn speak(self, cx: &mut Context) -> State {
        match self {
            Turn::Hello(hello) => hello.say(cx),
            Turn::StartTls => AwaitStartTls::say(cx),
            Turn::Handshake => AwaitHandshake::begin(cx),
            Turn::Auth => AwaitAuth::say(cx),
            Turn::Ready => cx.become_ready(),
            Turn::Rcpt { transaction, position } => transaction.say_rcpt(position, cx),
            Turn::Data(transaction) => transaction.say_data(cx),
            Turn::Body(transaction) => transaction.send_body(cx),
            Turn::LoneDot(transaction) => AwaitLoneDot::say(transaction, cx),
            Turn::Conclude(conclusion) => conclusion.proceed(cx),
        }
    }

    fn on_loss(self, loss: Loss, cx: &mut Context) -> State {
        match self {
            Turn::Rcpt { transaction, .. }
            | Turn::Data(transaction)
            | Turn::Body(transaction)
            | Turn::LoneDot(transaction) => transaction.on_loss(loss, Self::PHASE, cx),
            Turn::Conclude(conclusion) => conclusion.on_loss(loss, cx),
            Turn::Hello(_) | Turn::StartTls | Turn::Handshake | Turn::Auth | Turn::Ready => {
                cx.end(loss, Self::PHASE, false)
            }
        }
    }
}

impl State {
    fn phase(&self, cx: &Context) -> Phase {
        match self {
            State::Unconnected => Phase::Doing("connecting"),
            State::AwaitBanner(_) => AwaitBanner::PHASE,
            State::AwaitHello(state) => Phase::ReplyTo(state.hello.verb()),
            State::AwaitStartTls(_) => AwaitStartTls::PHASE,
            State::AwaitHandshake(_) => AwaitHandshake::PHASE,
            State::AwaitAuth(_) => AwaitAuth::PHASE,
            State::Ready => Phase::Doing("idle"),
            State::AwaitMail(_) => AwaitMail::PHASE,
            State::AwaitRcpt(_) => AwaitRcpt::PHASE,
            State::AwaitData(_) => AwaitData::PHASE,
            State::SendBody(_) => SendBody::PHASE,
            State::AwaitVerdict(_) => AwaitVerdict::phase(cx),
            State::AwaitLoneDot(_) => AwaitLoneDot::PHASE,
            State::AwaitReset(_) => AwaitReset::PHASE,
            State::AwaitGoodbye => Phase::ReplyTo("QUIT"),
            State::Turn(_) => Turn::PHASE,
            State::Closed => Phase::Doing("closed"),
        }
    }

    /// Whether what the server says now can be an answer.
    fn awaits_reply(&self) -> bool {
        match self {
            State::AwaitBanner(_)
            | State::AwaitHello(_)
            | State::AwaitStartTls(_)
            | State::AwaitAuth(_)
            | State::AwaitMail(_)
            | State::AwaitRcpt(_)
            | State::AwaitData(_)
            | State::SendBody(_)
            | State::AwaitVerdict(_)
            | State::AwaitLoneDot(_)
            | State::AwaitReset(_)
            | State::AwaitGoodbye => true,
            State::Unconnected
            | State::AwaitHandshake(_)
            | State::Ready
            | State::Turn(_)
            | State::Closed => false,
        }
    }

    fn on_connected(self, cx: &mut Context) -> State {
        match self {
            State::Unconnected => {
                cx.expect_within(cx.settings.path.banner_timeout);
                State::AwaitBanner(AwaitBanner)
            }
            State::Closed => self,
            other => panic!("connected a second time: {}", other.phase(cx).name()),
        }
    }

    fn on_reply(self, reply: Reply, cx: &mut Context) -> State {
        match self {
            State::AwaitBanner(state) => state.on_reply(reply, cx),
            State::AwaitHello(state) => state.on_reply(reply, cx),
            State::AwaitStartTls(state) => state.on_reply(reply, cx),
            State::AwaitAuth(state) => state.on_reply(reply, cx),
            State::AwaitMail(state) => state.on_reply(reply, cx),
            State::AwaitRcpt(state) => state.on_reply(reply, cx),
            State::AwaitData(state) => state.on_reply(reply, cx),
            State::SendBody(state) => state.on_reply(reply, cx),
            State::AwaitVerdict(state) => state.on_reply(reply, cx),
            State::AwaitLoneDot(state) => state.on_reply(reply, cx),
            State::AwaitReset(state) => state.on_reply(reply, cx),
            State::AwaitGoodbye => cx.close(Closed::Done),
            other => unreachable!("no reply is awaited: {}", other.phase(cx).name()),
        }
    }

    fn on_tls_done(self, outcome: Result<TlsInfo, String>, cx: &mut Context) -> State {
        match self {
            State::AwaitHandshake(state) => state.on_done(outcome.map(drop), cx),
            // Given up meanwhile.
            State::Closed => self,
            other => panic!("a handshake that wasn't asked for: {}", other.phase(cx).name()),
        }
    }

    fn on_deliver(self, job: Job, cx: &mut Context) -> State {
        assert!(!job.recipients.is_empty(), "a job has recipients");
        match self {
            State::Ready => Transaction::begin(job, cx),
            // It was ready, and idle for too long.
            State::AwaitGoodbye => {
                let recipients = job.recipients.into_iter();
                cx.report(recipients.map(|(index, _)| (index, Fate::Returned)).collect(), false);
                self
            }
            other => panic!("a message for a session not ready: {}", other.phase(cx).name()),
        }
    }

    fn on_close(self, cx: &mut Context) -> State {
        cx.is_closing = true;
        match self {
            State::Ready => cx.say_goodbye(),
            State::Unconnected
            | State::AwaitBanner(_)
            | State::AwaitHello(_)
            | State::AwaitStartTls(_)
            | State::AwaitHandshake(_)
            | State::AwaitAuth(_) => cx.close(Closed::Done),
            // The transaction is finished first.
            other => other,
        }
    }

    fn on_flushed(self, cx: &mut Context) -> State {
        if mem::replace(&mut cx.is_flushed, true) {
            return self;
        }
        match self {
            State::SendBody(state) => return state.send_block(cx),
            State::AwaitVerdict(_) => cx.expect_within(cx.settings.path.data_dot_timeout),
            _ if self.awaits_reply() => cx.restart_deadline(),
            _ => {}
        }
        self
    }

    fn on_tick(self, cx: &mut Context) -> State {
        match self {
            _ if !cx.is_overdue() => self,
            State::Ready => cx.say_goodbye(),
            _ => self.on_loss(Loss::Connection(cx.missed()), cx),
        }
    }

    fn on_loss(self, loss: Loss, cx: &mut Context) -> State {
        let phase = self.phase(cx);
        match self {
            State::Closed => self,
            State::AwaitGoodbye => cx.close(Closed::Done),
            State::AwaitStartTls(_) | State::AwaitHandshake(_) => {
                let tls_failed = matches!(loss, Loss::Connection(_));
                cx.end(loss, phase, tls_failed)
            }
            State::AwaitHello(state) => state.on_loss(loss, phase, cx),
            State::AwaitMail(state) => state.transaction.on_loss(loss, phase, cx),
            State::AwaitRcpt(state) => state.transaction.on_loss(loss, phase, cx),
            State::AwaitData(state) => state.transaction.on_loss(loss, phase, cx),
            State::SendBody(state) => state.transaction.on_loss(loss, phase, cx),
            State::AwaitLoneDot(state) => state.transaction.on_loss(loss, phase, cx),
            State::AwaitVerdict(state) => state.on_loss(loss, cx),
            State::AwaitReset(state) => state.on_loss(loss, cx),
            State::Turn(turn) => turn.on_loss(loss, cx),
            State::Unconnected | State::AwaitBanner(_) | State::AwaitAuth(_) | State::Ready => {
                cx.end(loss, phase, false)
            }
        }
    }
}

pub struct Session {
    context: Context,
    state: State,
    replies: ReplyParser,
    /// Replies so far.
    heard: u64,
    /// Of the last message.
    recipients: usize,
}

impl Session {
    pub fn new(settings: Settings) -> Session {
        Session {
            context: Context::new(settings),
            state: State::Unconnected,
            replies: ReplyParser::default(),
            heard: 0,
            recipients: 0,
        }
    }

    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.context.now = now.mono;
        let state = mem::replace(&mut self.state, State::Closed);
        let cx = &mut self.context;
        let mut state = match input {
            Input::Connected => state.on_connected(cx),
            Input::Bytes(octets) => self.read(state, octets),
            Input::Ended => {
                state.on_loss(Loss::Connection("the server closed the connection".into()), cx)
            }
            Input::TlsDone(outcome) => state.on_tls_done(outcome, cx),
            Input::Deliver(job) => {
                self.recipients = job.recipients.len();
                state.on_deliver(job, cx)
            }
            Input::Close => state.on_close(cx),
            Input::Abort => state.on_loss(Loss::Aborted, cx),
            Input::Flushed => state.on_flushed(cx),
            Input::Tick => state.on_tick(cx),
        };
        while let State::Turn(turn) = state {
            state = turn.speak(&mut self.context);
        }
        self.state = state;
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.context.pop_output()
    }

    /// When an [`Input::Tick`] is wanted.
    pub fn next_wake(&self) -> Option<Mono> {
        self.context.deadline()
    }

    /// How to make the handshake that [`Output::StartTls`] asks for.
    pub fn tls_connect(&self) -> TlsConnect {
        tls_connect(&self.context)
    }

    /// Whether the message may be the server's already. If so a process that stops gives it some time (D22) before
    /// it says [`Input::Abort`].
    pub fn has_sent_final_dot(&self) -> bool {
        matches!(self.state, State::AwaitVerdict(_))
    }

    /// Whether the peer has, or will have with what is sent next, a part of the message.
    pub fn has_begun_body(&self) -> bool {
        matches!(self.state, State::SendBody(_) | State::AwaitVerdict(_))
    }

    /// What it does, in words.
    #[cfg(test)]
    pub fn phase(&self) -> &'static str {
        self.state.phase(&self.context).name()
    }

    /// What it does, as the watchdog wants to know it.
    pub fn progress(&self) -> (dispatcher::Phase, Option<Detail>) {
        use dispatcher::Phase::{AttemptingConnection, Closing, DeliveringMessage, Idle};
        match &self.state {
            State::Unconnected | State::AwaitBanner(_) => {
                (AttemptingConnection, Some(Detail::Banner))
            }
            State::AwaitHello(state) => {
                (AttemptingConnection, Some(Detail::Hello(state.hello.verb())))
            }
            State::AwaitStartTls(_) | State::AwaitHandshake(_) => {
                (AttemptingConnection, Some(Detail::StartTls))
            }
            State::AwaitAuth(_) => (AttemptingConnection, Some(Detail::Auth)),
            State::Ready => (Idle, None),
            State::AwaitMail(_)
            | State::AwaitRcpt(_)
            | State::AwaitData(_)
            | State::SendBody(_)
            | State::AwaitVerdict(_)
            | State::AwaitLoneDot(_)
            | State::AwaitReset(_) => {
                (DeliveringMessage, Some(Detail::Send { recipients: self.recipients }))
            }
            State::AwaitGoodbye | State::Turn(_) | State::Closed => (Closing, None),
        }
    }

    /// Whole replies of the server so far, each of which is progress.
    pub fn replies_heard(&self) -> u64 {
        self.heard
    }

    fn read(&mut self, mut state: State, mut octets: &[u8]) -> State {
        while !octets.is_empty() && !matches!(state, State::Closed) {
            if !state.awaits_reply() {
                return state.on_loss(self.stray(octets), &mut self.context);
            }
            state = match self.replies.take(&mut octets) {
                Ok(Some(reply)) => {
                    self.heard += 1;
                    state.on_reply(reply, &mut self.context)
                }
                Ok(None) => break,
                Err(malformed) => {
                    state.on_loss(Loss::OutOfStep(malformed.to_string()), &mut self.context)
                }
            };
        }
        state
    }

    /// What the server said though nothing was asked; often why it is about to hang up.
    fn stray(&mut self, mut octets: &[u8]) -> Loss {
        Loss::Unasked(self.replies.take(&mut octets).ok().flatten())
    }
}
