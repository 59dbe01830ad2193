//! Identities: spool ids (UUID v1, so that they carry the message's creation time), operations, sessions.
//! An id made here is unique within a node as long as the generator's clock sequence is (it is drawn anew at
//! every start, and ticks never repeat within a life). Nothing here parses UUIDs of other versions.
use crate::random::Random;
use crate::time::{Duration, Wall};
use alloc::sync::Arc;
use core::fmt;
use core::str::FromStr;
use core::sync::atomic::{AtomicU64, Ordering};
use serde::{Deserialize, Serialize};

/// 100 ns ticks between 1582-10-15 and 1970-01-01 (RFC 9562 section 5.1).
const GREGORIAN_OFFSET_TICKS: u64 = 0x01B2_1DD2_1381_4000;

/// A message's identity: 16 bytes, printed as 32 hexadecimal digits. The key of its spool records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpoolId(pub [u8; 16]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message id is 32 hexadecimal digits, this isn't: {0:?}")]
pub struct SpoolIdError(pub alloc::string::String);

impl SpoolId {
    /// What the health gate's probe writes: no message has it, nor comes after it.
    pub const PROBE: SpoolId = SpoolId([0xff; 16]);

    /// When the message was created. 100 ns resolution.
    pub fn created(&self) -> Wall {
        let b = &self.0;
        let low = u64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let mid = u64::from(u16::from_be_bytes([b[4], b[5]]));
        let high = u64::from(u16::from_be_bytes([b[6], b[7]]) & 0x0fff);
        let ticks = (high << 48) | (mid << 32) | low;
        let since_epoch = ticks.wrapping_sub(GREGORIAN_OFFSET_TICKS) as i64;
        Wall(since_epoch.saturating_mul(100))
    }
}

impl fmt::Display for SpoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpoolId {
    type Err = SpoolIdError;
    fn from_str(text: &str) -> Result<SpoolId, SpoolIdError> {
        let wrong = || SpoolIdError(text.chars().take(64).collect());
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| wrong())?;
        Ok(SpoolId(number.to_be_bytes()))
    }
}

/// Makes spool ids whose ticks strictly increase, also when the wall clock stands still or steps back. Clones share their
/// ticks, so that all ids of one life of a node are told apart, and told from those of other lives.
#[derive(Clone, Debug)]
pub struct SpoolIdGenerator {
    last_ticks: Arc<AtomicU64>,
    /// Clock sequence and node, as the last eight bytes of every id.
    tail: [u8; 8],
}

impl SpoolIdGenerator {
    pub fn new(seed: u64) -> SpoolIdGenerator {
        let mut tail = Random::new(seed, "spool ids").next_u64().to_be_bytes();
        tail[0] = (tail[0] & 0x3f) | 0x80; // variant of RFC 9562
        tail[2] |= 0x01; // multicast bit: a random node, never somebody's MAC address
        SpoolIdGenerator { last_ticks: Arc::new(AtomicU64::new(0)), tail }
    }

    /// Whether an id is this generator's or a clone's: made in this life of the process.
    pub fn made(&self, id: SpoolId) -> bool {
        id.0[8..] == self.tail
    }

    pub fn next(&self, wall: Wall) -> SpoolId {
        let since_epoch = (wall.0 / 100) as u64;
        let wanted = since_epoch.wrapping_add(GREGORIAN_OFFSET_TICKS) & 0x0fff_ffff_ffff_ffff;
        let advance = |last: u64| Some(wanted.max(last + 1));
        let last = self.last_ticks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, advance);
        let ticks = wanted.max(last.expect("it always advances") + 1);
        let mut id = [0; 16];
        id[0..4].copy_from_slice(&(ticks as u32).to_be_bytes());
        id[4..6].copy_from_slice(&((ticks >> 32) as u16).to_be_bytes());
        id[6..8].copy_from_slice(&(((ticks >> 48) as u16 & 0x0fff) | 0x1000).to_be_bytes());
        id[8..16].copy_from_slice(&self.tail);
        SpoolId(id)
    }
}

/// An operation the engine asked for. Never reused within a life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub u64);

/// An outgoing connection, from the decision to open it until it is known to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// The age of a message at `now`.
pub fn age(id: SpoolId, now: Wall) -> Duration {
    now.since(id.created())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_carries_its_creation_time_and_survives_printing() {
        let generator = SpoolIdGenerator::new(1);
        let wall = Wall(1_795_000_000_123_456_700);
        let id = generator.next(wall);
        assert_eq!(id.created(), wall);
        assert_eq!(id.to_string().parse::<SpoolId>().unwrap(), id);
        assert_eq!(id.0[6] >> 4, 1, "version 1");
        assert!(generator.made(id) && !SpoolIdGenerator::new(2).made(id));
    }

    #[test]
    fn ids_increase_when_the_clock_steps_back() {
        let generator = SpoolIdGenerator::new(1);
        let first = generator.next(Wall(2_000_000_000));
        let second = generator.next(Wall(1_000_000_000));
        assert!(second.created() > first.created());
    }

    #[test]
    fn other_texts_are_errors() {
        for text in ["", "xyz", "+1234567890123456789012345678901", &"é".repeat(16)] {
            assert!(text.parse::<SpoolId>().is_err(), "{text}");
        }
    }
}
