//! Messages whose spool records are damaged (D4): which, why, and what an operator makes of them. Invariant: a record is removed only by
//! an operator's order, and only if it is listed here; the list has a limit, the count of what was found has none.
use crate::shared::lock;
use kumo_core::id::SpoolId;
use kumo_core::limits::QUARANTINE_LISTED;
use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Quarantine(Mutex<BTreeMap<SpoolId, String>>);

impl Quarantine {
    /// Whether it wasn't known.
    pub fn add(&self, id: SpoolId, why: &str) -> bool {
        let mut listed = lock(&self.0);
        if listed.len() >= QUARANTINE_LISTED && !listed.contains_key(&id) {
            return true;
        }
        listed.insert(id, why.into()).is_none()
    }

    pub fn remove(&self, id: SpoolId) {
        lock(&self.0).remove(&id);
    }

    pub fn holds(&self, id: SpoolId) -> bool {
        lock(&self.0).contains_key(&id)
    }

    pub fn why(&self, id: SpoolId) -> Option<String> {
        lock(&self.0).get(&id).cloned()
    }

    pub fn list(&self) -> Vec<(SpoolId, String)> {
        lock(&self.0).iter().map(|(id, why)| (*id, why.clone())).collect()
    }
}
