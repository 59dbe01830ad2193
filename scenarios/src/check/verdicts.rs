//! I14: a permanent verdict comes from a peer's 5yz, a null MX, content the destination can't take, expiry, policy or an operator. Proves for
//! each Bounce that a server refused that recipient of that message for good, or that its text names one of the other reasons and that
//! reason was there; and for each AdminBounce that somebody had ordered one for that domain, and it still stood.
use super::{Facts, Record, Violation, violation};
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::time::Duration;
use kumo_io_sim::fault::FaultKind;
use kumo_io_sim::ledger::Event;
use std::collections::BTreeSet;

/// From a reply to the record of what it meant, with a slow disk or policy between.
const MOMENT: Duration = Duration::from_secs(900);

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let refused = refused_by_peers(facts);
    let mut found = Vec::new();
    for (id, records) in &facts.records {
        for record in records {
            let justified = match record.kind {
                RecordKind::Bounce => is_justified(facts, *id, record, &refused),
                RecordKind::AdminBounce => was_ordered(facts, record),
                _ => true,
            };
            if !justified {
                let what = format!("{id}: {:?} without a cause: {}", record.kind, record.text);
                found.push(violation("I14", record.at, what));
            }
        }
    }
    found
}

/// By address, for each is used for one message alone.
fn refused_by_peers<'l>(facts: &Facts<'l>) -> BTreeSet<&'l str> {
    let events = facts.entries.iter().filter_map(|entry| match &entry.event {
        Event::PeerRefused { recipients, .. } => Some(recipients),
        _ => None,
    });
    events.flatten().map(String::as_str).collect()
}

fn is_justified(
    facts: &Facts<'_>,
    id: SpoolId,
    record: &Record<'_>,
    refused: &BTreeSet<&str>,
) -> bool {
    if facts.rejected_by_policy.contains(&id) {
        return true;
    }
    let struck = |kind: FaultKind| facts.universe.faults.fired()[kind as usize] > 0;
    let by_peer = refused_at_mail(facts, record)
        || record.recipients.iter().all(|recipient| refused.contains(recipient.as_str()));
    by_peer
        || (record.text.contains("null MX") && struck(FaultKind::DnsNullMx))
        || (record.text.contains("prohibited") && struck(FaultKind::DnsLoopback))
        // A server whose EHLO is refused by a fault offers nothing.
        || (record.text.contains("8BITMIME")
            && (struck(FaultKind::PeerPermanent) || takes_seven_bits(facts, record)))
        || (record.text.contains("requeue_message") && struck(FaultKind::PolicyReject))
}

fn takes_seven_bits(facts: &Facts<'_>, record: &Record<'_>) -> bool {
    let mut seven = facts.options.destination.iter().filter(|one| !one.eight_bit_mime);
    seven.any(|one| one.domain == record.domain())
}

/// A 5yz to MAIL names nobody: it counts for the attempts at that domain that are recorded shortly after.
fn refused_at_mail(facts: &Facts<'_>, record: &Record<'_>) -> bool {
    facts.entries.iter().any(|entry| {
        let Event::PeerRefused { recipients, server, .. } = &entry.event else { return false };
        recipients.is_empty()
            && server.split_once('.').is_some_and(|(_, domain)| domain == record.domain())
            && entry.now.mono <= record.at
            && record.at.since(entry.now.mono) < MOMENT
    })
}

/// By an entry that covered these recipients, and still stood. How long it stands is the wall clock's to say, so that a step of it blurs the end.
fn was_ordered(facts: &Facts<'_>, record: &Record<'_>) -> bool {
    let clock_stepped = facts.universe.faults.fired()[FaultKind::HostWallStep as usize] > 0;
    facts.entries.iter().take_while(|entry| entry.now.mono <= record.at).any(|entry| {
        let Event::Ordered { what: "bounce", domain, lasts } = &entry.event else { return false };
        domain.as_ref().is_none_or(|domain| domain == record.domain())
            && (clock_stepped || record.at <= entry.now.mono + *lasts + MOMENT)
    })
}
