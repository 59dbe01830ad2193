//! Whether a campaign met everything: each kind of fault, each variant of the engine's inputs and outputs, each coverage mark. Invariant: what
//! can't be met yet is listed here by name with its reason, and meeting it is an error, too, so that the list gets shorter.
use crate::check::explain::{Surprise, Tally};
use crate::swarm::is_rare;
use crate::verdict::{Outcome, add_all};
use kumo_core::engine::next::Wait;
use kumo_core::engine::{Input, Output};
use kumo_core::marks::{self, Mark};
use kumo_io_sim::fault::FaultKind;

/// Nobody feeds it yet.
const NOT_YET: &[(&str, &str)] = &[];

/// In thousandths of the swarm's seeds.
const SHARE_MIN: u64 = 10;

/// In thousandths of what was asked.
const SURPRISED_MAX: u64 = 100;

#[derive(Default)]
pub struct Coverage {
    fired: Vec<u64>,
    /// Swarm seeds in which a fault fired at all.
    swarm_seeds_with: Vec<u64>,
    swarm_seeds: u64,
    inputs: [u64; Input::VARIANTS.len()],
    outputs: [u64; Output::VARIANTS.len()],
    explained: Tally,
}

impl Coverage {
    pub fn add(&mut self, scenario: &str, outcome: &Outcome) {
        self.fired.resize(FaultKind::ALL.len(), 0);
        self.swarm_seeds_with.resize(FaultKind::ALL.len(), 0);
        add_all(&mut self.fired, &outcome.fired);
        add_all(&mut self.inputs, &outcome.inputs);
        add_all(&mut self.outputs, &outcome.outputs);
        self.explained.add(&outcome.explained);
        if scenario == "swarm" {
            self.swarm_seeds += 1;
            let once: Vec<u64> = outcome.fired.iter().map(|count| u64::from(*count > 0)).collect();
            add_all(&mut self.swarm_seeds_with, &once);
        }
    }

    /// What was met how often, by name.
    pub fn counts(&self) -> Vec<(String, u64)> {
        let mut counts = self.met();
        counts.extend(self.explanations());
        counts
    }

    /// What a campaign has to meet.
    fn met(&self) -> Vec<(String, u64)> {
        let faults = FaultKind::ALL.iter().zip(&self.fired);
        let faults = faults.map(|(kind, count)| (format!("fault {}", kind.name()), *count));
        let inputs = Input::VARIANTS.iter().zip(self.inputs);
        let inputs = inputs.map(|(name, count)| (format!("input {name}"), count));
        let outputs = Output::VARIANTS.iter().zip(self.outputs);
        let outputs = outputs.map(|(name, count)| (format!("output {name}"), count));
        let marks = Mark::ALL.iter().map(|mark| (format!("mark {mark:?}"), marks::hits(*mark)));
        faults.chain(inputs).chain(outputs).chain(marks).collect()
    }

    /// How often a message's next move was asked for, by what it waited for; and what surprised those who asked.
    fn explanations(&self) -> Vec<(String, u64)> {
        let Tally { asked, surprised, open } = &self.explained;
        let asked = Wait::ALL.iter().zip(asked);
        let asked = asked.map(|(wait, count)| (format!("explained {}", wait.name()), *count));
        let surprised = Surprise::ALL.iter().zip(surprised);
        let surprised =
            surprised.map(|(one, count)| (format!("surprised by {}", one.name()), *count));
        let open = ("explained to no end".to_string(), *open);
        asked.chain(surprised).chain([open]).collect()
    }

    /// What should have been met and wasn't, or the reverse.
    pub fn missing(&self) -> Vec<String> {
        let excused = |name: &str| NOT_YET.iter().find(|(excused, _)| *excused == name);
        let mut missing: Vec<String> = self
            .met()
            .into_iter()
            .filter_map(|(name, count)| match (excused(&name), count) {
                (None, 0) => Some(format!("{name} was never met")),
                (Some((_, why)), 1..) => {
                    Some(format!("{name} was met, and is excused in coverage.rs since {why}"))
                }
                _ => None,
            })
            .collect();
        missing.extend(self.rare());
        missing.extend(self.unexplained());
        missing
    }

    /// Kinds of wait that nobody asked about, and surprises so many that what is told is worth little.
    fn unexplained(&self) -> impl Iterator<Item = String> {
        let Tally { asked, surprised, .. } = self.explained;
        let never = Wait::ALL.iter().zip(asked).filter(|(_, count)| *count == 0);
        let never = never.map(|(wait, _)| format!("nobody waited for {}", wait.name()));
        let (asked, surprised): (u64, u64) = (asked.iter().sum(), surprised.iter().sum());
        let too_many = surprised * 1000 > asked * SURPRISED_MAX;
        let share =
            format!("{surprised} of {asked} explanations ended in a surprise, more than 10 %");
        never.chain(too_many.then_some(share))
    }

    /// Faults that fire in too few seeds of the swarm to be a test of anything.
    fn rare(&self) -> impl Iterator<Item = String> {
        let seeds = self.swarm_seeds;
        let judged = seeds >= 1_000;
        let shares = FaultKind::ALL.iter().zip(&self.swarm_seeds_with);
        let shares = shares.filter(|(kind, _)| !is_rare(**kind));
        shares.filter(move |(_, with)| judged && **with * 1000 < seeds * SHARE_MIN).map(
            move |(kind, with)| {
                format!(
                    "fault {} fires in {with} of {seeds} swarm seeds, fewer than 1 %",
                    kind.name()
                )
            },
        )
    }

    pub fn swarm_share(&self, kind: FaultKind) -> Option<f64> {
        let with = *self.swarm_seeds_with.get(kind as usize)?;
        (self.swarm_seeds > 0).then(|| with as f64 * 100.0 / self.swarm_seeds as f64)
    }
}
