//! The two clocks, both of them arguments: [`Mono`] for timeouts, [`Wall`] for dates, expiry and ids.
//! Nothing here reads a clock; `Host::now` is the only source of a [`Now`].
use core::ops::{Add, Sub};
pub use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Nanoseconds of a clock that never goes back; its zero means nothing.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Mono(pub u64);

/// Nanoseconds since 1970-01-01T00:00:00Z. Steps in both directions when an operator or NTP says so.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Wall(pub i64);

/// The moment at which something is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    pub mono: Mono,
    pub wall: Wall,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Mono {
    /// Time passed since `earlier`; zero if `earlier` lies ahead.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_add(nanos(duration)))
    }
}

impl Wall {
    /// Time passed since `earlier`; zero if `earlier` lies ahead, as after a step back.
    pub fn since(self, earlier: Wall) -> Duration {
        let passed = self.0.saturating_sub(earlier.0);
        Duration::from_nanos(u64::try_from(passed).unwrap_or(0))
    }

    pub fn from_unix_seconds(seconds: i64) -> Wall {
        Wall(seconds.saturating_mul(1_000_000_000))
    }

    /// Whole seconds since 1970, rounded down.
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }
}

impl Add<Duration> for Wall {
    type Output = Wall;
    fn add(self, duration: Duration) -> Wall {
        Wall(self.0.saturating_add_unsigned(nanos(duration)))
    }
}

impl Sub<Duration> for Wall {
    type Output = Wall;
    fn sub(self, duration: Duration) -> Wall {
        Wall(self.0.saturating_sub_unsigned(nanos(duration)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_step_back_never_yields_negative_ages() {
        assert_eq!(Wall(5).since(Wall(9)), Duration::ZERO);
        assert_eq!(Wall(9).since(Wall(5)), Duration::from_nanos(4));
        assert_eq!(Wall(i64::MAX) + Duration::MAX, Wall(i64::MAX));
        assert_eq!(Wall(-1).unix_seconds(), -1);
    }
}
