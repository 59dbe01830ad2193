//! Who waits for which batch of the spool, in which order, until when, and what has to be undone.
//! Invariant: an [`Accountable`] comes from a [`Durable`], and a [`Durable`] only from the completed, synced batch
//! that committed the transaction, or from a named [`Waiver`]. [`Committer`] is the machine; it performs no I/O.
mod batch;
mod committer;
#[cfg(test)]
mod tests;

pub use committer::Committer;

use crate::id::SpoolId;
use crate::port::{SpoolError, SpoolOperation, SyncMode};
use crate::time::Mono;
use alloc::vec::Vec;
use bytes::Bytes;

/// Proof that a transaction's messages are on disk. Made only by a completed synced batch.
#[derive(Debug)]
pub struct Durable(());

/// Why a message may be acknowledged without being on disk. Counted by reason; I1 and I2 speak of all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiver {
    /// `define_spool { flush = false }`.
    FlushOff,
    /// The `null` queue: discarded by policy.
    NullQueue,
}

/// Leave to say 250 to a final dot, or 200 to an injection.
#[derive(Debug)]
pub struct Accountable(());

impl Accountable {
    pub fn durable(_: Durable) -> Accountable {
        Accountable(())
    }

    pub fn waived(_: Waiver) -> Accountable {
        Accountable(())
    }
}

/// One message to be stored: its two records.
#[derive(Clone, Debug)]
pub struct Store {
    pub id: SpoolId,
    pub data: Bytes,
    pub meta: Bytes,
}

/// The messages of one transaction, stored or refused together.
pub type Transaction = Vec<Store>;

/// Whoever submitted work knows its end by this. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// By when work has to be in the spool, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    pub at: Mono,
    pub whose: Whose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Whoever submitted it has less patience than the spool is given.
    Caller,
    /// `store_deadline`.
    Spool,
}

impl Deadline {
    pub fn of(spool: Mono, caller: Option<Mono>) -> Deadline {
        match caller.filter(|caller| *caller < spool) {
            Some(at) => Deadline { at, whose: Whose::Caller },
            None => Deadline { at: spool, whose: Whose::Spool },
        }
    }
}

/// One call of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(pub u64);

#[derive(Clone, Debug)]
pub enum Work {
    /// Durable before it is done.
    Store(Transaction),
    /// A message's state anew. Durable with the next synced batch, within a second, or at stop.
    Update { id: SpoolId, meta: Bytes },
    /// The message is settled. Durable as an update is; meta goes before data.
    Remove { id: SpoolId },
}

#[derive(Clone, Copy, Debug)]
pub struct CommitConfig {
    /// Whether the spool applies a batch across both families as one ([`crate::port::Spool`]). If not, data is synced
    /// first and meta is the commit point.
    pub atomic: bool,
    /// False: `define_spool { flush = false }`.
    pub sync: bool,
}

#[derive(Debug)]
pub enum Input {
    /// Completes [`Output::Apply`] and [`Output::Sync`]. After [`Busy`](crate::port::SpoolErrorKind::Busy) none of a batch is
    /// in the spool, and it is handed over again until the deadlines of what it holds.
    Applied { stage: StageId, result: Result<(), SpoolError> },
    /// A deadline has come; early or spurious ones are harmless.
    Tick,
    /// The health gate ([`crate::health`]). While it is shut stores are refused; updates and removals go on, and what is owed is tried now
    /// and then.
    Gate { is_open: bool },
    /// From now on no store is handed over: those that wait are refused. Updates and removals go on.
    Stop,
    /// Nothing more will be submitted: write what waits, sync, and say [`Output::Drained`].
    Drain,
}

#[derive(Debug)]
pub enum Output {
    Apply {
        stage: StageId,
        batch: Vec<SpoolOperation>,
        sync: SyncMode,
    },
    Sync {
        stage: StageId,
    },
    /// Exactly one for each ticket.
    Done {
        ticket: Ticket,
        outcome: CommitOutcome,
    },
    /// Stores that landed after their client had been told 451 are gone again.
    Undone {
        ids: Vec<SpoolId>,
    },
    /// The last output. `owed` could not be undone: they count as ambiguous-in.
    Drained {
        owed: Vec<SpoolId>,
    },
}

#[derive(Debug)]
pub enum CommitOutcome {
    Durable(Durable),
    Waived(Waiver),
    /// An update or a removal is in the spool, not necessarily durable yet.
    Written,
    /// Nothing of it will be delivered.
    Failed(SpoolError),
    TimedOut(Whose),
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Stopping,
    /// The health gate is shut.
    Unhealthy,
    /// [`crate::limits::COMMIT_BACKLOG`] submissions wait already.
    Full,
}
