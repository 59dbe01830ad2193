//! Why something is as it is and what will happen next, read from the very timers and limits that will fire.
//! Reads only; what it says is for operators, so it is in plain words.
use super::dispatch::lowest_limit;
use super::model::{
    Failure, Line, Message, Moment, Place, QueueHandle, ReadyHandle, Route, ScheduledQueue,
};
use super::next::{Action, Next, Wait, armed};
use super::schedule::ideal_connections;
use super::sources::SourceHandle;
use super::{Block, Engine, Held, InsertReason};
use crate::id::SpoolId;
use crate::smtp::reply::ReplyCode;
use crate::source_health::SourceFailure;
use crate::time::{Mono, Wall};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use serde::Serialize;

/// Ready queues, or sources, that an explanation names at most.
const NAMED: usize = 8;
/// As far as a message's place in line is counted.
const COUNTED: usize = 10_000;

/// `why` begins with the nearest cause and ends with the farthest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub subject: String,
    pub next_action: String,
    /// What has to happen first: [`Wait::name`]. `None`: no message's wait stands for the whole.
    pub waits_for: Option<&'static str>,
    /// `None`: as soon as what it waits for has happened.
    pub earliest: Option<Wall>,
    pub why: Vec<String>,
}

impl Engine {
    pub fn explain_message(&self, id: SpoolId) -> Option<Explanation> {
        let message = &self.messages[*self.message_by_id.get(&id)?];
        let next = self.next_of(message);
        let mut why = self.explain_place(message);
        why.push(format!("it expires at {}", self.when(self.expiry(message))));
        Some(Explanation {
            subject: format!("message {id} in {}", self.queues[message.queue].name),
            next_action: in_words(next).into(),
            waits_for: Some(next.waits_for.name()),
            earliest: next.earliest.map(|at| self.wall(at)),
            why,
        })
    }

    fn explain_place(&self, message: &Message) -> Vec<String> {
        let queue = &self.queues[message.queue];
        let mut why = Vec::new();
        match message.place {
            Place::Scheduled => {
                let due = self.when(message.due);
                why.push(format!("attempt {} is due at {due}", u32::from(message.attempts) + 1));
                let failure = message.last;
                why.extend(failure.map(|failure| describe_failure(message.attempts, failure)));
                why.extend(self.explain_bounce(message.queue));
                why.extend(self.explain_suspension(&queue.name));
            }
            Place::Waiting => {
                let name = &queue.name;
                why.push(format!("it is due and waits in the line of scheduled queue {name}"));
                why.extend(self.describe_turn(message, &queue.waiting));
                why.extend(self.explain_line(queue));
                why.extend(self.explain_bounce(message.queue));
            }
            Place::Ready(ready) => {
                why.extend(self.describe_turn(message, &self.ready[ready].messages));
                why.extend(self.explain_ready(ready));
            }
            Place::Unremoved => {
                why.push("it is settled, but the spool couldn't remove it".into());
            }
            Place::Condemned => {
                why.push("the bounces before it are being written to the spool".into());
            }
            Place::Asking | Place::InFlight | Place::Concluding => {}
        }
        why
    }

    /// A scheduled or a ready queue, by name.
    pub fn explain_queue(&self, name: &str) -> Option<Explanation> {
        if let Some(ready) = self.ready_by_name.get(name) {
            let queue = &self.ready[*ready];
            let (waits_for, earliest) = self.next_of_queue(*ready);
            return Some(Explanation {
                subject: format!("ready queue {name}"),
                next_action: match (queue.messages.len(), waits_for) {
                    (0, Some(Wait::Peer)) => "hear from the peer".into(),
                    (0, Some(_)) => "be used again once its suspension ends".into(),
                    (0, None) => "deliver what comes next".into(),
                    (count, _) => format!("deliver {}", counted(count as u64, "message")),
                },
                waits_for: waits_for.map(Wait::name),
                earliest: earliest.map(|at| self.wall(at)),
                why: self.explain_ready(*ready),
            });
        }
        self.queue_by_name.get(name).map(|handle| self.explain_scheduled(*handle))
    }

