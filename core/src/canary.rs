//! Planted bugs, which the simulator has to catch (`cargo sim canary`). All of them are in one `--cfg canary` build, and one is chosen at
//! run time. Invariant: without that flag [`planted`] is a constant `false`, and no name of a canary is in the binary.

macro_rules! canaries {
    ($($canary:ident $name:literal $checker:literal $help:literal)+) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Canary { $($canary),+ }

        #[cfg(canary)]
        impl Canary {
            pub const ALL: &'static [Canary] = &[$(Canary::$canary),+];

            /// As `cargo sim canary NAME` wants it. The prefix is what a test looks for in a release binary.
            pub fn name(self) -> &'static str {
                match self { $(Canary::$canary => concat!("canary-", $name)),+ }
            }

            /// The invariant whose checker has to catch it.
            pub fn checker(self) -> &'static str {
                match self { $(Canary::$canary => $checker),+ }
            }

            pub fn help(self) -> &'static str {
                match self { $(Canary::$canary => $help),+ }
            }
        }
    };
}

canaries! {
    AckBeforeDurable "ack-before-durable" "I2" "a batch with stores is applied without sync, and 250 is said all the same"
    RequeueForgotten "requeue-forgotten" "I10" "a deferred message is never put back into its queue"
    TimerLost "timer-lost" "I10" "one timer in eight isn't armed"
    RemovalDropped "removal-dropped" "I4" "what was delivered isn't removed from the spool"
    ExpirySkippedInReady "expiry-skipped-in-ready" "I9" "a message in a ready queue, or in line for one, never expires"
    SecondCompletion "second-completion" "I6" "a delivery that was completed can be completed again, and is"
    GateNeverShuts "gate-never-shuts" "gate" "whatever is wrong with the spool, mail is taken"
    WatchdogNeverFires "watchdog-never-fires" "I11" "a session without progress is never cut off"
    ExplanationLate "explanation-late" "explain" "a message is said to be due a second after it is"
    GateNeverOpens "gate-never-opens" "I10" "once shut, the spool's gate stays so"
}

/// The one chosen, plus one; 0 is none.
#[cfg(canary)]
static CHOSEN: core::sync::atomic::AtomicUsize = core::sync::atomic::AtomicUsize::new(0);

/// Chooses a canary for the rest of the process, or none.
#[cfg(canary)]
pub fn choose(canary: Option<Canary>) {
    let number = canary.map_or(0, |canary| canary as usize + 1);
    CHOSEN.store(number, core::sync::atomic::Ordering::Relaxed);
}

/// Whether this bug is to be there.
#[cfg(canary)]
pub fn planted(canary: Canary) -> bool {
    CHOSEN.load(core::sync::atomic::Ordering::Relaxed) == canary as usize + 1
}

/// Whether this bug is to be there: never.
#[cfg(not(canary))]
pub const fn planted(_: Canary) -> bool {
    false
}
