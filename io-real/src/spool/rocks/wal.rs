//! Looks at RocksDB's write-ahead logs before RocksDB does, since its own ways of meeting damage are to drop what
//! follows, to refuse to open, or to skip without a word. Its MANIFEST is framed the same way.
//! Invariant: reads only. It understands the framing of records and their checksums, not what is in them. Recycled logs,
//! which kumod never makes, have records of other types: it takes them for damage.
use crc::{CRC_32_ISCSI, Crc, Table};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

const BLOCK_OCTETS: usize = 32 * 1024;
const HEADER_OCTETS: usize = 7;
/// In a header: what comes from there on is covered by the checksum.
const LENGTH_END: usize = 6;
const CHECKSUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
/// RocksDB stores checksums rotated and offset by this.
const MASK_DELTA: u32 = 0xa282_ead8;

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
        write!(f, "{}, {}", self.file.display(), self.ranges())
    }
}

impl Finding {
    /// Which octets, of how many.
    pub fn ranges(&self) -> String {
        let range = |range: &Range<u64>| format!("{} to {}", range.start, range.end);
        let first: Vec<String> = self.unreadable.iter().take(8).map(range).collect();
        let more = match self.unreadable.len().saturating_sub(8) {
            0 => String::new(),
            more => format!(" and {more} more ranges"),
        };
        format!("octets {}{more} of {}", first.join(", "), self.octets)
    }
}

/// What is wrong with the logs of a database. Where another log with records follows, a torn tail is believed only of what
/// a crash can leave of one write: RocksDB goes on to a new log without having synced the old one. That nothing is
/// missing which was synced, it knows itself: its MANIFEST says how much that was of each log that is complete.
pub(super) fn examine(database: &Path) -> io::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut followed = false;
    for file in logs(database)?.into_iter().rev() {
        let contents = read_log(&file)?;
        if !contents.unreadable.is_empty() {
            findings.push(Finding {
                octets: contents.octets,
                torn_tail: contents.is_torn_tail()
                    && (!followed || contents.is_cut_short(&file)?),
                unreadable: contents.unreadable,
                file,
            });
        }
        followed |= contents.last_record.is_some();
    }
    findings.reverse();
    Ok(findings)
}

/// What is wrong with one log that is synced after each record. A torn tail is believed only of what a crash can leave
/// of one write: a record whose end isn't there, or zeros.
pub(super) fn examine_strictly(file: &Path) -> io::Result<Option<Finding>> {
    let contents = read_log(file)?;
    if contents.wrong().is_none() {
        return Ok(None);
    }
    let torn_tail =
        contents.last_record.is_some() && contents.is_torn_tail() && contents.is_cut_short(file)?;
    let (octets, unreadable) = (contents.octets, contents.unreadable);
    Ok(Some(Finding { file: file.to_owned(), octets, unreadable, torn_tail }))
}

/// `start` is where the first record, or part of one, that isn't intact begins.
fn is_cut_short(file: &Path, start: u64, end: u64) -> io::Result<bool> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(start))?;
    let room = BLOCK_OCTETS - (start % BLOCK_OCTETS as u64) as usize;
    let mut tail = Vec::with_capacity(room);
    file.by_ref().take(room as u64).read_to_end(&mut tail)?;
    if tail.iter().all(|octet| *octet == 0) {
        return all_zeros(file);
    }
    Ok(end - start <= room as u64 && is_beginning(&tail, room))
}

fn all_zeros(mut file: File) -> io::Result<bool> {
    let mut block = Vec::with_capacity(BLOCK_OCTETS);
    loop {
        block.clear();
        if file.by_ref().take(BLOCK_OCTETS as u64).read_to_end(&mut block)? == 0 {
            return Ok(true);
        }
        if block.iter().any(|octet| *octet != 0) {
            return Ok(false);
        }
    }
}

/// Whether this is the beginning of a record and nothing else. One with a wrong length seems to go on behind the end as
/// well, but then it is whole but for that, or others lie in it.
fn is_beginning(tail: &[u8], room: usize) -> bool {
    if tail.len() < HEADER_OCTETS {
        return true;
    }
    let octets = HEADER_OCTETS + length(tail);
    let goes_on = octets > tail.len() && octets <= room;
    let is_whole = stored_checksum(tail) == CHECKSUM.checksum(&tail[LENGTH_END..]);
    let mut later = (1..tail.len() - HEADER_OCTETS).map(|at| &tail[at..]);
    goes_on && !is_whole && later.all(|octets| Fragment::parse(octets).is_none())
}

