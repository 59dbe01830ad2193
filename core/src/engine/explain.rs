//! Why something is as it is and what will happen next, read from the very timers and limits that will fire.
//! Reads only; what it says is for operators, so it is in plain words.
use super::model::{Failure, Moment, Place, QueueHandle, ReadyHandle, ScheduledQueue};
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

/// `why` begins with the nearest cause and ends with the farthest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub subject: String,
    pub next_action: String,
    /// `None`: when something else happens, which `why` names.
    pub earliest: Option<Wall>,
    pub why: Vec<String>,
}

impl Engine {
    pub fn explain_message(&self, id: SpoolId) -> Option<Explanation> {
        let message = &self.messages[*self.message_by_id.get(&id)?];
        let queue = &self.queues[message.queue];
        let mut why = Vec::new();
        let (next_action, earliest) = match message.place {
            Place::Scheduled => {
                why.push(format!(
                    "attempt {} is due at {}",
                    message.attempts + 1,
                    self.when(message.due)
                ));
                let failure = message.last;
                why.extend(failure.map(|failure| describe_failure(message.attempts, failure)));
                why.extend(self.explain_suspension(&queue.name, "its queue"));
                let expiry = self.expiry(message);
                if expiry < message.due {
                    ("expire".into(), Some(expiry))
                } else {
                    ("move to a ready queue".into(), Some(message.due))
                }
            }
            Place::Waiting => {
                why.push(format!(
                    "it is due and waits in the line of scheduled queue {}",
                    queue.name
                ));
                why.extend(queue.block.as_ref().map(describe));
                why.extend(self.explain_routes(queue));
                ("move to a ready queue".into(), self.line_goes_on(queue))
            }
            Place::Asking => ("go on when policy has answered".into(), None),
            Place::Ready(ready) => {
                why.extend(self.explain_ready(ready));
                (
                    "be delivered over the next free connection".into(),
                    self.armed(self.ready[ready].armed),
                )
            }
            Place::InFlight => ("hear from the peer: a delivery is under way".into(), None),
            Place::Concluding => {
                ("go on when its records and its spool entry are written".into(), None)
            }
            Place::Condemned => ("be bounced as an administrator ordered".into(), None),
            Place::Unremoved => {
                why.push("it is settled, but the spool couldn't remove it".into());
                ("be removed from the spool".into(), Some(message.due))
            }
        };
        why.push(format!("it expires at {}", self.when(self.expiry(message))));
        Some(Explanation {
            subject: format!("message {id} in {}", queue.name),
            next_action,
            earliest: earliest.map(|at| self.wall(at)),
            why,
        })
    }

