//! I3: after a 4yz or 5yz to the final dot (or an injection) the message is never delivered, also when its store lands later; and a
//! submission that never came to its final dot isn't either. Where the process dies after the refusal, a store that was owed an undo counts
//! as ambiguous and is left out.
use super::{Facts, Violation, violation};
use kumo_core::time::{Duration, Mono};
use kumo_io_sim::ledger::{Answer, End};

/// A store that lands late is taken back within a second, and that is synced within another, once the disk does anything at all.
const TAKEN_BACK: Duration = Duration::from_secs(60);

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        let Some((at, answer)) = story.answer else { continue };
        let told = match answer {
            Answer::Refused { code } => format!("refused with {code}"),
            Answer::Never => "never completed".into(),
            Answer::Accepted { .. } | Answer::Ambiguous => continue,
        };
        let Some(copy) = story.copies.first() else { continue };
        if ended_owing(facts, story.submitted.unwrap_or(at), at) {
            continue;
        }
        let what = format!("{submission} was {told} and delivered to {:?}", copy.recipients);
        found.push(violation("I3", copy.at, what));
    }
    found
}

/// Whether the life in which it was refused ended before it can be trusted to have taken the store back: soon after, or with its disk in
/// trouble to the end, which a stop says. The client may have heard of it later.
fn ended_owing(facts: &Facts<'_>, submitted: Mono, refused: Mono) -> bool {
    let ended = facts.ends.iter().find(|(at, _)| *at >= submitted);
    let Some((ended, how)) = ended else { return false };
    let shortly_before = Mono(ended.0.saturating_sub(TAKEN_BACK.as_nanos() as u64));
    let soon = *how != End::Stopped && refused >= shortly_before;
    soon || facts.trouble_between(&["disk"], shortly_before, *ended)
}
