//! What all states of a session share: settings, what the server offers, the deadline, and the way out.
//! Invariant: a deadline runs whenever the session waits for anything, from the moment what it waits for was sent,
//! and anew once that has left. Nothing is decided here.
use super::io::{Closed, Fate, Output, Report};
use super::session::{Settings, State};
use crate::smtp::reply::Reply;
use crate::time::{Duration, Mono};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

pub struct Context {
    pub settings: Settings,
    /// When what is being handled happened.
    pub now: Mono,
    pub features: Features,
    pub channel: Channel,
    /// The caller wants the connection closed as soon as nothing is under way.
    pub is_closing: bool,
    /// All that was sent has left.
    pub is_flushed: bool,
    was_ready: bool,
    timeout: Duration,
    deadline: Option<Mono>,
    outputs: VecDeque<Output>,
}

/// What the server said it can do, in its last reply to EHLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    pub pipelining: bool,
    pub eight_bit_mime: bool,
    pub smtp_utf8: bool,
    pub starttls: bool,
    pub auth_plain: bool,
    pub size: Size,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Size {
    #[default]
    NotOffered,
    NoMaximum,
    Maximum(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Clear,
    /// TLS with whatever certificate.
    Encrypted,
    /// TLS with the certificate of the host that was meant.
    Validated,
}

/// What a session does, in words for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Doing(&'static str),
    /// Waiting for the reply to this command.
    ReplyTo(&'static str),
}

/// Why nothing more is heard in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The connection is gone, or what was waited for didn't come in time.
    Connection(String),
    /// The server said what can't be an answer. What it said before may not have been one either.
    OutOfStep(String),
    /// The server said something, this reply if it was one, when it was our turn.
    Unasked(Option<Reply>),
    /// [`super::Input::Abort`]
    Aborted,
}

impl Features {
    /// `content` is the reply's; its first line is a greeting (RFC 5321 4.1.1.1).
    pub fn parse(content: &str) -> Features {
        let mut features = Features::default();
        for line in content.split('\n').skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or("").to_ascii_uppercase();
            match &*keyword {
                "PIPELINING" => features.pipelining = true,
                "8BITMIME" => features.eight_bit_mime = true,
                "SMTPUTF8" => features.smtp_utf8 = true,
                "STARTTLS" => features.starttls = true,
                "AUTH" => features.auth_plain |= words.any(|w| w.eq_ignore_ascii_case("PLAIN")),
                "SIZE" => features.size = Size::parse(words.next()),
                _ => {}
            }
        }
        features
    }
}

impl Size {
    fn parse(maximum: Option<&str>) -> Size {
        match maximum.and_then(|digits| digits.parse().ok()) {
            None | Some(0) => Size::NoMaximum,
            Some(maximum) => Size::Maximum(maximum),
        }
    }
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Doing(name) | Phase::ReplyTo(name) => name,
        }
    }
}

/// To follow "while".
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Doing(name) => f.write_str(name),
            Phase::ReplyTo(command) => write!(f, "waiting for the reply to {command}"),
        }
    }
}

impl Loss {
    pub fn describe(self, phase: Phase) -> String {
        match self {
            Loss::Connection(why) => format!("connection lost while {phase}: {why}"),
            Loss::OutOfStep(why) => format!("connection given up while {phase}: {why}"),
            Loss::Unasked(Some(reply)) => format!(
                "connection given up while {phase}: the server said {reply} without being asked"
            ),
            Loss::Unasked(None) => format!(
                "connection given up while {phase}: the server sent something without being asked"
            ),
            Loss::Aborted => format!("aborted while {phase}"),
        }
    }
}

impl Context {
    pub fn new(settings: Settings) -> Context {
        Context {
            settings,
            now: Mono(0),
            features: Features::default(),
            channel: Channel::Clear,
            is_closing: false,
            is_flushed: true,
            was_ready: false,
            timeout: Duration::ZERO,
            deadline: None,
            outputs: VecDeque::new(),
        }
    }

    pub fn pop_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn deadline(&self) -> Option<Mono> {
        self.deadline
    }

    pub fn is_overdue(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= self.now)
    }

    /// Why the deadline was missed.
    pub fn missed(&self) -> String {
        let timeout = self.timeout;
        match self.is_flushed {
            true => format!("nothing came within {timeout:?}"),
            false => format!("the server did not take what was sent within {timeout:?}"),
        }
    }

    pub fn send(&mut self, octets: impl Into<Bytes>) {
        self.outputs.push_back(Output::Send(octets.into()));
        self.is_flushed = false;
    }

    /// Sends one line; its reply has to come within `timeout`.
    pub fn say(&mut self, line: fmt::Arguments<'_>, timeout: Duration) {
        self.send(format!("{line}\r\n"));
        self.expect_within(timeout);
    }

    pub fn expect_within(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.restart_deadline();
    }

    pub fn restart_deadline(&mut self) {
        self.deadline = Some(self.now + self.timeout);
    }

    pub fn start_tls(&mut self) {
        self.outputs.push_back(Output::StartTls);
        self.expect_within(self.settings.path.starttls_timeout);
    }

    pub fn become_ready(&mut self) -> State {
        self.was_ready = true;
        self.outputs.push_back(Output::Ready);
        self.expect_within(self.settings.path.idle_timeout);
        State::Ready
    }

    pub fn report(&mut self, fates: Vec<(u32, Fate)>, reusable: bool) {
        self.outputs.push_back(Output::Report(Report { fates, reusable }));
    }

    pub fn close(&mut self, closed: Closed) -> State {
        self.deadline = None;
        self.outputs.push_back(Output::Closed(closed));
        State::Closed
    }

    /// Ends a session that something is wrong with.
    pub fn fail(&mut self, why: String, tls_failed: bool) -> State {
        self.close(match self.was_ready {
            true => Closed::Broken { why },
            false => Closed::NeverReady { why, tls_failed },
        })
    }

    /// Ends a session in which nothing more is heard.
    pub fn end(&mut self, loss: Loss, phase: Phase, tls_failed: bool) -> State {
        match loss {
            Loss::Aborted => self.close(Closed::Done),
            other => self.fail(other.describe(phase), tls_failed),
        }
    }

    /// As [`Context::fail`], for a server that still listens.
    pub fn give_up(&mut self, why: String, tls_failed: bool) -> State {
        self.send(Bytes::from_static(b"QUIT\r\n"));
        self.fail(why, tls_failed)
    }

    /// QUIT, and the end once it was answered.
    pub fn say_goodbye(&mut self) -> State {
        self.say(format_args!("QUIT"), self.settings.path.idle_timeout);
        State::AwaitGoodbye
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_whatever_their_case_and_order() {
        let all = Features::parse(
            "SIZE 5\nsize 10\nPipelining\nAUTH LOGIN plain\nSTARTTLS\n8bitmime\nX\n",
        );
        let expected = Features {
            pipelining: true,
            eight_bit_mime: true,
            starttls: true,
            auth_plain: true,
            size: Size::Maximum(10),
            ..Features::default()
        };
        assert_eq!(all, expected);
        let size = |text: &str| Features::parse(&format!("h\n{text}")).size;
        assert_eq!(size("SIZE"), Size::NoMaximum);
        assert_eq!(size("SIZE 0"), Size::NoMaximum);
        assert_eq!(size("SIZE x"), Size::NoMaximum);
        assert_eq!(size("SIZES 3"), Size::NotOffered);
    }
}
