//! Many seeds of many scenarios on all cores, one in twenty of them twice, and whether everything that could go wrong did. Invariant: what is
//! played is listed before it begins and doesn't depend on the order in which workers finish; a failure is the lowest seed that failed.
use crate::coverage::Coverage;
use crate::library::Scenario;
use crate::sweep;
use crate::verdict::{Outcome, Verdict};
use crate::watch::Log;
use indicatif::{ProgressBar, ProgressStyle};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One seed in so many is run twice (I18).
pub const TWICE: u64 = 20;
/// Real time after which a run is taken to spin.
const SPINS: Duration = Duration::from_secs(120);

pub struct Failure {
    pub scenario: Scenario,
    pub seed: u64,
    pub outcome: Outcome,
}

pub struct Report {
    pub runs: u64,
    pub seeds: u64,
    pub coverage: Coverage,
    /// Of each scenario that failed: how many seeds, and the lowest.
    pub failures: Vec<Failure>,
    pub failed_seeds: u64,
    pub virtual_hours: f64,
    pub took: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub workers: usize,
    /// Go on after failures, and count them.
    pub keep_going: bool,
    pub progress: bool,
}

/// Plays it, and again if it is its turn: the two have to agree.
pub fn play(scenario: &Scenario, seed: u64, twice: bool) -> Outcome {
    let options = scenario.options(seed);
    let mut outcome = sweep::play(&options, seed, Log::None);
    if twice && outcome.verdict == Verdict::Passed {
        let again = sweep::play(&options, seed, Log::None);
        if again.hash != outcome.hash || again.steps != outcome.steps {
            let what = format!("hash {:016x}, then {:016x}", outcome.hash, again.hash);
            outcome.verdict = Verdict::Differs(what);
        }
    }
    outcome
}

struct Shared {
    report: Mutex<Report>,
    next: AtomicUsize,
    stop: AtomicBool,
    /// What each worker is at, and since when.
    busy: Vec<Mutex<Option<(usize, Instant)>>>,
}

pub fn run(plan: &[(Scenario, Range<u64>)], settings: Settings) -> Report {
    let tasks: Vec<(usize, u64)> = plan
        .iter()
        .enumerate()
        .flat_map(|(index, (_, seeds))| seeds.clone().map(move |seed| (index, seed)))
        .collect();
    let began = Instant::now();
    let bar = bar(tasks.len() as u64, settings.progress);
    let empty = Report {
        runs: 0,
        seeds: 0,
        coverage: Coverage::default(),
        failures: Vec::new(),
        failed_seeds: 0,
        virtual_hours: 0.0,
        took: Duration::ZERO,
    };
    let shared = Shared {
        report: Mutex::new(empty),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        busy: (0..settings.workers).map(|_| Mutex::new(None)).collect(),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..settings.workers)
            .map(|worker| {
                let (shared, tasks, bar) = (&shared, &tasks, &bar);
                scope.spawn(move || work(worker, shared, plan, tasks, settings, bar))
            })
            .collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(20));
            give_up_on_spinning(&shared, plan, &tasks);
        }
    });
    bar.finish_and_clear();
    let mut report = shared.report.into_inner().expect("no worker panics");
    report.took = began.elapsed();
    report.failures.sort_by(|a, b| (&a.scenario.name, a.seed).cmp(&(&b.scenario.name, b.seed)));
    report
}

fn bar(length: u64, shown: bool) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}, {msg}, {eta} left");
    ProgressBar::new(length).with_style(style.expect("a template of ours"))
}

fn work(
    worker: usize,
    shared: &Shared,
    plan: &[(Scenario, Range<u64>)],
    tasks: &[(usize, u64)],
    settings: Settings,
    bar: &ProgressBar,
) {
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some((index, seed)) = tasks.get(number) else { return };
        let scenario = &plan[*index].0;
        let at = |now| *shared.busy[worker].lock().expect("held by nobody who panics") = now;
        at(Some((number, Instant::now())));
        let outcome = play(scenario, *seed, seed % TWICE == 0);
        at(None);
        let mut report = shared.report.lock().expect("held by nobody who panics");
        take(&mut report, scenario, *seed, outcome);
        if !report.failures.is_empty() && !settings.keep_going {
            shared.stop.store(true, Ordering::Relaxed);
        }
        bar.set_message(format!(
            "{:.0} virtual hours, {} failed",
            report.virtual_hours, report.failed_seeds
        ));
        bar.inc(1);
    }
}

fn take(report: &mut Report, scenario: &Scenario, seed: u64, outcome: Outcome) {
    report.runs += outcome.runs;
    report.seeds += 1;
    report.virtual_hours += outcome.virtual_time.as_secs_f64() / 3600.0;
    report.coverage.add(&scenario.name, &outcome);
    if outcome.verdict != Verdict::Passed {
        report.failed_seeds += 1;
        report.failures.push(Failure { scenario: scenario.clone(), seed, outcome });
    }
}

/// A run that takes no virtual time can't be stopped from within: the process ends and says which it was.
fn give_up_on_spinning(shared: &Shared, plan: &[(Scenario, Range<u64>)], tasks: &[(usize, u64)]) {
    for busy in &shared.busy {
        let Some((number, since)) = *busy.lock().expect("held by nobody who panics") else {
            continue;
        };
        if since.elapsed() > SPINS {
            let (index, seed) = tasks[number];
            let name = &plan[index].0.name;
            eprintln!(
                "{name} under seed {seed} has run for {SPINS:?} of real time: it spins, or is far too big\n  cargo sim replay {name} --seed {seed}"
            );
            std::process::exit(10);
        }
    }
}
