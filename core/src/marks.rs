//! Coverage marks: branches that only trouble leads to, counted in simulation builds, so that a campaign can say which of them it never
//! took. Invariant: outside `--cfg madsim` a mark is nothing at all. The counts are the process's, not a run's; no decision depends on them.

macro_rules! marks {
    ($($mark:ident $help:literal)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mark { $($mark),+ }

        impl Mark {
            pub const ALL: &'static [Mark] = &[$(Mark::$mark),+];

            pub fn help(self) -> &'static str {
                match self { $(Mark::$mark => $help),+ }
            }
        }
    };
}

marks! {
    StoreLateWaiting "a store's deadline came before it was handed over"
    StoreLateInFlight "a store's deadline came while its batch was in the spool's hands"
    StoreLateUndone "a store that landed after its deadline was taken back"
    StoreRefusedAtStop "a store was refused since the process stops"
    BodiesWithoutCommit "bodies were written and their stores were refused before the commit"
    BatchFailed "a batch failed"
    WrittenAgain "what wasn't synced is written again, for a sync has failed"
    BatchTurnedAway "a store asked for patience, and its batch is handed over again"
    RefusedUnhealthy "something wasn't stored since the health gate is shut"
    SyncFailed "a sync alone failed"
    DrainedOwing "a stop ended with stores that couldn't be taken back"
    ExpiredScheduled "a message expired while it waited for its next attempt"
    ExpiredInLine "a message expired in line for a ready queue"
    ExpiredReady "a message expired in a ready queue"
    ExpiredAfterAttempt "a message expired since its next attempt would come too late"
    ReturnedUntried "a delivery was given back untried"
    RemovalRetried "a removal failed and is tried again"
    UnknownOutcome "the reply to a final dot was lost"
    PolicyFailed "policy failed on a question of the engine"
    SettledAtStop "a stop didn't wait for policy's requeue_message"
    SessionEndedUntold "a delivery was sent to a session that had just ended"
    TlsFallback "a host whose TLS is broken was tried again without"
    LoadFailed "a message couldn't be read for its delivery"
    ConcludedWithoutMessage "a conclusion's message couldn't be read, and was left in the spool"
    RecordQuarantined "a spool record was damaged and left alone"
    OrphanSwept "a body without an envelope was swept"
    JournalGap "the journal left inputs out"
    LogFull "a log record found no room in time"
    StopCutShort "sessions hadn't ended when the stop went on"
    StoppingSession "a delivery's verdict was given up since the process stops"
    SessionStuck "a session without progress was cut off"
    SourceSuspended "an egress source was suspended for its health"
    ScanDamaged "the spool had to be read around damage"
    SenderGivenUp "policy's sender was given up with what it had been given"
}

#[cfg(madsim)]
static HITS: [core::sync::atomic::AtomicU64; Mark::ALL.len()] =
    [const { core::sync::atomic::AtomicU64::new(0) }; Mark::ALL.len()];

/// Counts in simulation builds, and is nothing in others.
#[inline]
pub fn reached(mark: Mark) {
    #[cfg(madsim)]
    HITS[mark as usize].fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    #[cfg(not(madsim))]
    let _ = mark;
}

/// How often, since the process began.
#[cfg(madsim)]
pub fn hits(mark: Mark) -> u64 {
    HITS[mark as usize].load(core::sync::atomic::Ordering::Relaxed)
}
