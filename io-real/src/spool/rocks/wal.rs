//! Looks at RocksDB's write-ahead logs before RocksDB does, since its own ways of meeting damage are to drop what
//! follows, to refuse to open, or to skip without a word.
//! Invariant: reads only; copying aside is the one thing it writes, and never inside the logs. It understands the
//! framing of records and their checksums, not what is in them.
use crc::{CRC_32_ISCSI, Crc, Table};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const BLOCK_OCTETS: usize = 32 * 1024;
const HEADER_OCTETS: usize = 7;
const CHECKSUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
/// RocksDB stores checksums rotated and offset by this.
const MASK_DELTA: u32 = 0xa282_ead8;

/// The name of a copy of the logs, before its number.
const ASIDE: &str = "damaged-wal-";

/// One log file with something in it that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub file: PathBuf,
    pub octets: u64,
    pub unreadable: Vec<Range<u64>>,
    /// Nothing readable follows: what a crash in the middle of a write leaves.
    pub torn_tail: bool,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, octets ", self.file.display())?;
        for (index, range) in self.unreadable.iter().take(8).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} to {}", range.start, range.end)?;
        }
        let more = self.unreadable.len().saturating_sub(8);
        if more > 0 {
            write!(f, " and {more} more ranges")?;
        }
        write!(f, " of {}", self.octets)
    }
}

/// What is wrong with the logs of a database. A torn tail of a log that another one with records follows isn't
/// taken for one: nothing is written to a new log before the old one is complete.
pub(super) fn examine(database: &Path) -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut followed = false;
    for file in logs(database)?.into_iter().rev() {
        let contents = read_log(&file)?;
        if !contents.unreadable.is_empty() {
            findings.push(Finding {
                octets: contents.octets,
                torn_tail: contents.is_torn_tail() && !followed,
                unreadable: contents.unreadable,
                file,
            });
        }
        followed |= contents.last_record.is_some();
    }
    findings.reverse();
    Ok(findings)
}

/// Where all logs now lie copied: a new `damaged-wal-<n>`, or the latest one if it has the same files already, as when
/// one attempt to start follows another.
pub(super) fn copy_aside(database: &Path) -> io::Result<PathBuf> {
    let number = (1..).find(|n| !aside(database, *n).exists()).expect("some number is unused");
    let logs = logs(database)?;
    if number > 1 && is_copied(&logs, &aside(database, number - 1))? {
        return Ok(aside(database, number - 1));
    }
    // A copy that a crash cut short must not count as one.
    let unfinished = database.join(format!("{ASIDE}unfinished"));
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&unfinished)?;
    for log in logs {
        let copy = unfinished.join(log.file_name().expect("a log has a name"));
        fs::copy(&log, &copy)?;
        File::open(&copy)?.sync_all()?;
    }
    File::open(&unfinished)?.sync_all()?;
    let folder = aside(database, number);
    fs::rename(&unfinished, &folder)?;
    File::open(database)?.sync_all()?;
    Ok(folder)
}

