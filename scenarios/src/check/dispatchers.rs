//! I11, of outgoing sessions: none stands longer without progress than its watchdog allows. Proves, each virtual minute, what the dispatchers say of
//! themselves; that what they say is progress is core's to show.
use super::{Violation, violation};
use kumo_core::time::{Duration, Mono};
use kumo_driver::dispatchers::Dispatcher;

/// The engine's loop takes its mail first.
const SLACK: Duration = Duration::from_secs(1);

pub fn check(at: Mono, dispatchers: &[Dispatcher]) -> Option<Violation> {
    dispatchers.iter().find_map(|Dispatcher { id, progress, threshold }| {
        let idle = at.since(progress.last);
        (idle > *threshold + SLACK).then(|| {
            let phase = progress.phase;
            let what = format!(
                "session {id} has been in {phase} for {idle:?}, and {threshold:?} are allowed"
            );
            violation("I11", at, what)
        })
    })
}
