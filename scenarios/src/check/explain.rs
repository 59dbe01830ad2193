//! Explain is true: of messages picked at random moments, the next move is the one that the engine told, and not before the time it told, or
//! something came in between that nobody could know, which is named. Proves that of the engine's own account ([`kumo_core::engine::next`]), by
//! running a life's journal again and asking on the way; that the words for people say the same is core's to show.
use super::{Violation, violation};
use crate::verdict::add_all;
use kumo_core::engine::next::{Action, Next, Wait, Whereabouts};
use kumo_core::engine::{Answer, CloseCause, Engine, Input, Output, Question, Resolution};
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::random::Random;
use kumo_core::time::{Mono, Now};

/// Asked after one step in so many.
const ONE_IN: u64 = 32;
/// The same where something rare has just begun.
const RARELY_ONE_IN: u64 = 2;
/// Askings that wait for their message's next move.
const OPEN: usize = 64;
/// Messages asked about at a time, of one kind of wait that hasn't been met often.
const ALIKE: usize = 4;
const OFTEN: u64 = 64;

macro_rules! surprises {
    ($($surprise:ident $name:literal)+) => {
        /// What nobody could know when the engine was asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Surprise { $($surprise),+ }

        impl Surprise {
            pub const ALL: &'static [Surprise] = &[$(Surprise::$surprise),+];

            pub fn name(self) -> &'static str {
                match self { $(Surprise::$surprise => $name),+ }
            }
        }
    };
}

surprises! {
    Order "an administrator's order"
    Gate "the spool's gate"
    Source "a source that failed"
    Watchdog "the watchdog"
    Stop "a stop"
    Connection "a connection that failed"
    Policy "an answer of policy"
    Dns "an answer of the DNS"
}

impl Surprise {
    fn of(input: &Input) -> Option<Surprise> {
        match input {
            Input::Admin { .. } => Some(Surprise::Order),
            Input::SpoolHealth { .. } => Some(Surprise::Gate),
            Input::SourceFailed { .. } => Some(Surprise::Source),
            Input::SessionStuck { .. } => Some(Surprise::Watchdog),
            Input::Stop => Some(Surprise::Stop),
            Input::Resolved { .. } => Some(Surprise::Dns),
            Input::SessionClosed { cause, .. } if *cause != CloseCause::Done => {
                Some(Surprise::Connection)
            }
            Input::Answer { answer, .. } => match answer {
                Answer::ThrottleInsert { .. } | Answer::Requeue(_) => None,
                _ => Some(Surprise::Policy),
            },
            _ => None,
        }
    }
}

/// How often each was met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Askings that came to an end, by what was waited for.
    pub asked: [u64; Wait::ALL.len()],
    /// Those of them that ended otherwise than told, by what came in between.
    pub surprised: [u64; Surprise::ALL.len()],
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        add_all(&mut self.asked, &other.asked);
        add_all(&mut self.surprised, &other.surprised);
    }
}

struct Asking {
    id: SpoolId,
    moves: u32,
    asked: Mono,
    next: Next,
    /// It has waited for nothing else since.
    unchanged: bool,
    /// The last of them.
    surprise: Option<Surprise>,
}

/// One step of the engine, as far as it has been seen.
#[derive(Default)]
struct Step {
    now: Mono,
    kind: &'static str,
    surprise: Option<Surprise>,
    is_rare: bool,
    /// With the kinds of records.
    concluded: Vec<(SpoolId, Vec<RecordKind>)>,
    /// An attempt of theirs has failed, and policy is being asked about that.
    failed: Vec<SpoolId>,
}

pub struct Askings {
    random: Random,
    step: Step,
    open: Vec<Asking>,
    pub tally: Tally,
    pub broken: Option<Violation>,
}

impl Askings {
    pub fn new(seed: u64) -> Askings {
        let random = Random::new(seed, "askings");
        let (step, open) = (Step::default(), Vec::new());
        Askings { random, step, open, tally: Tally::default(), broken: None }
    }

    /// Another life begins, or another segment of its journal: what was asked before stays open for ever.
    pub fn begin(&mut self) {
        (self.step, self.open) = (Step::default(), Vec::new());
    }

