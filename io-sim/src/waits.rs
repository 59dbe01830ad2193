//! What the node waits for in the outside, and since when (I11). Invariant: an entry stands exactly as long as the future that made it.
//! How long each may stand is a checker's to say.
use kumo_core::time::Mono;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitKind {
    SpoolWrite,
    SpoolRead,
    Dial,
    Read,
    Write,
    TlsHandshake,
    Resolve,
    Policy,
    Maildir,
    Record,
    Sender,
}

#[derive(Default)]
struct State {
    standing: BTreeMap<u64, (WaitKind, Mono)>,
    next: u64,
}

#[derive(Clone, Default)]
pub struct Waits(Arc<Mutex<State>>);

/// Stands for one wait until it is dropped.
pub struct Waiting {
    waits: Waits,
    number: u64,
}

impl Waits {
    pub fn begin(&self, kind: WaitKind, now: Mono) -> Waiting {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next += 1;
        state.standing.insert(number, (kind, now));
        Waiting { waits: self.clone(), number }
    }

    /// All that stand, oldest first.
    pub fn standing(&self) -> Vec<(WaitKind, Mono)> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.standing.values().copied().collect()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.waits.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.standing.remove(&self.number);
    }
}
