//! The invariants of reliability.md, each checked by a file of its own that says what it proves and what it can't. A checker sees what the
//! people outside saw ([`Facts`]), never the node's inside; those that look while the run goes on are called by [`crate::run`].
//!
//! Not seen here, and where it is: I10 ([`crate::run`]: the liveness phase), I12 (in part by I1 and I10: whoever isn't damaged is served; that
//! exactly the damaged are quarantined, io-real's and the driver's tests show), I8 (no delivery status notifications exist yet), I13 (the scenario `fail-every-operation`, by the other
//! checkers), I17 (core's corpus splits every dialogue at every octet), I18 (a campaign runs seeds twice and compares hashes), I21 (nobody
//! can edit a queued message yet), I22 (kumod's golden spools).
pub mod bounds;
mod clock;
mod content;
mod copies;
pub mod dispatchers;
mod durable;
pub mod expiry;
pub mod explain;
mod fates;
pub mod gate;
mod loops;
mod loss;
mod refused;
mod replies;
mod stop;
mod verdicts;
pub mod waits;

use crate::options::Options;
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::queue_name::QueueName;
use kumo_core::time::{Duration, Mono};
use kumo_io_sim::fault::FaultKind;
use kumo_io_sim::ledger::{Answer, End, Entry, Event, Submission};
use kumo_io_sim::sender;
use kumo_io_sim::universe::Universe;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub at: Mono,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// One copy of a message that a server or maildir got.
pub struct Copy<'l> {
    pub at: Mono,
    /// When its body began to flow, as far as that is known.
    pub began: Mono,
    pub recipients: &'l [String],
    pub content: &'l [u8],
    /// Policy's sender took it, and hung before it said so.
    pub was_forgotten: bool,
}

/// All that is known of one attempt of a client.
#[derive(Default)]
pub struct Story<'l> {
    pub submitted: Option<Mono>,
    pub recipients: &'l [String],
    pub refused_recipients: BTreeSet<&'l str>,
    pub content: &'l [u8],
    pub answer: Option<(Mono, &'l Answer)>,
    pub copies: Vec<Copy<'l>>,
    /// Bodies that began to flow to a server, and when.
    bodies: Vec<(Mono, &'l [String])>,
    pub ids: BTreeSet<SpoolId>,
}

pub struct Record<'l> {
    /// When it was made.
    pub at: Mono,
    pub kind: RecordKind,
    pub recipients: &'l [String],
    pub text: &'l str,
    queue: &'l str,
}

impl Record<'_> {
    pub fn is_final(&self) -> bool {
        use RecordKind::{AdminBounce, Bounce, Delivery, Expiration};
        matches!(self.kind, Delivery | Bounce | Expiration | AdminBounce)
    }

    /// The domain that it was queued for, which need not be that of all its recipients.
    pub fn domain(&self) -> &str {
        QueueName::parse(self.queue).domain
    }

    pub fn concerns(&self, recipient: &str) -> bool {
        self.recipients.iter().any(|one| one == recipient)
    }
}

/// The ledger, sorted by what it is about.
pub struct Facts<'l> {
    pub options: &'l Options,
    pub universe: &'l Universe,
    pub entries: &'l [Entry],
    pub stories: BTreeMap<Submission, Story<'l>>,
    pub records: BTreeMap<SpoolId, Vec<Record<'l>>>,
    pub damaged: BTreeSet<SpoolId>,
    pub rejected_by_policy: BTreeSet<SpoolId>,
    /// How and when lives ended.
    pub ends: Vec<(Mono, End)>,
    /// When records were lost in crashes.
    pub lost_records: BTreeSet<SpoolId>,
}

impl<'l> Facts<'l> {
    pub fn of(options: &'l Options, universe: &'l Universe, entries: &'l [Entry]) -> Facts<'l> {
        let mut facts = Facts {
            options,
            universe,
            entries,
            stories: BTreeMap::new(),
            records: BTreeMap::new(),
            damaged: BTreeSet::new(),
            rejected_by_policy: BTreeSet::new(),
            ends: Vec::new(),
            lost_records: BTreeSet::new(),
        };
        entries.iter().for_each(|entry| facts.take(entry));
        facts
    }

    fn story(&mut self, submission: Submission) -> &mut Story<'l> {
        self.stories.entry(submission).or_default()
    }

