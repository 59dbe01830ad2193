//! What came of a run: counts, rates, latencies, and what failed.
use kumo_core::config::duration;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Parts of each power of two: a quantile is off by 3 % at most.
const STEPS: u64 = 32;
/// Up to 2^36 microseconds, 19 hours.
const BUCKETS: usize = (STEPS * 32) as usize;
/// Kinds of failure that are told.
pub const FAILURES_TOLD: usize = 10;

/// A histogram of times that many tasks add to.
pub struct Latencies {
    buckets: Vec<AtomicU64>,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Latencies {
    pub fn add(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// The time within which `share` of all were done.
    pub fn quantile(&self, share: f64) -> Duration {
        let counts: Vec<u64> =
            self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let wanted = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        Duration::from_micros(found.map_or(0, lower_bound))
    }
}

/// Exact below `STEPS`; above, `STEPS` buckets for each power of two.
fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let power = u64::from(micros.ilog2() - STEPS.ilog2());
    let step = (micros >> power) - STEPS;
    ((STEPS * (power + 1) + step) as usize).min(BUCKETS - 1)
}

fn lower_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let power = bucket / STEPS - 1;
    (STEPS + bucket % STEPS) << power
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub elapsed: Duration,
    pub accepted: u64,
    /// Refused, or not sent for lack of a connection.
    pub failed: u64,
    /// The connection was lost before the answer to the whole content came.
    pub unknown: u64,
    pub was_connected: bool,
    /// Messages weren't even tried, because of trouble.
    pub is_cut_short: bool,
    pub p50: Duration,
    pub p99: Duration,
    /// Texts with how often each occurred.
    pub failures: Vec<(String, u64)>,
}

impl Report {
    pub fn not_accepted(&self) -> u64 {
        self.failed + self.unknown
    }

    pub fn per_second(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }

    pub fn exit_code(&self) -> u8 {
        match self.was_connected {
            false => 3,
            true => u8::from(self.not_accepted() > 0 || self.is_cut_short),
        }
    }

    pub fn json(&self) -> String {
        let rate = self.per_second();
        let failures: Vec<_> = self
            .failures
            .iter()
            .map(|(text, count)| json!({"text": text, "count": count}))
            .collect();
        let document = json!({
            "seconds": self.elapsed.as_secs_f64(),
            "accepted": self.accepted,
            "failed": self.failed,
            "unknown": self.unknown,
            "per_second": rate,
            "per_minute": rate * 60.0,
            "per_hour": rate * 3600.0,
            "latency_p50_ms": self.p50.as_secs_f64() * 1000.0,
            "latency_p99_ms": self.p99.as_secs_f64() * 1000.0,
            "failures": failures,
        });
        format!("{document:#}\n")
    }

    pub fn text(&self) -> String {
        let rate = self.per_second();
        let seconds = Duration::from_millis(self.elapsed.as_millis() as u64);
        let mut text = format!(
            "accepted: {} in {}, failed: {}, unknown: {}\n\
             rate: {:.0}/s, {:.0}/minute, {:.0}/hour\n\
             final reply: p50 {:.1} ms, p99 {:.1} ms\n",
            self.accepted,
            duration::render(seconds),
            self.failed,
            self.unknown,
            rate,
            rate * 60.0,
            rate * 3600.0,
            self.p50.as_secs_f64() * 1000.0,
            self.p99.as_secs_f64() * 1000.0,
        );
        for (failure, count) in &self.failures {
            text.push_str(&format!("{count} × {failure}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_what_they_say() {
        let mut last = 0;
        for micros in (0..100_000).chain([1 << 30, 1 << 35, u64::MAX]) {
            let bucket = bucket(micros);
            assert!(bucket >= last && bucket < BUCKETS);
            assert!(lower_bound(bucket) <= micros);
            let is_capped = bucket == BUCKETS - 1;
            assert!(is_capped || lower_bound(bucket) >= micros - micros / STEPS, "{micros}");
            last = bucket;
        }
    }

    #[test]
    fn quantiles_are_within_three_percent() {
        let latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), Duration::ZERO);
        (1..=10_000).for_each(|n| latencies.add(Duration::from_micros(n)));
        for (share, micros) in [(0.5, 5_000.0), (0.99, 9_900.0)] {
            let found = latencies.quantile(share).as_micros() as f64;
            assert!((found / micros - 1.0).abs() < 0.035, "{share}: {found}");
        }
    }

    #[test]
    fn the_report_gives_rates_and_its_exit_code_says_whether_all_is_well() {
        let report = Report {
            elapsed: Duration::from_millis(2_000),
            accepted: 1_000,
            was_connected: true,
            p50: Duration::from_micros(1_500),
            p99: Duration::from_millis(20),
            ..Report::default()
        };
        assert_eq!(
            report.text(),
            "accepted: 1000 in 2s, failed: 0, unknown: 0\n\
             rate: 500/s, 30000/minute, 1800000/hour\n\
             final reply: p50 1.5 ms, p99 20.0 ms\n"
        );
        assert_eq!(report.exit_code(), 0);
        let failed = Report { failed: 1, failures: vec![("451 no".into(), 1)], ..report.clone() };
        assert!(failed.text().ends_with("1 × 451 no\n"));
        assert_eq!(failed.exit_code(), 1);
        assert_eq!(Report { unknown: 1, ..report.clone() }.exit_code(), 1);
        assert_eq!(Report { is_cut_short: true, ..report.clone() }.exit_code(), 1);
        assert_eq!(Report { was_connected: false, ..report }.exit_code(), 3);
    }
}
