//! The spool's health gate (I13's end): proves, each virtual minute, that it is shut while a store's last word on writing is a fatal error, and
//! that a store which is written to again doesn't keep it shut for ever (that is I10's to see). What clients hear is the ledger's.
use super::{Violation, violation};
use kumo_core::time::{Duration, Mono};

/// From the error to the shutting there are no waits; a life that is busy may be looked at in between.
const AT_ONCE: Duration = Duration::from_secs(1);

/// `failing_since`: the first fatal error of a write since one has succeeded, a synced one if it was a sync that failed.
pub fn check(now: Mono, failing_since: Option<Mono>, is_shut: bool) -> Option<Violation> {
    let since = failing_since.filter(|since| !is_shut && now.since(*since) > AT_ONCE)?;
    let what = format!(
        "writes have failed for {:.1} s, and the gate is open",
        now.since(since).as_secs_f64()
    );
    Some(violation("gate", now, what))
}
