//! I3: after a 4yz or 5yz to the final dot (or an injection) the message is never delivered, also when its store lands later; and a
//! submission that never came to its final dot isn't either. Where the process dies after the refusal, a store that was owed an undo counts
//! as ambiguous and is left out.
use super::{Facts, Violation, violation};
use kumo_core::time::Mono;
use kumo_io_sim::ledger::Answer;

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
        let died = facts.crashed_between(at, Mono(u64::MAX));
        if died || stopped_owing(facts, at) {
            continue;
        }
        let what = format!("{submission} was {told} and delivered to {:?}", copy.recipients);
        found.push(violation("I3", copy.at, what));
    }
    found
}

/// Whether the life ended by a stop, and its disk was in trouble: then it may have said that it couldn't take a store back.
fn stopped_owing(facts: &Facts<'_>, refused: Mono) -> bool {
    let end = facts.ends.iter().find(|(at, _)| *at >= refused);
    end.is_some_and(|(ended, _)| facts.trouble_between(&["disk"], refused, *ended))
}
