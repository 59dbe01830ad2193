//! What there is, for operators: queues with their counts, entries in force, totals. Reads only.
use super::model::ReadyQueue;
use super::sources::Source;
use super::{AdminEntry, Block, Engine, Held, ReadySuspension};
use crate::source_health::SourceFailure;
use crate::time::Wall;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub admitted: u64,
    /// Recipients.
    pub delivered: u64,
    pub bounced: u64,
    pub transfailed: u64,
    /// Messages.
    pub expired: u64,
    pub admin_bounced: u64,
    pub returned: u64,
    /// Lines that came to a stand, by reason.
    pub delayed_by_message_rate: u64,
    pub delayed_by_full_ready_queue: u64,
    pub delayed_by_throttle_insert: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScheduledSummary {
    pub name: String,
    /// All messages of the queue that aren't in a ready queue or in flight.
    pub messages: u64,
    pub waiting: u64,
    pub blocked: Option<Block>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReadySummary {
    pub name: String,
    pub site: String,
    pub source: String,
    pub pool: String,
    pub ready: u64,
    pub in_flight: u64,
    pub connections: u64,
    pub connection_limit: Option<u64>,
    pub held: Option<Held>,
    pub suspended: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceSummary {
    pub name: String,
    /// What destinations see, if that is known beforehand.
    pub address: Option<String>,
    pub proxy: Option<String>,
    pub suspension: Option<SuspensionSummary>,
    /// One for each class of failure.
    pub classes: Vec<ClassSummary>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SuspensionSummary {
    pub reason: SourceFailure,
    pub since: Wall,
    pub until: Wall,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassSummary {
    pub failure: SourceFailure,
    pub failures: u64,
    pub last: Option<Wall>,
    /// Beginnings, not extensions.
    pub suspensions: u64,
}

impl Engine {
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Messages the engine holds.
    pub fn message_count(&self) -> usize {
        self.messages.len()
    }

    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Scheduled queues in order of name.
    pub fn scheduled_queues(&self) -> Vec<ScheduledSummary> {
        let mut all: Vec<ScheduledSummary> = self
            .queues
            .iter()
            .map(|(_, queue)| ScheduledSummary {
                name: queue.name.as_ref().into(),
                messages: queue.count - queue.promoted,
                waiting: queue.waiting.len() as u64,
                blocked: queue.block.clone().or_else(|| self.suspended(&queue.name)),
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// In force, whether or not a message has met it yet.
    fn suspended(&self, queue: &str) -> Option<Block> {
        let timed = self.suspension_of(queue)?;
        Some(Block::Suspended { reason: timed.entry.reason.clone() })
    }

    /// Ready queues in order of name.
    pub fn ready_queues(&self) -> Vec<ReadySummary> {
        let mut all: Vec<ReadySummary> = self
            .ready
            .iter()
            .map(|(_, ready)| ReadySummary {
                name: ready.name.as_ref().into(),
                site: ready.site.as_ref().into(),
                source: ready.source.name.as_ref().into(),
                pool: ready.pool.as_ref().into(),
                ready: ready.messages.len() as u64,
                in_flight: ready.in_flight,
                connections: ready.sessions.len() as u64,
                connection_limit: ready.path.value.as_ref().map(|path| path.connection_limit.limit),
                held: ready.held.clone(),
                suspended: self.why_suspended(ready),
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn why_suspended(&self, ready: &ReadyQueue) -> Option<String> {
        let by_operator = ready.suspension.as_ref().map(|timed| timed.entry.reason.as_ref().into());
        by_operator.or_else(|| self.describe_suspension(ready.of))
    }

    /// Egress sources in order of name.
    pub fn sources(&self) -> Vec<SourceSummary> {
        let wall = |at| self.wall(at);
        let class = |source: &Source, failure| {
            let class = source.health.class(failure);
            ClassSummary {
                failure,
                failures: class.failures,
                last: class.last.map(wall),
                suspensions: class.suspensions,
            }
        };
        let summary = |source: &Source| SourceSummary {
            name: source.name.as_ref().into(),
            address: source.config.egress_address().map(|address| address.to_string()),
            proxy: source
                .config
                .proxy()
                .map(|proxy| format!("{} {}", proxy.protocol(), proxy.server())),
            suspension: source.suspension().map(|suspension| SuspensionSummary {
                reason: suspension.reason,
                since: wall(suspension.since),
                until: wall(suspension.ends),
            }),
            classes: SourceFailure::ALL.map(|failure| class(source, failure)).into(),
        };
        let mut all: Vec<SourceSummary> =
            self.sources.iter().map(|(_, source)| summary(source)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// With what each has taken so far, by scheduled queue.
    pub fn bounces(&self) -> Vec<(AdminEntry, BTreeMap<Arc<str>, u64>)> {
        let bounces = self.admin.bounces.iter().map(|timed| &timed.entry);
        bounces.map(|bounce| ((*bounce.entry).clone(), bounce.bounced.clone())).collect()
    }

    pub fn suspensions(&self) -> Vec<AdminEntry> {
        self.admin.suspensions.iter().map(|timed| timed.entry.clone()).collect()
    }

    pub fn ready_suspensions(&self) -> Vec<ReadySuspension> {
        self.admin.ready_suspensions.iter().map(|timed| timed.entry.clone()).collect()
    }
}