/// The log files, oldest first. Their names are numbers.
pub(super) fn logs(database: &Path) -> io::Result<Vec<PathBuf>> {
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
    /// Where the first part of a record that isn't intact begins.
    first_wrong: Option<u64>,
    /// Where the log ends, if the end of a record is still to come there.
    unfinished_at_end: Option<u64>,
}

impl Contents {
    fn is_torn_tail(&self) -> bool {
        let Some(first) = self.unreadable.first() else { return false };
        self.last_record.is_none_or(|record| record < first.start)
    }

    /// Where the first record, or part of one, begins that isn't intact.
    fn wrong(&self) -> Option<u64> {
        self.first_wrong.or(self.unfinished_at_end)
    }

    /// Whether all that is wrong is one record whose end isn't there, or zeros.
    fn is_cut_short(&self, file: &Path) -> io::Result<bool> {
        self.wrong().map_or(Ok(false), |wrong| is_cut_short(file, wrong, self.octets))
    }

    fn mark_wrong(&mut self, range: Range<u64>) {
        self.first_wrong.get_or_insert(range.start);
        self.mark(range);
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
                return self.mark_wrong(start + at as u64..start + block.len() as u64);
            };
            let begins = start + at as u64;
            at += fragment.octets;
            self.fragment(fragment.position, begins..start + at as u64);
        }
        // A shorter rest is padding, unless it is the beginning of a header at the very end of the log.
        let rest = &block[at..];
        if block.len() < BLOCK_OCTETS && rest.iter().any(|octet| *octet != 0) {
            self.mark_wrong(start + at as u64..start + block.len() as u64);
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
                self.mark_wrong(range.start..range.start);
                self.fragment(position, range);
            }
            // The beginning is missing.
            (Position::Middle | Position::Last, None) => self.mark_wrong(range),
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
        let position = match data[6] {
            1 => Position::Whole,
            2 => Position::First,
            3 => Position::Middle,
            4 => Position::Last,
            9 | 10 | 130 => Position::Note,
            _ => return None,
        };
        let octets = HEADER_OCTETS + length(data);
        let checked = data.get(LENGTH_END..octets)?;
        let is_intact = CHECKSUM.checksum(checked) == stored_checksum(data);
        is_intact.then_some(Fragment { position, octets })
    }
}

/// What a header stores. It covers what follows the length.
fn stored_checksum(header: &[u8]) -> u32 {
    let masked = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    masked.wrapping_sub(MASK_DELTA).rotate_left(15)
}

/// Of what follows the header.
fn length(header: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([header[4], header[5]]))
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
        contents.unfinished_at_end = Some(contents.octets);
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
    fn before_records_in_the_next_log_only_a_cut_is_a_torn_tail() {
        let folder = tempfile::tempdir().unwrap();
        let (sound, _) = log(&[100, 200]);
        let mut flipped = sound.clone();
        flipped[250] ^= 1;
        for (next, of_flipped) in [(&b""[..], true), (&sound, false)] {
            fs::write(folder.path().join("000007.log"), next).unwrap();
            for (tail, expected) in [(&sound[..250], true), (&flipped, of_flipped)] {
                fs::write(folder.path().join("000004.log"), tail).unwrap();
                assert_eq!(examine(folder.path()).unwrap()[0].torn_tail, expected);
            }
        }
    }

    fn examine_strictly_octets(octets: &[u8]) -> Option<Finding> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("MANIFEST-000005");
        fs::write(&file, octets).unwrap();
        examine_strictly(&file).unwrap()
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
        fn strictly_a_cut_is_a_torn_tail_and_one_wrong_octet_never_is(
            sizes in proptest::collection::vec(1usize..40_000, 2..6),
            at in any::<proptest::sample::Index>(),
            flipped in 1u8..,
        ) {
            let (sound, starts) = log(&sizes);
            prop_assert_eq!(examine_strictly_octets(&sound), None);
            let cut = starts[1] as usize + at.index(sound.len() - starts[1] as usize);
            let torn = examine_strictly_octets(&sound[..cut]);
            prop_assert!(torn.is_none_or(|finding| finding.torn_tail));
            let at = at.index(sound.len());
            let padding = sound[at] == 0 && BLOCK_OCTETS - at % BLOCK_OCTETS < HEADER_OCTETS;
            prop_assume!(!padding);
            let mut broken = sound.clone();
            broken[at] ^= flipped;
            let finding = examine_strictly_octets(&broken);
            prop_assert!(finding.is_some_and(|finding| !finding.torn_tail));
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
