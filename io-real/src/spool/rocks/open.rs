//! Opens the database, whatever state it is in. Invariants: the log is looked at before RocksDB reads it: a torn tail is dropped, anything worse is
//! reported. A MANIFEST that RocksDB can't go by is replaced by one made from what is there. Before RocksDB writes to
//! anything damaged, what it could delete is kept aside. Opened to be checked, it leaves no trace in its folder, and
//! nothing is written to it.
use super::options::{self, Leniency};
use super::shadow::Shadow;
use super::{Rocks, describe, kept, manifest, mend, name, wal};
use crate::spool::lock::LockFile;
use crate::spool::store::{Found, Purpose, io_error};
use kumo_core::config::service::RocksParams;
use kumo_core::port::{Family, SpoolError, SpoolErrorKind};
use rocksdb::{ColumnFamilyDescriptor, DB, Error, ErrorKind, Options};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Lines of a kind that are kept for whoever asks.
const LINES_KEPT: usize = 64;

impl Rocks {
    pub(super) fn open_database(&self) -> Result<DB, SpoolError> {
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
        self.remember_damage()?;
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

    pub(super) fn opening(&self, leniency: Leniency) -> Result<mend::Opening, SpoolError> {
        let params: Vec<&RocksParams> = self.families.iter().map(|(_, params)| params).collect();
        let database = options::database(&params, leniency)?;
        let cache = options::block_cache();
        let mut descriptors = Vec::new();
        for (family, params) in &self.families {
            let mut options = options::family(params, &cache)?;
            // Compaction may be of another style than kumod's, and it stops at damage.
            let is_off = self.purpose != Purpose::Serve || self.is_compaction_off();
            options.set_disable_auto_compactions(is_off);
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
        let mut described = self.describe_failure("making a new MANIFEST", failure);
        described.text = format!(
            "rocksdb at {}: {flaw}: the MANIFEST is damaged, and making a new one failed: {}. {kept}. \
             Restore the folder from a snapshot, or give kumod an empty one as path to start without \
             this mail",
            self.path.display(),
            described.text
        );
        described
    }

    pub(super) fn describe_failure(&self, what: &str, failure: mend::Failure) -> SpoolError {
        match failure {
            mend::Failure::Io(error) => io_error(&self.path, what, &error),
            mend::Failure::Rocks(error) => self.describe(&error),
        }
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
        self.will_not_compact(&text);
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
}

/// Which families a database has, which has to be there. Nobody else may use it.
pub(crate) fn families_at(path: &Path) -> Result<Vec<Family>, SpoolError> {
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
