//! One rate limit's state: the generic cell rate algorithm, exact to the nanosecond.
//! Invariant: over any span, at most `max_burst` plus what the rate allows in it passes. [`Throttle::earliest`] and
//! [`Throttle::take`] agree, so what an operator is told is what will happen. Keys, sharing and waiting
//! are the engine's business.
use crate::config::ThrottleSpec;
use crate::time::{Duration, Mono};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// When the bucket will be full again ("theoretical arrival time").
    full_at: Mono,
}

impl ThrottleSpec {
    /// Between two that pass at the rate.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(interval(self))
    }

    /// How many may pass at once, after enough time without any.
    pub fn burst(&self) -> u64 {
        self.max_burst.unwrap_or(self.limit).max(1)
    }
}

fn interval(spec: &ThrottleSpec) -> u64 {
    let period = u64::try_from(spec.period.as_nanos()).unwrap_or(u64::MAX);
    (period / spec.limit.max(1)).max(1)
}

fn tolerance(spec: &ThrottleSpec) -> u64 {
    interval(spec).saturating_mul(spec.burst() - 1)
}

fn nanos_after(moment: Mono, now: Mono) -> u64 {
    moment.0.saturating_sub(now.0)
}

impl Throttle {
    /// When the next one may pass; `now` if it may at once.
    pub fn earliest(&self, spec: &ThrottleSpec, now: Mono) -> Mono {
        now.max(Mono(self.full_at.0.saturating_sub(tolerance(spec))))
    }

    /// Lets one pass. The caller has seen that [`Throttle::earliest`] is `now`.
    pub fn take(&mut self, spec: &ThrottleSpec, now: Mono) {
        self.take_many(spec, now, 1);
    }

    /// Lets several pass that can't be parted, once there is a token for the first: the next waits until all are paid for.
    pub fn take_many(&mut self, spec: &ThrottleSpec, now: Mono, count: u64) {
        assert!(self.earliest(spec, now) <= now, "a token was taken that wasn't there");
        let paid = Duration::from_nanos(interval(spec).saturating_mul(count));
        self.full_at = self.full_at.max(now) + paid;
    }

    /// How many may pass at once.
    pub fn remaining(&self, spec: &ThrottleSpec, now: Mono) -> u64 {
        let burst = spec.max_burst.unwrap_or(spec.limit).max(1);
        let used = nanos_after(self.full_at, now).div_ceil(interval(spec));
        burst.saturating_sub(used)
    }

    /// How long until it is as one that was never used.
    pub fn full_after(&self, now: Mono) -> Duration {
        Duration::from_nanos(nanos_after(self.full_at, now))
    }

    /// Whether it differs from one that was never used.
    pub fn is_idle(&self, now: Mono) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(limit: u64, seconds: u64, max_burst: Option<u64>) -> ThrottleSpec {
        ThrottleSpec { limit, period: Duration::from_secs(seconds), max_burst, local: false }
    }

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let spec = spec(60, 60, Some(3));
        let mut throttle = Throttle::default();
        let start = Mono(5_000_000_000);
        for _ in 0..3 {
            assert_eq!(throttle.earliest(&spec, start), start);
            throttle.take(&spec, start);
        }
        assert_eq!(throttle.remaining(&spec, start), 0);
        assert_eq!(throttle.full_after(start), Duration::from_secs(3));
        let next = throttle.earliest(&spec, start);
        assert_eq!(next, start + Duration::from_secs(1));
        throttle.take(&spec, next);
        assert_eq!(throttle.earliest(&spec, next), start + Duration::from_secs(2));
    }

    #[test]
    fn what_passes_together_is_paid_for_afterwards() {
        let spec = spec(60, 60, Some(3));
        let mut throttle = Throttle::default();
        let start = Mono(5_000_000_000);
        throttle.take_many(&spec, start, 10);
        assert_eq!(throttle.earliest(&spec, start), start + Duration::from_secs(8));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate(
            limit in 1u64..1000, seconds in 1u64..3600, burst in proptest::option::of(1u64..50),
            gaps in proptest::collection::vec(0u64..5_000_000_000, 1..200),
        ) {
            let spec = spec(limit, seconds, burst);
            let mut throttle = Throttle::default();
            let start = Mono(1_000);
            let mut now = start;
            let mut passed = 0u64;
            for gap in gaps {
                now = now + Duration::from_nanos(gap);
                if throttle.earliest(&spec, now) == now {
                    throttle.take(&spec, now);
                    passed += 1;
                }
            }
            let at_rate = (now.0 - start.0) / interval(&spec) + 1;
            prop_assert!(passed <= burst.unwrap_or(limit) + at_rate);
        }

        #[test]
        fn waiting_until_the_earliest_moment_is_enough(limit in 1u64..1000, takes in 1usize..100) {
            let spec = spec(limit, 60, Some(1));
            let mut throttle = Throttle::default();
            let mut now = Mono(0);
            for _ in 0..takes {
                now = throttle.earliest(&spec, now);
                throttle.take(&spec, now);
            }
            prop_assert!(now.0 <= interval(&spec) * takes as u64);
        }
    }
}
