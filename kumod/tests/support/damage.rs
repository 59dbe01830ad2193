//! Damage to the files of a RocksDB that nobody has open: octets flipped, an end cut off, a file gone.
//! Invariant: each function damages exactly one file and returns it; what isn't there to be damaged is a panic.
use std::fs::{self, File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Octets that are flipped in a row.
const FLIPPED: u64 = 16;
/// Of a record: its header, and the place of its length in there.
const HEADER: u64 = 7;
const LENGTH: u64 = 4;
/// Records don't lie across the ends of blocks.
const BLOCK: usize = 32 * 1024;
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

/// In the newest, where a record in its middle keeps what it says.
pub fn flip_manifest(database: &Path) -> PathBuf {
    let path = manifest(database);
    let record = middle_record(&path);
    flip_at(path, record.start + HEADER..record.end)
}

/// In the newest, where a record in its middle says how long it is: it seems to go on behind the file's end, as one
/// does that a crash has cut short.
pub fn lengthen_manifest(database: &Path) -> PathBuf {
    let path = manifest(database);
    let start = middle_record(&path).start;
    flip_at(path, start + LENGTH + 1..start + LENGTH + 2)
}

/// In the middle of the largest write-ahead log.
pub fn flip_log(database: &Path) -> PathBuf {
    let mut logs = files(database, "", ".log");
    logs.sort_by_key(|log| length(log));
    flip(logs.pop().expect("a database has a log"))
}

fn flip(path: PathBuf) -> PathBuf {
    let (middle, end) = (length(&path) / 2, length(&path));
    flip_at(path, middle..end)
}

/// Octets at the beginning of a range.
fn flip_at(path: PathBuf, range: Range<u64>) -> PathBuf {
    let (file, count) = (open(&path), FLIPPED.min(range.end - range.start));
    assert!(count > 0, "there is nothing to flip in {path:?}");
    let mut octets = vec![0; count as usize];
    file.read_exact_at(&mut octets, range.start).expect("it can be read");
    octets.iter_mut().for_each(|octet| *octet ^= 0xff);
    file.write_all_at(&octets, range.start).expect("it can be written");
    path
}

fn manifest(database: &Path) -> PathBuf {
    files(database, "MANIFEST-", "").pop().expect("a database has a MANIFEST")
}

/// Framed as a write-ahead log is: a checksum of four octets, a length of two, a type of one, and the record.
fn middle_record(manifest: &Path) -> Range<u64> {
    let octets = fs::read(manifest).expect("it can be read");
    assert!(octets.len() < BLOCK, "records are only looked for in the first block of {manifest:?}");
    let mut start = 0;
    loop {
        let field = (start + LENGTH) as usize;
        let length = u16::from_le_bytes([octets[field], octets[field + 1]]);
        let end = start + HEADER + u64::from(length);
        if end > octets.len() as u64 / 2 {
            return start..end;
        }
        start = end;
    }
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
