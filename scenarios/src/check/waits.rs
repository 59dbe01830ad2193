//! I11: every wait of the node on its outside ends in time. Proves, each virtual minute, that none stands longer than its kind may. The
//! committer's writes are left out: their clients are answered by a deadline, the write itself is the disk's to end.
use super::{Violation, violation};
use crate::options::Options;
use kumo_core::time::{Duration, Now};
use kumo_io_sim::universe::Universe;
use kumo_io_sim::waits::WaitKind;

/// Longer than any wait that a scenario's policy or the driver sets for one of the kind.
fn longest(kind: WaitKind, options: &Options) -> Option<Duration> {
    let minutes = |count: u64| Some(Duration::from_secs(60 * count));
    match kind {
        WaitKind::SpoolWrite => None,
        WaitKind::SpoolRead => minutes(1),
        WaitKind::Dial | WaitKind::TlsHandshake => minutes(3),
        // The server's wait for a client is the longest, then the client's for a verdict, which a sender's may be, too.
        WaitKind::Read | WaitKind::Write | WaitKind::Sender => Some(
            options.node.client_timeout.max(Duration::from_secs(600)) + Duration::from_secs(60),
        ),
        WaitKind::Resolve => minutes(2),
        WaitKind::Policy => minutes(6),
        WaitKind::Maildir => minutes(2),
        WaitKind::Record => None,
    }
}

pub fn look(universe: &Universe, options: &Options, now: Now) -> Option<Violation> {
    universe.waits.standing().into_iter().find_map(|(kind, since)| {
        let waited = now.mono.since(since);
        let allowed = longest(kind, options)?;
        (waited > allowed).then(|| {
            violation("I11", now.mono, format!("a wait ({kind:?}) has stood for {waited:?}"))
        })
    })
}
