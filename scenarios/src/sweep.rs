//! One seed of a scenario: a single run, or, for a sweep, one for each place at which trouble can strike, until it no longer does (the loop
//! of SQLite's tests). Invariant: a sweep ends with a run in which nothing struck, so that no place is left out.
use crate::expect;
use crate::options::{Options, Sweep, TimedFault};
use crate::run::{self, AtStep};
use crate::swarm::PHASES;
use crate::verdict::{Outcome, Verdict};
use crate::watch::Log;
use kumo_core::time::Duration;
use kumo_io_sim::fault::FaultKind;
use kumo_io_sim::lives::Trigger;

/// Beyond this many steps a scenario is too big to be swept.
const STEPS: u64 = 20_000;

pub fn play(options: &Options, seed: u64, log: Log) -> Outcome {
    let one = |trigger: fn(u64) -> Trigger| at_every_step(options, seed, trigger, log);
    match options.sweep {
        None => {
            let mut outcome = run::once(options, seed, None, log);
            expect::judge(options, &mut outcome, |other| run::once(other, seed, None, Log::None));
            outcome
        }
        Some(Sweep::CrashAtEveryStep) => one(|_| Trigger::Crash),
        Some(Sweep::StopAtEveryStep) => one(|_| Trigger::Stop),
        Some(Sweep::FailEveryOperation) => {
            let mut both = one(|_| Trigger::FailDisk { persistently: false });
            both.add(one(|_| Trigger::FailDisk { persistently: true }));
            both
        }
        Some(Sweep::SilenceAtEachPhase) => silence_at_each_phase(options, seed, log),
    }
}

fn at_every_step(options: &Options, seed: u64, trigger: fn(u64) -> Trigger, log: Log) -> Outcome {
    let mut all = run::once(options, seed, None, log);
    let last = all.steps;
    for step in 1..=last.min(STEPS) {
        if all.verdict != Verdict::Passed {
            return all;
        }
        let at: AtStep = Some((step, trigger(step)));
        let mut outcome = run::once(options, seed, at, log);
        outcome.at_step = Some(format!("step {step}, {:?}", trigger(step)));
        all.add(outcome);
    }
    all
}

fn silence_at_each_phase(options: &Options, seed: u64, log: Log) -> Outcome {
    let mut all = Outcome { runs: 0, ..Outcome::default() };
    for phase in PHASES {
        let mut silent = Options { sweep: None, ..options.clone() };
        silent.fault.push(TimedFault {
            what: FaultKind::PeerHang,
            at: Duration::ZERO,
            lasts: Some(options.safety),
            chance: 1000,
            amount: None,
            target: Some(format!("mx1.a.example/{phase}")),
        });
        let mut outcome = play(&silent, seed, log);
        outcome.at_step = Some(format!("phase {phase}"));
        all.add(outcome);
    }
    all
}
