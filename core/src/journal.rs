//! The engine's journal, format 1: its inputs as they came, with a hash of what followed from each, enough to run it again.
//!
//! A segment is a header, then frames; each frame is a length, a checksum and an [`Entry`]. It begins with an engine that can be
//! made ([`Entry::Begin`]) or opened ([`Entry::Snapshot`]), so that any run of segments can be replayed from a segment's
//! beginning. Invariants: [`replay`] never panics on damaged octets: where they stop making sense, it stops and says where;
//! steps that follow a gap are replayed from the snapshot after it. Writing to disk is the driver's business.
use crate::engine::{Engine, EngineConfig, Input, Output};
use crate::limits::JOURNAL_ENTRY_OCTETS;
use crate::time::Now;
use alloc::vec::Vec;
use crc::{CRC_32_ISCSI, Crc, Table};
use postcard::ser_flavors::Flavor;
use postcard::serialize_with_flavor;
use serde::{Deserialize, Serialize, Serializer};

/// Format and version. A later format changes the last octet and keeps reading this one.
pub const HEADER: &[u8; 8] = b"kumodj\0\x01";
/// Length and checksum of a frame, each four octets, least significant first.
const FRAME_OCTETS: usize = 8;
/// Of the fast kind: the engine waits while its snapshot is summed up.
static CHECKSUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Written in one piece, read as a list of octets: the format is the same.
struct Octets<'a>(&'a [u8]);

impl Serialize for Octets<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Entry<I, S> {
    /// A new engine.
    Begin {
        config: EngineConfig,
        seed: u64,
    },
    /// The engine's state, as [`snapshot`] wrote it.
    Snapshot(S),
    Step {
        now: Now,
        input: I,
        outputs: u64,
    },
    /// So many inputs were left out because the disk was slow. A snapshot follows.
    Gap {
        inputs: u64,
    },
}

/// Hashes the outputs of one input, in order.
#[derive(Clone, Debug)]
pub struct OutputHash(u64);

impl Default for OutputHash {
    fn default() -> OutputHash {
        OutputHash(0xcbf2_9ce4_8422_2325)
    }
}

impl OutputHash {
    pub fn add(&mut self, output: &Output) {
        self.0 = serialize_with_flavor(output, Hashing(self.0)).expect("an output is plain data");
    }

    pub fn value(&self) -> u64 {
        self.0
    }
}

/// What is encoded goes into an FNV-1a hash, octet by octet.
struct Hashing(u64);

impl Flavor for Hashing {
    type Output = u64;

    fn try_push(&mut self, octet: u8) -> postcard::Result<()> {
        self.0 = (self.0 ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<u64> {
        Ok(self.0)
    }
}

/// What is encoded goes behind what is there.
struct Appending<'a>(&'a mut Vec<u8>);

impl Flavor for Appending<'_> {
    type Output = ();

    fn try_push(&mut self, octet: u8) -> postcard::Result<()> {
        self.0.push(octet);
        Ok(())
    }

    fn try_extend(&mut self, octets: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(octets);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// A frame that is being written at the end of a buffer.
struct Frame {
    start: usize,
}

impl Frame {
    fn begin(entry: &Entry<&Input, Octets<'_>>, out: &mut Vec<u8>) -> Frame {
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_OCTETS]);
        serialize_with_flavor(entry, Appending(out)).expect("an entry is plain data");
        Frame { start }
    }

    fn end(self, out: &mut [u8]) {
        let (head, payload) = out[self.start..].split_at_mut(FRAME_OCTETS);
        let length = u32::try_from(payload.len()).expect("an entry is below its limit");
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&CHECKSUM.checksum(payload).to_le_bytes());
    }
}

fn frame(entry: &Entry<&Input, Octets<'_>>, out: &mut Vec<u8>) {
    Frame::begin(entry, out).end(out);
}

/// The beginning of the first segment.
pub fn begin(config: &EngineConfig, seed: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(HEADER);
    frame(&Entry::Begin { config: config.clone(), seed }, out);
}

/// The beginning of a later segment.
pub fn continue_with(engine: &Engine, out: &mut Vec<u8>) {
    out.extend_from_slice(HEADER);
    snapshot(engine, out);
}

pub fn snapshot(engine: &Engine, out: &mut Vec<u8>) {
    let state = postcard::to_allocvec(engine).expect("an engine is plain data");
    frame(&Entry::Snapshot(Octets(&state)), out);
}

/// One step at the end of a buffer, to which nothing else is added until its end: an input, written before the engine takes it, and a hash of what
/// follows.
pub struct Step {
    frame: Frame,
    outputs: OutputHash,
}

impl Step {
    pub fn begin(now: Now, input: &Input, out: &mut Vec<u8>) -> Step {
        let frame = Frame::begin(&Entry::Step { now, input, outputs: 0 }, out);
        Step { frame, outputs: OutputHash::default() }
    }

