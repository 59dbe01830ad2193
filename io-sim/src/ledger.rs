//! What the people outside saw: the clients what they were told, the servers what they got, the log what it holds. It lives beside the
//! spool, so that nothing the node forgets is forgotten here. Records facts; what they prove is the checkers' to say.
use crate::fault::FaultKind;
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::time::{Duration, Now};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One attempt of a client to hand in one message. A second attempt at the same message is another submission with the same `message`.
/// Its content carries `X-Sim: <message>/<submission>`, by which servers know it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Submission {
    pub message: u32,
    pub attempt: u32,
}

impl std::fmt::Display for Submission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.message, self.attempt)
    }
}

impl std::str::FromStr for Submission {
    type Err = ();
    fn from_str(text: &str) -> Result<Submission, ()> {
        let (message, attempt) = text.trim().split_once('/').ok_or(())?;
        let number = |text: &str| text.parse().map_err(|_| ());
        Ok(Submission { message: number(message)?, attempt: number(attempt)? })
    }
}

/// What became of a submission, as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 250 or 200. `ids`: as the reply names them.
    Accepted { ids: Vec<SpoolId> },
    /// 4yz or 5yz to the final dot, or the HTTP-like equivalent.
    Refused { code: u16 },
    /// The whole content was sent, and no reply to it was read.
    Ambiguous,
    /// It never came to the final dot.
    Never,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Before its final dot leaves. `recipients`: those answered 250. `content`: what a server should get, after trace fields.
    Submitting {
        submission: Submission,
        recipients: Vec<String>,
        content: Vec<u8>,
    },
    Answered {
        submission: Submission,
        answer: Answer,
    },
    /// Instead of a banner.
    TurnedAway {
        code: u16,
    },
    /// A recipient of a submission that wasn't answered 250.
    RecipientRefused {
        submission: Submission,
        recipient: String,
    },
    /// A server or maildir has a message and, unless `reply_lost`, says so. `client`: whence it came, to a server. `content`: as delivered, dots
    /// unstuffed.
    Sunk {
        submission: Option<Submission>,
        recipients: Vec<String>,
        reply_lost: bool,
        server: String,
        client: Option<IpAddr>,
        content: Vec<u8>,
    },
    /// A server refused recipients for good (5yz to MAIL, which names none, to RCPT, DATA or the final dot).
    PeerRefused {
        submission: Option<Submission>,
        recipients: Vec<String>,
        code: u16,
        server: String,
    },
    /// The body of a message began to flow to a server, which ends by `Sunk`, a refusal, or neither.
    BodyBegan {
        submission: Option<Submission>,
        recipients: Vec<String>,
    },
    /// Something that no server or client should ever see; it fails the run.
    Violation {
        invariant: &'static str,
        what: String,
    },
    /// A log record that will survive a crash. `recipients` as addresses.
    Recorded {
        kind: RecordKind,
        id: SpoolId,
        recipients: Vec<String>,
        code: u16,
        text: String,
        queue: String,
    },
    /// A record that a crash took before it was synced.
    RecordLost {
        kind: RecordKind,
        id: SpoolId,
    },
    /// Policy told the engine to bounce a message (`requeue_message`); a crash may still undo it.
    PolicyRejected {
        id: SpoolId,
    },
    /// The node's life, as the harness made it.
    Started {
        life: u64,
    },
    /// A graceful stop was asked for.
    StopOrdered {
        life: u64,
    },
    Ended {
        life: u64,
        how: End,
    },
    Paused {
        life: u64,
    },
    Resumed {
        life: u64,
    },
    /// A fault began, or ended.
    Fault {
        what: FaultKind,
        began: bool,
        target: Option<Box<str>>,
    },
    /// An operator's order, by its name.
    Ordered {
        what: &'static str,
        domain: Option<String>,
        lasts: Duration,
    },
    /// The disk: messages that were damaged on purpose.
    Damaged {
        ids: Vec<SpoolId>,
    },
    Healed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    PowerCut,
    Stopped,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub now: Now,
    pub event: Event,
}

#[derive(Default)]
pub struct Ledger(Mutex<Vec<Entry>>);

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self, now: Now, event: Event) {
        self.entries().push(Entry { now, event });
    }

    pub fn violation(&self, now: Now, invariant: &'static str, what: String) {
        self.write(now, Event::Violation { invariant, what });
    }

    pub fn len(&self) -> usize {
        self.entries().len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// Everything so far, in order.
    pub fn read<T>(&self, look: impl FnOnce(&[Entry]) -> T) -> T {
        look(&self.entries())
    }
}
