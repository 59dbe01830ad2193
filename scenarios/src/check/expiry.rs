//! I9: nothing outlives its time, wherever it sits. Proves, each virtual minute, that the engine holds no message that was accepted longer ago
//! than its queue's `max_age` and one attempt take. Left out: while the disk or the log is in trouble nobody can be told that it expired.
use kumo_core::id::SpoolId;
use kumo_core::time::{Duration, Mono};
use kumo_io_sim::ledger::{Answer, Entry, Event};
use kumo_io_sim::universe::Universe;
use std::collections::BTreeMap;

/// Accepted messages that may still be there, by when they must be gone.
#[derive(Default)]
pub struct Residents {
    due: BTreeMap<(Mono, SpoolId), ()>,
    read: usize,
}

/// An attempt that began just before the end: dial, greeting, transaction, and the wait for the verdict.
const ATTEMPT: Duration = Duration::from_secs(15 * 60);

impl Residents {
    /// Takes note of what was accepted since the last look.
    pub fn note(&mut self, universe: &Universe, entries: &[Entry]) {
        for entry in &entries[self.read..] {
            let Event::Answered { submission, answer: Answer::Accepted { ids } } = &entry.event
            else {
                continue;
            };
            let recipient = entries.iter().rev().find_map(|earlier| match &earlier.event {
                Event::Submitting { submission: of, recipients, .. } if of == submission => {
                    recipients.first()
                }
                _ => None,
            });
            let domain = recipient.and_then(|one| one.rsplit('@').next()).unwrap_or("");
            let age = universe.settings.policy.queue_config(domain).max_age;
            self.due.extend(ids.iter().map(|id| ((entry.now.mono + age + ATTEMPT, *id), ())));
        }
        self.read = entries.len();
    }

    /// Those that must be gone by now. Asked about once.
    pub fn overdue(&mut self, now: Mono) -> Vec<SpoolId> {
        let later = self.due.split_off(&(now, SpoolId([0; 16])));
        let overdue = std::mem::replace(&mut self.due, later);
        overdue.into_keys().map(|(_, id)| id).collect()
    }

    /// To be asked about again.
    pub fn again(&mut self, ids: Vec<SpoolId>, at: Mono) {
        self.due.extend(ids.into_iter().map(|id| ((at, id), ())));
    }
}
