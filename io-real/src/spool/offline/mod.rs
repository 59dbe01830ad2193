//! A spool that no kumod runs on, opened to be checked, or to be rid of what is damaged.
//! Invariants: it holds kumod's own locks while it is open. Opened to check, nothing in its folders changes but the pid
//! in the lock files; opened to repair, nothing is removed that wasn't exported, or kept aside if it can't be read, and
//! synced before. Nothing is made in a folder that isn't a spool. What a finding means for mail is the operator's to judge.
mod find;
mod findings;
mod quarantine;
mod rewrite;
#[cfg(test)]
mod tests;
mod walk;

use super::local_disk::LocalDisk;
use super::pair;
use super::rocks::Rocks;
use super::store::{Found, Purpose, ScanRequest, Store};
use super::{Layout, RealSpool, directory};
use bytes::Bytes;
use find::Place;
pub use findings::{Findings, Flaw, LISTED, List, Outcome, Repair};
use kumo_core::config::service::{RocksParams, SpoolKind};
use kumo_core::id::SpoolId;
use kumo_core::port::{Family, Spool, SpoolError, SpoolOperation, SyncMode};
use quarantine::Quarantine;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use walk::{Half, Halves, Page, Records, Verdict, Walk};

const FAMILIES: [Family; 2] = [Family::Data, Family::Meta];
/// Entries read at one time.
const PAGE: usize = 1024;

pub struct OfflineSpool {
    spool: RealSpool,
    place: find::Layout,
    /// Only to repair.
    quarantine: Option<Quarantine>,
}

impl OfflineSpool {
    /// One folder, or the two of a pair in any order. Blocks for as long as the stores need to be read.
    pub fn open_to_check(folders: &[PathBuf]) -> Result<OfflineSpool, SpoolError> {
        OfflineSpool::open(folders, Purpose::Check)
    }

    /// As [`OfflineSpool::open_to_check`], but as kumod opens it: recovers the stores, and copies damaged logs aside.
    pub fn open_to_repair(folders: &[PathBuf]) -> Result<OfflineSpool, SpoolError> {
        OfflineSpool::open(folders, Purpose::Repair)
    }

    fn open(folders: &[PathBuf], purpose: Purpose) -> Result<OfflineSpool, SpoolError> {
        let place = find::find(folders)?;
        let layout = match &place {
            find::Layout::Shared(path) => Layout::Shared(open_rocks(path, &FAMILIES, purpose)?),
            find::Layout::Split { data, meta } => {
                pair::verify(data.half(), meta.half())?;
                Layout::Split {
                    data: open_store(data, Family::Data, purpose)?,
                    meta: open_store(meta, Family::Meta, purpose)?,
                }
            }
        };
        let repairs = purpose == Purpose::Repair;
        let quarantine =
            repairs.then(|| Quarantine::below(folders.first().expect("one was found")));
        Ok(OfflineSpool { spool: RealSpool { layout }, place, quarantine })
    }

    /// What kind of spool it is, and where.
    pub fn describe(&self) -> String {
        self.place.to_string()
    }

    /// Reads every record once, in the order of the ids, and takes out what is wrong if it was opened to repair.
    /// `progress` hears of each message. An error is one of reading: what is damaged stands in the findings.
    pub async fn examine(
        &self,
        mut progress: impl FnMut(&Findings),
    ) -> Result<Findings, SpoolError> {
        let mut findings = Findings { repair: self.begin_repair(), ..Findings::default() };
        let mut walk = Walk::new(self);
        while let Some(halves) = walk.next(&mut findings).await? {
            let verdict = halves.judge();
            self.mend(&halves, &verdict, &mut findings).await;
            findings.add(halves.id, verdict);
            progress(&findings);
        }
        self.sync(&mut findings).await;
        self.add_what_stores_found(&mut findings);
        self.rewrite_what_is_damaged(&mut findings, &mut progress).await;
        Ok(findings)
    }

    pub async fn close(self) -> Result<(), SpoolError> {
        self.spool.close().await
    }

    fn add_what_stores_found(&self, findings: &mut Findings) {
        for (store, families) in self.stores() {
            let Found { notes, log_damage, table_damage } = store.found();
            if !table_damage.is_empty() {
                findings.unreadable_in.extend(families);
            }
            findings.notes.extend(notes);
            findings.log_damage.extend(log_damage);
            findings.table_damage.extend(table_damage);
        }
    }

    /// Each store, and what it holds.
    fn stores(&self) -> Vec<(&Store, &'static [Family])> {
        match &self.spool.layout {
            Layout::Shared(store) => vec![(store, &FAMILIES)],
            Layout::Split { data, meta } => {
                vec![(data, &[Family::Data]), (meta, &[Family::Meta])]
            }
        }
    }

