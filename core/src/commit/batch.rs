//! One batch on its way through the spool's stages, and the operations that each stage consists of.
//! Data is written before the meta that speaks of it and deleted after it. No deadlines are judged here.
use super::{Deadline, Ticket, Work};
use crate::id::SpoolId;
use crate::limits;
use crate::port::{Family, SpoolOperation};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;

/// A submission before or in its batch.
#[derive(Debug)]
pub(super) struct Submission {
    pub ticket: Ticket,
    pub work: Work,
    pub deadline: Deadline,
    /// Told that time is up, though the spool may still take it.
    pub answered: bool,
}

impl Submission {
    pub fn is_store(&self) -> bool {
        matches!(self.work, Work::Store(_))
    }

    pub fn octets(&self) -> usize {
        match &self.work {
            Work::Store(stores) => stores.iter().map(|one| one.data.len() + one.meta.len()).sum(),
            Work::Update { meta, .. } => meta.len(),
            Work::Remove { .. } => 0,
        }
    }

    pub fn stored_ids(&self) -> impl Iterator<Item = SpoolId> + '_ {
        let stores = match &self.work {
            Work::Store(stores) => stores.as_slice(),
            _ => &[],
        };
        stores.iter().map(|store| store.id)
    }
}

/// The last word on a message that was written and isn't synced: what a failed sync may have taken back.
#[derive(Clone, Debug)]
pub(super) enum LastWord {
    Update(Bytes),
    Remove,
}

pub(super) type LastWords = BTreeMap<SpoolId, LastWord>;

/// What goes to the spool together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Written again.
    pub redo: LastWords,
    /// Left out, since a submission in it says something newer of the same messages.
    pub superseded: LastWords,
    pub submissions: Vec<Submission>,
    /// Stores to be taken back.
    pub undo: Vec<SpoolId>,
    /// Bodies whose meta is gone already.
    pub orphans: Vec<SpoolId>,
    octets: usize,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.submissions.is_empty()
            && self.undo.is_empty()
            && self.orphans.is_empty()
            && self.redo.is_empty()
    }

    /// A batch takes at least one submission, however large.
    pub fn has_room_for(&self, submission: &Submission) -> bool {
        self.submissions.is_empty()
            || (self.submissions.len() < limits::BATCH_SUBMISSIONS
                && self.octets + submission.octets() <= limits::BATCH_OCTETS)
    }

    pub fn push(&mut self, submission: Submission) {
        self.octets += submission.octets();
        self.submissions.push(submission);
    }

    /// Whether a power cut right after it would break a promise or bring back what was taken back.
    pub fn needs_sync(&self) -> bool {
        !self.undo.is_empty()
            || !self.redo.is_empty()
            || self.submissions.iter().any(Submission::is_store)
    }

    /// What it says of messages that a power cut may take back, if it isn't synced.
    pub fn last_words(&self) -> impl Iterator<Item = (SpoolId, LastWord)> + '_ {
        self.submissions.iter().filter_map(|submission| match &submission.work {
            Work::Update { id, meta } => Some((*id, LastWord::Update(meta.clone()))),
            Work::Remove { id } => Some((*id, LastWord::Remove)),
            Work::Store(_) => None,
        })
    }

    /// Bodies to be written before their meta.
    pub fn data_puts(&self, out: &mut Vec<SpoolOperation>) {
        for submission in &self.submissions {
            let Work::Store(stores) = &submission.work else { continue };
            out.extend(stores.iter().map(|store| SpoolOperation::Put {
                family: Family::Data,
                key: store.id,
                value: store.data.clone(),
            }));
        }
    }

    pub fn meta_operations(&self, out: &mut Vec<SpoolOperation>) {
        let family = Family::Meta;
        out.extend(self.redo.iter().map(|(id, word)| match word {
            LastWord::Update(meta) => SpoolOperation::Put { family, key: *id, value: meta.clone() },
            LastWord::Remove => SpoolOperation::Delete { family, key: *id },
        }));
        out.extend(self.undo.iter().map(|id| SpoolOperation::Delete { family, key: *id }));
        for submission in &self.submissions {
            match &submission.work {
                Work::Store(stores) => out.extend(stores.iter().map(|store| SpoolOperation::Put {
                    family,
                    key: store.id,
                    value: store.meta.clone(),
                })),
                Work::Update { id, meta } => {
                    out.push(SpoolOperation::Put { family, key: *id, value: meta.clone() });
                }
                Work::Remove { id } => out.push(SpoolOperation::Delete { family, key: *id }),
            }
        }
    }

    /// Bodies that nothing speaks of once this batch's meta is applied.
    pub fn bodies_left_over(&self) -> impl Iterator<Item = SpoolId> + '_ {
        let removed = self.submissions.iter().filter_map(|submission| match &submission.work {
            Work::Remove { id } => Some(*id),
            _ => None,
        });
        let again = self.redo.iter().filter(|(_, word)| matches!(word, LastWord::Remove));
        self.undo.iter().copied().chain(removed).chain(again.map(|(id, _)| *id))
    }
}

pub(super) fn delete_bodies(ids: impl IntoIterator<Item = SpoolId>, out: &mut Vec<SpoolOperation>) {
    let delete = |id| SpoolOperation::Delete { family: Family::Data, key: id };
    out.extend(ids.into_iter().map(delete));
}
