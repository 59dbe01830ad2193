//! What a message does next and what has to happen for it, read from the very timers, limits and lines that will make it happen. Invariant: the
//! next move of a message is the one told here, and not before the time told, unless something comes in between that nobody could know; the
//! simulator holds every answer to that. Reads only; the words for people are [`super::explain`]'s.
use super::model::{Message, Place, ReadyHandle, ScheduledQueue, SessionState, Site};
use super::promotion::pool_of;
use super::timers::NEVER;
use super::{Block, Engine, Held};
use crate::canary::{self, Canary};
use crate::id::SpoolId;
use crate::time::Mono;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It becomes due for its next attempt.
    BecomeDue,
    Expire,
    /// An administrator's bounce takes it.
    Bounce,
    MoveToReadyQueue,
    /// Its domain is known to have no hosts.
    FailForItsDomain,
    BeDelivered,
    /// Whoever has it in hand says what becomes of it.
    HearOf,
    /// Its removal from the spool is tried again.
    BeRemoved,
}

macro_rules! waits {
    ($($wait:ident $name:literal)+) => {
        /// What has to happen first.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Wait { $($wait),+ }

        impl Wait {
            pub const ALL: &'static [Wait] = &[$(Wait::$wait),+];

            /// As in the admin API; stable.
            pub fn name(self) -> &'static str {
                match self { $(Wait::$wait => $name),+ }
            }
        }
    };
}

waits! {
    DueTime "due-time"
    Expiry "expiry"
    QueueConfig "queue-config"
    Pool "egress-pool"
    Dns "dns"
    EgressPath "egress-path"
    QuestionsBefore "throttle-insert-before"
    Policy "policy"
    SpoolHealth "spool-health"
    Suspension "suspension"
    QueueMessageRate "queue-message-rate"
    ReadyQueueRoom "ready-queue-room"
    EligibleSource "eligible-source"
    AnySource "any-source"
    QueueConfigRetry "queue-config-retry"
    PoolRetry "egress-pool-retry"
    DnsRetry "dns-retry"
    EgressPathRetry "egress-path-retry"
    Stop "stop"
    MessageRate "message-rate"
    ConnectionRate "connection-rate"
    ConnectionLimit "connection-limit"
    Batch "batch"
    Connecting "connecting"
    BusyConnection "busy-connection"
    ClosingConnection "closing-connection"
    Peer "peer"
    SpoolWrite "spool-write"
    RemovalRetry "removal-retry"
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Until it is due.
    Scheduled,
    /// Due, and in the line of its scheduled queue.
    InLine,
    InReadyQueue,
    /// Policy is being asked about it.
    Asked,
    InFlight,
    BeingWritten,
    Condemned,
    Unremoved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    pub from: Whereabouts,
    pub action: Action,
    pub waits_for: Wait,
    /// Not before; `None`: as soon as what it waits for has happened.
    pub earliest: Option<Mono>,
    /// Whatever else happens, unless it is in somebody's hands then; `None` while that isn't known.
    pub expires: Option<Mono>,
}

impl Engine {
    /// `None`: the engine doesn't hold it.
    pub fn next_of_message(&self, id: SpoolId) -> Option<Next> {
        Some(self.next_of(&self.messages[*self.message_by_id.get(&id)?]))
    }

    pub(super) fn next_of(&self, message: &Message) -> Next {
        let next = self.next_in_place(message);
        let is_in_hand = matches!(next.action, Action::HearOf | Action::BeRemoved);
        let comes_first =
            |expires: &Mono| next.earliest.is_some_and(|earliest| *expires <= earliest);
        match next.expires.filter(comes_first) {
            Some(expires) if !is_in_hand => Next {
                action: Action::Expire,
                waits_for: Wait::Expiry,
                earliest: Some(expires),
                ..next
            },
            _ => next,
        }
    }

