//! Refuses mail before a file system is full (seed.md 1.1). Invariant: below its minimum it is over the limit, and only a good piece above it
//! no more, so that it doesn't flutter. What is refused meanwhile is the driver's to know.
use crate::config::read::{Form, Report};
use crate::port::FreeSpace;
use alloc::format;
use alloc::string::String;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How much has to be free: of octets, or of inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Threshold {
    /// Of the whole, rounded down.
    PerCent(u8),
    Units(u64),
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold::PerCent(10)
    }
}

impl Threshold {
    /// What is free as this threshold counts it, its minimum, and what it takes to be well again.
    fn judge(self, free: u64, total: u64) -> (u64, u64, u64) {
        match self {
            // A file system that counts no inodes has enough of them.
            Threshold::PerCent(_) if total == 0 => (100, 0, 0),
            Threshold::PerCent(least) => {
                let free = u128::from(free) * 100 / u128::from(total);
                let least = u64::from(least);
                let well = if least == 0 { 0 } else { (least + 1).min(100) };
                (u64::try_from(free).unwrap_or(100), least, well)
            }
            Threshold::Units(_) if total == 0 => (0, 0, 0),
            Threshold::Units(least) => (free, least, least.saturating_add(least / 10)),
        }
    }
}

/// `"10%"`, a number, or a number as text.
impl Form for Threshold {
    fn read(value: Value, report: &mut Report) -> Option<Threshold> {
        let text = match &value {
            Value::Number(number) => format!("{number}"),
            Value::String(text) => text.trim().into(),
            _ => String::new(),
        };
        let parsed = match text.strip_suffix('%') {
            Some(number) => {
                let number: Option<u8> = number.trim().parse().ok();
                number.filter(|number| *number <= 100).map(Threshold::PerCent)
            }
            None => text.parse().ok().map(Threshold::Units),
        };
        if parsed.is_none() {
            report
                .error(format_args!("expected a share from '0%' to '100%', or a whole number (of octets, or of inodes), found {value}"));
        }
        parsed
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    Entered,
    Left,
}

/// Of one folder.
#[derive(Debug)]
pub struct DiskGuard {
    octets: Threshold,
    inodes: Threshold,
    over: bool,
}

impl DiskGuard {
    pub fn new(octets: Threshold, inodes: Threshold) -> DiskGuard {
        DiskGuard { octets, inodes, over: false }
    }

    /// Whether there is too little room.
    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn sample(&mut self, free: FreeSpace) -> Option<Edge> {
        let judged = [
            self.octets.judge(free.octets, free.octets_total),
            self.inodes.judge(free.inodes, free.inodes_total),
        ];
        let over = match self.over {
            false => judged.iter().any(|(free, least, _)| free < least),
            true => judged.iter().any(|(free, _, well)| free < well),
        };
        let was = core::mem::replace(&mut self.over, over);
        match (was, over) {
            (false, true) => Some(Edge::Entered),
            (true, false) => Some(Edge::Left),
            _ => None,
        }
    }
}
