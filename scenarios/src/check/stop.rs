//! I20: a graceful stop takes at most ten seconds, and nothing that is handed in after it was ordered is accepted. That nothing accepted is
//! lost by it, I1 shows.
use super::{Facts, Violation, violation};
use kumo_core::time::{Duration, Mono};
use kumo_io_sim::ledger::{Answer, End, Event};

/// The ten seconds, and the executor's own steps.
const ALLOWED: Duration = Duration::from_millis(10_050);

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut ordered: Option<Mono> = None;
    for entry in facts.entries {
        let at = entry.now.mono;
        match entry.event {
            Event::StopOrdered { .. } => ordered = Some(at),
            Event::Ended { how, .. } => {
                let Some(since) = ordered.take() else { continue };
                let took = at.since(since);
                let paused = paused_between(facts, since, at);
                if how == End::Stopped && took > ALLOWED && !paused {
                    found.push(violation("I20", at, format!("a graceful stop took {took:?}")));
                }
                found.extend(accepted_between(facts, since, at));
            }
            _ => {}
        }
    }
    found
}

fn paused_between(facts: &Facts<'_>, from: Mono, to: Mono) -> bool {
    facts.entries.iter().any(|entry| {
        matches!(entry.event, Event::Paused { .. } | Event::Resumed { .. })
            && from <= entry.now.mono
            && entry.now.mono <= to
    })
}

fn accepted_between(facts: &Facts<'_>, from: Mono, to: Mono) -> Vec<Violation> {
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        let (Some(submitted), Some((at, Answer::Accepted { .. }))) =
            (story.submitted, story.answer)
        else {
            continue;
        };
        if from < submitted && submitted <= to {
            let what =
                format!("{submission} was handed in after the stop was ordered, and accepted");
            found.push(violation("I20", at, what));
        }
    }
    found
}
