//! I6: each accepted recipient has one fate, and a refused one none. Proves that nobody gets what his server never agreed to take, and that
//! within one life of the node each recipient of a message gets at most one final record. A record that a crash took isn't seen.
use super::{Facts, Violation, violation};
use kumo_core::log::RecordKind;
use std::collections::BTreeMap;

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = strangers(facts);
    found.extend(second_fates(facts));
    found.extend(deliveries_to_nobody(facts));
    found
}

/// A Delivery record says that a server has the message: one must.
fn deliveries_to_nobody(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        for id in &story.ids {
            let records = facts.records(*id).iter();
            for record in records.filter(|record| record.kind == RecordKind::Delivery) {
                let missing = record.recipients.iter().find(|recipient| {
                    !story.copies.iter().any(|copy| copy.recipients.contains(recipient))
                });
                if let Some(recipient) = missing {
                    let what =
                        format!("{submission} was never delivered to {recipient}, and recorded so");
                    found.push(violation("I6", record.at, what));
                }
            }
        }
    }
    found
}

fn strangers(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        for copy in &story.copies {
            let known = |recipient: &&String| {
                story.recipients.contains(*recipient)
                    && !story.refused_recipients.contains(recipient.as_str())
            };
            if let Some(recipient) = copy.recipients.iter().find(|one| !known(one)) {
                let what =
                    format!("{submission} was delivered to {recipient}, who wasn't accepted");
                found.push(violation("I6", copy.at, what));
            }
        }
    }
    found
}

fn second_fates(facts: &Facts<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (id, records) in &facts.records {
        let mut seen: BTreeMap<&str, &super::Record<'_>> = BTreeMap::new();
        for record in records.iter().filter(|record| record.is_final()) {
            for recipient in record.recipients {
                let Some(first) = seen.insert(recipient, record) else { continue };
                if facts.ends.iter().any(|(end, _)| first.at <= *end && *end <= record.at) {
                    continue;
                }
                let what = format!(
                    "{id} has two fates for {recipient}: {:?} and {:?}",
                    first.kind, record.kind
                );
                found.push(violation("I6", record.at, what));
            }
        }
    }
    found
}