    fn begin_repair(&self) -> Option<Repair> {
        self.quarantine.as_ref().map(|quarantine| Repair {
            quarantine: quarantine.folder().to_owned(),
            records_exported: 0,
            messages_removed: 0,
            kept: Vec::new(),
            records_rewritten: 0,
            rewritten: BTreeSet::new(),
            stopped: None,
            not_rewritten: None,
        })
    }

    /// After the first thing that can't be exported or removed, the rest is only looked at.
    async fn mend(&self, halves: &Halves, verdict: &Verdict, findings: &mut Findings) {
        let (Some(quarantine), Some(repair)) = (&self.quarantine, &mut findings.repair) else {
            return;
        };
        let is_wrong = !matches!(verdict, Verdict::Whole { .. });
        if !is_wrong || !self.can_be_rid_of(halves) || repair.stopped.is_some() {
            return;
        }
        if halves.is_unreadable()
            && let Err(error) = self.keep_aside(repair).await
        {
            repair.stopped = Some(error.text);
            return;
        }
        match self.take_out(halves, quarantine).await {
            Ok(records) => {
                repair.records_exported += records;
                repair.messages_removed += 1;
            }
            Err(error) => repair.stopped = Some(error.text),
        }
    }

    /// What can't be read goes when its database is rewritten; a file that can't be read stays.
    fn can_be_rid_of(&self, halves: &Halves) -> bool {
        let is_file = |family| self.place.kind(family) == SpoolKind::LocalDisk;
        let stays = |(family, half): (Family, &Half)| {
            matches!(half, Half::Unreadable(_)) && is_file(family)
        };
        !halves.each().into_iter().any(stays)
    }

    /// Once, before the first thing is removed that couldn't be read.
    async fn keep_aside(&self, repair: &mut Repair) -> Result<(), SpoolError> {
        if repair.kept.is_empty() {
            for (store, _) in self.stores() {
                repair.kept.extend(store.keep_aside().await?);
            }
        }
        Ok(())
    }

    /// How many records were exported, which are all that can be read of this id.
    async fn take_out(&self, halves: &Halves, quarantine: &Quarantine) -> Result<u64, SpoolError> {
        let mut records = 0;
        for (family, half) in halves.each() {
            if let Half::Here(record) = half {
                quarantine.export(halves.id, family, record)?;
                records += 1;
            }
        }
        let delete = |family| SpoolOperation::Delete { family, key: halves.id };
        let batch = FAMILIES.into_iter().map(delete).collect();
        self.spool.apply(batch, SyncMode::Unsynced).await?;
        Ok(records)
    }

    async fn sync(&self, findings: &mut Findings) {
        let Some(repair) = &mut findings.repair else { return };
        for family in FAMILIES {
            if let (Err(error), None) = (self.spool.sync(family).await, &repair.stopped) {
                repair.stopped = Some(format!("making the removals durable: {error}"));
            }
        }
    }
}

impl Records for OfflineSpool {
    /// Of files only the names, so that one that can't be read is met by its id.
    async fn page(&self, family: Family, from: Option<SpoolId>) -> Result<Page, SpoolError> {
        let keys_only = self.place.kind(family) == SpoolKind::LocalDisk;
        let request = ScanRequest { family, from, limit: PAGE, keys_only };
        // What lies in a gap is asked for by the ids of the other family, which the walk knows anyway.
        let page = self.spool.store(family).scan(request).await?.page;
        let value = |value: Bytes| (!keys_only).then_some(value);
        let entries = page.entries.into_iter().map(|(id, found)| (id, value(found))).collect();
        let unreadable = page.damaged.into_iter().map(|damage| damage.text).collect();
        Ok(Page { entries, next: page.next, unreadable })
    }

    async fn get(&self, family: Family, id: SpoolId) -> Result<Option<Bytes>, SpoolError> {
        self.spool.get(family, id).await
    }
}

fn open_store(place: &Place, family: Family, purpose: Purpose) -> Result<Store, SpoolError> {
    match (place.kind, purpose) {
        (SpoolKind::RocksDB, _) => open_rocks(&place.path, &[family], purpose),
        (SpoolKind::LocalDisk, Purpose::Check) => {
            Store::new(&place.path, LocalDisk::open_to_read(&place.path)?)
        }
        (SpoolKind::LocalDisk, Purpose::Serve | Purpose::Repair) => {
            directory::probe(&place.path)?;
            Store::new(&place.path, LocalDisk::open(&place.path)?)
        }
    }
}

fn open_rocks(path: &Path, families: &[Family], purpose: Purpose) -> Result<Store, SpoolError> {
    if purpose == Purpose::Repair {
        directory::probe(path)?;
    }
    // Tables stay in the levels they are in, whatever the policy says about them.
    let params =
        RocksParams { level_compaction_dynamic_level_bytes: Some(false), ..RocksParams::default() };
    let families = families.iter().map(|family| (*family, params.clone())).collect();
    Store::new(path, Rocks::open(path, families, purpose)?)
}
