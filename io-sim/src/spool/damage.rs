//! What of a path can't be read, or not as it was written. It lies over the truth, which stays as it is beneath, so that checkers can compare.
//! Invariant: a key that is written or deleted is healthy; if a crash takes the write back, the damage is there again.
use super::failure;
use super::path::Key;
use bytes::Bytes;
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, SpoolError, SpoolErrorKind};
use std::collections::BTreeMap;

/// Keys between two, both included, that went together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub family: Family,
    pub first: SpoolId,
    pub last: SpoolId,
}

#[derive(Clone, Debug)]
pub(crate) enum Damage {
    /// The value as it is read.
    Flipped(Bytes),
    Block(Range),
    /// Its file is gone, which the store hasn't understood yet.
    Missing(Range),
    /// It was opened without that file.
    Hole(Range),
}

/// What a scan has to do about a key.
pub(crate) enum Way {
    Take(Bytes),
    /// Say the line, unless it was said before.
    Jump(String),
}

#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// What readers meet.
    standing: BTreeMap<Key, Damage>,
    /// Under a write that isn't durable yet.
    covered: BTreeMap<Key, Damage>,
}

impl Overlay {
    pub fn add(&mut self, key: Key, damage: Damage) {
        self.standing.insert(key, damage);
    }

    pub fn is_damaged(&self, key: &Key) -> bool {
        self.standing.contains_key(key)
    }

    #[cfg(test)]
    pub fn clear(&mut self) {
        self.standing.clear();
        self.covered.clear();
    }

    /// The key is written or deleted.
    pub fn cover(&mut self, key: &Key) {
        if let Some(damage) = self.standing.remove(key) {
            self.covered.insert(*key, damage);
        }
    }

    /// All writes so far are durable.
    pub fn forget_covered(&mut self) {
        self.covered.clear();
    }

    /// A crash took writes back; those that it left cover again.
    pub fn uncover(&mut self) {
        self.standing.append(&mut self.covered);
    }

    /// Whether it lacks a file, now or since an earlier opening.
    pub fn open(&mut self) -> bool {
        let mut lacks = false;
        for damage in self.standing.values_mut().chain(self.covered.values_mut()) {
            if let Damage::Missing(range) = damage {
                *damage = Damage::Hole(*range);
            }
            lacks |= matches!(damage, Damage::Hole(_));
        }
        lacks
    }

    /// The value of a key as it is read, where `value` is the truth.
    pub fn read(&self, path: &str, key: &Key, value: &Bytes) -> Result<Bytes, SpoolError> {
        let (kind, range, what) = match self.standing.get(key) {
            None => return Ok(value.clone()),
            Some(Damage::Flipped(value)) => return Ok(value.clone()),
            Some(Damage::Block(range)) => {
                (SpoolErrorKind::Corruption, range, "block checksum mismatch")
            }
            Some(Damage::Missing(range)) => (SpoolErrorKind::Io, range, "No such file"),
            Some(Damage::Hole(range)) => (SpoolErrorKind::Corruption, range, "a file is missing"),
        };
        Err(failure(kind, path, &range.describe(what)))
    }

    /// As [`Overlay::read`], for a scan. An error: not even a scan gets past it.
    pub fn pass(&self, path: &str, key: &Key, value: &Bytes) -> Result<Way, SpoolError> {
        match self.read(path, key, value) {
            Ok(value) => Ok(Way::Take(value)),
            Err(error) if error.kind == SpoolErrorKind::Corruption => Ok(Way::Jump(error.text)),
            Err(error) => Err(error),
        }
    }
}

impl Range {
    fn describe(self, what: &str) -> String {
        let Range { family, first, last } = self;
        format!("{family:?} {first} to {last} can't be read: {what}")
    }
}