    pub fn add(&mut self, output: &Output) {
        self.outputs.add(output);
    }

    pub fn end(self, out: &mut Vec<u8>) {
        // The hash comes last, and zero is one octet long.
        let placeholder = out.pop();
        assert_eq!(placeholder, Some(0), "something else was written behind a step");
        serialize_with_flavor(&self.outputs.value(), Appending(out)).expect("a number");
        self.frame.end(out);
    }
}

pub fn gap(inputs: u64, out: &mut Vec<u8>) {
    frame(&Entry::Gap { inputs }, out);
}

/// How a replay ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every octet was read.
    Complete,
    /// The octets stop making sense at this offset, as after a crash while they were written.
    Torn { offset: usize, why: &'static str },
    /// The engine did something else than when the journal was written.
    Differs { step: u64, offset: usize },
}

#[derive(Debug)]
pub struct Replayed {
    pub steps: u64,
    /// Inputs that were left out of the journal.
    pub missing: u64,
    pub end: End,
    /// As the journal leaves it; `None` if there was no beginning.
    pub engine: Option<Engine>,
}

/// What is met while a segment runs again, in this order.
pub enum Met<'a> {
    Input(Now, &'a Input),
    Output(&'a Output),
    /// As the step left it.
    Handled(&'a Engine),
}

/// Runs a segment again and compares every hash.
pub fn replay(segment: &[u8]) -> Replayed {
    replay_watched(segment, |_| {})
}

/// As [`replay`], with somebody who looks on.
pub fn replay_watched(segment: &[u8], mut watch: impl FnMut(Met<'_>)) -> Replayed {
    let mut replayed = Replayed { steps: 0, missing: 0, end: End::Complete, engine: None };
    if !segment.starts_with(HEADER) {
        let why = match HEADER.starts_with(segment) {
            true => "its header is cut short",
            false => "it doesn't begin as a journal of format 1 does",
        };
        replayed.end = End::Torn { offset: 0, why };
        return replayed;
    }
    let mut offset = HEADER.len();
    while offset < segment.len() {
        match read(&segment[offset..]) {
            Ok((entry, length)) => {
                if let Some(end) = take(entry, offset, &mut replayed, &mut watch) {
                    replayed.end = end;
                    return replayed;
                }
                offset += length;
            }
            Err(why) => {
                replayed.end = End::Torn { offset, why };
                return replayed;
            }
        }
    }
    replayed
}

fn read(octets: &[u8]) -> Result<(Entry<Input, Vec<u8>>, usize), &'static str> {
    let head = octets.get(..FRAME_OCTETS).ok_or("a frame's head is cut short")?;
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = number(0) as usize;
    if length > JOURNAL_ENTRY_OCTETS {
        return Err("a frame is longer than an entry may be");
    }
    let end = FRAME_OCTETS + length;
    let payload = octets.get(FRAME_OCTETS..end).ok_or("a frame is cut short")?;
    if CHECKSUM.checksum(payload) != number(4) {
        return Err("a frame's checksum doesn't match");
    }
    let entry = postcard::from_bytes(payload).map_err(|_| "an entry can't be read")?;
    Ok((entry, end))
}

fn take(
    entry: Entry<Input, Vec<u8>>,
    offset: usize,
    replayed: &mut Replayed,
    watch: &mut impl FnMut(Met<'_>),
) -> Option<End> {
    match entry {
        Entry::Begin { config, seed } => replayed.engine = Some(Engine::new(config, seed)),
        Entry::Snapshot(state) => match postcard::from_bytes(&state) {
            Ok(engine) => replayed.engine = Some(engine),
            Err(_) => return Some(End::Torn { offset, why: "a snapshot can't be read" }),
        },
        Entry::Gap { inputs } => {
            replayed.missing += inputs;
            replayed.engine = None;
        }
        Entry::Step { now, input, outputs } => {
            let Some(engine) = &mut replayed.engine else {
                return Some(End::Torn { offset, why: "a step without an engine before it" });
            };
            watch(Met::Input(now, &input));
            engine.handle(now, input);
            let mut hash = OutputHash::default();
            while let Some(output) = engine.poll() {
                watch(Met::Output(&output));
                hash.add(&output);
            }
            watch(Met::Handled(engine));
            replayed.steps += 1;
            if hash.value() != outputs {
                return Some(End::Differs { step: replayed.steps, offset });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Admission, InsertReason};
    use crate::id::SpoolIdGenerator;
    use crate::recipients::RecipientSet;
    use crate::time::{Mono, Wall};
    use proptest::prelude::*;

    fn now(n: u64) -> Now {
        Now { mono: Mono(n * 1_000_000), wall: Wall(1_795_000_000_000_000_000) }
    }

    fn admission(n: u64) -> Input {
        let id = SpoolIdGenerator::new(n).next(now(n).wall);
        Input::Admit(Admission {
            id,
            queue: alloc::format!("{}.example", n % 7).into(),
            recipients: 1,
            remaining: RecipientSet::all(1),
            size: 100,
            attempts: 0,
            due: None,
            expires: None,
            reason: InsertReason::Received,
        })
    }

    fn run(engine: &mut Engine, n: u64, journal: &mut Vec<u8>) {
        let input = admission(n);
        let mut step = Step::begin(now(n), &input, journal);
        engine.handle(now(n), input);
        while let Some(output) = engine.poll() {
            step.add(&output);
        }
        step.end(journal);
    }

    fn journal() -> Vec<u8> {
        let config = EngineConfig::default();
        let mut journal = Vec::new();
        begin(&config, 9, &mut journal);
        let mut engine = Engine::new(config, 9);
        (0..20).for_each(|n| run(&mut engine, n, &mut journal));
        gap(3, &mut journal);
        (20..23).for_each(|n| run(&mut engine, n, &mut Vec::new()));
        snapshot(&engine, &mut journal);
        (23..30).for_each(|n| run(&mut engine, n, &mut journal));
        journal
    }

    #[test]
    fn a_journal_runs_again_over_a_gap_with_the_same_outputs() {
        let replayed = replay(&journal());
        assert_eq!((replayed.steps, replayed.missing, replayed.end), (27, 3, End::Complete));
        assert_eq!(replayed.engine.unwrap().message_count(), 30);
    }

    #[test]
    fn another_outcome_is_noticed() {
        let mut journal = Vec::new();
        begin(&EngineConfig::default(), 9, &mut journal);
        Step::begin(now(1), &admission(1), &mut journal).end(&mut journal);
        assert!(matches!(replay(&journal).end, End::Differs { step: 1, .. }));
    }

    #[test]
    fn what_is_no_journal_is_said_to_be_none() {
        let why = |octets| match replay(octets).end {
            End::Torn { offset: 0, why } => why,
            end => panic!("{end:?}"),
        };
        assert_eq!((why(b""), why(b"kumodj\0")), ("its header is cut short", why(b"")));
        assert!(why(b"kumodj\0\x02").starts_with("it doesn't begin"));
    }

    /// Written by an early kumod. Format 1 is read for ever; what a later engine decides may differ.
    const GOLDEN: &[u8] = include_bytes!("../../kumod/tests/golden/format-1/journal/journal-1.kj");

    /// Where each frame ends, and how many steps there are up to there.
    fn frames(journal: &[u8]) -> Vec<(usize, u64)> {
        let (mut offset, mut steps) = (HEADER.len(), 0);
        let mut ends = alloc::vec![(offset, steps)];
        while offset < journal.len() {
            let (entry, length) = read(&journal[offset..]).expect("the journal is whole");
            steps += u64::from(matches!(entry, Entry::Step { .. }));
            offset += length;
            ends.push((offset, steps));
        }
        ends
    }

    #[test]
    fn the_golden_journal_of_format_1_can_be_read_and_cut() {
        let (_, steps) = frames(GOLDEN).pop().unwrap();
        assert!(steps > 5, "{steps}");
        let whole = replay(GOLDEN).end;
        assert!(!matches!(whole, End::Torn { .. }), "{whole:?}");
        for cut in 0..GOLDEN.len() {
            let end = replay(&GOLDEN[..cut]).end;
            assert!(end == whole || !matches!(end, End::Differs { .. }), "cut at {cut}: {end:?}");
        }
    }

    #[test]
    fn a_cut_anywhere_ends_cleanly_after_the_last_whole_step() {
        let journal = journal();
        let frames = frames(&journal);
        for cut in 0..journal.len() {
            let replayed = replay(&journal[..cut]);
            let Some((end, steps)) = frames.iter().rfind(|(end, _)| *end <= cut) else {
                assert!(matches!(replayed.end, End::Torn { offset: 0, .. }), "{cut}");
                continue;
            };
            assert_eq!(replayed.steps, *steps, "cut at {cut}");
            match replayed.end {
                End::Complete => assert_eq!(*end, cut),
                End::Torn { offset, .. } => assert!(offset == *end && cut > *end, "{cut}"),
                End::Differs { step, .. } => panic!("step {step} differs, cut at {cut}"),
            }
        }
    }

    proptest! {
        #[test]
        fn a_flipped_octet_ends_cleanly(at in 0usize..4000, bit in 0u8..8) {
            let mut journal = journal();
            let at = at % journal.len();
            journal[at] ^= 1 << bit;
            let replayed = replay(&journal);
            let torn = matches!(replayed.end, End::Torn { .. });
            prop_assert!(torn, "{:?}", replayed.end);
        }
    }
}
