//! Who waits for which batch of the spool, in which order, until when, and what has to be undone.
use crate::id::SpoolId;
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
