//! Databases with parts that can't be read are made anew of what can be read: RocksDB has no way to take a damaged block out, and its own
//! compaction would stop at it.
//! Invariants: by then what is wrong has been exported and removed, and what can't be read is kept aside. A database is
//! as it was until the new one has all of its records, synced; from then on it is the new one.
use super::walk::{Half, Walk};
use super::{Findings, OfflineSpool};
use crate::spool::store::Store;
use kumo_core::config::service::SpoolKind;
use kumo_core::port::{Family, SpoolError, SpoolErrorKind, SpoolOperation, SyncMode};
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
        if let Err(error) = self.rewrite(findings, progress).await
            && let Some(repair) = &mut findings.repair
        {
            repair.stopped = Some(error.text);
        }
    }

    async fn rewrite(
        &self,
        findings: &mut Findings,
        progress: &mut impl FnMut(&Findings),
    ) -> Result<(), SpoolError> {
        let mut all = self.begin(findings).await?;
        if all.is_empty() {
            return Ok(());
        }
        let Some(repair) = &mut findings.repair else { return Ok(()) };
        self.keep_aside(repair).await?;
        self.copy(&mut all, findings, progress).await?;
        for Rewriting { old, new, families, .. } in all {
            new.close().await?;
            old.replace().await?;
            if let Some(repair) = &mut findings.repair {
                repair.rewritten.extend(families);
            }
        }
        Ok(())
    }

    async fn begin(&self, findings: &Findings) -> Result<Vec<Rewriting<'_>>, SpoolError> {
        let mut all = Vec::new();
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
        Ok(all)
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
        while let Some(halves) = walk.next(&mut found_before).await? {
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
                    Half::Unreadable(why) => return Err(unreadable_since(why)),
                }
                if rewriting.octets >= BATCH_OCTETS {
                    rewriting.write().await?;
                }
            }
            progress(findings);
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
fn unreadable_since(why: &str) -> SpoolError {
    let text = format!(
        "a record that could be read, or had been removed, can't be read any more ({why}): the disk seems to fail, copy the \
         spool to another one and repair it there"
    );
    SpoolError { kind: SpoolErrorKind::Io, text }
}
