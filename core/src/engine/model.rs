//! What the engine remembers: messages, scheduled queues, ready queues, sessions, pools, leases. Data and the small
//! truths about it; what happens to it stands in the other files of this module.
use super::arena::{Arena, Handle};
use super::io::{AdminEntry, Hosts, InsertReason, Note, ReadySuspension, Reason, ResolvedPool};
use super::sources::SourceHandle;
use super::timers::NEVER;
use crate::config::queue::DeliveryProtocol;
use crate::config::{EgressPath, EgressSource, QueueConfig};
use crate::id::{OpId, SessionId, SpoolId};
use crate::recipients::RecipientSet;
use crate::smtp::reply::ReplyCode;
use crate::throttle::Throttle;
use crate::time::{Duration, Mono, Wall};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

pub(super) type MessageHandle = Handle<Message>;
pub(super) type QueueHandle = Handle<ScheduledQueue>;
pub(super) type ReadyHandle = Handle<ReadyQueue>;

/// A hashed map with the engine's seed. Never iterated where order could show.
pub(super) type Map<K, V> = hashbrown::HashMap<K, V, foldhash::fast::FixedState>;

/// A moment on the engine's clock that may lie before its zero: creation times of what was spooled earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(pub i64);

impl Moment {
    pub fn of(mono: Mono) -> Moment {
        Moment(i64::try_from(mono.0).unwrap_or(i64::MAX))
    }

    /// `wall` on the engine's clock, as seen at this instant; later steps of the wall clock don't move it.
    pub fn from_wall(wall: Wall, now: crate::time::Now) -> Moment {
        Moment(Moment::of(now.mono).0.saturating_add(wall.0.saturating_sub(now.wall.0)))
    }

    pub fn plus(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// For timers: what lies before zero is due at zero.
    pub fn as_mono(self) -> Mono {
        Mono(u64::try_from(self.0).unwrap_or(0))
    }

    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Where a message is. Exactly one place at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// In its scheduled queue until `due`.
    Scheduled,
    /// Due, and in its scheduled queue's line.
    Waiting,
    /// Due, and policy is being asked about it.
    Asking,
    Ready(ReadyHandle),
    InFlight,
    /// Records and spool are being written; what follows is in the pending operation.
    Concluding,
    /// An operator's bounce has it; it waits for its turn to be concluded.
    Condemned,
    /// Everything about it is settled but the spool couldn't remove it; tried again at `due`.
    Unremoved,
}

impl Place {
    pub fn is_promoted(self) -> bool {
        matches!(self, Place::Ready(_) | Place::InFlight)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Message {
    pub id: SpoolId,
    pub queue: QueueHandle,
    /// Neighbours among all messages of its scheduled queue.
    pub previous: Option<MessageHandle>,
    pub next: Option<MessageHandle>,
    pub born: Moment,
    /// Overrides the queue's `max_age`.
    pub expires: Option<Moment>,
    pub due: Mono,
    /// The moment its timer is armed for.
    pub armed: Mono,
    pub remaining: RecipientSet,
    pub recipients: u32,
    pub attempts: u16,
    /// What the last attempt of this life came to, if it failed.
    pub last: Option<Failure>,
    /// `throttle_insert_ready_queue` has let it pass.
    pub cleared: bool,
    /// It was promoted and given back untried: its queue's `max_message_rate` has counted it.
    pub paid: bool,
    /// Counts its moves: an entry of a line with another count is stale.
    pub moves: u32,
    pub place: Place,
}

/// What an attempt failed with, for operators. Texts stay with the driver's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// The peer's reply, or one of ours.
    Reply(ReplyCode),
    /// The reply to the final dot was lost.
    Unknown,
    /// No session came about.
    NoSession(InsertReason),
    /// It was cut off in the middle of a body.
    CutOff,
}

/// A first-in, first-out line of messages. Leaving it early costs nothing: the entry goes stale.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Line {
    entries: VecDeque<(MessageHandle, u32)>,
    live: usize,
}

impl Line {
    pub fn len(&self) -> usize {
        self.live
    }

