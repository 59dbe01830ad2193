//! A spool in RocksDB: a column family each for data and meta, in one database or in two. Keys are the 16 octets of
//! the id, values are as given.
//! Invariants: every write goes through the write-ahead log. An iterator's end is believed only after its status. How it
//! gets past damage when it is opened is `open`'s.
//! `use_fsync` is left alone: fdatasync is as durable, and what is synced is said with each write.
mod compaction;
mod kept;
mod manifest;
mod mend;
mod open;
mod options;
mod scan;
mod shadow;
#[cfg(test)]
mod tests;
mod wal;

use super::lock::LockFile;
use super::store::{Backend, Found, MemoryBudget, Purpose, ScanRequest, Scanned, closed, io_error};
use crate::folder;
use bytes::Bytes;
use kumo_core::config::service::RocksParams;
use kumo_core::id::SpoolId;
use kumo_core::port::{
    Family, SpoolError, SpoolErrorKind, SpoolOperation, SpoolProperties, SyncMode,
};
pub(super) use open::families_at;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, CompactOptions, DB, Error, ErrorKind,
    WaitForCompactOptions, WriteBatch, WriteOptions, properties,
};
use shadow::Shadow;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

/// For whoever uses the database to let go of it before it is opened again.
const CLOSING: Duration = Duration::from_secs(30);
const CLOSING_PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Rocks {
    path: PathBuf,
    purpose: Purpose,
    families: Vec<(Family, RocksParams)>,
    /// Where it isn't open, what every call gets: that it is closed, or why it couldn't be opened again.
    database: RwLock<Result<DB, SpoolError>>,
    /// Where the database was opened instead. Outlives it.
    shadow: Mutex<Option<Shadow>>,
    /// Kept until closed, also while the database is shut for a moment.
    lock: Mutex<Option<LockFile>>,
    found: Mutex<Found>,
    /// Something was damaged when it was opened, in this life or in an earlier one of which a kept folder is still there.
    may_lack_records: AtomicBool,
    compaction_off: AtomicBool,
}

impl Rocks {
    /// `path` has been prepared; to check or repair, it holds a database. At least one family.
    pub fn open(
        path: &Path,
        families: Vec<(Family, RocksParams)>,
        purpose: Purpose,
    ) -> Result<Rocks, SpoolError> {
        let rocks = Rocks {
            path: path.to_owned(),
            purpose,
            families,
            lock: Mutex::new(Some(LockFile::take(path, purpose)?)),
            database: RwLock::new(Err(closed(path))),
            shadow: Mutex::new(None),
            found: Mutex::new(Found::default()),
            may_lack_records: AtomicBool::new(false),
            compaction_off: AtomicBool::new(false),
        };
        *rocks.exclusive() = Ok(rocks.open_database()?);
        Ok(rocks)
    }

    fn describe(&self, error: &Error) -> SpoolError {
        describe(&self.path, error)
    }

    fn shared(&self) -> RwLockReadGuard<'_, Result<DB, SpoolError>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Result<DB, SpoolError>> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads are short, and what compacts was told to end: whoever holds on for longer hangs in the disk.
    fn exclusive_in_time(
        &self,
    ) -> Result<RwLockWriteGuard<'_, Result<DB, SpoolError>>, SpoolError> {
        let deadline = Instant::now() + CLOSING;
        loop {
            match self.database.try_write() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(CLOSING_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    let text = format!(
                        "rocksdb at {}: still in use after {CLOSING:?}",
                        self.path.display()
                    );
                    return Err(SpoolError { kind: SpoolErrorKind::Busy, text });
                }
            }
        }
    }

    /// Another one like it takes as much room again, for what of it can be read.
    fn check_room_for_another(&self) -> Result<(), SpoolError> {
        let asking = |error| io_error(&self.path, "asking how much room there is", &error);
        let needed = kept::octets_of_tables(&self.path).map_err(asking)?;
        let free = folder::free_space(&self.path).map_err(asking)?.octets;
        if free >= needed {
            return Ok(());
        }
        let text = format!(
            "rocksdb at {}: making it anew of what can be read may take {needed} octets, and {free} are free: make room and \
             repair it again",
            self.path.display()
        );
        Err(SpoolError { kind: SpoolErrorKind::NoSpace, text })
    }

    /// `between`: while it is closed.
    fn open_anew(
        &self,
        between: impl FnOnce() -> Result<(), SpoolError>,
    ) -> Result<(), SpoolError> {
        self.cancel_background_work();
        let mut database = self.exclusive_in_time()?;
        match &*database {
            Err(error) if error.kind == SpoolErrorKind::Closed => return Err(error.clone()),
            _ => {}
        }
        // The old one has to be gone before there can be a new one.
        *database = Err(closed(&self.path));
        let opened = between().and_then(|()| self.open_database());
        let result = opened.as_ref().map(|_| ()).map_err(SpoolError::clone);
        *database = opened;
        result
    }

    fn with<T>(&self, work: impl FnOnce(&DB) -> Result<T, Error>) -> Result<T, SpoolError> {
        match &*self.shared() {
            Ok(database) => work(database).map_err(|error| {
                let error = self.describe(&error);
                self.look_for_damage(database, &error);
                error
            }),
            Err(error) => Err(error.clone()),
        }
    }

    /// Ends the compaction that somebody may be waiting for, so that nobody holds the database for long.
    fn cancel_background_work(&self) {
        if let Ok(database) = &*self.shared() {
            database.cancel_all_background_work(true);
        }
    }
}

