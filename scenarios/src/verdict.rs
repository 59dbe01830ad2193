//! How a run ended, and the exit code that says so.
use crate::check::Violation;
use crate::check::explain::Tally;
use crate::expect::Figures;
use kumo_core::engine::{Input, Output};
use kumo_core::time::Duration;
use kumo_io_sim::fault::FaultKind;
use kumo_io_sim::ledger::Entry;
use std::fmt;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Passed,
    /// A panic, in the node or in the harness.
    Crash(String),
    Broken(Violation),
    /// Not what the scenario expects.
    Unexpected(String),
    /// Two runs of one seed differ, or a journal and its replay.
    Differs(String),
}

impl Verdict {
    pub fn exit_code(&self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Crash(_) => 10,
            Verdict::Broken(broken) if broken.invariant == "I10" => 12,
            Verdict::Broken(_) | Verdict::Unexpected(_) => 11,
            Verdict::Differs(_) => 13,
        }
    }

    /// The checker that spoke, or what stands for it: equal for runs that fail in the same way.
    pub fn kind(&self) -> &str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Crash(_) => "crash",
            Verdict::Broken(broken) => broken.invariant,
            Verdict::Unexpected(_) => "expectation",
            Verdict::Differs(_) => "non-determinism",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Passed => f.write_str("passed"),
            Verdict::Crash(what) => write!(f, "crash: {what}"),
            Verdict::Broken(broken) => write!(f, "broken invariant {broken}"),
            Verdict::Unexpected(what) => write!(f, "unexpected: {what}"),
            Verdict::Differs(what) => write!(f, "not deterministic: {what}"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// Of the engine's inputs and, through the journal, its outputs.
    pub hash: u64,
    pub fired: Vec<u64>,
    pub inputs: [u64; Input::VARIANTS.len()],
    pub outputs: [u64; Output::VARIANTS.len()],
    /// Of askings for a message's next move.
    pub explained: Tally,
    pub steps: u64,
    pub virtual_time: Duration,
    pub figures: Figures,
    /// In a sweep: the step or phase at which it failed.
    pub at_step: Option<String>,
    /// Runs that this one consists of.
    pub runs: u64,
    pub ledger: Vec<Entry>,
    pub notes: Vec<(kumo_core::time::Mono, String)>,
}

impl Default for Outcome {
    fn default() -> Outcome {
        Outcome {
            verdict: Verdict::Passed,
            hash: 0,
            fired: vec![0; FaultKind::ALL.len()],
            inputs: [0; Input::VARIANTS.len()],
            outputs: [0; Output::VARIANTS.len()],
            explained: Tally::default(),
            steps: 0,
            virtual_time: Duration::ZERO,
            figures: Figures::default(),
            at_step: None,
            runs: 1,
            ledger: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl Outcome {
    /// Adds another run of the same scenario and seed; its failure is kept if there was none.
    pub fn add(&mut self, other: Outcome) {
        self.hash = self.hash.rotate_left(7) ^ other.hash;
        add_all(&mut self.fired, &other.fired);
        add_all(&mut self.inputs, &other.inputs);
        add_all(&mut self.outputs, &other.outputs);
        self.explained.add(&other.explained);
        self.steps += other.steps;
        self.virtual_time += other.virtual_time;
        self.runs += other.runs;
        if self.verdict == Verdict::Passed && other.verdict != Verdict::Passed {
            self.verdict = other.verdict;
            self.at_step = other.at_step;
            (self.ledger, self.notes) = (other.ledger, other.notes);
        }
    }
}

pub fn add_all(sum: &mut [u64], more: &[u64]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}
