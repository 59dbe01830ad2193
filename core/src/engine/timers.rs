//! Everything the engine waits for, in order of time. Invariant: whoever holds a timer remembers its moment, so
//! that it can be taken back exactly; an entry found here is due. Moments are monotonic, never wall time.
use super::arena::Handle;
use super::model::{Message, ReadyQueue, ScheduledQueue};
use super::sources::Source;
use crate::canary::{self, Canary};
use crate::time::Mono;
use alloc::collections::BTreeSet;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Timer {
    /// A message is due, or its time is up.
    Message(Handle<Message>),
    /// What a scheduled queue waits for is to be looked at again, or it is to be reaped.
    Scheduled(Handle<ScheduledQueue>),
    /// A token comes, or the ready queue is to be reaped.
    Ready(Handle<ReadyQueue>),
    /// The first admin entry ends.
    Admin,
    /// Its suspension ends.
    Source(Handle<Source>),
}

/// Why the engine wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    MessageDueOrExpired,
    ScheduledQueue,
    ReadyQueue,
    AdminEntryEnds,
    SuspensionEnds,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Timers {
    set: BTreeSet<(Mono, Timer)>,
}

/// No timer is armed.
pub(super) const NEVER: Mono = Mono(u64::MAX);

impl Timers {
    /// Moves a timer from `armed`, the moment its holder remembers, to `at`; either may be [`NEVER`].
    pub fn move_to(&mut self, armed: &mut Mono, at: Mono, timer: Timer) {
        if *armed == at {
            return;
        }
        if *armed != NEVER {
            let found = self.set.remove(&(*armed, timer));
            assert!(found, "{timer:?} isn't armed for the moment its holder remembers");
        }
        let lost = canary::planted(Canary::TimerLost) && at.0.is_multiple_of(8);
        *armed = if lost { NEVER } else { at };
        if *armed != NEVER {
            self.set.insert((at, timer));
        }
    }

    /// Takes out the next timer that is due. Its holder must forget the moment.
    pub fn pop(&mut self, now: Mono) -> Option<Timer> {
        let first = *self.set.first()?;
        (first.0 <= now).then(|| {
            self.set.remove(&first);
            first.1
        })
    }

    pub fn next(&self) -> Option<(Mono, WakeReason)> {
        let (at, timer) = self.set.first()?;
        let reason = match timer {
            Timer::Message(_) => WakeReason::MessageDueOrExpired,
            Timer::Scheduled(_) => WakeReason::ScheduledQueue,
            Timer::Ready(_) => WakeReason::ReadyQueue,
            Timer::Admin => WakeReason::AdminEntryEnds,
            Timer::Source(_) => WakeReason::SuspensionEnds,
        };
        Some((*at, reason))
    }
}
