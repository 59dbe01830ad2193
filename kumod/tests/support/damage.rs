//! Damage to the files of a RocksDB that nobody has open: octets flipped, an end cut off, a file gone.
//! Invariant: each function damages exactly one file and returns it; what isn't there to be damaged is a panic.
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Octets that are flipped in a row.
const FLIPPED: u64 = 16;
/// In a table's properties, before the name of its column family: the key `rocksdb.column.family.name` less what it has
/// in common with the key before it.
const FAMILY: &[u8] = b"name";

/// Which of the tables, `*.sst`.
#[derive(Clone, Copy, Debug)]
pub enum Table {
    Newest,
    Largest,
    /// The largest of this column family.
    Of(&'static str),
}

impl Table {
    fn find(self, database: &Path) -> PathBuf {
        let mut tables = files(database, "", ".sst");
        if let Table::Of(family) = self {
            tables.retain(|table| is_of(table, family));
        }
        // Names are numbers of one width, which grow.
        if !matches!(self, Table::Newest) {
            tables.sort_by_key(|table| length(table));
        }
        tables.pop().unwrap_or_else(|| panic!("there is no such table in {database:?}: {self:?}"))
    }
}

/// In its middle.
pub fn flip_table(database: &Path, table: Table) -> PathBuf {
    flip(table.find(database))
}

/// To half of its length.
pub fn cut_table(database: &Path, table: Table) -> PathBuf {
    let path = table.find(database);
    open(&path).set_len(length(&path) / 2).expect("it can be cut");
    path
}

pub fn delete_table(database: &Path, table: Table) -> PathBuf {
    let path = table.find(database);
    fs::remove_file(&path).expect("it can be removed");
    path
}

/// In the middle of the newest.
pub fn flip_manifest(database: &Path) -> PathBuf {
    flip(files(database, "MANIFEST-", "").pop().expect("a database has a MANIFEST"))
}

/// In the middle of the largest write-ahead log.
pub fn flip_log(database: &Path) -> PathBuf {
    let mut logs = files(database, "", ".log");
    logs.sort_by_key(|log| length(log));
    flip(logs.pop().expect("a database has a log"))
}

fn flip(path: PathBuf) -> PathBuf {
    let (file, at) = (open(&path), length(&path) / 2);
    let mut octets = vec![0; FLIPPED.min(length(&path) - at) as usize];
    assert!(!octets.is_empty(), "{path:?} is empty");
    file.read_exact_at(&mut octets, at).expect("it can be read");
    octets.iter_mut().for_each(|octet| *octet ^= 0xff);
    file.write_all_at(&octets, at).expect("it can be written");
    path
}

/// By name.
fn files(database: &Path, beginning: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(database).expect("a database is a folder").flatten();
    let fits = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
        name.starts_with(beginning) && name.ends_with(ending)
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(fits).collect();
    files.sort();
    files
}

fn is_of(table: &Path, family: &str) -> bool {
    let octets = fs::read(table).expect("it can be read");
    let property = [FAMILY, family.as_bytes()].concat();
    octets.windows(property.len()).any(|window| window == property)
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").len()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("it can be opened")
}
