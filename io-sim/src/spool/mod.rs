//! The `Spool` port over a simulated disk: [`SimSpool`] is one life's hold on it. What the disk keeps is [`Disk`]'s; what is written, in what
//! order and what of it outlives a crash is [`path`]'s; what can't be read any more is [`damage`]'s.
//!
//! Invariant: whatever was answered `Ok` to a synced apply, or lies before a sync that was, is durable. No task runs here: a write that nobody
//! waits for any more ends by itself, since every later operation looks first at what has ended meanwhile. Reads see only what was applied.
//!
//! # Fault model
//! - Tolerated: loss of power or process at any moment, with whatever isn't durable gone, there, there up to a point (a log) or in any subset
//!   (files); writes and syncs that fail or stall; a full disk; slow compactions; dropped futures.
//! - Detected, as a reader sees: flipped bits in a value (a record's own checksum has to notice), ranges that can't be read (an error, or a
//!   line of the scan), missing files (errors, then a hole that is told of).
//! - Out of scope: a disk that lies about a sync, values of other keys, damage to what isn't durable yet, and a RocksDB that turns read-only
//!   over a corrupt block. After a kill what was applied waits for the next life's first sync, where RocksDB would write it out at its opening.
//! - Virtual time has a grain of 1 ms for whoever sleeps; writes end at their own, finer times.
pub(crate) mod damage;
mod disk;
pub(crate) mod path;
#[cfg(test)]
mod tests;

use crate::fault::FaultKind;
use crate::lives::Place;
use crate::universe::Universe;
use crate::waits::WaitKind;
use bytes::Bytes;
use disk::{Progress, Ticket};
use kumo_core::id::SpoolId;
use kumo_core::port::{
    Family, FreeSpace, ScanPage, Spool, SpoolError, SpoolErrorKind, SpoolOperation,
    SpoolProperties, SyncMode,
};
use kumo_core::time::{Duration, Mono};
use path::Work;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::sleep;

pub use disk::Disk;

pub(crate) const FAMILIES: [Family; 2] = [Family::Data, Family::Meta];
const COMPACTION: Duration = Duration::from_millis(10);
const SLOW_COMPACTION: Duration = Duration::from_secs(60);

/// What lies on a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// A sequential log, as RocksDB's: a crash keeps a prefix of it.
    #[default]
    Log,
    /// A file for each record, as LocalDisk's: needs two paths.
    Files,
}

#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// Data and meta lie apart; no batch is atomic across them.
    pub two_paths: bool,
    pub kind: StoreKind,
    /// Means: of an unsynced apply, of a synced one, and of a read.
    pub write: Duration,
    pub sync: Duration,
    pub read: Duration,
}

impl Default for DiskSettings {
    fn default() -> DiskSettings {
        DiskSettings {
            two_paths: false,
            kind: StoreKind::Log,
            write: Duration::from_micros(50),
            sync: Duration::from_micros(500),
            read: Duration::from_micros(30),
        }
    }
}

/// The disk, for one life of the node.
pub struct SimSpool {
    universe: Arc<Universe>,
    life: u64,
    closed: AtomicBool,
}

impl SimSpool {
    /// What the life before left in flight is drawn here, if its end wasn't told to [`Disk::crash`].
    pub fn open(universe: &Arc<Universe>, life: u64) -> SimSpool {
        universe.disk.open(universe);
        SimSpool { universe: universe.clone(), life, closed: AtomicBool::new(false) }
    }

    fn disk(&self) -> &Disk {
        &self.universe.disk
    }

    fn now(&self) -> Mono {
        self.universe.now().mono
    }

    fn check_open(&self) -> Result<(), SpoolError> {
        match self.closed.load(Ordering::Relaxed) {
            true => Err(failure(SpoolErrorKind::Closed, "", "it is closed")),
            false => Ok(()),
        }
    }

    /// Takes the step; whether the disk is to fail at it.
    async fn begin(&self) -> Result<bool, SpoolError> {
        let failed = self.universe.lives.step(self.life, Place::Disk).await.is_err();
        self.check_open()?;
        Ok(failed)
    }

    /// Hands the works over at once, and waits for all of them.
    async fn write(&self, works: Vec<(usize, Work)>, failed: bool) -> Result<(), SpoolError> {
        let _waiting = self.universe.waits.begin(WaitKind::SpoolWrite, self.now());
        let hand_over = |(path, work)| self.disk().hand_over(&self.universe, path, work, failed);
        let tickets: Vec<Ticket> = works.into_iter().map(hand_over).collect();
        let mut result = Ok(());
        for ticket in tickets {
            result = result.and(self.wait(&ticket).await);
        }
        result
    }

