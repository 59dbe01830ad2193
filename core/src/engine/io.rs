//! What the engine can be told and what it can want: [`Input`], [`Output`] and their parts.
//! Invariants: inputs and outputs carry no local parts, reply text, headers or metadata (they are journalled);
//! every output with an [`OpId`] gets exactly one completing input with the same id; a session gets exactly one
//! [`Input::SessionClosed`]. What is decided from them stands in the other files of this module.
use crate::config::{EgressPath, EgressPool, EgressSource, QueueConfig};
use crate::id::{OpId, SessionId, SpoolId};
use crate::log::RecordKind;
use crate::recipients::RecipientSet;
use crate::smtp::reply::ReplyCode;
use crate::source_health::{SourceEdge, SourceFailure};
use crate::time::{Duration, Mono, Wall};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Why a message was put into its scheduled queue. Names as in records and `requeue_message` (core.md 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InsertReason {
    Received,
    Enumerated,
    ScheduledForLater,
    ReadyQueueWasSuspended,
    MessageRateThrottle,
    ThrottledByThrottleInsertReadyQueue,
    ReadyQueueWasFull,
    FailedToInsertIntoReadyQueue,
    MessageGetQueueNameFailed,
    AdminRebind,
    DueTimeWasReached,
    MaxReadyWasReducedByConfigUpdate,
    ReadyQueueWasDelayedDueToLowMemory,
    FailedDueToNullMx,
    MxResolvedToZeroHosts,
    MxWasProhibited,
    MxWasSkipped,
    TooManyConnectionFailures,
    TooManyRecipients,
    ConnectionRateThrottle,
    LoggedTransientFailure,
    ReadyQueueWasReaped,
    DispatcherDrop,
    PeerClosedConnection,
    ProtocolChanged,
    SpoolUnhealthy,
    SourceIsUnhealthyAndSuspended,
}

/// A message that is durable (or waived) and now the engine's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    pub id: SpoolId,
    /// The scheduled queue's name.
    pub queue: Arc<str>,
    /// Recipients in the envelope; indexes are `0..recipients`.
    pub recipients: u32,
    /// Those without a final outcome.
    pub remaining: RecipientSet,
    pub size: u32,
    pub attempts: u16,
    /// Not before this; `None`: at once.
    pub due: Option<Wall>,
    /// Overrides the queue's `max_age`.
    pub expires: Option<Wall>,
    pub reason: InsertReason,
}

/// Everything that can happen to the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// `next_wake` has come; early or spurious ones are harmless.
    Tick,
    Admit(Admission),
    /// Completes [`Output::Ask`].
    Answer {
        op: OpId,
        answer: Answer,
    },
    /// Completes [`Output::Resolve`].
    Resolved {
        op: OpId,
        resolution: Resolution,
    },
    /// The session has a usable connection and no transaction on it.
    SessionReady {
        session: SessionId,
    },
    /// Completes [`Output::Deliver`]. Unless `reusable`, `SessionClosed` follows.
    Attempted {
        op: OpId,
        outcomes: Outcomes,
        reusable: bool,
    },
    /// Completes [`Output::Open`]; exactly once a session, and never while a `Deliver` of it is outstanding.
    SessionClosed {
        session: SessionId,
        cause: CloseCause,
    },
    /// Completes [`Output::Conclude`].
    Concluded {
        op: OpId,
        stored: bool,
    },
    /// Completes with [`Output::AdminDone`].
    Admin {
        op: OpId,
        command: AdminCommand,
    },
    /// The spool's gate; delivery pauses while unhealthy.
    SpoolHealth {
        healthy: bool,
    },
    /// Graceful stop: nothing new is promoted or opened; sessions are closed as D22 says.
    Stop,
    /// An attempt to connect failed for the sake of the session's source; the session goes on.
    SourceFailed {
        session: SessionId,
        failure: SourceFailure,
    },
    /// The watchdog has found it without progress for too long. `text`: what the record of its message says.
    SessionStuck {
        session: SessionId,
        text: Box<str>,
    },
    /// Completes [`Output::DeliverBatch`], with what became of each message, in its order. So does [`Input::Attempted`], with the same
    /// outcome for every recipient.
    BatchAttempted {
        op: OpId,
        outcomes: Vec<Outcomes>,
        reusable: bool,
    },
}

