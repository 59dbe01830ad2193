//! The engine's journals of all lives: every segment is run again through a second engine, and every hash compared.
//! Invariant: a kill may tear the end of the segment it interrupts, and nothing before it. Neither what local parts, subjects
//! and bodies say nor what the peer replied may stand in them. Whether the engine decided well is the ledger's to say.
use super::support::choices::Choices;
use kumo_core::journal::{End, Replayed, replay};
use std::fs;
use std::path::PathBuf;

/// Of each segment, at random octets.
const CUTS: usize = 4;
/// In clients' mail and the peer's replies, and nowhere else.
const PRIVATE: [&str; 14] = [
    "plain-",
    "slow-",
    "later-",
    "never-",
    "busy-",
    "silent-",
    "load@",
    "Subject",
    "is a line of",
    "Received",
    "no such user",
    "2.1.5 ok",
    "4.2.1 later",
    "4.2.1 busy",
];
/// In every segment in which a message is queued.
const PUBLIC: &str = "sink.example";

struct Segment {
    life: usize,
    was_killed: bool,
    number: u64,
    octets: Vec<u8>,
}

/// One folder for all lives.
pub struct Journals {
    pub folder: PathBuf,
    segments: Vec<Segment>,
}

#[derive(Debug, Default)]
pub struct Replays {
    pub segments: usize,
    pub steps: u64,
    pub missing: u64,
    pub torn: usize,
    /// Segments in which mail was queued.
    pub used: usize,
    pub wrong: Vec<String>,
}

impl Journals {
    pub fn new(folder: PathBuf) -> Journals {
        Journals { folder, segments: Vec::new() }
    }

    /// What the life that has just ended left behind.
    pub fn collect(&mut self, life: usize, was_killed: bool) {
        // A life that was killed early may have written nothing yet.
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let last = self.segments.last().map_or(0, |segment| segment.number);
        let mut found: Vec<(u64, PathBuf)> =
            entries.map(|entry| entry.expect("an entry").path()).map(numbered).collect();
        found.retain(|(number, _)| *number > last);
        found.sort();
        for (number, path) in found {
            let octets = fs::read(path).expect("a segment can be read");
            self.segments.push(Segment { life, was_killed, number, octets });
        }
    }

    pub fn replay(&self, choices: &mut Choices) -> Replays {
        let mut replays = Replays::default();
        for (place, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(place + 1);
            let is_last = next.is_none_or(|next| next.life != segment.life);
            let mut wrong = replays.take(segment, segment.was_killed && is_last);
            wrong.extend(cut(&segment.octets, choices));
            wrong.extend(told(&segment.octets));
            let Segment { life, number, .. } = segment;
            let name = |what| format!("life {life}, segment {number}: {what}");
            replays.wrong.extend(wrong.into_iter().map(name));
        }
        replays
    }
}

impl Replays {
    fn take(&mut self, segment: &Segment, may_be_torn: bool) -> Vec<String> {
        let Replayed { steps, missing, end, .. } = replay(&segment.octets);
        self.segments += 1;
        self.steps += steps;
        self.missing += missing;
        self.used += usize::from(contains(&segment.octets, PUBLIC));
        match end {
            End::Complete => Vec::new(),
            // The frame goes on behind the last octet.
            End::Torn { why, .. } if may_be_torn && why.ends_with("cut short") => {
                self.torn += 1;
                Vec::new()
            }
            end => vec![format!("{end:?} after {steps} steps of {} octets", segment.octets.len())],
        }
    }
}

fn numbered(path: PathBuf) -> (u64, PathBuf) {
    let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let number = name.strip_prefix("journal-").and_then(|digits| digits.parse().ok());
    (number.expect("nothing else is in the folder"), path)
}

fn cut(octets: &[u8], choices: &mut Choices) -> Vec<String> {
    let mut wrong = Vec::new();
    for _ in 0..CUTS {
        let cut = choices.below(octets.len() as u64 + 1) as usize;
        let end = replay(&octets[..cut]).end;
        if matches!(end, End::Differs { .. }) {
            wrong.push(format!("{end:?}, cut at {cut}"));
        }
    }
    wrong
}

fn told(octets: &[u8]) -> Vec<String> {
    let told = PRIVATE.iter().filter(|text| contains(octets, text));
    told.map(|text| format!("{text:?} stands in it")).collect()
}

fn contains(octets: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(octets).contains(text)
}
