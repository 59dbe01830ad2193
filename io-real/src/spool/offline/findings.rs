//! What was found in a spool, and what was done about it. Invariant: however much is found, a bounded part of it is
//! kept, and all of it is counted.
use super::walk::Verdict;
use crate::spool::rocks;
use kumo_core::id::SpoolId;
use kumo_core::port::Family;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Entries of one list that are kept.
pub const LISTED: usize = 1000;

/// The first of many, and how many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T> {
    pub count: u64,
    pub first: Vec<T>,
}

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List { count: 0, first: Vec::new() }
    }
}

impl<T> List<T> {
    pub fn push(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < LISTED {
            self.first.push(item);
        }
    }
}

/// One record with something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub id: SpoolId,
    pub family: Family,
    pub why: String,
}

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    pub quarantine: PathBuf,
    pub records_exported: u64,
    pub messages_removed: u64,
    /// Where what was there lies, if a part of it couldn't be read.
    pub kept: Vec<PathBuf>,
    /// Into databases made anew, of what could be read of damaged ones.
    pub records_rewritten: u64,
    /// What lies in databases that were made anew.
    pub rewritten: BTreeSet<Family>,
    /// Why nothing more was repaired from some point on.
    pub stopped: Option<String>,
    /// Why a damaged database wasn't made anew.
    pub not_rewritten: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Whole,
    Damaged,
    /// It was damaged, and nothing of that is left.
    Mended,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Messages of which both records are as they were written, and the octets of their bodies.
    pub whole: u64,
    pub octets: u64,
    /// Records that were read and aren't what was written.
    pub damaged: List<Flaw>,
    pub without_data: List<SpoolId>,
    pub orphans: List<SpoolId>,
    /// Records that are there and can't be read.
    pub unreadable: List<Flaw>,
    /// Where records may be that nothing names.
    pub ranges: List<String>,
    /// Families of which some part can't be read.
    pub unreadable_in: BTreeSet<Family>,
    pub log_damage: Vec<String>,
    pub table_damage: Vec<String>,
    /// No damage, but good to know.
    pub notes: Vec<String>,
    /// Messages with anything wrong.
    pub wrong: u64,
    pub repair: Option<Repair>,
}

impl Findings {
    /// Messages that were looked at.
    pub fn messages(&self) -> u64 {
        self.whole + self.wrong
    }

    /// Messages with something wrong that are still in the spool.
    pub fn left(&self) -> u64 {
        self.wrong - self.repair.as_ref().map_or(0, |repair| repair.messages_removed)
    }

    /// Whether a record that isn't there may have been lost.
    pub fn may_lack_records(&self) -> bool {
        !self.log_damage.is_empty() || !self.unreadable_in.is_empty()
    }

    pub fn outcome(&self) -> Outcome {
        let is_damaged = self.wrong > 0 || self.may_lack_records();
        match &self.repair {
            Some(Repair { stopped: Some(_), .. } | Repair { not_rewritten: Some(_), .. }) => {
                Outcome::Damaged
            }
            _ if !is_damaged => Outcome::Whole,
            // Opening it to repair has dealt with the logs.
            Some(Repair { rewritten, .. })
                if self.left() == 0 && self.unreadable_in.is_subset(rewritten) =>
            {
                Outcome::Mended
            }
            _ => Outcome::Damaged,
        }
    }

    pub(super) fn unreadable_range(&mut self, family: Family, line: &str) {
        self.unreadable_in.insert(family);
        self.ranges.push(format!("{}: {line}", rocks::name(family)));
    }

    pub(super) fn add(&mut self, id: SpoolId, verdict: Verdict) {
        let is_whole = matches!(verdict, Verdict::Whole { .. });
        self.wrong += u64::from(!is_whole);
        match verdict {
            Verdict::Whole { octets } => {
                self.whole += 1;
                self.octets += octets;
            }
            Verdict::Orphan => self.orphans.push(id),
            Verdict::WithoutData => self.without_data.push(id),
            Verdict::Flawed { damaged, unreadable } => {
                damaged.into_iter().for_each(|flaw| self.damaged.push(flaw));
                for flaw in unreadable {
                    self.unreadable_in.insert(flaw.family);
                    self.unreadable.push(flaw);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> SpoolId {
        SpoolId(u128::from(number).to_be_bytes())
    }

    #[test]
    fn all_is_counted_and_a_bounded_part_is_kept() {
        let mut findings = Findings::default();
        for number in 0..3 * LISTED as u64 {
            findings.add(id(number), Verdict::Orphan);
        }
        assert_eq!(findings.orphans.count, 3 * LISTED as u64);
        assert_eq!(findings.orphans.first.len(), LISTED);
        assert_eq!(findings.left(), 3 * LISTED as u64);
    }

    #[test]
    fn mended_is_only_what_has_nothing_left() {
        let repair = Repair {
            quarantine: PathBuf::new(),
            records_exported: 1,
            messages_removed: 1,
            kept: Vec::new(),
            records_rewritten: 0,
            rewritten: BTreeSet::new(),
            stopped: None,
            not_rewritten: None,
        };
        let mut findings = Findings { repair: Some(repair), ..Findings::default() };
        findings.add(id(1), Verdict::Orphan);
        assert_eq!(findings.outcome(), Outcome::Mended);
        let without_repair = Findings { repair: None, ..findings.clone() };
        assert_eq!(without_repair.outcome(), Outcome::Damaged);
        let mut more = findings.clone();
        more.add(id(2), Verdict::Orphan);
        assert_eq!(more.outcome(), Outcome::Damaged);
        let mut range = findings.clone();
        range.unreadable_range(Family::Meta, "a block");
        assert_eq!(range.outcome(), Outcome::Damaged);
    }
}