/// Everything the engine can want.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Output {
    Ask {
        op: OpId,
        question: Question,
        deadline: Mono,
    },
    /// Find the hosts of `domain` (DNS; never asked for `mx_list`).
    Resolve {
        op: OpId,
        domain: Arc<str>,
        deadline: Mono,
    },
    /// Make a connection. Completed by `SessionClosed`; `SessionReady` may come between, any number of times.
    Open {
        session: SessionId,
        target: Box<Target>,
    },
    /// Send one message over a ready session.
    Deliver {
        op: OpId,
        session: SessionId,
        message: SpoolId,
        recipients: RecipientSet,
        deadline: Mono,
    },
    /// Say goodbye and close. `SessionClosed` follows.
    Close {
        session: SessionId,
    },
    /// Fence: shut the socket, complete what is outstanding as [`Outcome::Aborted`], then `SessionClosed`. Not if the completion of what is
    /// outstanding is on its way: then the session goes on as if nothing had been said.
    Abort {
        session: SessionId,
        why: String,
    },
    /// Log, then write: one step in a message's life.
    Conclude {
        op: OpId,
        conclusion: Box<Conclusion>,
    },
    AdminDone {
        op: OpId,
        reply: AdminReply,
    },
    /// Everything is stopped: no session, no conclusion outstanding.
    Stopped,
    /// For the log.
    SourceChanged {
        source: Arc<str>,
        edge: SourceEdge,
    },
    /// Hand several messages at once to policy's sender.
    DeliverBatch {
        op: OpId,
        session: SessionId,
        messages: Vec<(SpoolId, RecipientSet)>,
        deadline: Mono,
    },
}

impl Input {
    pub const VARIANTS: [&'static str; 14] = [
        "Tick",
        "Admit",
        "Answer",
        "Resolved",
        "SessionReady",
        "Attempted",
        "SessionClosed",
        "Concluded",
        "Admin",
        "SpoolHealth",
        "Stop",
        "SourceFailed",
        "SessionStuck",
        "BatchAttempted",
    ];

    /// Its place in [`Input::VARIANTS`].
    pub fn variant(&self) -> usize {
        match self {
            Input::Tick => 0,
            Input::Admit(_) => 1,
            Input::Answer { .. } => 2,
            Input::Resolved { .. } => 3,
            Input::SessionReady { .. } => 4,
            Input::Attempted { .. } => 5,
            Input::SessionClosed { .. } => 6,
            Input::Concluded { .. } => 7,
            Input::Admin { .. } => 8,
            Input::SpoolHealth { .. } => 9,
            Input::Stop => 10,
            Input::SourceFailed { .. } => 11,
            Input::SessionStuck { .. } => 12,
            Input::BatchAttempted { .. } => 13,
        }
    }
}

impl Output {
    pub const VARIANTS: [&'static str; 11] = [
        "Ask",
        "Resolve",
        "Open",
        "Deliver",
        "Close",
        "Abort",
        "Conclude",
        "AdminDone",
        "Stopped",
        "SourceChanged",
        "DeliverBatch",
    ];

    /// Its place in [`Output::VARIANTS`].
    pub fn variant(&self) -> usize {
        match self {
            Output::Ask { .. } => 0,
            Output::Resolve { .. } => 1,
            Output::Open { .. } => 2,
            Output::Deliver { .. } => 3,
            Output::Close { .. } => 4,
            Output::Abort { .. } => 5,
            Output::Conclude { .. } => 6,
            Output::AdminDone { .. } => 7,
            Output::Stopped => 8,
            Output::SourceChanged { .. } => 9,
            Output::DeliverBatch { .. } => 10,
        }
    }
}