    fn explain_scheduled(&self, handle: QueueHandle) -> Explanation {
        let queue = &self.queues[handle];
        let (mut later, mut condemned) = (Vec::new(), 0);
        for message in self.messages_of(handle) {
            let message = &self.messages[message];
            match message.place {
                Place::Scheduled => later.push(message),
                Place::Condemned => condemned += 1,
                _ => {}
            }
        }
        let first = later.iter().min_by_key(|message| message.due.min(self.expiry(message)));
        let first = first.map(|message| (message, self.next_of(message)));
        let mut why = Vec::new();
        why.extend(self.explain_line(queue));
        why.extend(self.explain_bounce(handle));
        if condemned > 0 {
            let condemned = counted(condemned, "message");
            why.push(format!("being bounced as an administrator ordered: {condemned}"));
        }
        if let Some((first, _)) = first {
            why.push(format!(
                "for a later attempt: {}, the first for attempt {} at {}",
                counted(later.len() as u64, "message"),
                u32::from(first.attempts) + 1,
                self.when(first.due)
            ));
            why.extend(first.last.map(|failure| describe_failure(first.attempts, failure)));
        }
        let (next_action, waits_for, earliest) = match (first, queue.waiting.len()) {
            _ if queue.count == 0 => {
                ("be forgotten, since it is empty".into(), None, armed(queue.armed))
            }
            (Some((_, next)), 0) => {
                let what = format!("its first message is to {}", in_words(next));
                (what, Some(next.waits_for), next.earliest)
            }
            (None, 0) => {
                let busy = self.with_mail_of(queue);
                why.extend(busy.iter().take(NAMED).flat_map(|ready| self.explain_ready(*ready)));
                let next = busy.first().map_or((None, None), |ready| self.next_of_queue(*ready));
                ("go on with the messages that have left its line".into(), next.0, next.1)
            }
            (_, due) => {
                let (waits_for, earliest) = self.next_of_line(queue);
                let what = format!("promote its {}", counted(due as u64, "due message"));
                (what, Some(waits_for), earliest)
            }
        };
        Explanation {
            subject: format!("scheduled queue {}", queue.name),
            next_action,
            waits_for: waits_for.map(Wait::name),
            earliest: earliest.map(|at| self.wall(at)),
            why,
        }
    }

    /// The ready queues that may have its messages.
    fn with_mail_of(&self, queue: &ScheduledQueue) -> Vec<ReadyHandle> {
        let has_mail = |handle: &ReadyHandle| {
            self.ready
                .get(*handle)
                .is_some_and(|ready| ready.messages.len() as u64 + ready.in_flight > 0)
        };
        queue.routes.iter().map(|route| route.ready).filter(has_mail).collect()
    }

    /// An empty one waits for nothing, unless it is suspended or a peer has what it had.
    fn next_of_queue(&self, handle: ReadyHandle) -> (Option<Wait>, Option<Mono>) {
        let ready = &self.ready[handle];
        match (&ready.suspension, ready.messages.len()) {
            (_, 0) if ready.in_flight > 0 => (Some(Wait::Peer), None),
            (Some(suspension), 0) => (Some(Wait::Suspension), armed(suspension.ends)),
            (None, 0) => (None, None),
            _ => {
                let (waits_for, earliest) = self.next_of_ready(handle);
                (Some(waits_for), earliest)
            }
        }
    }

    /// What the line of a scheduled queue waits for, or will.
    fn explain_line(&self, queue: &ScheduledQueue) -> Vec<String> {
        let suspension = self.explain_suspension(&queue.name);
        let is_told = suspension.is_some();
        let block = queue.block.as_ref();
        let block = block.filter(|block| !is_told || !matches!(block, Block::Suspended { .. }));
        let mut why: Vec<String> = block.map(describe).into_iter().collect();
        why.extend(self.explain_routes(queue));
        why.extend(suspension);
        why
    }

