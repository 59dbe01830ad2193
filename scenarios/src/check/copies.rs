//! I4 and I5: copies of a message for one recipient are at most one, plus one for each attempt whose outcome the node couldn't know, plus one
//! for each crash (or graceful stop while disk, log or maildirs failed or hung) that came before the removal was durable. What the node could know is taken from its
//! records of the attempts, and where the log took none, nothing can be said. A message handed in again after a lost reply has other ids, so that its copies are counted apart.
use super::{Copy, Facts, Record, Story, UNTIL_REMOVED, Violation, loops, violation};
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::time::{Duration, Mono};
use kumo_io_sim::fault::FaultKind;
use kumo_io_sim::ledger::{End, Submission};
use std::collections::{BTreeMap, BTreeSet};

/// Between a server's storing a message and the node's reading of its reply, without a fault.
const SLOWEST_REPLY: Duration = Duration::from_secs(5);

/// The longest stop.
const STOPPING: Duration = Duration::from_secs(10);

/// What a dead life had sent may arrive so much later.
const ON_THE_WAY: Duration = Duration::from_secs(60);

/// From a copy to the record of its attempt: the longest wait for a verdict, and the log's patience.
const LOGGED_BY: Duration = Duration::from_secs(180);

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found: Vec<Violation> = facts
        .stories
        .iter()
        .flat_map(|(submission, story)| too_many(facts, *submission, story))
        .collect();
    found.extend(shared_ids(facts));
    found
}

fn too_many(facts: &Facts<'_>, submission: Submission, story: &Story<'_>) -> Option<Violation> {
    if story.copies.len() < 2 {
        return None;
    }
    // A message that comes round in a loop is another one each time.
    let mut by_recipient: BTreeMap<(usize, &str), Vec<&Copy<'_>>> = BTreeMap::new();
    for copy in &story.copies {
        let round = loops::received_fields(copy.content);
        for recipient in copy.recipients {
            by_recipient.entry((round, recipient)).or_default().push(copy);
        }
    }
    let several = by_recipient.into_iter().filter(|(_, copies)| copies.len() > 1);
    several.into_iter().find_map(|((_, recipient), copies)| {
        let extra = copies.len() - 1;
        let unknown = unknown_attempts(facts, story, recipient);
        // Of the copies of one life at most one needs no excuse by that life's end.
        let mut ends = BTreeSet::new();
        for copy in &copies {
            let end = may_come_again(facts, copy).find(|end| !ends.contains(end));
            ends.extend(end);
        }
        let crashes = ends.len();
        // Of an attempt whose record found no room in the log nobody knows whether its outcome was known.
        let unlogged = copies.iter().filter(|copy| {
            facts.trouble_between(&["log"], copy.began, copy.at + LOGGED_BY)
        });
        (extra > unknown + crashes + unlogged.count()).then(|| {
            let times: Vec<String> =
                copies.iter().map(|copy| format!("{:.3} s", copy.at.0 as f64 / 1e9)).collect();
            let what = format!(
                "{submission} was delivered to {recipient} {} times, at {}; {unknown} attempts ended unknown, {crashes} \
                 lives ended before it was removed",
                copies.len(),
                times.join(", ")
            );
            violation("I4", copies[copies.len() - 1].at, what)
        })
    })
}

fn unknown_attempts(facts: &Facts<'_>, story: &Story<'_>, recipient: &str) -> usize {
    count_unknown(facts, story, recipient) + given_up(facts, story, recipient)
}

/// Of policy's senders: one that hangs is its own doing, and a scenario's table may say so.
fn given_up(facts: &Facts<'_>, story: &Story<'_>, recipient: &str) -> usize {
    let records = story.ids.iter().flat_map(|id| facts.records(*id));
    let given_up = records.filter(|record| {
        record.kind == RecordKind::TransientFailure
            && record.text.contains("policy's sender was given up")
            && record.concerns(recipient)
    });
    given_up.count()
}

fn count_unknown(facts: &Facts<'_>, story: &Story<'_>, recipient: &str) -> usize {
    // A node that says so where nothing at all went wrong has misread a reply.
    let is_calm = |kind: &FaultKind| matches!(kind.port(), "dns" | "files" | "client");
    let fired = facts.universe.faults.fired();
    let troubled = FaultKind::ALL.iter().any(|kind| fired[*kind as usize] > 0 && !is_calm(kind));
    if !troubled {
        return 0;
    }
    let records = story.ids.iter().flat_map(|id| facts.records(*id));
    let lost = story.ids.iter().filter(|id| facts.lost_records.contains(id)).count();
    let says_so = |record: &&Record<'_>| match record.kind {
        RecordKind::TransientFailure => record.text.contains("reply to the final dot was lost"),
        RecordKind::Delayed => record.text.contains("dispatcher watchdog aborted task"),
        _ => false,
    };
    let unknown = records.filter(says_so).filter(|record| record.concerns(recipient));
    unknown.count() + lost
}

/// The end of the life before, if that had sent what arrived after its end; and the end of the life that delivered it, if its removal can't be
/// trusted to have been durable by then.
fn may_come_again<'f>(
    facts: &'f Facts<'_>,
    copy: &'f Copy<'_>,
) -> impl Iterator<Item = Mono> + use<'f> {
    let between = ["disk", "log", "files", "policy", "net", "peer", "node", "tls", "proxy"];
    let soon = copy.at + UNTIL_REMOVED + SLOWEST_REPLY;
    let own =
        facts.ends.iter().find(|(at, _)| *at >= copy.began).filter(|(ended, how)| match how {
            // With a slow peer, what comes as late as the stop's patience is given up (D22).
            End::Stopped => {
                facts.trouble_between(&["disk", "log", "files"], copy.began, *ended)
                    || copy.at + STOPPING >= *ended
                        && facts.trouble_between(&["net", "peer"], copy.began, *ended)
            }
            // Nobody had given the sender up yet.
            _ if copy.was_forgotten && *ended <= copy.at + LOGGED_BY => true,
            _ => *ended <= soon || facts.trouble_between(&between, copy.began, *ended),
        });
    let from = Mono(copy.began.0.saturating_sub(ON_THE_WAY.as_nanos() as u64));
    let before = facts
        .ends
        .iter()
        .rev()
        .find(|(at, how)| *how != End::Stopped && from <= *at && *at < copy.began);
    before.into_iter().chain(own).map(|(at, _)| *at)
}

/// Each submission has ids of its own.
fn shared_ids(facts: &Facts<'_>) -> Option<Violation> {
    let mut owners: BTreeMap<SpoolId, Submission> = BTreeMap::new();
    for (submission, story) in &facts.stories {
        for id in &story.ids {
            if let Some(other) = owners.insert(*id, *submission)
                && other != *submission
            {
                let at = story.submitted.unwrap_or_default();
                let what = format!("{other} and {submission} have the same id {id}");
                return Some(violation("I5", at, what));
            }
        }
    }
    None
}