/// What became of one or all recipients in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Delivered(ReplyCode),
    /// 4yz, or local trouble before the content was accepted.
    Deferred(ReplyCode),
    /// 5yz from the peer, or content that the destination can't take.
    Refused(ReplyCode),
    /// The reply was lost after the final dot.
    Unknown,
    /// Given back untried (too many recipients, the session just ended): no attempt is counted.
    Returned,
    /// As [`Outcome::Returned`], because the spool's gate was shut by then: due once it opens.
    Paused,
    /// It isn't in the spool any more: there is nothing left to be settled.
    Gone,
    /// The session was fenced, as [`Output::Abort`] wanted. The peer may have the message only if the body `began`.
    Aborted {
        began: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcomes {
    /// The same for every recipient of the attempt.
    Uniform(Outcome),
    /// One for each recipient index of the attempt.
    Each(Vec<(u32, Outcome)>),
}

/// Why a session ended. Texts stay with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseCause {
    /// As asked, or the peer hung up between transactions.
    Done,
    /// No candidate host could be connected to, greeted us and offered what policy requires.
    ConnectFailed,
    /// The hosts' names resolved to no usable address.
    NoHosts,
    /// Every address is in `prohibited_hosts`.
    Prohibited,
    /// Every address is in `skip_hosts`.
    Skipped,
    Aborted,
}

/// Where a session goes: everything the driver needs, shared with the ready queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// `<source>-><site>@<protocol>`.
    pub ready_queue: Arc<str>,
    /// A scheduled queue that leads there; there may be others.
    pub queue: Arc<str>,
    pub site: Arc<str>,
    /// The destination domain (or literal) itself.
    pub domain: Arc<str>,
    pub pool: Arc<str>,
    pub source: Arc<EgressSource>,
    pub path: Arc<EgressPath>,
    pub protocol: Arc<crate::config::queue::DeliveryProtocol>,
    pub hosts: Arc<Hosts>,
}

