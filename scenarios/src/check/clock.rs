//! I19: steps of the wall clock expire nothing early. Proves for every Expiration record that the message's next attempt would have come after
//! its time by the monotonic clock, or that it had been through a restart with a stepped clock, where only the wall clock can tell its age.
//! Retry storms after a step are the scenario `clock-steps`'s to show; that nothing panics, every run's.
use super::{Facts, Violation, violation};
use kumo_core::log::RecordKind;
use kumo_io_sim::fault::FaultKind;
use kumo_io_sim::policy::REQUEUE;

pub fn check(facts: &Facts<'_>) -> Vec<Violation> {
    let stepped = facts.universe.faults.fired()[FaultKind::HostWallStep as usize] > 0;
    let mut found = Vec::new();
    for (submission, story) in &facts.stories {
        let Some(accepted) = story.submitted else { continue };
        let Some(recipient) = story.recipients.first() else { continue };
        let domain = recipient.rsplit('@').next().unwrap_or(recipient);
        let config = facts.universe.settings.policy.queue_config(domain);
        // The next attempt may be due a whole retry gap, and what jitter and policy add to it, after its time.
        let gap = config.max_retry_interval.unwrap_or(config.max_age) + REQUEUE;
        for id in &story.ids {
            for record in facts.records(*id).iter().filter(|one| one.kind == RecordKind::Expiration)
            {
                let restarted =
                    facts.ends.iter().any(|(at, _)| accepted <= *at && *at <= record.at);
                let age = record.at.since(accepted);
                if age + gap < config.max_age && !(stepped && restarted) {
                    let what = format!(
                        "{submission} expired after {:.1} s of {:?}",
                        age.as_secs_f64(),
                        config.max_age
                    );
                    found.push(violation("I19", record.at, what));
                }
            }
        }
    }
    found
}
