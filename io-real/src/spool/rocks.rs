//! A spool in RocksDB: a column family each for data and meta, in one database or in two. Keys are the 16 octets of
//! the id, values are as given.
//! Invariants: every write goes through the write-ahead log. The log is looked at before it is opened: a torn tail is
//! dropped, anything worse is reported. A MANIFEST that RocksDB can't go by is replaced by one made from what is there.
//! Before RocksDB writes to anything damaged, what it could delete is kept aside. An iterator's end is believed only
//! after its status. Opened to be checked, it leaves no trace in its folder, and nothing is written to it.
//! `use_fsync` is left alone: fdatasync is as durable, and what is synced is said with each write.
mod kept;
mod manifest;
mod mend;
mod options;
mod scan;
mod shadow;
#[cfg(test)]
mod tests;
mod wal;

use super::lock::LockFile;
use super::store::{Backend, Found, MemoryBudget, Purpose, ScanRequest, Scanned, closed, io_error};
use bytes::Bytes;
use kumo_core::config::service::RocksParams;
use kumo_core::id::SpoolId;
use kumo_core::port::{
    Family, SpoolError, SpoolErrorKind, SpoolOperation, SpoolProperties, SyncMode,
};
use options::Leniency;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, Error,
    ErrorKind, Options, WaitForCompactOptions, WriteBatch, WriteOptions, properties,
};
use shadow::Shadow;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

