//! The health of one egress source (seed.md 12.4): counts the failures that speak against it, suspends it as its configuration says, and ends that
//! when its time has come. Invariants: a suspension has an end; each edge is told once, an extension apart from a beginning. What becomes of the
//! mail meanwhile is the engine's.
use crate::config::{SuspendRule, Trigger};
use crate::time::{Duration, Mono};
use alloc::collections::VecDeque;
use serde::{Deserialize, Serialize};

/// Of a window's period; each lasts a second at least.
const BUCKETS: u64 = 60;

/// What speaks against a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SourceFailure {
    /// No interface has its address.
    Unplumbed,
    /// Its proxy can't be reached, or doesn't have its address.
    ProxyUnhealthy,
}

impl SourceFailure {
    pub const ALL: [SourceFailure; 2] = [SourceFailure::Unplumbed, SourceFailure::ProxyUnhealthy];

    /// As metrics and logs have it.
    pub fn name(self) -> &'static str {
        match self {
            SourceFailure::Unplumbed => "Unplumbed",
            SourceFailure::ProxyUnhealthy => "ProxyUnhealthy",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceEdge {
    Suspended {
        reason: SourceFailure,
        duration: Duration,
    },
    Extended {
        reason: SourceFailure,
        duration: Duration,
    },
    /// By its time, or by an operator.
    Cleared {
        reason: SourceFailure,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    pub reason: SourceFailure,
    pub since: Mono,
    pub ends: Mono,
}

/// Failures in the last period, in buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    period: Duration,
    /// Number of the bucket since the clock's zero, and what is in it; the oldest first.
    buckets: VecDeque<(u64, u64)>,
}

impl Window {
    /// Counts one more; how many there were in the period.
    fn count(&mut self, now: Mono, period: Duration) -> u64 {
        if self.period != period {
            *self = Window { period, buckets: VecDeque::new() };
        }
        let (bucket, buckets) = division(period);
        let number = now.0 / bucket;
        match self.buckets.back_mut() {
            Some((last, count)) if *last == number => *count += 1,
            _ => self.buckets.push_back((number, 1)),
        }
        while self.buckets.front().is_some_and(|(first, _)| number - first >= buckets) {
            self.buckets.pop_front();
        }
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

/// Nanoseconds of a bucket, and buckets of a period.
fn division(period: Duration) -> (u64, u64) {
    let seconds = period.as_secs().max(1);
    let bucket = seconds.div_ceil(BUCKETS);
    (bucket.saturating_mul(1_000_000_000), seconds.div_ceil(bucket))
}

/// What is known of one class of failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    window: Window,
    pub failures: u64,
    pub last: Option<Mono>,
    /// Beginnings, not extensions.
    pub suspensions: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceHealth {
    classes: [Class; 2],
    suspension: Option<Suspension>,
}

impl SourceHealth {
    pub fn suspension(&self) -> Option<Suspension> {
        self.suspension
    }

    pub fn class(&self, failure: SourceFailure) -> &Class {
        &self.classes[failure as usize]
    }

    /// `rule`: what the source's configuration says of this class.
    pub fn failed(
        &mut self,
        now: Mono,
        failure: SourceFailure,
        rule: Option<&SuspendRule>,
    ) -> Option<SourceEdge> {
        let class = &mut self.classes[failure as usize];
        class.failures += 1;
        class.last = Some(now);
        let rule = rule?;
        let fires = match rule.trigger {
            Trigger::Immediate => true,
            Trigger::Threshold { failures, period } => class.window.count(now, period) >= failures,
        };
        fires.then(|| self.suspend(now, failure, rule.duration))
    }

    fn suspend(&mut self, now: Mono, reason: SourceFailure, duration: Duration) -> SourceEdge {
        let ends = now + duration;
        match &mut self.suspension {
            Some(suspension) if suspension.reason == reason => {
                suspension.ends = ends;
                SourceEdge::Extended { reason, duration }
            }
            other => {
                *other = Some(Suspension { reason, since: now, ends });
                self.classes[reason as usize].suspensions += 1;
                SourceEdge::Suspended { reason, duration }
            }
        }
    }

    /// Its time has come.
    pub fn expire(&mut self, now: Mono) -> Option<SourceEdge> {
        let ended = self.suspension.take_if(|suspension| suspension.ends <= now)?;
        Some(SourceEdge::Cleared { reason: ended.reason })
    }

    /// An operator says that it is well: what was counted so far doesn't count any more.
    pub fn resume(&mut self) -> Option<SourceEdge> {
        let ended = self.suspension.take()?;
        self.classes.iter_mut().for_each(|class| class.window = Window::default());
        Some(SourceEdge::Cleared { reason: ended.reason })
    }
}

#[cfg(test)]
mod tests {
    use super::SourceFailure::{ProxyUnhealthy, Unplumbed};
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * SECOND)
    }

    fn rule(trigger: Trigger) -> SuspendRule {
        SuspendRule { trigger, duration: Duration::from_secs(30) }
    }

    fn threshold(failures: u64, seconds: u64) -> SuspendRule {
        rule(Trigger::Threshold { failures, period: Duration::from_secs(seconds) })
    }

    #[test]
    fn without_a_rule_failures_are_only_counted() {
        let mut health = SourceHealth::default();
        for second in 0..100 {
            assert_eq!(health.failed(at(second), Unplumbed, None), None);
        }
        assert_eq!(health.suspension(), None);
        let summary = health.class(Unplumbed);
        assert_eq!((summary.failures, summary.last, summary.suspensions), (100, Some(at(99)), 0));
        assert_eq!(health.class(ProxyUnhealthy).failures, 0);
    }

    #[test]
    fn immediately_means_the_first_and_more_of_them_extend_it() {
        let (mut health, rule) = (SourceHealth::default(), rule(Trigger::Immediate));
        let duration = rule.duration;
        let edge = health.failed(at(1), Unplumbed, Some(&rule));
        assert_eq!(edge, Some(SourceEdge::Suspended { reason: Unplumbed, duration }));
        let edge = health.failed(at(11), Unplumbed, Some(&rule));
        assert_eq!(edge, Some(SourceEdge::Extended { reason: Unplumbed, duration }));
        let expected = Suspension { reason: Unplumbed, since: at(1), ends: at(41) };
        assert_eq!(health.suspension(), Some(expected));
        assert_eq!(health.class(Unplumbed).suspensions, 1);
        assert_eq!(health.expire(at(40)), None);
        assert_eq!(health.expire(at(41)), Some(SourceEdge::Cleared { reason: Unplumbed }));
        assert_eq!(health.expire(at(42)), None, "once");
    }

    #[test]
    fn another_reason_is_another_suspension() {
        let (mut health, rule) = (SourceHealth::default(), rule(Trigger::Immediate));
        health.failed(at(1), Unplumbed, Some(&rule));
        let edge = health.failed(at(2), ProxyUnhealthy, Some(&rule));
        assert!(matches!(edge, Some(SourceEdge::Suspended { reason: ProxyUnhealthy, .. })));
        let suspensions = SourceFailure::ALL.map(|class| health.class(class).suspensions);
        assert_eq!(suspensions, [1, 1]);
    }

    #[test]
    fn a_threshold_counts_what_lies_in_the_sliding_period() {
        let (mut health, rule) = (SourceHealth::default(), threshold(3, 60));
        for second in [0, 30, 61, 92] {
            assert_eq!(health.failed(at(second), Unplumbed, Some(&rule)), None, "{second}");
        }
        assert!(health.failed(at(100), Unplumbed, Some(&rule)).is_some());
    }

    #[test]
    fn classes_are_counted_apart_and_a_changed_period_counts_anew() {
        let mut health = SourceHealth::default();
        let of_two = threshold(2, 60);
        assert_eq!(health.failed(at(0), Unplumbed, Some(&of_two)), None);
        assert_eq!(health.failed(at(1), ProxyUnhealthy, Some(&of_two)), None);
        assert_eq!(health.failed(at(2), Unplumbed, Some(&threshold(2, 120))), None);
        assert!(health.failed(at(3), ProxyUnhealthy, Some(&of_two)).is_some());
    }

    #[test]
    fn what_an_operator_has_resumed_begins_anew() {
        let (mut health, rule) = (SourceHealth::default(), threshold(2, 60));
        health.failed(at(0), Unplumbed, Some(&rule));
        assert!(health.failed(at(1), Unplumbed, Some(&rule)).is_some());
        assert_eq!(health.resume(), Some(SourceEdge::Cleared { reason: Unplumbed }));
        assert_eq!(health.resume(), None);
        assert_eq!(health.failed(at(2), Unplumbed, Some(&rule)), None);
    }

    #[test]
    fn memory_is_bounded_however_long_the_period() {
        for seconds in [1, 59, 60, 61, 3600, 86_400, 100 * 31_557_600] {
            let (mut window, period) = (Window::default(), Duration::from_secs(seconds));
            let mut now = 0;
            for _ in 0..1_000 {
                now += (seconds / 50).max(1);
                window.count(at(now.min(u64::MAX / SECOND)), period);
            }
            assert!(window.buckets.len() <= BUCKETS as usize, "{seconds}");
        }
    }

    proptest! {
        /// Against a list of all failures: it fires where so many lie in the period, to a bucket's width.
        #[test]
        fn a_window_agrees_with_a_list(
            failures in 1..6u64,
            seconds in 1..600u64,
            gaps in prop::collection::vec(0..200u64, 1..60),
        ) {
            let (mut health, rule) = (SourceHealth::default(), threshold(failures, seconds));
            let bucket = seconds.div_ceil(BUCKETS);
            let (mut now, mut all) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                all.push(now);
                let within = |width: u64| all.iter().filter(|then| **then + width > now).count() as u64;
                let fired = health.failed(at(now), Unplumbed, Some(&rule)).is_some();
                prop_assert!(fired || within(seconds.saturating_sub(bucket)) < failures);
                prop_assert!(!fired || within(seconds + bucket) >= failures);
            }
        }
    }
}
