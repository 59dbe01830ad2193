//! Randomness as a value: a small, seeded generator (SplitMix64), one for each purpose, so that a draw added
//! for one purpose doesn't shift another's. Deterministic by construction; not for secrets.
use crate::time::Duration;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The generator for `purpose` under `seed`.
    pub fn new(seed: u64, purpose: &str) -> Random {
        // FNV-1a keeps the purposes apart; the first draws mix it with the seed.
        let tag = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut random = Random { state: seed ^ tag };
        random.state = random.next_u64() ^ seed;
        random
    }

    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `0..=most`.
    pub fn duration_up_to(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX - 1);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }

    /// Fisher–Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let pick = self.below(last as u64 + 1) as usize;
            items.swap(last, pick);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_are_independent_and_seeds_repeat() {
        let draw = |seed, purpose| Random::new(seed, purpose).next_u64();
        assert_eq!(draw(1, "jitter"), draw(1, "jitter"));
        assert_ne!(draw(1, "jitter"), draw(1, "shuffle"));
        assert_ne!(draw(1, "jitter"), draw(2, "jitter"));
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new(7, "test");
        assert_eq!(random.below(0), 0);
        assert!((0..1000).all(|_| random.below(3) < 3));
    }
}