    pub fn input(&mut self, now: Now, input: &Input) {
        self.step = Step {
            now: now.mono.max(self.step.now),
            kind: Input::VARIANTS[input.variant()],
            surprise: Surprise::of(input),
            is_rare: is_rare(input),
            ..Step::default()
        };
    }

    pub fn output(&mut self, output: &Output) {
        match output {
            Output::Conclude { conclusion, .. } => {
                let kinds = conclusion.notes.iter().map(|note| note.kind).collect();
                self.step.concluded.push((conclusion.message, kinds));
            }
            Output::Ask { question: Question::Requeue { message, .. }, .. } => {
                self.step.failed.push(*message);
            }
            _ => {}
        }
    }

    pub fn handled(&mut self, engine: &Engine) {
        for at in (0..self.open.len()).rev() {
            let asking = &mut self.open[at];
            asking.surprise = self.step.surprise.or(asking.surprise);
            let Some(told) = asking.is_over(&self.step, engine) else { continue };
            let asking = self.open.swap_remove(at);
            self.end(&asking, told);
        }
        let one_in = if self.step.is_rare { RARELY_ONE_IN } else { ONE_IN };
        if self.random.below(one_in) == 0 {
            self.ask(engine);
        }
    }

    fn end(&mut self, asking: &Asking, told: Result<(), String>) {
        self.tally.asked[asking.next.waits_for as usize] += 1;
        let Err(instead) = told else { return };
        if let Some(surprise) = asking.surprise {
            self.tally.surprised[surprise as usize] += 1;
            return;
        }
        let Asking { id, asked, next, .. } = asking;
        let what = format!(
            "message {id} was told at {:.6} s to {:?} after {} at {:?}, expiring at {:?}; {instead}",
            asked.0 as f64 / 1e9,
            next.action,
            next.waits_for.name(),
            next.earliest,
            next.expires,
        );
        let broken = violation("explain", self.step.now, what);
        self.broken.get_or_insert(broken);
    }

    /// A message for each kind of wait, several if it is a rare one; the rarest first.
    fn ask(&mut self, engine: &Engine) {
        let mut alike = vec![Vec::new(); Wait::ALL.len()];
        for id in engine.message_ids() {
            let next = engine.next_of_message(id).expect("it is held");
            alike[next.waits_for as usize].push((id, next));
        }
        let asked = self.tally.asked;
        let mut waits: Vec<usize> = (0..alike.len()).filter(|at| !alike[*at].is_empty()).collect();
        waits.sort_by_key(|at| asked[*at]);
        for at in waits {
            let most = if asked[at] < OFTEN { ALIKE } else { 1 };
            for _ in 0..most.min(alike[at].len()) {
                let chosen = self.random.below(alike[at].len() as u64) as usize;
                let (id, next) = alike[at].swap_remove(chosen);
                self.ask_about(engine, id, next);
            }
        }
    }

    fn ask_about(&mut self, engine: &Engine, id: SpoolId, next: Next) {
        let moves = engine.moves_of(id).expect("it is held");
        let is_open = self.open.iter().any(|one| one.id == id && one.moves == moves);
        if self.open.len() < OPEN && !is_open {
            self.check_time(id, next);
            let (asked, unchanged, surprise) = (self.step.now, true, None);
            self.open.push(Asking { id, moves, asked, next, unchanged, surprise });
        }
    }

    fn check_time(&mut self, id: SpoolId, next: Next) {
        if let Some(past) = next.earliest.filter(|earliest| *earliest <= self.step.now) {
            let wait = next.waits_for.name();
            let what = format!("message {id} waits for {wait} until {past:?}, which is past");
            self.broken.get_or_insert(violation("explain", self.step.now, what));
        }
    }
}

/// What begins with it is often over soon.
fn is_rare(input: &Input) -> bool {
    match input {
        Input::Answer { answer, .. } => matches!(answer, Answer::Failed { .. }),
        Input::Resolved { resolution, .. } => matches!(resolution, Resolution::Failed { .. }),
        Input::Concluded { stored, .. } => !stored,
        Input::SpoolHealth { .. } | Input::SourceFailed { .. } | Input::Admin { .. } => true,
        _ => false,
    }
}

