//! What all connections of a run share: who sends which message when, until when, and what came of it.
//! Invariant: no number is given out twice, and none once the run has ended.
use super::arguments::Arguments;
use super::report::{FAILURES_TOLD, Latencies, Report};
use kumo_core::config::rate::ThrottleSpec;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Texts of failures that are counted apart; the rest is counted as one.
const FAILURES_KEPT: usize = 100;
/// Connections that fail one after another, on one worker, before it gives up.
const CONNECT_FAILURES: u32 = 10;
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

pub struct Run {
    started: Instant,
    ends: Option<Instant>,
    limit: Option<u64>,
    keep_going: bool,
    pace: Option<Pace>,
    next: AtomicU64,
    stopped: watch::Sender<bool>,
    was_connected: AtomicBool,
    /// Trouble ended the run, or a worker, before its time.
    cut_short: AtomicBool,
    accepted: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    latencies: Latencies,
    failures: Mutex<BTreeMap<String, u64>>,
}

/// One slot after the other at even distances.
struct Pace {
    distance: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    fn new(spec: ThrottleSpec, start: Instant) -> Pace {
        Pace { distance: spec.period.div_f64(spec.limit as f64), next: Mutex::new(start) }
    }

    fn reserve(&self, count: u64) -> Instant {
        let mut next = self.next.lock().expect("nothing panics while holding it");
        let slot = (*next).max(Instant::now());
        *next = slot + self.distance.mul_f64(count as f64);
        slot
    }
}

impl Run {
    pub fn new(arguments: &Arguments) -> Run {
        let started = Instant::now();
        Run {
            started,
            ends: arguments.duration().map(|duration| started + duration),
            limit: arguments.message_count,
            keep_going: arguments.keep_going,
            pace: arguments.throttle.map(|spec| Pace::new(spec, started)),
            next: AtomicU64::new(0),
            stopped: watch::Sender::new(false),
            was_connected: AtomicBool::new(false),
            cut_short: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            latencies: Latencies::default(),
            failures: Mutex::new(BTreeMap::new()),
        }
    }

    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Numbers of the next messages to send, at most so many, once it is time. `None`: the run is over.
    pub async fn take(&self, most: u64) -> Option<Range<u64>> {
        if self.is_over() {
            return None;
        }
        let limit = self.limit.unwrap_or(u64::MAX);
        let claim = |next: u64| (next < limit).then(|| next + most.min(limit - next));
        let start = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).ok()?;
        let numbers = start..claim(start)?;
        let Some(pace) = &self.pace else { return Some(numbers) };
        let slot = pace.reserve(numbers.end - numbers.start);
        if self.ends.is_some_and(|ends| slot >= ends) || !self.sleep(slot).await {
            return None;
        }
        Some(numbers)
    }

    fn is_over(&self) -> bool {
        *self.stopped.borrow() || self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// False: the run was stopped meanwhile.
    async fn sleep(&self, until: Instant) -> bool {
        let mut stopped = self.stopped.subscribe();
        tokio::select! {
            biased;
            // The sender lives as long as this does.
            _ = stopped.wait_for(|stopped| *stopped) => false,
            () = sleep_until(until) => true,
        }
    }

    pub fn connected(&self) {
        self.was_connected.store(true, Ordering::Relaxed);
    }

    pub fn accepted(&self, count: u64, latency: Duration) {
        self.accepted.fetch_add(count, Ordering::Relaxed);
        self.latencies.add(latency);
    }

    pub fn failed(&self, count: u64, why: &str) {
        self.failed.fetch_add(count, Ordering::Relaxed);
        self.note(count, why);
    }

    /// Whether the target has them can't be known.
    pub fn unknown(&self, count: u64, why: &str) {
        self.unknown.fetch_add(count, Ordering::Relaxed);
        self.note(count, why);
    }

    /// What keeps messages from being sent, without being a message's fault.
    pub fn trouble(&self, why: &str) {
        self.note(1, why);
    }

    /// Before connecting anew. False: that was one failure in a row too many, or the run is over.
    pub async fn back_off(&self, failures_in_a_row: u32) -> bool {
        if failures_in_a_row >= CONNECT_FAILURES {
            self.cut_short.store(true, Ordering::Relaxed);
            return false;
        }
        if self.is_over() {
            return false;
        }
        let wait = Duration::from_millis(100 << failures_in_a_row.min(6)).min(BACK_OFF_MAX);
        self.sleep(Instant::now() + wait).await
    }

    fn note(&self, count: u64, why: &str) {
        if !self.keep_going {
            self.cut_short.store(true, Ordering::Relaxed);
            self.stopped.send_replace(true);
        }
        let mut failures = self.failures.lock().expect("nothing panics while holding it");
        let is_known = failures.len() < FAILURES_KEPT || failures.contains_key(why);
        let text = if is_known { why } else { "other failures" };
        *failures.entry(text.to_owned()).or_default() += count;
    }

    pub fn report(&self) -> Report {
        let failures = self.failures.lock().expect("nothing panics while holding it");
        let mut failures: Vec<(String, u64)> =
            failures.iter().map(|(text, count)| (text.clone(), *count)).collect();
        failures.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        failures.truncate(FAILURES_TOLD);
        let accepted = self.accepted.load(Ordering::Relaxed);
        let is_cut_short = self.cut_short.load(Ordering::Relaxed);
        Report {
            elapsed: self.started.elapsed(),
            accepted,
            failed: self.failed.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
            was_connected: self.was_connected.load(Ordering::Relaxed),
            is_cut_short: is_cut_short && self.limit != Some(accepted),
            p50: self.latencies.quantile(0.5),
            p99: self.latencies.quantile(0.99),
            failures,
        }
    }
}