impl Backend for Rocks {
    fn apply(&self, batch: &[SpoolOperation], sync: SyncMode) -> Result<(), SpoolError> {
        let mut options = WriteOptions::default();
        options.set_sync(sync == SyncMode::Synced);
        options.set_no_slowdown(true);
        self.with(|database| database.write_opt(write_batch(database, batch), &options))
    }

    fn sync(&self) -> Result<(), SpoolError> {
        self.with(|database| database.flush_wal(true))
    }

    fn reopen(&self) -> Result<(), SpoolError> {
        self.open_anew(|| Ok(()))
    }

    fn replace(&self) -> Result<(), SpoolError> {
        self.open_anew(|| {
            mend::take_its_place(&self.path, mend::Newcomer::BegunAnew)
                .map_err(|error| io_error(&self.path, "putting the new database in place", &error))
        })
    }

    fn keep_aside(&self) -> Result<Option<PathBuf>, SpoolError> {
        let kept = kept::keep(&self.path);
        let keeping =
            |error| io_error(&self.path, "keeping what is there before it is repaired", &error);
        kept.map(Some).map_err(keeping)
    }

    fn give_up_anew(&self) -> Result<(), SpoolError> {
        let removing = |error| io_error(&self.path, "removing mending-unfinished", &error);
        mend::clean_up(&self.path).map_err(removing)
    }

    fn is_well_again(&self) -> Result<(), SpoolError> {
        self.forget_damage()
    }

    fn begin_anew(&self) -> Result<Option<Arc<dyn Backend>>, SpoolError> {
        self.check_room_for_another()?;
        let names: Vec<&str> = self.families.iter().map(|(family, _)| name(*family)).collect();
        let begun = mend::begin_anew(&self.path, &names, self.opening(options::Leniency::NONE)?);
        let what = "making a new database";
        let folder = begun.map_err(|failure| self.describe_failure(what, failure))?;
        Ok(Some(Arc::new(Rocks::open(&folder, self.families.clone(), self.purpose)?)))
    }

    fn close(&self) -> Result<(), SpoolError> {
        let synced = match self.purpose {
            Purpose::Check => Ok(()),
            Purpose::Serve | Purpose::Repair => self.sync(),
        };
        self.cancel_background_work();
        *self.exclusive() = Err(closed(&self.path));
        *self.shadow.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
        synced
    }

    fn get(&self, family: Family, key: SpoolId) -> Result<Option<Bytes>, SpoolError> {
        let value = self.with(|database| database.get_cf(handle(database, family), key.0))?;
        Ok(value.map(Bytes::from))
    }

    fn scan(&self, request: ScanRequest) -> Result<Scanned, SpoolError> {
        self.with(|database| {
            let scanned = scan::page(database, handle(database, request.family), request)?;
            if let (Some(_), Some(damage)) = (scanned.gap, scanned.page.damaged.last()) {
                self.stop_compaction(database, &damage.text);
            }
            Ok(scanned)
        })
    }