    /// Ids of all messages, in no order that means anything.
    pub fn message_ids(&self) -> impl Iterator<Item = SpoolId> + '_ {
        self.messages.iter().map(|(_, message)| message.id)
    }

    /// Counts a message's moves from place to place; `None`: the engine doesn't hold it.
    pub fn moves_of(&self, id: SpoolId) -> Option<u32> {
        Some(self.messages[*self.message_by_id.get(&id)?].moves)
    }

    fn next_in_place(&self, message: &Message) -> Next {
        let (from, action, waits_for, earliest) = match message.place {
            Place::Scheduled => {
                let late = u64::from(canary::planted(Canary::ExplanationLate)) * 1_000_000_000;
                let due = armed(Mono(message.due.0.saturating_add(late)));
                (Whereabouts::Scheduled, self.when_due(message), Wait::DueTime, due)
            }
            Place::Waiting => {
                let (action, waits_for, earliest) = self.next_in_line(message);
                (Whereabouts::InLine, action, waits_for, earliest)
            }
            Place::Ready(ready) => {
                let (waits_for, earliest) = self.next_of_ready(ready);
                (Whereabouts::InReadyQueue, Action::BeDelivered, waits_for, earliest)
            }
            Place::Asking => (Whereabouts::Asked, Action::HearOf, Wait::Policy, None),
            Place::InFlight => (Whereabouts::InFlight, Action::HearOf, Wait::Peer, None),
            Place::Concluding => {
                (Whereabouts::BeingWritten, Action::HearOf, Wait::SpoolWrite, None)
            }
            // What a stop leaves is the next life's.
            Place::Condemned if self.stopping => {
                (Whereabouts::Condemned, Action::Bounce, Wait::Stop, None)
            }
            Place::Unremoved if self.stopping => {
                (Whereabouts::Unremoved, Action::BeRemoved, Wait::Stop, None)
            }
            // Of those before it.
            Place::Condemned => (Whereabouts::Condemned, Action::Bounce, Wait::SpoolWrite, None),
            Place::Unremoved => {
                let due = armed(message.due);
                (Whereabouts::Unremoved, Action::BeRemoved, Wait::RemovalRetry, due)
            }
        };
        Next { from, action, waits_for, earliest, expires: armed(self.expiry(message)) }
    }

    /// An administrator's bounce takes what becomes due while it is in force, unless the line stands still before that.
    fn when_due(&self, message: &Message) -> Action {
        let queue = &self.queues[message.queue];
        let stands_still = queue.block.is_some() || !self.spool_healthy;
        let goes_on = !stands_still && queue.config.value.is_some();
        match self.bounce_ends(message.queue) {
            Some(ends) if message.due < ends && goes_on => Action::Bounce,
            _ => Action::BecomeDue,
        }
    }

    /// What the line waits for is its first message's to wait for; one behind it may find less in its way once it is the first.
    fn next_in_line(&self, message: &Message) -> (Action, Wait, Option<Mono>) {
        let queue = &self.queues[message.queue];
        let (waits_for, earliest) = self.next_of_line(queue);
        let is_asked_about = self.config.asks_throttle_insert && !message.cleared;
        let is_past_asking = !matches!(
            waits_for,
            Wait::QueueConfigRetry | Wait::Suspension | Wait::QueueMessageRate
        );
        let is_paid = waits_for == Wait::QueueMessageRate && message.paid;
        let earliest = earliest.filter(|_| !(is_paid || is_asked_about && is_past_asking));
        let then = earliest.unwrap_or(self.now.mono);
        let action = match &queue.site.value {
            _ if self.bounce_ends(message.queue).is_some_and(|ends| then < ends) => Action::Bounce,
            Some(Site::NullMx | Site::NoHosts) if !is_asked_about && !queue.site.is_old(then) => {
                Action::FailForItsDomain
            }
            _ => Action::MoveToReadyQueue,
        };
        // A bounce takes it whenever the line is looked at; of the rest only configuration goes before that.
        let is_firm = action != Action::Bounce || waits_for == Wait::QueueConfigRetry;
        (action, waits_for, earliest.filter(|_| is_firm))
    }

    /// What the line of a scheduled queue waits for, and until when at least, as far as that is known.
    pub(super) fn next_of_line(&self, queue: &ScheduledQueue) -> (Wait, Option<Mono>) {
        if self.stopping {
            return (Wait::Stop, None);
        }
        let block = queue.block.as_ref().expect("a line that stands still is told why");
        let (waits_for, until) = self.next_of_block(queue, block);
        // What stands in the way may have come after what the line stands still for.
        match self.suspension_of(&queue.name) {
            _ if matches!(waits_for, Wait::QueueConfig | Wait::QueueConfigRetry) => {
                (waits_for, until)
            }
            _ if !self.spool_healthy => (Wait::SpoolHealth, None),
            Some(suspension) if until.is_none_or(|until| until < suspension.ends) => {
                (Wait::Suspension, armed(suspension.ends))
            }
            _ => (waits_for, until),
        }
    }

    fn next_of_block(&self, queue: &ScheduledQueue, block: &Block) -> (Wait, Option<Mono>) {
        let until = armed(queue.block_ends);
        match block {
            Block::WaitingForQueueConfig => (Wait::QueueConfig, None),
            Block::WaitingForPool => (Wait::Pool, None),
            Block::WaitingForDns => (Wait::Dns, None),
            // Whichever comes first.
            Block::WaitingForEgressPath if self.another_route_may_open(queue) => {
                (Wait::EligibleSource, None)
            }
            Block::WaitingForEgressPath => (Wait::EgressPath, None),
            Block::WaitingForThrottleInsert => (Wait::QuestionsBefore, None),
            Block::SpoolUnhealthy => (Wait::SpoolHealth, None),
            Block::ReadyQueuesFull => (Wait::ReadyQueueRoom, None),
            Block::Stopping => (Wait::Stop, None),
            Block::Suspended { .. } => (Wait::Suspension, until),
            Block::MessageRate => (Wait::QueueMessageRate, until),
            Block::NoEligibleSource => (Wait::EligibleSource, until),
            Block::NoSources => match self.pool_is_asked_for_at(queue) {
                Some(at) => (Wait::AnySource, Some(at)),
                None => (Wait::Pool, None),
            },
            Block::QueueConfigFailed { .. } => (Wait::QueueConfigRetry, until),
            Block::PoolFailed { .. } => (Wait::PoolRetry, until),
            Block::DnsFailed { .. } => (Wait::DnsRetry, until),
            // Another of its routes may have room before.
            Block::EgressPathFailed { .. } => {
                (Wait::EgressPathRetry, until.filter(|_| queue.routes.len() < 2))
            }
        }
    }

    /// Beside those that policy is being asked about: one that is full, suspended or throttled.
    fn another_route_may_open(&self, queue: &ScheduledQueue) -> bool {
        queue.routes.iter().any(|route| {
            let is_known = self.ready.get(route.ready).is_some_and(|ready| {
                ready.path.value.is_some() && !ready.path.is_old(self.now.mono)
            });
            is_known || self.sources[route.of].suspension().is_some()
        })
    }

    /// When policy is asked for its pool again; `None`: it is being asked.
    fn pool_is_asked_for_at(&self, queue: &ScheduledQueue) -> Option<Mono> {
        let pool = &self.pools.get(pool_of(queue.config.value.as_ref()?))?.resolved;
        pool.asked.is_none().then_some(pool.good_until)
    }

    /// What the first message of a ready queue waits for, and until when at least, as far as that is known.
    pub(super) fn next_of_ready(&self, handle: ReadyHandle) -> (Wait, Option<Mono>) {
        let ready = &self.ready[handle];
        if self.stopping {
            return (Wait::Stop, None);
        }
        let Some(path) = &ready.path.value else { return (Wait::EgressPath, None) };
        if !self.spool_healthy {
            return (Wait::SpoolHealth, None);
        }
        let token = self.message_token(handle, path);
        if token > self.now.mono {
            return (Wait::MessageRate, Some(token));
        }
        if let Some(Held::Batch { .. }) = ready.held {
            return (Wait::Batch, None);
        }
        if ready.opening > 0 {
            return (Wait::Connecting, None);
        }
        // One that has delivered and isn't ready again counts, too.
        let is_busy = |session| self.sessions[session].state != SessionState::Ending;
        if ready.sessions.iter().any(is_busy) {
            return (Wait::BusyConnection, None);
        }
        match &ready.held {
            Some(Held::ConnectionRate { until }) => (Wait::ConnectionRate, Some(*until)),
            Some(Held::ConnectionLimit { .. }) => (Wait::ConnectionLimit, None),
            _ => (Wait::ClosingConnection, None),
        }
    }
}

/// `None`: never.
pub(super) fn armed(at: Mono) -> Option<Mono> {
    (at != NEVER).then_some(at)
}