    fn explain_bounce(&self, queue: QueueHandle) -> Option<String> {
        let entry = self.bounce_for(queue)?;
        Some(format!("an administrator's bounce takes what is due: {}", entry.reason))
    }

    fn explain_suspension(&self, queue: &str) -> Option<String> {
        let timed = self.suspension_of(queue)?;
        let until = self.when(timed.ends);
        Some(format!("an administrator suspended {queue} until {until}: {}", timed.entry.reason))
    }

    /// What stands in the way of each source of its pool, where that is what it waits for.
    fn explain_routes(&self, queue: &ScheduledQueue) -> Vec<String> {
        let waits = queue.block.as_ref().is_some_and(Block::is_for_want_of_a_way_out);
        let routes = queue.routes.iter().filter(|_| waits);
        routes.take(NAMED).filter_map(|route| self.describe_obstacle(route)).collect()
    }

    fn describe_obstacle(&self, route: &Route) -> Option<String> {
        let ready = self.ready.get(route.ready)?;
        let by_health = self.describe_suspension(route.of);
        let by_order = ready.suspension.as_ref().map(|timed| {
            let until = self.when(timed.ends);
            let reason = &timed.entry.reason;
            format!("an administrator suspended ready queue {} until {until}: {reason}", ready.name)
        });
        let Some(path) = &ready.path.value else { return by_health.or(by_order) };
        let by_room = (ready.messages.len() as u64 >= path.max_ready).then(|| {
            let most = counted(path.max_ready, "message");
            format!("ready queue {} is full: it takes {most} at most", ready.name)
        });
        let token = self.selection_token(route.ready, path);
        let by_rate = (token > self.now.mono).then(|| {
            let source = &ready.source.name;
            format!("the selection rate of source {source} allows the next at {}", self.when(token))
        });
        by_health.or(by_order).or(by_room).or(by_rate)
    }

    pub(super) fn describe_suspension(&self, handle: SourceHandle) -> Option<String> {
        let source = &self.sources[handle];
        let suspension = source.suspension()?;
        let why = match suspension.reason {
            SourceFailure::Unplumbed => "no interface has its address",
            SourceFailure::ProxyUnhealthy => "its proxy doesn't work",
        };
        Some(format!(
            "source {} is unhealthy and suspended ({}: {why}) since {} until {}",
            source.name,
            suspension.reason.name(),
            self.when(suspension.since),
            self.when(suspension.ends)
        ))
    }

    /// An egress source: what its ready queues wait for.
    pub fn explain_source(&self, name: &str) -> Option<Explanation> {
        let of_source: Vec<ReadyHandle> = self
            .ready
            .iter()
            .filter(|(_, ready)| *ready.source.name == *name)
            .map(|(handle, _)| handle)
            .collect();
        let source = *self.source_by_name.get(name)?;
        let suspended = self.sources[source].suspension();
        let has_mail = |ready: &&ReadyHandle| self.ready[**ready].messages.len() > 0;
        let with_mail: Vec<&ReadyHandle> = of_source.iter().filter(has_mail).collect();
        let tells = |ready: &&ReadyHandle| {
            let one = &self.ready[**ready];
            has_mail(ready) || one.in_flight > 0 || one.suspension.is_some()
        };
        let telling: Vec<&ReadyHandle> = of_source.iter().filter(tells).collect();
        let (next_action, first) = match (suspended, with_mail.len()) {
            (Some(suspension), _) => ("be used again".to_string(), Some(suspension.ends)),
            (None, 0) => ("send what comes next".into(), None),
            (None, count) => {
                // One that doesn't wait for a certain time may go on at any.
                let earliest = |ready: &&ReadyHandle| self.next_of_ready(**ready).1;
                let first = with_mail.iter().map(earliest).min().flatten();
                (format!("send from {}", counted(count as u64, "ready queue")), first)
            }
        };
        let mut why: Vec<String> = self.describe_suspension(source).into_iter().collect();
        let named = telling.iter().take(NAMED);
        why.extend(named.map(|ready| self.explain_ready_alone(**ready).join("; ")));
        let more = telling.len().saturating_sub(NAMED) as u64;
        why.extend((more > 0).then(|| counted(more, "more ready queue")));
        let empty = (of_source.len() - telling.len()) as u64;
        why.extend((empty > 0).then(|| format!("{} without mail", counted(empty, "ready queue"))));
        Some(Explanation {
            subject: format!("egress source {name}"),
            next_action,
            waits_for: None,
            earliest: first.map(|at| self.wall(at)),
            why,
        })
    }