    /// A scheduled or a ready queue, by name.
    pub fn explain_queue(&self, name: &str) -> Option<Explanation> {
        if let Some(ready) = self.ready_by_name.get(name) {
            let queue = &self.ready[*ready];
            return Some(Explanation {
                subject: format!("ready queue {name}"),
                next_action: match queue.messages.len() {
                    0 => "deliver what comes next".into(),
                    count => format!("deliver {}", counted(count as u64, "message")),
                },
                earliest: self.armed(queue.armed).map(|at| self.wall(at)),
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
        let first = later.iter().min_by_key(|message| message.due);
        let mut why = Vec::new();
        match &queue.block {
            Some(block) => {
                why.push(describe(block));
                why.extend(self.explain_routes(queue));
            }
            None => why.extend(self.explain_suspension(&queue.name, "it")),
        }
        why.extend(
            self.bounce_for(handle).map(|entry| {
                format!("an administrator's bounce takes what is due: {}", entry.reason)
            }),
        );
        if condemned > 0 {
            why.push(format!("{condemned} messages are being bounced as an administrator ordered"));
        }
        if let Some(first) = first {
            why.push(format!(
                "{} messages wait for a later attempt, the first for attempt {} at {}",
                later.len(),
                first.attempts + 1,
                self.when(first.due)
            ));
            why.extend(first.last.map(|failure| describe_failure(first.attempts, failure)));
        }
        let (next_action, earliest) = match (first, queue.waiting.len()) {
            _ if queue.count == 0 => {
                ("be forgotten, since it is empty".into(), self.armed(queue.armed))
            }
            (Some(first), 0) => {
                ("promote the first message when it is due".into(), self.armed(first.due))
            }
            (None, 0) => ("wait for what its ready queues have in hand".into(), None),
            (_, due) => (
                format!("promote its {}", counted(due as u64, "due message")),
                self.line_goes_on(queue),
            ),
        };
        Explanation {
            subject: format!("scheduled queue {}", queue.name),
            next_action,
            earliest: earliest.map(|at| self.wall(at)),
            why,
        }
    }

    fn explain_suspension(&self, queue: &str, called: &str) -> Option<String> {
        let timed = self.suspension_of(queue)?;
        let until = self.when(timed.ends);
        Some(format!("an administrator suspended {called} until {until}: {}", timed.entry.reason))
    }

    /// Which sources of its pool are suspended, where that is what it waits for.
    fn explain_routes(&self, queue: &ScheduledQueue) -> Vec<String> {
        let waits = queue.block == Some(Block::NoEligibleSource);
        let routes = queue.routes.iter().filter(|_| waits);
        routes.filter_map(|route| self.describe_suspension(route.of)).collect()
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
        let (next_action, first) = match (suspended, with_mail.len()) {
            (Some(suspension), _) => ("be used again".to_string(), Some(suspension.ends)),
            (None, 0) => ("send what comes next".into(), None),
            (None, count) => {
                let armed = |ready: &&ReadyHandle| self.armed(self.ready[**ready].armed);
                let first = with_mail.iter().filter_map(armed).min();
                (format!("send from {}", counted(count as u64, "ready queue")), first)
            }
        };
        let mut why: Vec<String> = self.describe_suspension(source).into_iter().collect();
        why.extend(of_source.iter().flat_map(|ready| self.explain_ready_alone(*ready)));
        Some(Explanation {
            subject: format!("egress source {name}"),
            next_action,
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
        why.extend(ready.held.as_ref().map(|held| self.describe_held(held)));
        if ready.consecutive_failures > 0 {
            let failed = counted(ready.consecutive_failures, "connection");
            why.push(format!("the last {failed} failed"));
        }
        why
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

    /// When the line of a scheduled queue moves again, as far as that is known.
    fn line_goes_on(&self, queue: &ScheduledQueue) -> Option<Mono> {
        self.armed(if queue.block.is_some() { queue.block_ends } else { queue.armed })
    }

    fn armed(&self, at: Mono) -> Option<Mono> {
        (at != super::timers::NEVER).then_some(at)
    }

    pub(super) fn wall(&self, at: Mono) -> Wall {
        let offset = Moment::of(at).0.saturating_sub(Moment::of(self.now.mono).0);
        Wall(self.now.wall.0.saturating_add(offset))
    }

    fn when(&self, at: Mono) -> String {
        match self.armed(at) {
            Some(at) => self.date(Moment::of(at)),
            None => "a time that isn't known yet".into(),
        }
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
            format!("attempt {attempt}: the reply to the final dot was lost")
        }
        Failure::NoSession(because) => {
            let because = match because {
                InsertReason::MxResolvedToZeroHosts => "its hosts have no addresses",
                InsertReason::MxWasSkipped => "all its hosts are in skip_hosts",
                _ => "no host could be connected to",
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
        Block::ReadyQueuesFull => "each of its ready queues is full".into(),
        Block::NoEligibleSource => "each source of its pool is suspended or throttled".into(),
        Block::NoSources => "its pool has no sources".into(),
        Block::QueueConfigFailed { why } => format!("policy failed to configure it: {why}"),
        Block::PoolFailed { why } => format!("its egress pool can't be resolved: {why}"),
        Block::DnsFailed { why } => format!("its domain can't be looked up: {why}"),
        Block::EgressPathFailed { why } => format!("policy failed to make an egress path: {why}"),
        Block::Stopping => "kumod is stopping".to_string(),
    }
}
