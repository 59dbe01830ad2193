//! I16, and whatever a server or client saw that nobody should see: one reply for each command, in order, none after the end; commands in
//! order, nothing in plain after TLS. The people in io-sim notice it where it happens; this passes it on. It can't see what no script says.
use super::{Facts, Violation, violation};
use kumo_io_sim::ledger::Event;

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let seen = facts.entries.iter().filter_map(|entry| match &entry.event {
        Event::Violation { invariant, what } => {
            Some(violation(invariant, entry.now.mono, what.clone()))
        }
        _ => None,
    });
    seen.collect()
}
