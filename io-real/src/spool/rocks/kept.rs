//! Keeps what RocksDB could delete when it is told not to mind damage, or when it follows a damaged MANIFEST: the
//! folder `damaged-<n>` in the database's own gets hard links of the tables, which cost no room until RocksDB removes
//! its own, and copies of the logs, MANIFEST, CURRENT, OPTIONS and IDENTITY. Kumods before wrote `damaged-wal-<n>`, with
//! logs alone.
//! Invariant: a folder with a number is complete, and durable before it is reported; nothing outside of it is written.
//! When it may go is the operator's to say.
use super::wal::logs;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The name of a folder of kept files, before its number.
const KEPT: &str = "damaged-";
const UNFINISHED: &str = "unfinished";

/// RocksDB removes files in a burst, soon after it was opened.
const ATTEMPTS: u32 = 20;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// Where all of it now lies kept: a new `damaged-<n>`, or the latest one if it has the same files already, as when one
/// attempt to start follows another. RocksDB, if it is open, may remove a file just then that it needs no more: then all of it
/// is gone through again, so that what is kept belongs together.
pub(super) fn keep(database: &Path) -> io::Result<PathBuf> {
    for _ in 1..ATTEMPTS {
        match keep_once(database) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                thread::sleep(BETWEEN_ATTEMPTS)
            }
            done => return done,
        }
    }
    keep_once(database)
}

fn keep_once(database: &Path) -> io::Result<PathBuf> {
    let number = (1..).find(|n| !folder(database, *n).exists()).expect("some number is unused");
    if number > 1 && has_all(&folder(database, number - 1), database)? {
        return Ok(folder(database, number - 1));
    }
    // What a crash cut short must not count as kept.
    let unfinished = database.join(format!("{KEPT}{UNFINISHED}"));
    make_anew(&unfinished)?;
    stand_in(database, &unfinished)?;
    let kept = folder(database, number);
    fs::rename(&unfinished, &kept)?;
    File::open(database)?.sync_all()?;
    Ok(kept)
}

/// Whether there is such a folder, also of logs alone, finished or not: then some of what was synced may be missing.
pub(super) fn was_kept(database: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(database)? {
        if entry?.file_name().to_string_lossy().starts_with(KEPT) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether something was kept with its tables before.
pub(super) fn is_any_finished(database: &Path) -> bool {
    folder(database, 1).is_dir()
}

/// An empty folder in the place of whatever was there.
pub(super) fn make_anew(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(folder)
}

/// Links and copies, synced.
pub(super) fn stand_in(database: &Path, folder: &Path) -> io::Result<()> {
    for file in files(database)? {
        let Some(name) = file.file_name() else { continue };
        let there = folder.join(name);
        if is_table(&file) {
            fs::hard_link(&file, &there)?;
        } else {
            fs::copy(&file, &there)?;
            File::open(&there)?.sync_all()?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Tables and files with large values: never written to again once they are there.
pub(super) fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "sst" || extension == "blob")
}

/// Of those that are still there when they are looked at.
pub(super) fn octets_of_tables(database: &Path) -> io::Result<u64> {
    let tables = files(database)?.into_iter().filter(|file| is_table(file));
    let octets = |table| match fs::metadata(table) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        known => Ok(known?.len()),
    };
    tables.map(octets).sum()
}

/// All that a database consists of.
fn files(database: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = logs(database)?;
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = ["CURRENT", "IDENTITY"].contains(&&*name);
        let numbered = ["MANIFEST-", "OPTIONS-"].iter().any(|begin| name.starts_with(begin));
        if path.is_file() && (plain || numbered || is_table(&path)) {
            files.push(path);
        }
    }
    Ok(files)
}

fn folder(database: &Path, number: u32) -> PathBuf {
    database.join(format!("{KEPT}{number}"))
}

fn has_all(kept: &Path, database: &Path) -> io::Result<bool> {
    for file in files(database)? {
        let there = kept.join(file.file_name().unwrap_or_default());
        let same = there.is_file() && there.metadata()?.len() == file.metadata()?.len();
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn each_state_is_kept_once_with_links_of_tables_and_copies_of_the_rest() {
        let database = tempfile::tempdir().unwrap();
        let at = |name: &str| database.path().join(name);
        for name in ["000004.log", "000003.sst", "MANIFEST-000005", "CURRENT", "LOG"] {
            fs::write(at(name), name).unwrap();
        }
        let first = keep(database.path()).unwrap();
        assert_eq!(first, at("damaged-1"));
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&first.join("000003.sst")), inode(&at("000003.sst")));
        for name in ["000004.log", "MANIFEST-000005", "CURRENT"] {
            assert_eq!(fs::read(first.join(name)).unwrap(), name.as_bytes());
            assert_ne!(inode(&first.join(name)), inode(&at(name)));
        }
        assert!(!first.join("LOG").exists());
        assert_eq!(keep(database.path()).unwrap(), first);
        fs::write(at("000004.log"), "other").unwrap();
        assert_eq!(keep(database.path()).unwrap(), at("damaged-2"));
        assert_eq!(fs::read(first.join("000004.log")).unwrap(), b"000004.log");
    }

    #[test]
    fn what_is_removed_meanwhile_is_not_kept_and_not_in_the_way() {
        let database = tempfile::tempdir().unwrap();
        let at = |name: String| database.path().join(name);
        fs::write(at("CURRENT".into()), "MANIFEST-000005\n").unwrap();
        let obsolete: Vec<PathBuf> =
            (0..500).map(|number| at(format!("OPTIONS-{number:06}"))).collect();
        obsolete.iter().for_each(|file| fs::write(file, "x").unwrap());
        let kept = thread::scope(|scope| {
            scope.spawn(|| obsolete.iter().for_each(|file| fs::remove_file(file).unwrap()));
            keep(database.path()).unwrap()
        });
        assert!(kept.join("CURRENT").exists());
        let missing = keep(&at("missing".into())).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn unfinished_and_older_ones_count_as_kept() {
        for name in ["damaged-unfinished", "damaged-wal-1", "damaged-7"] {
            let database = tempfile::tempdir().unwrap();
            assert!(!was_kept(database.path()).unwrap());
            fs::create_dir(database.path().join(name)).unwrap();
            assert!(was_kept(database.path()).unwrap(), "{name}");
        }
    }
}