    fn compact(&self, family: Family) -> Result<(), SpoolError> {
        self.check_may_compact()?;
        self.with(|database| {
            let handle = handle(database, family);
            database.flush_cf(handle)?;
            let mut options = CompactOptions::default();
            options.set_exclusive_manual_compaction(true);
            options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
            database.compact_range_cf_opt(handle, None::<&[u8]>, None::<&[u8]>, &options);
            database.wait_for_compact(&WaitForCompactOptions::default())
        })
    }

    /// Zeros while the database is shut or being opened again: this must not wait.
    fn properties(&self, family: Family) -> SpoolProperties {
        let Ok(guard) = self.database.try_read() else { return SpoolProperties::default() };
        match &*guard {
            Ok(database) => SpoolProperties {
                automatic_compaction_off: self.is_compaction_off(),
                ..read_properties(database, handle(database, family))
            },
            Err(_) => SpoolProperties::default(),
        }
    }

    fn found(&self) -> Found {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn memory_budget(&self) -> MemoryBudget {
        let memtables = self.families.iter().map(|(_, params)| options::memtables(params)).sum();
        MemoryBudget { memtables, block_cache: options::BLOCK_CACHE_OCTETS as u64 }
    }

    fn may_lack_records(&self) -> bool {
        self.may_lack_records.load(Ordering::Acquire)
    }
}

fn describe(path: &Path, error: &Error) -> SpoolError {
    let text: &str = error.as_ref();
    let advice = match error.kind() {
        ErrorKind::Incomplete => "; flushing or compaction can't keep up, see the file LOG there",
        _ => "",
    };
    let kind = match error.kind() {
        _ if text.contains("No space left") => SpoolErrorKind::NoSpace,
        // A table that isn't there any more won't come back by itself.
        ErrorKind::IOError if text.contains("No such file") && text.contains(".sst") => {
            SpoolErrorKind::Corruption
        }
        ErrorKind::Corruption => SpoolErrorKind::Corruption,
        ErrorKind::IOError => SpoolErrorKind::Io,
        ErrorKind::Incomplete | ErrorKind::Busy | ErrorKind::TimedOut | ErrorKind::TryAgain => {
            SpoolErrorKind::Busy
        }
        ErrorKind::ShutdownInProgress => SpoolErrorKind::Closed,
        _ => SpoolErrorKind::Other,
    };
    SpoolError { kind, text: format!("rocksdb at {}: {text}{advice}", path.display()) }
}

pub(super) fn name(family: Family) -> &'static str {
    match family {
        Family::Data => "data",
        Family::Meta => "meta",
    }
}

fn handle(database: &DB, family: Family) -> &ColumnFamily {
    database.cf_handle(name(family)).expect("a store is asked only for the families it was given")
}

fn write_batch(database: &DB, operations: &[SpoolOperation]) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for operation in operations {
        let handle = handle(database, operation.family());
        match operation {
            SpoolOperation::Put { key, value, .. } => batch.put_cf(handle, key.0, value),
            SpoolOperation::Delete { key, .. } => batch.delete_cf(handle, key.0),
        }
    }
    batch
}

fn read_properties(database: &DB, family: &ColumnFamily) -> SpoolProperties {
    let of_family =
        |name: &CStr| database.property_int_value_cf(family, name).ok().flatten().unwrap_or(0);
    // RocksDB counts all of these with the default family.
    let of_database = |name: &CStr| database.property_int_value(name).ok().flatten().unwrap_or(0);
    SpoolProperties {
        background_errors: of_database(properties::BACKGROUND_ERRORS),
        write_stopped: of_database(properties::IS_WRITE_STOPPED) != 0,
        compaction_pending: of_family(properties::COMPACTION_PENDING) != 0,
        running_compactions: of_database(properties::NUM_RUNNING_COMPACTIONS),
        pending_compaction_octets: of_family(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        delayed_write_rate: of_database(properties::ACTUAL_DELAYED_WRITE_RATE),
        mem_table_total: of_family(properties::SIZE_ALL_MEM_TABLES),
        mem_table_unflushed: of_family(properties::CUR_SIZE_ALL_MEM_TABLES),
        mem_table_readers_total: of_family(properties::ESTIMATE_TABLE_READERS_MEM),
        cache_total: of_family(properties::BLOCK_CACHE_USAGE),
        automatic_compaction_off: false,
    }
}
