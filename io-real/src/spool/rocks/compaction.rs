//! RocksDB stops all writes once its own compaction has met damage, and opened again it meets it again. So it compacts no
//! more by itself from the first sign of damage on, until a repair has taken the damage out (see `offline`); a file in its folder
//! remembers it from life to life. Invariant: this is said once a life, and where `automatic_compaction_off` is shown. What the damage
//! does to mail isn't decided here.
use super::{Rocks, handle};
use crate::spool::store::{Purpose, io_error};
use kumo_core::port::{SpoolError, SpoolErrorKind};
use rocksdb::DB;
use std::fs;
use std::io;
use std::sync::atomic::Ordering;

/// In the database's folder: what was found damaged.
const MARKER: &str = "compaction-is-off";

/// Words of RocksDB's about a table that it couldn't read, as opposed to one that it couldn't write.
const READING: [&str; 3] = ["While pread", "for random read", "While stat"];

impl Rocks {
    pub(super) fn is_compaction_off(&self) -> bool {
        self.compaction_off.load(Ordering::Acquire)
    }

    /// An error of reading may tell of damage before compaction meets it, one of writing that it has met it.
    pub(super) fn look_for_damage(&self, database: &DB, error: &SpoolError) {
        if is_in_a_table(error) {
            self.stop_compaction(database, &error.text);
        }
    }

    pub(super) fn stop_compaction(&self, database: &DB, damage: &str) {
        if !self.will_not_compact(damage) {
            return;
        }
        for (family, _) in &self.families {
            let off = [("disable_auto_compactions", "true")];
            // Where writes have stopped already, it takes opening again.
            if let Err(error) = database.set_options_cf(handle(database, *family), &off) {
                tracing::warn!("{}", self.describe(&error));
            }
        }
    }

    /// An operator's order would stop all writes as well.
    pub(super) fn check_may_compact(&self) -> Result<(), SpoolError> {
        if !self.is_compaction_off() {
            return Ok(());
        }
        let text = format!(
            "rocksdb at {}: it isn't compacted, for it holds damage at which RocksDB would stop all writes: stop kumod when it \
             suits, and run kumod spool check --repair",
            self.path.display()
        );
        Err(SpoolError { kind: SpoolErrorKind::Busy, text })
    }

    /// From when it is opened next. Whether that is news.
    pub(super) fn will_not_compact(&self, damage: &str) -> bool {
        if self.purpose != Purpose::Serve || self.compaction_off.swap(true, Ordering::AcqRel) {
            return false;
        }
        tracing::error!(
            "rocksdb at {}: nothing is compacted automatically any more, because RocksDB would stop all writes at this damage: {damage}. \
             The database grows and gets slower until the damage is taken out: stop kumod when it suits, and run kumod \
             spool check --repair",
            self.path.display()
        );
        if let Err(error) = fs::write(self.path.join(MARKER), format!("{damage}\n")) {
            tracing::warn!("{MARKER} in {} can't be written: {error}", self.path.display());
        }
        true
    }

    /// What an earlier life found.
    pub(super) fn remember_damage(&self) -> Result<(), SpoolError> {
        let marker = self.path.join(MARKER);
        match fs::read_to_string(&marker) {
            Ok(damage) => drop(self.will_not_compact(damage.trim_end())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&marker, "reading it", &error)),
        }
        Ok(())
    }

    pub(super) fn forget_damage(&self) -> Result<(), SpoolError> {
        let marker = self.path.join(MARKER);
        match fs::remove_file(&marker) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error(&marker, "removing it", &error))
            }
            _ => Ok(()),
        }
    }
}

fn is_in_a_table(error: &SpoolError) -> bool {
    let names = |words: &[&str]| words.iter().any(|word| error.text.contains(word));
    match error.kind {
        SpoolErrorKind::Corruption => true,
        SpoolErrorKind::Io => names(&[".sst", ".blob"]) && names(&READING),
        _ => false,
    }
}