impl Asking {
    /// Whether it went as told, once its message has moved, or should have.
    fn is_over(&mut self, step: &Step, engine: &Engine) -> Option<Result<(), String>> {
        let after = engine.next_of_message(self.id);
        if engine.moves_of(self.id) != Some(self.moves) {
            let records = step.concluded.iter().find(|(id, _)| *id == self.id);
            let moved = format!("at {:?} {} moved it: {records:?} {after:?}", step.now, step.kind);
            return Some(if self.is_as_told(step, after) { Ok(()) } else { Err(moved) });
        }
        self.unchanged &= after.is_some_and(|after| after.waits_for == self.next.waits_for);
        let is_exact =
            matches!(self.next.action, Action::BecomeDue | Action::Expire | Action::BeRemoved);
        let is_past = self.next.earliest.is_some_and(|earliest| step.now >= earliest);
        (is_exact && is_past).then(|| Err("nothing happened then".into()))
    }

    fn is_as_told(&self, step: &Step, after: Option<Next>) -> bool {
        let Next { action, waits_for, earliest, expires, .. } = self.next;
        let concluded = step.concluded.iter().find(|(id, _)| *id == self.id);
        let recorded = |kind| concluded.is_some_and(|(_, kinds)| *kinds == [kind]);
        let is_now =
            |places: &[Whereabouts]| after.is_some_and(|after| places.contains(&after.from));
        let in_time = earliest.is_none_or(|earliest| step.now >= earliest);
        let has_failed = step.failed.contains(&self.id);
        if recorded(RecordKind::Expiration) && action != Action::HearOf {
            return expires.is_some_and(|expires| step.now >= expires);
        }
        match action {
            Action::BecomeDue | Action::BeRemoved => in_time,
            Action::Expire => false,
            Action::Bounce => {
                let silent = concluded.is_some_and(|(_, kinds)| kinds.is_empty());
                let bounced = recorded(RecordKind::AdminBounce) || silent;
                in_time && (bounced || is_now(&[Whereabouts::Condemned]))
            }
            Action::FailForItsDomain => in_time && (concluded.is_some() || has_failed),
            Action::MoveToReadyQueue => {
                let asked = is_now(&[Whereabouts::Asked]) && !has_failed;
                let promoted = asked || is_now(&[Whereabouts::InReadyQueue, Whereabouts::InFlight]);
                let by_dns = waits_for == Wait::Dns && (concluded.is_some() || has_failed);
                in_time && (promoted || by_dns) && self.is_its_turn(step)
            }
            Action::BeDelivered => {
                let failed = waits_for == Wait::Connecting && step.kind == "SessionClosed";
                let is_sent = is_now(&[Whereabouts::InFlight]);
                failed || (in_time && is_sent && self.is_its_turn(step))
            }
            Action::HearOf => self.is_its_turn(step),
        }
    }

    /// What it waits for is what has come.
    fn is_its_turn(&self, step: &Step) -> bool {
        let is = |kinds: &[&str]| !self.unchanged || kinds.contains(&step.kind);
        match self.next.waits_for {
            Wait::QueueConfig | Wait::Pool | Wait::EgressPath => is(&["Answer"]),
            Wait::QuestionsBefore | Wait::Policy => is(&["Answer"]),
            Wait::Dns => is(&["Resolved"]),
            Wait::SpoolHealth => is(&["SpoolHealth"]),
            Wait::Peer => is(&["Attempted", "BatchAttempted"]),
            Wait::SpoolWrite | Wait::BounceTurn => is(&["Concluded"]),
            Wait::Connecting
            | Wait::BusyConnection
            | Wait::ClosingConnection
            | Wait::ConnectionLimit => {
                is(&["SessionReady", "Attempted", "BatchAttempted", "SessionClosed"])
            }
            Wait::Stop => false,
            Wait::DueTime
            | Wait::Expiry
            | Wait::Suspension
            | Wait::QueueMessageRate
            | Wait::ReadyQueueRoom
            | Wait::EligibleSource
            | Wait::AnySource
            | Wait::QueueConfigRetry
            | Wait::PoolRetry
            | Wait::DnsRetry
            | Wait::EgressPathRetry
            | Wait::MessageRate
            | Wait::ConnectionRate
            | Wait::Batch
            | Wait::RemovalRetry => true,
        }
    }
}
