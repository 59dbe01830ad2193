//! Databases with parts that can't be read are made anew of what can be read: RocksDB has no way to take a damaged block out, and its own
//! compaction would stop at it.
//! Invariants: by then what is wrong has been exported and removed, and what can't be read is kept aside. A database is
//! as it was until the new one has all messages that were met before, in tables and synced; from then on it is the new one.
use super::walk::{Half, Walk};
use super::{Findings, OfflineSpool};
use crate::spool::store::Store;
use kumo_core::config::service::SpoolKind;
use kumo_core::port::{Family, SpoolError, SpoolErrorKind, SpoolOperation, SyncMode};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Written at one time.
const BATCH_OCTETS: usize = 1024 * 1024;
/// How long a database may ask for patience before one batch is in.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

struct Rewriting<'a> {
    families: &'static [Family],
    old: &'a Store,
    new: Store,
    batch: Vec<SpoolOperation>,
    octets: usize,
}

impl OfflineSpool {
    /// Nothing if all could be read, or not all could be repaired.
    pub(super) async fn rewrite_what_is_damaged(
        &self,
        findings: &mut Findings,
        progress: &mut impl FnMut(&Findings),
    ) {
        let Some(repair) = &findings.repair else { return };
        if repair.stopped.is_some() {
            return;
        }
        let mut all = Vec::new();
        let rewritten = self.rewrite(&mut all, findings, progress).await;
        let given_up = self.give_up(all).await;
        let Some(repair) = &mut findings.repair else { return };
        if let Err(error) = rewritten
            .and(given_up)
            .and(self.forget_damage(&findings.unreadable_in, &repair.rewritten).await)
        {
            repair.not_rewritten = Some(error.text);
        }
    }

    /// What is left to be done after an error takes room that may be wanted.
    async fn give_up(&self, all: Vec<Rewriting<'_>>) -> Result<(), SpoolError> {
        for Rewriting { old, new, .. } in all {
            new.close().await?;
            old.give_up_anew().await?;
        }
        Ok(())
    }

    async fn forget_damage(
        &self,
        unreadable: &BTreeSet<Family>,
        rewritten: &BTreeSet<Family>,
    ) -> Result<(), SpoolError> {
        for (store, families) in self.stores() {
            let is_well = |family| !unreadable.contains(family) || rewritten.contains(family);
            if families.iter().all(is_well) {
                store.is_well_again().await?;
            }
        }
        Ok(())
    }

    /// What is left in `all` hasn't taken its place.
    async fn rewrite<'a>(
        &'a self,
        all: &mut Vec<Rewriting<'a>>,
        findings: &mut Findings,
        progress: &mut impl FnMut(&Findings),
    ) -> Result<(), SpoolError> {
        self.begin(all, findings).await?;
        if all.is_empty() {
            return Ok(());
        }
        if let Some(repair) = &mut findings.repair {
            self.keep_aside(repair).await?;
        }
        self.copy(all, findings, progress).await?;
        while let Some(Rewriting { old, new, families, .. }) = all.last() {
            // So that its log is empty, and no compaction waits for the next start.
            for family in *families {
                new.compact(*family).await?;
            }
            new.close().await?;
            old.replace().await?;
            if let Some(repair) = &mut findings.repair {
                repair.rewritten.extend(*families);
            }
            all.pop();
        }
        Ok(())
    }

    async fn begin<'a>(
        &'a self,
        all: &mut Vec<Rewriting<'a>>,
        findings: &Findings,
    ) -> Result<(), SpoolError> {
        for (old, families) in self.stores() {
            let is_damaged = |family: &Family| {
                findings.unreadable_in.contains(family)
                    && self.place.kind(*family) == SpoolKind::RocksDB
            };
            if !families.iter().any(is_damaged) {
                continue;
            }
            if let Some(new) = old.begin_anew().await? {
                all.push(Rewriting { families, old, new, batch: Vec::new(), octets: 0 });
            }
        }
        Ok(())
    }

    async fn copy(
        &self,
        all: &mut [Rewriting<'_>],
        findings: &mut Findings,
        progress: &mut impl FnMut(&Findings),
    ) -> Result<(), SpoolError> {
        let mut walk = Walk::new(self);
        // What can't be read has been found before.
        let mut found_before = Findings::default();
        let mut met = 0;
        while let Some(halves) = walk.next(&mut found_before).await? {
            met += 1;
            for (family, half) in halves.each() {
                let Some(rewriting) = all.iter_mut().find(|one| one.families.contains(&family))
                else {
                    continue;
                };
                match half {
                    Half::Absent => {}
                    Half::Here(value) => {
                        rewriting.octets += value.len();
                        let (key, value) = (halves.id, value.clone());
                        rewriting.batch.push(SpoolOperation::Put { family, key, value });
                        if let Some(repair) = &mut findings.repair {
                            repair.records_rewritten += 1;
                        }
                    }
                    Half::Unreadable(why) => return Err(changed_its_mind(why)),
                }
                if rewriting.octets >= BATCH_OCTETS {
                    rewriting.write().await?;
                }
            }
            progress(findings);
        }
        let removed = findings.repair.as_ref().map_or(0, |repair| repair.messages_removed);
        let expected = findings.messages() - removed;
        if met != expected {
            return Err(changed_its_mind(&format!(
                "{met} messages are found instead of {expected}"
            )));
        }
        for rewriting in all {
            rewriting.write().await?;
            rewriting.new.sync().await?;
        }
        Ok(())
    }
}

impl Rewriting<'_> {
    async fn write(&mut self) -> Result<(), SpoolError> {
        self.octets = 0;
        let batch = std::mem::take(&mut self.batch);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.new.apply(batch.clone(), SyncMode::Unsynced).await {
                Err(error) if error.kind == SpoolErrorKind::Busy && Instant::now() < deadline => {
                    sleep(PAUSE).await;
                }
                result => return result,
            }
        }
    }
}

/// The disk changes its mind: whatever is done now may be wrong.
fn changed_its_mind(why: &str) -> SpoolError {
    let text = format!(
        "not all is found again that was found before ({why}): the disk seems to fail, copy the spool to another one and repair it \
         there"
    );
    SpoolError { kind: SpoolErrorKind::Io, text }
}