    fn explain_ready(&self, handle: ReadyHandle) -> Vec<String> {
        let mut why = self.explain_ready_alone(handle);
        why.extend(self.describe_suspension(self.ready[handle].of));
        why
    }

    /// Without its source.
    fn explain_ready_alone(&self, handle: ReadyHandle) -> Vec<String> {
        let ready = &self.ready[handle];
        let mut why = vec![format!(
            "ready queue {} has {}, {}, {} under way",
            ready.name,
            counted(ready.messages.len() as u64, "message"),
            counted(ready.sessions.len() as u64, "connection"),
            match ready.in_flight {
                1 => "1 delivery".to_string(),
                count => format!("{count} deliveries"),
            },
        )];
        if let Some(suspension) = &ready.suspension {
            let until = self.when(suspension.ends);
            why.push(format!("it is suspended until {until}: {}", suspension.entry.reason));
        }
        why.extend(self.stopping.then(|| describe(&Block::Stopping)));
        why.extend((!self.spool_healthy).then(|| describe(&Block::SpoolUnhealthy)));
        why.extend(ready.held.as_ref().map(|held| self.describe_held(held)));
        why.extend(self.describe_connections(handle));
        if ready.consecutive_failures > 0 {
            why.push(match ready.consecutive_failures {
                1 => "the last connection failed".into(),
                count => format!("the last {count} connections failed"),
            });
        }
        why
    }

    /// Why no more connections are opened for the messages in line.
    fn describe_connections(&self, handle: ReadyHandle) -> Option<String> {
        let ready = &self.ready[handle];
        let path = ready.path.value.as_ref()?;
        let (queued, in_flight) = self.transactions(handle);
        let (have, limit) = (ready.sessions.len() as u64, lowest_limit(path));
        let asks_for = ideal_connections(limit, queued + in_flight);
        let is_held = matches!(ready.held, Some(Held::MessageRate { .. } | Held::Batch { .. }));
        let is_served = queued <= ready.opening + ready.idle.len() as u64;
        if is_held || is_served || have < asks_for {
            return None;
        }
        Some(match asks_for == limit {
            true => format!("its limit of {} is used up", counted(limit, "connection")),
            false => format!(
                "so many messages ask for {}; its limit is {limit}",
                counted(asks_for, "connection")
            ),
        })
    }

    /// How many go before a message.
    fn describe_turn(&self, message: &Message, line: &Line) -> Option<String> {
        let mut before = line.iter(&self.messages).take(COUNTED + 1);
        let before = before.position(|one| self.messages[one].id == message.id);
        match before {
            Some(0) => None,
            Some(count) => Some(format!("{} before it in line", counted(count as u64, "message"))),
            None => Some(format!("more than {COUNTED} messages before it in line")),
        }
    }

