//! I2: a 250 (or 200) is said only once both records of its messages are what a power cut can't take. Proves it for the moment at which the
//! client reads the reply, by the disk's own account of what was durable when. It can't see a sync that a real disk lies about.
use super::{Facts, Violation, violation};
use kumo_io_sim::ledger::Answer;

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        let Some((at, Answer::Accepted { ids })) = story.answer else { continue };
        for id in ids {
            if facts.universe.disk.durable_since(*id).is_none_or(|since| since > at) {
                let what = format!("{submission} was accepted as {id} before that was durable");
                found.push(violation("I2", at, what));
            }
        }
    }
    found
}
