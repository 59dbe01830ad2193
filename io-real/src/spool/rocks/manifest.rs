//! Looks at CURRENT and the MANIFEST that it names before RocksDB does: it takes what looks like a torn end for one,
//! goes back to the state before, and deletes every table that this state doesn't know.
//! Invariant: reads only. What the records say isn't looked at: a MANIFEST that was cut exactly between two of them is
//! sound, and that logs are missing then is RocksDB's to find out.
use super::kept::is_table;
use super::wal;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why the database can't be opened as its MANIFEST says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    file: PathBuf,
    what: String,
    /// As a crash in the middle of a write leaves it; a file that was cut looks the same.
    pub torn: bool,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file.display(), self.what)
    }
}

impl Flaw {
    fn of(file: PathBuf, what: impl Into<String>) -> Option<Flaw> {
        Some(Flaw { file, what: what.into(), torn: false })
    }
}

/// `None` if nothing is wrong, or if no database is there yet.
pub(super) fn examine(database: &Path) -> io::Result<Option<Flaw>> {
    let current = database.join("CURRENT");
    let Some(content) = if_there(fs::read(&current))? else {
        // A new database gets its first log and table after CURRENT.
        let is_used = is_used(database)?;
        return Ok(Flaw::of(current, "is missing").filter(|_| is_used));
    };
    let Some(name) = manifest_in(&content) else {
        return Ok(Flaw::of(current, "doesn't name a MANIFEST"));
    };
    let manifest = database.join(name);
    let Some(metadata) = if_there(fs::metadata(&manifest))? else {
        return Ok(Flaw::of(manifest, "is missing, and CURRENT names it"));
    };
    if metadata.len() == 0 {
        return Ok(Flaw::of(manifest, "is empty"));
    }
    let Some(finding) = wal::examine_strictly(&manifest)? else { return Ok(None) };
    let what = format!("can't be read: {}", finding.ranges());
    Ok(Some(Flaw { file: manifest, what, torn: finding.torn_tail }))
}

/// It is written as a whole: a name and a line feed.
fn manifest_in(current: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(current).ok()?.strip_suffix('\n')?;
    let number = name.strip_prefix("MANIFEST-")?;
    number.parse::<u64>().ok().map(|_| name)
}

fn is_used(database: &Path) -> io::Result<bool> {
    if !wal::logs(database)?.is_empty() {
        return Ok(true);
    }
    for entry in if_there(fs::read_dir(database))?.into_iter().flatten() {
        if is_table(&entry?.path()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}