    /// Why a ready queue sends or connects less than it would like to.
    pub fn describe_held(&self, held: &Held) -> String {
        match held {
            Held::MessageRate { until } => {
                format!("its message rate allows the next at {}", self.when(*until))
            }
            Held::ConnectionRate { until } => {
                format!("its connection rate allows the next at {}", self.when(*until))
            }
            Held::ConnectionLimit { label } => format!("the connection limit {label} is used up"),
            Held::Batch { until } => {
                format!("it gathers messages for a batch until {} at most", self.when(*until))
            }
        }
    }

    pub(super) fn wall(&self, at: Mono) -> Wall {
        let offset = Moment::of(at).0.saturating_sub(Moment::of(self.now.mono).0);
        Wall(self.now.wall.0.saturating_add(offset))
    }

    fn when(&self, at: Mono) -> String {
        match armed(at) {
            Some(at) => self.date(Moment::of(at)),
            None => "a time that isn't known yet".into(),
        }
    }
}

fn in_words(next: Next) -> &'static str {
    match (next.action, next.waits_for) {
        (Action::BecomeDue, _) => "become due",
        (Action::MoveToReadyQueue, _) => "move to a ready queue",
        (Action::FailForItsDomain, _) => "fail, since its domain has no hosts for mail",
        (Action::Expire, _) => "expire",
        (Action::Bounce, _) => "be bounced as an administrator ordered",
        (Action::BeDelivered, _) => "be delivered over the next free connection",
        (Action::BeRemoved, _) => "be removed from the spool",
        (Action::HearOf, Wait::Policy) => "go on when policy has answered",
        (Action::HearOf, Wait::Peer) => "hear from the peer: a delivery is under way",
        (Action::HearOf, _) => "go on when its records and its spool entry are written",
    }
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn describe_failure(attempt: u16, failure: Failure) -> String {
    match failure {
        Failure::Reply(ReplyCode { code, enhanced }) => {
            let enhanced = enhanced.map_or(String::new(), |enhanced| format!(" {enhanced}"));
            format!("attempt {attempt} ended with {code}{enhanced}; its record has the text")
        }
        Failure::Unknown => {
            format!("attempt {attempt} ended without an answer; the peer may have the message")
        }
        Failure::CutOff => {
            "its last delivery was cut off in the middle, which counts as no attempt; the peer may have the message".into()
        }
        Failure::NoSession(because) => {
            let because = match because {
                InsertReason::MxResolvedToZeroHosts => "its hosts have no addresses",
                InsertReason::MxWasSkipped => "all its hosts are in skip_hosts",
                _ => "no session came about",
            };
            format!("attempt {attempt} failed: {because}; its record has the text")
        }
    }
}

/// Why a scheduled queue's line stands still.
pub fn describe(block: &Block) -> String {
    match block {
        Block::WaitingForQueueConfig => "policy is being asked for its configuration".into(),
        Block::WaitingForPool => "policy is being asked for its egress pool".into(),
        Block::WaitingForDns => "the hosts of its domain are being looked up".into(),
        Block::WaitingForEgressPath => "policy is being asked for an egress path".into(),
        Block::WaitingForThrottleInsert => {
            "policy is being asked about the messages before (throttle_insert_ready_queue)".into()
        }
        Block::SpoolUnhealthy => "delivery is suspended: the spool is not accepting writes".into(),
        Block::Suspended { reason } => format!("an administrator suspended it: {reason}"),
        Block::MessageRate => "its max_message_rate is used up".into(),
        Block::ReadyQueuesFull => "none of its ready queues can take more".into(),
        Block::NoEligibleSource => "each source of its pool is suspended or throttled".into(),
        Block::NoSources => "its pool has no sources".into(),
        Block::QueueConfigFailed { why } => format!("policy failed to configure it: {why}"),
        Block::PoolFailed { why } => format!("its egress pool can't be resolved: {why}"),
        Block::DnsFailed { why } => format!("its domain can't be looked up: {why}"),
        Block::EgressPathFailed { why } => format!("policy failed to make an egress path: {why}"),
        Block::Stopping => "kumod is stopping".to_string(),
    }
}