    pub fn push_back(&mut self, handle: MessageHandle, moves: u32, messages: &Arena<Message>) {
        self.compact(messages);
        self.entries.push_back((handle, moves));
        self.live += 1;
    }

    /// Its entry is stale from now on: the message has moved.
    pub fn left(&mut self) {
        self.live -= 1;
    }

    /// The first that still stands here; stale entries before it are dropped.
    pub fn front(&mut self, messages: &Arena<Message>) -> Option<MessageHandle> {
        while let Some((handle, moves)) = self.entries.front() {
            if is_current(messages, *handle, *moves) {
                return Some(*handle);
            }
            self.entries.pop_front();
        }
        None
    }

    pub fn iter<'a>(
        &'a self,
        messages: &'a Arena<Message>,
    ) -> impl Iterator<Item = MessageHandle> + 'a {
        let current =
            |(handle, moves): &&(MessageHandle, u32)| is_current(messages, *handle, *moves);
        self.entries.iter().filter(current).map(|(handle, _)| *handle)
    }

    fn compact(&mut self, messages: &Arena<Message>) {
        if self.entries.len() > 2 * self.live + 16 {
            self.entries.retain(|(handle, moves)| is_current(messages, *handle, *moves));
        }
    }
}

fn is_current(messages: &Arena<Message>, handle: MessageHandle, moves: u32) -> bool {
    messages.get(handle).is_some_and(|message| message.moves == moves)
}

/// Something policy or the DNS answers and that grows old.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fetched<T> {
    pub value: Option<T>,
    pub asked: Option<OpId>,
    /// When it grows old, or after a failure may be asked for again.
    pub good_until: Mono,
    /// Failures in a row, with the last one's text.
    pub failures: u32,
    pub why: Option<Box<str>>,
}

impl<T> Default for Fetched<T> {
    fn default() -> Self {
        Fetched { value: None, asked: None, good_until: Mono(0), failures: 0, why: None }
    }
}

impl<T> Fetched<T> {
    pub fn is_old(&self, now: Mono) -> bool {
        self.good_until <= now
    }

    /// Good for `ttl`, at least a second: who sets 0 still doesn't want to be asked without end.
    pub fn found(&mut self, value: T, ttl: Duration, now: Mono) {
        self.value = Some(value);
        self.good_until = now + ttl.max(Duration::from_secs(1));
        (self.asked, self.failures, self.why) = (None, 0, None);
    }

    /// Asked again after 1 s, 2 s, 4 s … at most a minute.
    pub fn failed(&mut self, why: Box<str>, now: Mono) {
        let wait = Duration::from_secs(1 << self.failures.min(6)).min(Duration::from_secs(60));
        self.failures = self.failures.saturating_add(1);
        self.good_until = now + wait;
        self.asked = None;
        self.why = Some(why);
    }
}

/// Where a scheduled queue's mail goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Site {
    Found { site: Arc<str>, hosts: Arc<Hosts> },
    NullMx,
    NoHosts,
}

/// One way out of a scheduled queue: an entry of its pool.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Route {
    pub of: SourceHandle,
    pub weight: u64,
    /// Of the smooth weighted round robin.
    pub credit: i128,
    pub ready: ReadyHandle,
    /// The queue stands in the ready queue's line.
    pub in_line: bool,
}

/// Why a scheduled queue's line stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Block {
    WaitingForQueueConfig,
    WaitingForPool,
    WaitingForDns,
    WaitingForEgressPath,
    WaitingForThrottleInsert,
    SpoolUnhealthy,
    Suspended {
        reason: Box<str>,
    },
    MessageRate,
    ReadyQueuesFull,
    /// Each source is suspended or throttled.
    NoEligibleSource,
    NoSources,
    QueueConfigFailed {
        why: Box<str>,
    },
    PoolFailed {
        why: Box<str>,
    },
    DnsFailed {
        why: Box<str>,
    },
    EgressPathFailed {
        why: Box<str>,
    },
    Stopping,
}