/// For whoever uses the database to let go of it before it is opened again.
const CLOSING: Duration = Duration::from_secs(30);
const CLOSING_PAUSE: Duration = Duration::from_millis(5);
/// Lines of a kind that are kept for whoever asks.
const LINES_KEPT: usize = 64;

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
        };
        *rocks.exclusive() = Ok(rocks.open_database()?);
        Ok(rocks)
    }

    fn open_database(&self) -> Result<DB, SpoolError> {
        *self.shadow.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let reading = |error| io_error(&self.path, "reading its MANIFEST and logs", &error);
        if kept::was_kept(&self.path).map_err(reading)? {
            self.may_lack_records.store(true, Ordering::Release);
            let note = "what was kept of a damaged spool (damaged-*) lies here: as long as it does, kumod keeps \
                        bodies without an envelope";
            self.note(format!("rocksdb at {}: {note}", self.path.display()));
        }
        if self.purpose != Purpose::Check {
            let cleaning = |error| io_error(&self.path, "removing mending-unfinished", &error);
            mend::clean_up(&self.path).map_err(cleaning)?;
        }
        let flaw = manifest::examine(&self.path).map_err(reading)?;
        let leniency = self.look_at_logs(wal::examine(&self.path).map_err(reading)?)?;
        match flaw {
            None => self.open_leniently(leniency, false),
            Some(flaw) => {
                self.mend(&flaw.to_string(), flaw.torn)?;
                self.open_leniently(Leniency::NONE, true)
            }
        }
    }

    fn look_at_logs(&self, findings: Vec<wal::Finding>) -> Result<Leniency, SpoolError> {
        let (torn, damaged): (Vec<_>, Vec<_>) = findings.into_iter().partition(|f| f.torn_tail);
        for finding in &torn {
            let line =
                format!("{finding}: torn by a crash, what was being written then is dropped");
            tracing::warn!("{line}");
            self.note(line);
        }
        if !damaged.is_empty() {
            let lines: Vec<String> = damaged.iter().map(|finding| finding.to_string()).collect();
            self.pass_over_log_damage(&lines.join("; "))?;
        }
        Ok(Leniency {
            skip_damaged_wal: !torn.is_empty() || !damaged.is_empty(),
            // Reading only, it can wait until one is missed: see `shadow`.
            accept_missing_wal: !damaged.is_empty() && self.purpose != Purpose::Check,
            skip_damaged_tables: false,
        })
    }

    /// Each thing that is in the way of opening is reported and passed over once; anything else is final.
    fn open_leniently(&self, mut leniency: Leniency, mut mended: bool) -> Result<DB, SpoolError> {
        loop {
            let error = match self.try_open(leniency)? {
                Ok(database) => return Ok(database),
                Err(error) => error,
            };
            match Obstacle::of(&error) {
                Obstacle::Wal if !leniency.accept_missing_wal => {
                    self.pass_over_log_damage(error.as_ref())?;
                    leniency.skip_damaged_wal = true;
                    leniency.accept_missing_wal = true;
                }
                Obstacle::Table if !leniency.skip_damaged_tables => {
                    leniency.skip_damaged_tables = true;
                    self.pass_over_table_damage(&error)?;
                }
                Obstacle::Manifest if !mended => {
                    mended = true;
                    self.mend(error.as_ref(), false)?;
                    leniency = Leniency::NONE;
                }
                _ => return Err(self.describe_open(&error)),
            }
        }
    }

    fn try_open(&self, leniency: Leniency) -> Result<Result<DB, Error>, SpoolError> {
        let (mut database, descriptors) = self.opening(leniency)?;
        if self.purpose != Purpose::Check {
            return Ok(DB::open_cf_descriptors(&database, &self.path, descriptors));
        }
        options::leave_no_trace(&mut database);
        if leniency.accept_missing_wal || self.shadow_path().is_some() {
            let path = self.make_shadow()?;
            return Ok(DB::open_cf_descriptors(&database, path, descriptors));
        }
        Ok(DB::open_cf_descriptors_read_only(&database, &self.path, descriptors, false))
    }

    fn opening(&self, leniency: Leniency) -> Result<mend::Opening, SpoolError> {
        let params: Vec<&RocksParams> = self.families.iter().map(|(_, params)| params).collect();
        let database = options::database(&params, leniency)?;
        let cache = options::block_cache();
        let mut descriptors = Vec::new();
        for (family, params) in &self.families {
            let mut options = options::family(params, &cache)?;
            // Compaction may be of another style than kumod's, and it stops at damage.
            options.set_disable_auto_compactions(self.purpose != Purpose::Serve);
            descriptors.push(ColumnFamilyDescriptor::new(name(*family), options));
        }
        Ok((database, descriptors))
    }

    /// Makes a MANIFEST to open the database with, of all tables and logs that are there.
    fn mend(&self, flaw: &str, torn: bool) -> Result<(), SpoolError> {
        let place = self.path.display();
        tracing::warn!(
            "rocksdb at {place}: {flaw}; reading all tables and logs to make a new MANIFEST"
        );
        let names: Vec<&str> = self.families.iter().map(|(family, _)| name(*family)).collect();
        let opening = self.opening(Leniency::ALL)?;
        let (kept, mended) = match self.purpose {
            Purpose::Check => {
                let folder = self.make_shadow()?;
                let kept = "Nothing was changed".to_owned();
                (kept, mend::mend(&folder, &names, opening))
            }
            Purpose::Serve | Purpose::Repair => {
                let kept = self.keep_files()?;
                (kept, mend::in_place(&self.path, &names, opening))
            }
        };
        let left_out =
            mended.map_err(|failure| self.describe_failed_mending(flaw, &kept, failure))?;
        let sense = match torn {
            true => "a crash in the middle of a write leaves it so",
            false => "the MANIFEST is damaged",
        };
        let line = format!(
            "rocksdb at {place}: {flaw}: {sense}. A new one was made of all tables and logs that are \
             there. {kept}. Messages that were delivered before may be delivered again{}",
            if torn { "" } else { ", and what only a missing file held is lost" }
        );
        match torn {
            true => {
                tracing::warn!("{line}");
                self.note(line);
            }
            false => self.report(line, |found| &mut found.log_damage),
        }
        for table in left_out {
            let line = format!(
                "rocksdb at {place}: the table {table} is damaged, and nothing of it is served. {kept}"
            );
            self.report(line, |found| &mut found.table_damage);
        }
        Ok(())
    }

    fn describe_failed_mending(
        &self,
        flaw: &str,
        kept: &str,
        failure: mend::Failure,
    ) -> SpoolError {
        let mut described = match failure {
            mend::Failure::Io(error) => io_error(&self.path, "making a new MANIFEST", &error),
            mend::Failure::Rocks(error) => self.describe(&error),
        };
        described.text = format!(
            "rocksdb at {}: {flaw}: the MANIFEST is damaged, and making a new one failed: {}. {kept}. \
             Restore the folder from a snapshot, or give kumod an empty one as path to start without \
             this mail",
            self.path.display(),
            described.text
        );
        described
    }

    fn shadow_path(&self) -> Option<PathBuf> {
        let shadow = self.shadow.lock().unwrap_or_else(PoisonError::into_inner);
        shadow.as_ref().map(|shadow| shadow.path().to_owned())
    }

    fn make_shadow(&self) -> Result<PathBuf, SpoolError> {
        if let Some(path) = self.shadow_path() {
            return Ok(path);
        }
        let made = Shadow::of(&self.path).map_err(|error| {
            let what = "copying its logs to a temporary folder (the variable TMPDIR names another)";
            io_error(&self.path, what, &error)
        })?;
        let path = made.path().to_owned();
        *self.shadow.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(path)
    }

    fn pass_over_log_damage(&self, what: &str) -> Result<(), SpoolError> {
        let what_was_done = match self.purpose {
            Purpose::Check => "What can be read of it was read, and nothing was changed".into(),
            Purpose::Serve | Purpose::Repair => {
                format!("What can be read of it is used. {}", self.keep_files()?)
            }
        };
        let line = format!(
            "rocksdb at {}: the write-ahead log is damaged ({what}). {what_was_done}. \
             Messages accepted shortly before the last stop may be lost",
            self.path.display()
        );
        self.report(line, |found| &mut found.log_damage);
        Ok(())
    }

    /// Such damage is met at each start: what was kept at the first is enough.
    fn pass_over_table_damage(&self, error: &Error) -> Result<(), SpoolError> {
        let text = self.describe(error).text;
        let mut line = format!("{text}; opened without that file to serve the rest");
        if self.purpose != Purpose::Check && !kept::is_any_finished(&self.path) {
            line = format!("{line}. {}", self.keep_files()?);
        }
        self.report(line, |found| &mut found.table_damage);
        Ok(())
    }

    /// Says where.
    fn keep_files(&self) -> Result<String, SpoolError> {
        let kept = kept::keep(&self.path).map_err(|error| {
            io_error(&self.path, "keeping links and copies of its files before opening it", &error)
        })?;
        Ok(format!(
            "All that was there is kept in {} (hard links of the tables, copies of the logs, MANIFEST and \
             CURRENT), which can be removed once it is of no more use; as long as it is there, bodies \
             without an envelope are kept",
            kept.display()
        ))
    }

    fn report(&self, line: String, kind: fn(&mut Found) -> &mut Vec<String>) {
        tracing::error!("{line}");
        self.may_lack_records.store(true, Ordering::Release);
        self.keep(line, kind);
    }

    fn note(&self, line: String) {
        self.keep(line, |found| &mut found.notes);
    }

    fn keep(&self, line: String, kind: fn(&mut Found) -> &mut Vec<String>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = kind(&mut found);
        if lines.len() < LINES_KEPT {
            lines.push(line);
        }
    }

    fn describe_open(&self, error: &Error) -> SpoolError {
        let mut described = self.describe(error);
        if described.text.contains("Column families not opened") {
            described.text.push_str(
                "; the directory was used for data and meta together before: give both the same \
                 path again, or a new one",
            );
        }
        described
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

    fn with<T>(&self, work: impl FnOnce(&DB) -> Result<T, Error>) -> Result<T, SpoolError> {
        match &*self.shared() {
            Ok(database) => work(database).map_err(|error| self.describe(&error)),
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
        self.cancel_background_work();
        let mut database = self.exclusive_in_time()?;
        match &*database {
            Err(error) if error.kind == SpoolErrorKind::Closed => return Err(error.clone()),
            _ => {}
        }
        // The old one has to be gone before there can be a new one.
        *database = Err(closed(&self.path));
        let opened = self.open_database();
        let result = opened.as_ref().map(|_| ()).map_err(SpoolError::clone);
        *database = opened;
        result
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
        self.with(|database| scan::page(database, handle(database, request.family), request))
    }

    fn compact(&self, family: Family) -> Result<(), SpoolError> {
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
            Ok(database) => read_properties(database, handle(database, family)),
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

/// Which families a database has, which has to be there. Nobody else may use it.
pub(super) fn families_at(path: &Path) -> Result<Vec<Family>, SpoolError> {
    let _lock = LockFile::take(path, Purpose::Check)?;
    let reading = |error| io_error(path, "reading its MANIFEST and OPTIONS", &error);
    let names = match manifest::examine(path).map_err(reading)? {
        None => DB::list_cf(&Options::default(), path).map_err(|error| describe(path, &error))?,
        Some(flaw) => match options::families_noted(path).map_err(reading)? {
            names if names.is_empty() => return Err(unknown_families(path, &flaw)),
            names => names,
        },
    };
    let known = [Family::Data, Family::Meta].into_iter();
    Ok(known.filter(|family| names.iter().any(|found| found == name(*family))).collect())
}

fn unknown_families(path: &Path, flaw: &manifest::Flaw) -> SpoolError {
    let text = format!(
        "rocksdb at {}: {flaw}, and no file OPTIONS-* tells whether data, meta or both lie there: start \
         kumod with its own policy, which knows, and then check again",
        path.display()
    );
    SpoolError { kind: SpoolErrorKind::Corruption, text }
}

/// What is in the way of opening.
enum Obstacle {
    Wal,
    Table,
    Manifest,
    Other,
}

impl Obstacle {
    fn of(error: &Error) -> Obstacle {
        let text: &str = error.as_ref();
        let names = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match error.kind() {
            // It blames the MANIFEST for tables as well.
            ErrorKind::Corruption if names(&[".sst", ".blob"]) => Obstacle::Table,
            // What the MANIFEST says about the logs isn't true of them.
            ErrorKind::Corruption if names(&["Missing WAL", "Size mismatch: WAL"]) => Obstacle::Wal,
            ErrorKind::Corruption if names(&["MANIFEST", "CURRENT"]) => Obstacle::Manifest,
            // Not all of what it says about logs names them.
            ErrorKind::Corruption => Obstacle::Wal,
            _ => Obstacle::Other,
        }
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
    }
}
