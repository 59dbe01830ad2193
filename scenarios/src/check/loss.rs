//! I1: whatever was accepted is, for each recipient, delivered, retired with a record that a crash can't take, or in the spool. Proves it
//! once a run is over, when the spool should be empty: what is missing then was lost at some time before. Submissions with a message that was
//! damaged on purpose are left out; that healthy ones are served all the same is a part of I12.
use super::{Facts, Story, Violation, violation};
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::port::Family;
use kumo_core::record::decode_meta;
use kumo_io_sim::ledger::{Answer, Submission};

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let stories = facts.stories.iter();
    stories.filter_map(|(submission, story)| lost(facts, *submission, story)).collect()
}

fn lost(facts: &Facts<'_>, submission: Submission, story: &Story<'_>) -> Option<Violation> {
    let (at, Answer::Accepted { ids }) = story.answer? else { return None };
    if ids.iter().any(|id| facts.damaged.contains(id)) {
        return None;
    }
    let is_lost = |recipient: &&String| {
        let sunk = story.copies.iter().any(|copy| copy.recipients.contains(recipient));
        // Of a delivery the server has the message to show, whatever the record says.
        let retired = ids.iter().any(|id| {
            let mut records = facts.records(*id).iter();
            records.any(|one| {
                one.is_final() && one.kind != RecordKind::Delivery && one.concerns(recipient)
            })
        });
        !sunk && !retired && !ids.iter().any(|id| is_kept(facts, *id, recipient))
    };
    let recipient = story.recipients.iter().find(is_lost)?;
    Some(violation("I1", at, format!("{submission}, accepted as {ids:?}, is lost for {recipient}")))
}

fn is_kept(facts: &Facts<'_>, id: SpoolId, recipient: &str) -> bool {
    let disk = &facts.universe.disk;
    let Some(meta) = disk.visible(Family::Meta, id) else { return false };
    let Ok(record) = decode_meta(id, &meta) else { return false };
    let recipients = &record.envelope.recipients;
    let wanted = record.remaining.iter().filter_map(|index| recipients.get(index as usize));
    disk.visible(Family::Data, id).is_some()
        && wanted.into_iter().any(|one| one.as_str() == recipient)
}