    async fn wait(&self, ticket: &Ticket) -> Result<(), SpoolError> {
        loop {
            match self.disk().progress(&self.universe, ticket) {
                Progress::Ended(result) => return result,
                Progress::EndsAt(end) => sleep(end.since(self.now())).await,
                Progress::Stalled(target) => {
                    self.universe.faults.over(FaultKind::DiskStall, target).await;
                }
            }
            self.universe.lives.alive(self.life).await;
        }
    }

    /// Takes a step and a read's time; whether the disk is to fail at it.
    async fn look(&self) -> Result<bool, SpoolError> {
        let failed = self.begin().await?;
        let _waiting = self.universe.waits.begin(WaitKind::SpoolRead, self.now());
        sleep(self.disk().draw_read()).await;
        self.universe.lives.alive(self.life).await;
        self.check_open()?;
        Ok(failed)
    }

    /// To be called before what is stored is read.
    async fn read(&self, family: Family) -> Result<(), SpoolError> {
        let failed = self.look().await?;
        let target = self.disk().target(family);
        if failed || self.universe.faults.strikes(FaultKind::DiskReadError, target).is_some() {
            return Err(failure(SpoolErrorKind::Io, target, "reading it: Input/output error"));
        }
        Ok(())
    }
}

/// `path`: a target of faults, or nothing.
pub(crate) fn failure(kind: SpoolErrorKind, path: &str, what: &str) -> SpoolError {
    let path = if path.is_empty() { "spool" } else { path };
    SpoolError { kind, text: format!("simulated:/{path}: {what}") }
}

impl Spool for SimSpool {
    fn is_atomic_across_families(&self) -> bool {
        self.disk().paths() == 1
    }

    fn may_lack_records(&self) -> bool {
        self.disk().may_lack_records()
    }

    /// What goes to two paths is handed to both at once.
    async fn apply(&self, batch: Vec<SpoolOperation>, sync: SyncMode) -> Result<(), SpoolError> {
        let failed = self.begin().await?;
        let works = self.disk().split(batch, sync);
        self.write(works, failed).await
    }

    async fn sync(&self, family: Family) -> Result<(), SpoolError> {
        let failed = self.begin().await?;
        self.write(self.disk().on_path_of(family, Work::sync()), failed).await
    }

    async fn get(&self, family: Family, key: SpoolId) -> Result<Option<Bytes>, SpoolError> {
        self.read(family).await?;
        self.disk().get(&self.universe, family, key)
    }

    async fn scan(
        &self,
        family: Family,
        from: Option<SpoolId>,
        limit: usize,
        keys_only: bool,
    ) -> Result<ScanPage, SpoolError> {
        self.read(family).await?;
        self.disk().scan(&self.universe, family, from, limit, keys_only)
    }

    /// Nobody waits for it by the clock: it stands in no list of waits.
    async fn compact(&self, family: Family) -> Result<(), SpoolError> {
        let failed = self.begin().await?;
        let target = self.disk().target(family);
        let slow = self.universe.faults.strikes(FaultKind::DiskSlowCompaction, target);
        let longer = slow.map(|strike| strike.amount.unwrap_or(SLOW_COMPACTION));
        sleep(COMPACTION + longer.unwrap_or_default()).await;
        self.universe.lives.alive(self.life).await;
        self.check_open()?;
        match failed {
            true => Err(failure(SpoolErrorKind::Io, target, "compacting it: Input/output error")),
            false => Ok(()),
        }
    }

    fn properties(&self, family: Family) -> SpoolProperties {
        if self.check_open().is_err() || self.universe.lives.is_over(self.life) {
            return SpoolProperties::default();
        }
        self.disk().properties(&self.universe, family)
    }

    /// No step of a sweep: it changes nothing, and is asked for every few seconds.
    async fn free_space(&self, family: Family) -> Result<FreeSpace, SpoolError> {
        self.check_open()?;
        Ok(self.disk().free_space(&self.universe, family))
    }

    async fn reopen(&self, family: Family) -> Result<(), SpoolError> {
        let failed = self.begin().await?;
        self.write(self.disk().on_path_of(family, Work::Reopen), failed).await
    }

    /// Closed from its beginning on, whatever becomes of its sync.
    async fn close(&self) -> Result<(), SpoolError> {
        let failed = self.begin().await?;
        self.closed.store(true, Ordering::Relaxed);
        self.write(self.disk().on_every_path(Work::sync), failed).await
    }
}