impl Block {
    /// It may go on once one of its ready queues or sources may be used again.
    pub(super) fn is_for_want_of_a_way_out(&self) -> bool {
        matches!(
            self,
            Block::ReadyQueuesFull
                | Block::NoEligibleSource
                | Block::WaitingForEgressPath
                | Block::EgressPathFailed { .. }
        )
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ScheduledQueue {
    pub name: Arc<str>,
    pub config: Fetched<Arc<QueueConfig>>,
    pub site: Fetched<Site>,
    /// What the routes were made from: counts of the pool's and this queue's changes.
    pub routes: Vec<Route>,
    pub routes_made_from: Option<(u64, u64)>,
    /// Counts changes of configuration and site.
    pub changes: u64,
    pub throttle: Throttle,
    pub waiting: Line,
    /// While set, the line stands still; `armed` or an event ends it.
    pub block: Option<Block>,
    /// When the block ends if nothing happens before.
    pub block_ends: Mono,
    /// All messages, whatever their place.
    pub first: Option<MessageHandle>,
    pub count: u64,
    /// Those of them that are in a ready queue or in flight.
    pub promoted: u64,
    /// Messages about which `throttle_insert_ready_queue` is being asked.
    pub asking: u64,
    pub armed: Mono,
    pub empty_since: Mono,
    /// On the engine's work list.
    pub listed: bool,
}

impl ScheduledQueue {
    pub fn new(name: Arc<str>) -> ScheduledQueue {
        ScheduledQueue {
            name,
            config: Fetched::default(),
            site: Fetched::default(),
            routes: Vec::new(),
            routes_made_from: None,
            changes: 0,
            throttle: Throttle::default(),
            waiting: Line::default(),
            block: None,
            block_ends: NEVER,
            first: None,
            count: 0,
            promoted: 0,
            asking: 0,
            armed: NEVER,
            empty_since: Mono(0),
            listed: false,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReadyQueue {
    pub name: Arc<str>,
    pub site: Arc<str>,
    /// The scheduled queue that made it, and its domain, about which `get_egress_path_config` is asked.
    pub queue: Arc<str>,
    pub domain: Arc<str>,
    pub pool: Arc<str>,
    pub source: Arc<EgressSource>,
    pub of: SourceHandle,
    pub protocol: Arc<DeliveryProtocol>,
    pub hosts: Arc<Hosts>,
    pub path: Fetched<Arc<EgressPath>>,
    pub messages: Line,
    /// Since when the first of `messages` waits for others to go with it.
    pub gathering_since: Option<Mono>,
    pub in_flight: u64,
    /// Sessions that are ready, last in first out.
    pub idle: Vec<SessionId>,
    /// All of its sessions.
    pub sessions: Vec<SessionId>,
    pub opening: u64,
    pub consecutive_failures: u64,
    /// Sessions that the watchdog cut off.
    pub stuck: u64,
    pub message_throttle: Throttle,
    pub connection_throttle: Throttle,
    pub selection_throttle: Throttle,
    /// Scheduled queues whose line waits for room, a token, or the path.
    pub waiters: VecDeque<QueueHandle>,
    /// The lease in whose line it stands, and the one it was just called up for.
    pub in_line_for: Option<Arc<str>>,
    pub called_for: Option<Arc<str>>,
    pub suspension: Option<Timed<ReadySuspension>>,
    /// Why it doesn't go on, for operators.
    pub held: Option<Held>,
    pub held_since: Mono,
    pub armed: Mono,
    pub empty_since: Mono,
    pub listed: bool,
}

impl ReadyQueue {
    pub fn new(
        name: Arc<str>,
        pool: Arc<str>,
        route: RouteEnd,
        source: Arc<EgressSource>,
        of: SourceHandle,
    ) -> ReadyQueue {
        let RouteEnd { site, queue, domain, protocol, hosts } = route;
        ReadyQueue {
            name,
            site,
            queue,
            domain,
            pool,
            source,
            of,
            protocol,
            hosts,
            path: Fetched::default(),
            messages: Line::default(),
            gathering_since: None,
            in_flight: 0,
            idle: Vec::new(),
            sessions: Vec::new(),
            opening: 0,
            consecutive_failures: 0,
            stuck: 0,
            message_throttle: Throttle::default(),
            connection_throttle: Throttle::default(),
            selection_throttle: Throttle::default(),
            waiters: VecDeque::new(),
            in_line_for: None,
            called_for: None,
            suspension: None,
            held: None,
            held_since: Mono(0),
            armed: NEVER,
            empty_since: Mono(0),
            listed: false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.len() == 0 && self.sessions.is_empty()
    }
}

/// Where a ready queue leads, whatever the source.
#[derive(Clone, Debug)]
pub(super) struct RouteEnd {
    pub site: Arc<str>,
    pub queue: Arc<str>,
    pub domain: Arc<str>,
    pub protocol: Arc<DeliveryProtocol>,
    pub hosts: Arc<Hosts>,
}

/// Why a ready queue sends or connects less than it would like to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    MessageRate {
        until: Mono,
    },
    ConnectionRate {
        until: Mono,
    },
    ConnectionLimit {
        label: Box<str>,
    },
    /// There are fewer messages than policy's sender wants at a time.
    Batch {
        until: Mono,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SessionState {
    Opening,
    Idle,
    Busy {
        op: OpId,
        message: MessageHandle,
        recipients: RecipientSet,
    },
    /// Closing or aborted: its end is awaited.
    Ending,
    BusyWithBatch {
        op: OpId,
        batch: Vec<(MessageHandle, RecipientSet)>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Session {
    pub ready: ReadyHandle,
    pub state: SessionState,
    /// How many messages it takes at once: what its ready queue asked for when it was opened, and so what its sender was made for.
    pub takes: u64,
    pub deliveries: u64,
    pub leases: Vec<Arc<str>>,
    pub tally: Tally,
    /// It was ordered to be cut off in the middle of a delivery: what the record says of that.
    pub abort: Option<Reason>,
}

/// Messages of a session by what became of them. One whose recipients fared differently counts for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub delivered: u64,
    pub transfailed: u64,
    pub failed: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.delivered += other.delivered;
        self.transfailed += other.transfailed;
        self.failed += other.failed;
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Pool {
    pub resolved: Fetched<Arc<ResolvedPool>>,
    /// Counts its changes.
    pub changes: u64,
    pub waiters: BTreeSet<QueueHandle>,
}

/// Connections under one limit.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Lease {
    pub held: u64,
    pub waiters: VecDeque<ReadyHandle>,
}

/// What an outstanding operation is for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Pending {
    QueueConfig(QueueHandle),
    Pool(Arc<str>),
    EgressPath(ReadyHandle),
    Resolve(QueueHandle),
    ThrottleInsert(MessageHandle),
    Requeue(Box<Requeue>),
    /// A question whose matter was settled without the answer.
    Settled,
    Deliver(SessionId),
    /// Records only; the message goes its own way meanwhile.
    Note,
    Conclude {
        message: MessageHandle,
        after: After,
    },
}

/// A message on its way back to its scheduled queue, while policy is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Requeue {
    pub message: MessageHandle,
    pub origin: Origin,
    pub notes: Vec<Note>,
    pub due: Mono,
    pub reasons: Vec<InsertReason>,
}

/// Where the news about a message comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Origin {
    pub attempt: Option<OpId>,
    pub session: Option<SessionId>,
    pub ready: Option<ReadyHandle>,
}

/// What becomes of a message once its conclusion is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum After {
    Forget,
    /// As `Forget`; the next condemned message takes its turn.
    ForgetCondemned,
    Schedule,
}

/// An operator's entry with the moment it ends on the engine's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Timed<T> {
    pub entry: T,
    pub ends: Mono,
}

/// An operator's bounce, with what it has taken so far, by scheduled queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bounce {
    pub entry: Arc<AdminEntry>,
    pub bounced: BTreeMap<Arc<str>, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Admin {
    pub bounces: Vec<Timed<Bounce>>,
    pub suspensions: Vec<Timed<AdminEntry>>,
    pub ready_suspensions: Vec<Timed<ReadySuspension>>,
    pub armed: Mono,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin {
            bounces: Vec::new(),
            suspensions: Vec::new(),
            ready_suspensions: Vec::new(),
            armed: NEVER,
        }
    }
}
