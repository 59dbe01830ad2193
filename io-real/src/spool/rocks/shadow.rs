//! A stand-in for a database that must not be changed but can't be opened read-only: without a log that the MANIFEST
//! speaks of, RocksDB 11.8 refuses, and told not to mind it crashes, unless it may write. In a temporary folder, tables
//! are links to the real ones, and the rest is copied. Invariant: RocksDB never writes to a table that exists, so the
//! real ones stay as they are. Takes as much room as the logs twice. Removed when dropped.
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

pub(super) struct Shadow {
    folder: TempDir,
}

impl Shadow {
    /// `database` is an absolute path.
    pub fn of(database: &Path) -> io::Result<Shadow> {
        let folder = tempfile::Builder::new().prefix("kumod-spool-check-").tempdir()?;
        for entry in fs::read_dir(database)? {
            let original = entry?.path();
            stand_in(&original, folder.path())?;
        }
        Ok(Shadow { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn stand_in(original: &Path, folder: &Path) -> io::Result<()> {
    let Some(name) = original.file_name() else { return Ok(()) };
    let copy = folder.join(name);
    let name = name.to_string_lossy();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let begins = |begins: &[&str]| begins.iter().any(|begin| name.starts_with(begin));
    if ends(&[".sst", ".blob"]) {
        return symlink(original, copy);
    }
    if ends(&[".log"]) || begins(&["MANIFEST-", "CURRENT", "IDENTITY"]) {
        fs::copy(original, copy)?;
    }
    Ok(())
}