    fn take(&mut self, Entry { now, event }: &'l Entry) {
        let at = now.mono;
        match event {
            Event::Submitting { submission, recipients, content } => {
                let story = self.story(*submission);
                story.submitted = Some(at);
                (story.recipients, story.content) = (recipients, content);
            }
            Event::Answered { submission, answer } => {
                let story = self.story(*submission);
                story.answer = Some((at, answer));
                if let Answer::Accepted { ids } = answer {
                    story.ids.extend(ids);
                }
            }
            Event::RecipientRefused { submission, recipient } => {
                self.story(*submission).refused_recipients.insert(recipient);
            }
            Event::BodyBegan { submission: Some(submission), recipients } => {
                self.story(*submission).bodies.push((at, recipients));
            }
            Event::Sunk {
                submission: Some(submission),
                recipients,
                content,
                reply_lost,
                server,
                ..
            } => {
                let id = id_in(content);
                let story = self.story(*submission);
                story.ids.extend(id);
                // Each body ends in one copy at most.
                let same = story.bodies.iter().rposition(|(_, of)| of == recipients);
                let began = same.map_or(at, |index| story.bodies.remove(index).0);
                let was_forgotten = *reply_lost && server == sender::SERVER;
                story.copies.push(Copy { at, began, recipients, content, was_forgotten });
            }
            Event::Recorded { kind, id, recipients, text, queue, .. } => {
                let record = Record { at, kind: *kind, recipients, text, queue };
                self.records.entry(*id).or_default().push(record);
            }
            Event::RecordLost { id, .. } => drop(self.lost_records.insert(*id)),
            Event::Damaged { ids } => self.damaged.extend(ids),
            Event::PolicyRejected { id } => drop(self.rejected_by_policy.insert(*id)),
            Event::Ended { how, .. } => self.ends.push((at, *how)),
            _ => {}
        }
    }

    pub fn records(&self, id: SpoolId) -> &[Record<'l>] {
        self.records.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Whether anything was wrong with a port between two moments.
    pub fn trouble_between(&self, ports: &[&str], from: Mono, to: Mono) -> bool {
        let mut standing: BTreeMap<FaultKind, u32> = BTreeMap::new();
        for Entry { now, event } in self.entries {
            if matches!(event, Event::Healed) && now.mono <= to {
                let any = standing.values().any(|count| *count > 0);
                if any && now.mono >= from {
                    return true;
                }
                standing.clear();
            }
            let Event::Fault { what, began, .. } = event else { continue };
            if !ports.contains(&what.port()) {
                continue;
            }
            if now.mono > to {
                break;
            }
            let count = standing.entry(*what).or_default();
            if *began {
                *count += 1;
            } else {
                *count = count.saturating_sub(1);
                if now.mono >= from {
                    return true;
                }
            }
        }
        standing.values().any(|count| *count > 0)
    }
}

/// The id in the Received field that the node put before a message.
fn id_in(content: &[u8]) -> Option<SpoolId> {
    let head = &content[..content.len().min(2_000)];
    let text = String::from_utf8_lossy(head);
    let mut words = text.split_ascii_whitespace();
    while let Some(word) = words.next() {
        if word == "id"
            && let Some(id) = words.next().and_then(|id| id.trim_end_matches(';').parse().ok())
        {
            return Some(id);
        }
    }
    None
}

/// Every checker that judges a run when it is over. The first violation by time is the run's.
pub fn judge(facts: &Facts<'_>) -> Option<Violation> {
    let checkers: [fn(&Facts<'_>) -> Vec<Violation>; 11] = [
        replies::check,
        durable::check,
        loss::check,
        refused::check,
        copies::check,
        fates::check,
        content::check,
        verdicts::check,
        clock::check,
        stop::check,
        loops::check,
    ];
    let violations = checkers.into_iter().flat_map(|checker| checker(facts));
    violations.min_by_key(|violation| violation.at)
}

pub fn violation(invariant: &'static str, at: Mono, what: String) -> Violation {
    Violation { invariant, at, what }
}

/// What may lie between a delivery and its durable removal: the second after which an unsynced write is synced, and what it takes.
pub const UNTIL_REMOVED: Duration = Duration::from_secs(3);