/// Whether there is such a copy, finished or not: then some of what was synced may be missing.
pub(super) fn was_copied_aside(database: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(database)? {
        if entry?.file_name().to_string_lossy().starts_with(ASIDE) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn aside(database: &Path, number: u32) -> PathBuf {
    database.join(format!("{ASIDE}{number}"))
}

fn is_copied(logs: &[PathBuf], folder: &Path) -> io::Result<bool> {
    for log in logs {
        let copy = folder.join(log.file_name().expect("a log has a name"));
        let same = copy.is_file() && copy.metadata()?.len() == log.metadata()?.len();
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The log files, oldest first. Their names are numbers.
fn logs(database: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (true, Some(number)) = (is_log, number) {
            logs.push((number, path));
        }
    }
    logs.sort_unstable();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

#[derive(Debug, Default)]
struct Contents {
    octets: u64,
    unreadable: Vec<Range<u64>>,
    /// Where the last whole record begins.
    last_record: Option<u64>,
    /// Where the record whose end is still to come begins.
    unfinished: Option<u64>,
}

impl Contents {
    fn is_torn_tail(&self) -> bool {
        let Some(first) = self.unreadable.first() else { return false };
        self.last_record.is_none_or(|record| record < first.start)
    }

    fn mark(&mut self, range: Range<u64>) {
        let start = self.unfinished.take().unwrap_or(range.start);
        match self.unreadable.last_mut() {
            Some(last) if last.end >= start => last.end = range.end.max(last.end),
            _ => self.unreadable.push(start..range.end),
        }
    }

    fn block(&mut self, start: u64, block: &[u8]) {
        let mut at = 0;
        while block.len() - at >= HEADER_OCTETS {
            let Some(fragment) = Fragment::parse(&block[at..]) else {
                return self.mark(start + at as u64..start + block.len() as u64);
            };
            let begins = start + at as u64;
            at += fragment.octets;
            self.fragment(fragment.position, begins..start + at as u64);
        }
        // A shorter rest is padding, unless it is the beginning of a header at the very end of the log.
        let rest = &block[at..];
        if block.len() < BLOCK_OCTETS && rest.iter().any(|octet| *octet != 0) {
            self.mark(start + at as u64..start + block.len() as u64);
        }
    }

    fn fragment(&mut self, position: Position, range: Range<u64>) {
        match (position, self.unfinished) {
            (Position::Whole, None) => self.last_record = Some(range.start),
            (Position::First, None) => self.unfinished = Some(range.start),
            (Position::Middle, Some(_)) => {}
            (Position::Last, Some(begins)) => {
                self.last_record = Some(begins);
                self.unfinished = None;
            }
            // The end of the one before is missing.
            (Position::Whole | Position::First, Some(_)) => {
                self.mark(range.start..range.start);
                self.fragment(position, range);
            }
            // The beginning is missing.
            (Position::Middle | Position::Last, None) => self.mark(range),
            (Position::Note, _) => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Whole,
    First,
    Middle,
    Last,
    /// About the log itself.
    Note,
}

struct Fragment {
    position: Position,
    octets: usize,
}

impl Fragment {
    /// `None` if it isn't whole and intact. `data` is at least a header.
    fn parse(data: &[u8]) -> Option<Fragment> {
        let masked = u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
        let length = usize::from(u16::from_le_bytes([data[4], data[5]]));
        let position = match data[6] {
            1 => Position::Whole,
            2 => Position::First,
            3 => Position::Middle,
            4 => Position::Last,
            9 | 10 | 130 => Position::Note,
            _ => return None,
        };
        let octets = HEADER_OCTETS + length;
        let checked = data.get(6..octets)?;
        let expected = masked.wrapping_sub(MASK_DELTA).rotate_left(15);
        (CHECKSUM.checksum(checked) == expected).then_some(Fragment { position, octets })
    }
}

fn read_log(path: &Path) -> io::Result<Contents> {
    let mut file = File::open(path)?;
    let mut contents = Contents::default();
    let mut block = Vec::with_capacity(BLOCK_OCTETS);
    loop {
        block.clear();
        file.by_ref().take(BLOCK_OCTETS as u64).read_to_end(&mut block)?;
        contents.block(contents.octets, &block);
        contents.octets += block.len() as u64;
        if block.len() < BLOCK_OCTETS {
            break;
        }
    }
    if contents.unfinished.is_some() {
        contents.mark(contents.octets..contents.octets);
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fragment(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut checked = vec![kind];
        checked.extend_from_slice(payload);
        let masked = CHECKSUM.checksum(&checked).rotate_right(15).wrapping_add(MASK_DELTA);
        let mut out = masked.to_le_bytes().to_vec();
        out.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        out.extend_from_slice(&checked);
        out
    }

    /// A log as RocksDB writes it, and where its records begin.
    fn log(sizes: &[usize]) -> (Vec<u8>, Vec<u64>) {
        let mut out = Vec::new();
        let mut starts = Vec::new();
        for size in sizes {
            let mut left = *size;
            let mut first = true;
            loop {
                let room = BLOCK_OCTETS - out.len() % BLOCK_OCTETS;
                if room < HEADER_OCTETS {
                    out.extend(std::iter::repeat_n(0, room));
                    continue;
                }
                if first {
                    starts.push(out.len() as u64);
                }
                let now = left.min(room - HEADER_OCTETS);
                left -= now;
                let kind = match (first, left == 0) {
                    (true, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                    (false, true) => 4,
                };
                out.extend(fragment(kind, &vec![0x5a; now]));
                first = false;
                if left == 0 {
                    break;
                }
            }
        }
        (out, starts)
    }

    fn examine_octets(octets: &[u8]) -> Vec<Finding> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("000004.log"), octets).unwrap();
        examine(folder.path()).unwrap()
    }

    #[test]
    fn what_follows_damage_makes_the_difference_between_a_torn_tail_and_a_loss() {
        let (sound, starts) = log(&[100, 50_000, 40_000, 200, 300]);
        assert_eq!(examine_octets(&sound), Vec::new());

        let mut middle = sound.clone();
        middle[starts[1] as usize + 20] ^= 1;
        let findings = examine_octets(&middle);
        assert_eq!(findings.len(), 1);
        assert!(!findings[0].torn_tail, "{findings:?}");
        assert_eq!(findings[0].unreadable[0].start, starts[1]);

        let mut end = sound.clone();
        let last = end.len() - 1;
        end[last] ^= 1;
        assert!(examine_octets(&end)[0].torn_tail);

        let mut garbage = sound.clone();
        garbage.extend_from_slice(&[0xee; 3_000]);
        let findings = examine_octets(&garbage);
        assert!(findings[0].torn_tail);
        assert_eq!(findings[0].unreadable.len(), 1);
        assert_eq!(findings[0].unreadable[0], sound.len() as u64..garbage.len() as u64);
    }

    #[test]
    fn a_torn_tail_with_records_in_the_next_log_is_a_loss() {
        let folder = tempfile::tempdir().unwrap();
        let (sound, _) = log(&[100, 200]);
        fs::write(folder.path().join("000004.log"), &sound[..250]).unwrap();
        fs::write(folder.path().join("000007.log"), b"").unwrap();
        assert!(examine(folder.path()).unwrap()[0].torn_tail);
        fs::write(folder.path().join("000007.log"), &sound).unwrap();
        assert!(!examine(folder.path()).unwrap()[0].torn_tail);
    }

    #[test]
    fn logs_are_copied_aside_once_for_each_state_they_are_in() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("000004.log");
        fs::write(&log, b"one").unwrap();
        let first = copy_aside(folder.path()).unwrap();
        assert_eq!(first, folder.path().join("damaged-wal-1"));
        assert_eq!(fs::read(first.join("000004.log")).unwrap(), b"one");
        assert_eq!(copy_aside(folder.path()).unwrap(), first);
        fs::write(&log, b"other").unwrap();
        let second = copy_aside(folder.path()).unwrap();
        assert_eq!(second, folder.path().join("damaged-wal-2"));
        assert_eq!(fs::read(first.join("000004.log")).unwrap(), b"one");
    }

    proptest! {
        #[test]
        fn cutting_a_log_anywhere_is_a_torn_tail_at_most(
            sizes in proptest::collection::vec(0usize..70_000, 1..6),
            cut in any::<proptest::sample::Index>(),
        ) {
            let (sound, _) = log(&sizes);
            let cut = cut.index(sound.len());
            let findings = examine_octets(&sound[..cut]);
            prop_assert!(findings.iter().all(|finding| finding.torn_tail), "{findings:?}");
        }

        #[test]
        fn one_wrong_octet_is_found_and_nothing_outside_its_block_and_record_is_blamed(
            sizes in proptest::collection::vec(1usize..70_000, 1..6),
            at in any::<proptest::sample::Index>(),
        ) {
            let (sound, starts) = log(&sizes);
            let at = at.index(sound.len());
            let padding = sound[at] == 0 && BLOCK_OCTETS - at % BLOCK_OCTETS < HEADER_OCTETS;
            prop_assume!(!padding);
            let mut broken = sound.clone();
            broken[at] ^= 0x40;
            let findings = examine_octets(&broken);
            prop_assert_eq!(findings.len(), 1);
            let unreadable = &findings[0].unreadable;
            let begins = *starts.iter().rfind(|start| **start <= at as u64).unwrap();
            prop_assert!(unreadable[0].start >= begins && unreadable[0].start <= at as u64);
        }
    }
}
