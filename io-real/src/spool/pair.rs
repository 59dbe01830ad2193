//! Two stores that belong together carry the same random id, each in a small file. Without it a volume that isn't
//! mounted looks like a spool without envelopes, and every body in the other store like one to be swept.
//! Invariant: ids are written only before either store is first used. What is in the stores isn't looked at.
use super::lock::LockFile;
use super::store::{Purpose, io_error};
use crate::folder;
use crate::host::RealHost;
use kumo_core::config::service::SpoolKind;
use kumo_core::port::{Host, SpoolError, SpoolErrorKind};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One of two stores, not opened yet; its directory has been prepared.
#[derive(Clone, Copy)]
pub(super) struct Half<'a> {
    pub kind: SpoolKind,
    pub path: &'a Path,
}

/// Makes two new stores a pair, and refuses two that aren't one.
pub(super) fn check(data: Half, meta: Half) -> Result<(), SpoolError> {
    // Another process may be about to do the same.
    let _lock = LockFile::take(data.path, Purpose::Serve)?;
    if are_one(data, meta)? {
        return Ok(());
    }
    // Where neither is used, different ids are what a first start left that was cut short.
    if data.is_used()? || meta.is_used()? {
        return Err(strangers(data, meta));
    }
    let id = format!("{:016x}\n", RealHost::new().seed());
    data.write(&id)?;
    meta.write(&id)
}

/// Refuses two stores that aren't a pair, and leaves them as they are.
pub(super) fn verify(data: Half, meta: Half) -> Result<(), SpoolError> {
    match are_one(data, meta)? {
        true => Ok(()),
        false => Err(strangers(data, meta)),
    }
}

fn are_one(data: Half, meta: Half) -> Result<bool, SpoolError> {
    let id = data.id()?;
    Ok(id.is_some() && id == meta.id()?)
}

/// Data and meta may share a path only if it isn't one of two.
pub(super) fn check_not_half(path: &Path) -> Result<(), SpoolError> {
    for kind in [SpoolKind::LocalDisk, SpoolKind::RocksDB] {
        let half = Half { kind, path };
        if half.id()?.is_some() {
            let text = format!(
                "{} was used for data or for meta alone before, as {} shows: give data and meta \
                 the two paths they had, or both a new one",
                path.display(),
                half.file().display()
            );
            return Err(SpoolError { kind: SpoolErrorKind::Other, text });
        }
    }
    Ok(())
}

impl Half<'_> {
    /// Another one for each kind: a store of another kind at the same path is another store.
    pub fn file(self) -> PathBuf {
        self.path.join(match self.kind {
            SpoolKind::LocalDisk => "local-disk.pair",
            SpoolKind::RocksDB => "rocksdb.pair",
        })
    }

    fn id(self) -> Result<Option<String>, SpoolError> {
        let file = self.file();
        match fs::read_to_string(&file) {
            Ok(id) => Ok(Some(id.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&file, "reading it", &error)),
        }
    }

    fn is_used(self) -> Result<bool, SpoolError> {
        let sign = self.path.join(match self.kind {
            SpoolKind::LocalDisk => "data",
            SpoolKind::RocksDB => "CURRENT",
        });
        sign.try_exists().map_err(|error| io_error(&sign, "looking for it", &error))
    }

    fn write(self, id: &str) -> Result<(), SpoolError> {
        let file = self.file();
        let unfinished = file.with_extension("pair-unfinished");
        write_synced(&unfinished, id)
            .and_then(|()| fs::rename(&unfinished, &file))
            .and_then(|()| folder::sync(self.path))
            .map_err(|error| io_error(&file, "writing it", &error))
    }

    fn describe(self) -> String {
        let file = self.file();
        match self.id() {
            Ok(Some(id)) => format!("{} says {id}", file.display()),
            Ok(None) => format!("there is no {}", file.display()),
            Err(error) => error.text,
        }
    }
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn strangers(data: Half, meta: Half) -> SpoolError {
    let text = format!(
        "data at {} and meta at {} aren't the two halves of one spool ({}; {}): mount the volume \
         that is missing, or give both the paths they had, the same one if they shared it. Should \
         they belong together all the same, make these two files alike; to begin with an empty \
         spool, give both a new directory",
        data.path.display(),
        meta.path.display(),
        data.describe(),
        meta.describe(),
    );
    SpoolError { kind: SpoolErrorKind::Other, text }
}