/// The MX hosts behind a site name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// Ascending preference; hosts of one preference in the order of the answer.
    pub by_preference: Vec<(u16, Vec<Box<str>>)>,
    /// False: the domain itself stands in for missing MX records.
    pub is_mx: bool,
    pub is_domain_literal: bool,
    pub is_secure: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Resolution {
    Found {
        site: Arc<str>,
        hosts: Arc<Hosts>,
        ttl: Duration,
    },
    /// RFC 7505.
    NullMx,
    /// The domain exists and has neither MX nor addresses, or doesn't exist.
    NoHosts,
    /// Nobody could tell; says nothing about the domain. The text is shown to operators.
    Failed {
        why: Box<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    QueueConfig {
        queue: Arc<str>,
    },
    /// The pool and every source it names.
    Pool {
        name: Arc<str>,
    },
    EgressPath {
        domain: Arc<str>,
        source: Arc<str>,
        site: Arc<str>,
    },
    /// `throttle_insert_ready_queue(msg)`; asked only if policy handles it.
    ThrottleInsert {
        message: SpoolId,
    },
    /// `requeue_message(msg, response, …)`; asked only if policy handles it.
    Requeue {
        message: SpoolId,
        attempt: Option<OpId>,
        reasons: Vec<InsertReason>,
        increment_attempts: bool,
        delay: Option<Duration>,
    },
}

/// As people call it: the event and what it is about.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Question::QueueConfig { queue } => write!(f, "get_queue_config of {queue}"),
            Question::Pool { name } => {
                write!(f, "get_egress_pool of {name} (or get_egress_source of its sources)")
            }
            Question::EgressPath { domain, source, .. } => {
                write!(f, "get_egress_path_config of {domain} from {source}")
            }
            Question::ThrottleInsert { message } => {
                write!(f, "throttle_insert_ready_queue of message {message}")
            }
            Question::Requeue { message, .. } => write!(f, "requeue_message of message {message}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    QueueConfig(#[serde(with = "by_name")] Box<QueueConfig>),
    Pool(#[serde(with = "by_name")] Box<ResolvedPool>),
    EgressPath(#[serde(with = "by_name")] Box<EgressPath>),
    /// `until`: not before this.
    ThrottleInsert {
        until: Option<Wall>,
    },
    Requeue(RequeueAnswer),
    /// Policy raised an error, ran out of its budget, or has no answer. The text is shown to operators.
    Failed {
        why: Box<str>,
    },
}

/// Configuration grows with every release: in a journal its fields stand with their names, so that one that was written before
/// an option existed can be read when it does.
mod by_name {
    use super::*;
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserializer, Serializer};

    pub fn serialize<T: Serialize, S: Serializer>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(value).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map_err(D::Error::custom)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RequeueAnswer {
    Keep,
    /// The handler changed what the queue's name is made of: tried at once in the new queue.
    Move {
        queue: Arc<str>,
    },
    /// `msg:set_due` or similar.
    Due(Wall),
    /// `kumo.reject`: a Bounce, whatever the code.
    Reject(ReplyCode),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedPool {
    pub pool: EgressPool,
    /// One for each entry of the pool, same order.
    pub sources: Vec<Arc<EgressSource>>,
}

/// One step in a message's life: the driver writes the records (reading the message from the spool if it has
/// to), then stores what follows, then completes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    pub message: SpoolId,
    /// The attempt whose replies, peer and session complete the records.
    pub attempt: Option<OpId>,
    /// The session whose end is the reason, where there was no attempt.
    pub session: Option<SessionId>,
    pub queue: Arc<str>,
    /// For records without an attempt; the ready queue's name where the message had one.
    pub site: Option<Arc<str>>,
    pub pool: Option<Arc<str>>,
    pub source: Option<Arc<str>>,
    /// Attempts made, this one included.
    pub attempts: u16,
    pub notes: Vec<Note>,
    pub then: Then,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub kind: RecordKind,
    pub recipients: RecipientSet,
    pub reason: Reason,
}

/// What stands in the record's response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reason {
    /// The peer's reply of the attempt, for each recipient.
    PeerReply,
    /// A text of the session's end (connect errors).
    SessionEnd,
    /// Generated here; `text` is complete but for the prefix `KumoMTA internal: `, put there if `internal`.
    Generated { code: ReplyCode, internal: bool, text: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Then {
    /// Every recipient has its final outcome.
    Remove,
    /// Written, unsynced: to be tried again.
    Update { attempts: u16, due: Wall, remaining: RecipientSet },
    /// Records only.
    Nothing,
}

/// Which scheduled queues an administrator means: those named, or, if none is, those that match all given parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSelector {
    pub campaign: Option<Box<str>>,
    pub tenant: Option<Box<str>>,
    pub domain: Option<Box<str>>,
    pub routing_domain: Option<Box<str>>,
    pub queue_names: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminEntry {
    /// UUID v4, made by the driver.
    pub id: Box<str>,
    pub selector: QueueSelector,
    pub reason: Box<str>,
    pub expires: Wall,
    /// Bounces only.
    pub suppress_logging: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadySuspension {
    pub id: Box<str>,
    /// The ready queue's name.
    pub name: Box<str>,
    pub reason: Box<str>,
    pub expires: Wall,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminCommand {
    Bounce(AdminEntry),
    CancelBounce {
        id: Box<str>,
    },
    Suspend(AdminEntry),
    CancelSuspend {
        id: Box<str>,
    },
    SuspendReady(ReadySuspension),
    CancelSuspendReady {
        id: Box<str>,
    },
    /// Policy was edited: every cached configuration is asked for anew.
    BumpEpoch,
    /// Ends the suspension of a source.
    ResumeSource {
        name: Box<str>,
    },
    /// Whatever the session does. `ready_queue`: whose it has to be.
    AbortSession {
        ready_queue: Box<str>,
        session: SessionId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminReply {
    Done,
    /// Messages bounced at once, by queue.
    Bounced(Vec<(Arc<str>, u64)>),
    UnknownId,
    /// `limits::ADMIN_ENTRIES` is reached.
    Full,
}
