//! A database without a MANIFEST to follow gets a new one, made by RocksDB's repair from all tables and logs that lie
//! there. Repair knows only families that some table names and drops what logs say about any other, so each family is
//! given a table first, with nothing but the removal of a key that no message has.
//! Invariants: all of this happens in a folder of links and copies; the database is as it was until CURRENT is put in
//! its place, and whole from then on. Tables that repair couldn't read to their end are left out and named. What
//! compaction has dropped but not deleted yet comes back: a message may be delivered again, none is lost by that.
use super::kept;
use super::wal::logs;
use rocksdb::{ColumnFamilyDescriptor, DB, Options};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const UNFINISHED: &str = "mending-unfinished";
/// RocksDB's repair moves there what it can't use.
const LOST: &str = "lost";
/// No id of a message.
const NO_KEY: [u8; 16] = [0xff; 16];

/// What it takes to open the database once.
pub(super) type Opening = (Options, Vec<ColumnFamilyDescriptor>);

pub(super) enum Failure {
    Io(io::Error),
    Rocks(rocksdb::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl From<rocksdb::Error> for Failure {
    fn from(error: rocksdb::Error) -> Failure {
        Failure::Rocks(error)
    }
}

/// Removes what is left where mending was cut short. All that is of use of it lies in the database as well.
pub(super) fn clean_up(database: &Path) -> io::Result<()> {
    let folder = database.join(UNFINISHED);
    // Without its CURRENT it has taken the database's place, and what was linked is the database's.
    if folder.join("CURRENT").exists() {
        unlink_what_was_installed(&folder, database)?;
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Logs above all: RocksDB would replay one on top of a database that it doesn't belong to. Tables may be the database's own.
fn unlink_what_was_installed(folder: &Path, database: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (file, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let there = database.join(&name);
        if is_part(&file) && !kept::is_table(&file) && is_same_file(&file, &there)? {
            fs::remove_file(there)?;
        }
    }
    File::open(database)?.sync_all()
}

fn is_same_file(one: &Path, other: &Path) -> io::Result<bool> {
    match fs::metadata(other) {
        Ok(other) => Ok(fs::metadata(one)?.ino() == other.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names of tables that had to be left out. Everything in `database` has been kept elsewhere.
pub(super) fn in_place(
    database: &Path,
    families: &[&str],
    opening: Opening,
) -> Result<Vec<String>, Failure> {
    let folder = database.join(UNFINISHED);
    kept::make_anew(&folder)?;
    kept::stand_in(database, &folder)?;
    let left_out = mend(&folder, families, opening)?;
    take_its_place(database, Newcomer::Mended)?;
    Ok(left_out)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newcomer {
    /// Of links and copies: a file that has the same name in both is the same.
    Mended,
    /// No file of it has the name of one in the database.
    BegunAnew,
}

/// Between the names of the database's files and those of one begun anew.
const MARGIN: u64 = 1_000_000;

/// An empty database in a folder of its own, whose files have names that no file of this one has or will have.
pub(super) fn begin_anew(
    database: &Path,
    families: &[&str],
    opening: Opening,
) -> Result<PathBuf, Failure> {
    let folder = database.join(UNFINISHED);
    kept::make_anew(&folder)?;
    let number = highest_number(database)?.saturating_add(MARGIN);
    File::create(folder.join(format!("{number:06}.dbtmp")))?;
    mend(&folder, families, opening)?;
    Ok(folder)
}

/// What was mended or begun anew becomes the database. Both are closed, and everything in this one has been kept elsewhere.
pub(super) fn take_its_place(database: &Path, newcomer: Newcomer) -> io::Result<()> {
    let folder = database.join(UNFINISHED);
    let old_logs = logs(database)?;
    install(&folder, database, newcomer)?;
    for log in old_logs {
        fs::remove_file(log)?;
    }
    fs::remove_dir_all(&folder)?;
    File::open(database)?.sync_all()
}

/// In a folder that holds links or copies, or nothing. Names of tables that had to be left out.
pub(super) fn mend(
    folder: &Path,
    families: &[&str],
    opening: Opening,
) -> Result<Vec<String>, Failure> {
    let number = highest_number(folder)?.saturating_add(1);
    add_a_table_of_each(families, folder, number)?;
    DB::repair(&Options::default(), folder)?;
    settle(folder, families, opening)?;
    tables_left_out(&folder.join(LOST))
}

/// The families come in the order in which kumod makes them, so that their numbers are the ones that logs go by.
fn add_a_table_of_each(families: &[&str], folder: &Path, number: u64) -> Result<(), Failure> {
    let first = folder.join("first");
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let database = DB::open_cf(&options, &first, families)?;
    remove_no_key(&database, families)?;
    drop(database);
    let mut number = number;
    for table in tables_in(&first)? {
        fs::rename(table, folder.join(format!("{number:06}.sst")))?;
        number = number.saturating_add(1);
    }
    fs::remove_dir_all(&first)?;
    // Whatever RocksDB makes is to have a name that nothing in the database has.
    File::create(folder.join(format!("{number:06}.dbtmp")))?;
    Ok(())
}

/// Opened and flushed once, so that the MANIFEST is a new one and asks for none of the old logs.
fn settle(folder: &Path, families: &[&str], opening: Opening) -> Result<(), Failure> {
    let (options, descriptors) = opening;
    let database = DB::open_cf_descriptors(&options, folder, descriptors)?;
    remove_no_key(&database, families)
}

fn remove_no_key(database: &DB, families: &[&str]) -> Result<(), Failure> {
    for family in families {
        let Some(handle) = database.cf_handle(family) else { continue };
        database.delete_cf(handle, NO_KEY)?;
        database.flush_cf(handle)?;
    }
    Ok(())
}

/// CURRENT last: with it the database is another one. Until then [`clean_up`] takes it all back.
fn install(folder: &Path, database: &Path, newcomer: Newcomer) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (file, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        let there = database.join(&name);
        if is_part(&file) && !(newcomer == Newcomer::Mended && there.exists()) {
            File::open(&file)?.sync_all()?;
            fs::hard_link(&file, &there)?;
        }
    }
    File::open(database)?.sync_all()?;
    let current = folder.join("CURRENT");
    File::open(&current)?.sync_all()?;
    fs::rename(current, database.join("CURRENT"))?;
    File::open(database)?.sync_all()
}

fn is_part(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let begins = ["MANIFEST-", "OPTIONS-"].iter().any(|begin| name.starts_with(begin));
    kept::is_table(file) || begins || name.ends_with(".log")
}

fn tables_left_out(lost: &Path) -> Result<Vec<String>, Failure> {
    let name =
        |table: PathBuf| table.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match tables_in(lost) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        tables => Ok(tables?.into_iter().map(name).collect()),
    }
}

fn tables_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut tables = Vec::new();
    for entry in fs::read_dir(folder)? {
        tables.push(entry?.path());
    }
    tables.retain(|path| kept::is_table(path));
    tables.sort();
    Ok(tables)
}

/// Of all files, whose names are a number and a kind, in either order.
fn highest_number(folder: &Path) -> io::Result<u64> {
    let mut highest = 0;
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        // Those of earlier logs for people bear a date.
        if name.starts_with("LOG") {
            continue;
        }
        let numbers = name.split(['-', '.']).filter_map(|part| part.parse::<u64>().ok());
        highest = numbers.fold(highest, u64::max);
    }
    Ok(highest)
}
