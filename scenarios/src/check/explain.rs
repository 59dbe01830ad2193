//! Explain is true: of messages picked at random moments, the next move is the one that the engine told, and not before the time it told; what it
//! told of a time that is fixed is never taken back, and no such time passes without anything happening. Otherwise an input has come meanwhile that
//! nobody could know and that has made the engine say something else of this very message; it is counted by name. What is waited for
//! is no such excuse, unless it is bad news. Proves that of the engine's own account ([`kumo_core::engine::next`]), by running a
//! life's journal again and asking on the way; that the words for people say the same is core's to show.
use super::{Violation, violation};
use crate::verdict::add_all;
use kumo_core::engine::next::{Action, Next, Wait, Whereabouts};
use kumo_core::engine::{Answer, CloseCause, Engine, Input, Output, Question, Resolution, Then};
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::random::Random;
use kumo_core::time::{Mono, Now};

/// Asked after one step in so many.
const ONE_IN: u64 = 32;
/// The same where something rare has just begun.
const RARELY_ONE_IN: u64 = 2;
/// Askings of one kind of wait whose messages haven't moved yet.
const OPEN: usize = 8;
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
    TookLong "a wait that outlasted a bounce, or what the DNS had said"
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
    /// Askings that no move came after: their life ended, or their journal's segment.
    pub open: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        add_all(&mut self.asked, &other.asked);
        add_all(&mut self.surprised, &other.surprised);
        self.open += other.open;
    }
}

/// One step of the engine, as far as it has been seen.
#[derive(Default)]
struct Step {
    now: Mono,
    kind: &'static str,
    /// For messages that didn't wait for it, or to which it is bad news.
    surprise: Option<Surprise>,
    /// It is good news to who waits for it.
    goes_on: bool,
    begins_rarely: bool,
    concluded: Vec<Concluded>,
    /// An attempt of theirs has failed, and policy is being asked about that.
    failed: Vec<SpoolId>,
}

struct Concluded {
    message: SpoolId,
    records: Vec<RecordKind>,
    is_removed: bool,
}

struct Asking {
    id: SpoolId,
    moves: u32,
    asked: Mono,
    told: Next,
    /// What the engine would say by now.
    last: Next,
    /// It has waited for nothing else since.
    unchanged: bool,
    /// The last thing that has made the engine say otherwise.
    surprise: Option<Surprise>,
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

    /// A life is over, or a segment of its journal. Who was told that nothing would happen before that was told so rightly.
    pub fn end_of_segment(&mut self) {
        for asking in self.open.drain(..) {
            match asking.told.waits_for {
                Wait::Stop => self.tally.asked[Wait::Stop as usize] += 1,
                _ => self.tally.open += 1,
            }
        }
        self.step = Step::default();
    }

    pub fn input(&mut self, now: Now, input: &Input) {
        self.step = Step {
            now: now.mono.max(self.step.now),
            kind: Input::VARIANTS[input.variant()],
            surprise: Surprise::of(input),
            goes_on: goes_on(input),
            begins_rarely: begins_rarely(input),
            ..Step::default()
        };
    }

    pub fn output(&mut self, output: &Output) {
        match output {
            Output::Conclude { conclusion, .. } => self.step.concluded.push(Concluded {
                message: conclusion.message,
                records: conclusion.notes.iter().map(|note| note.kind).collect(),
                is_removed: conclusion.then == Then::Remove,
            }),
            Output::Ask { question: Question::Requeue { message, .. }, .. } => {
                self.step.failed.push(*message);
            }
            _ => {}
        }
    }

    pub fn handled(&mut self, engine: &Engine) {
        for at in (0..self.open.len()).rev() {
            let asking = &mut self.open[at];
            let after = engine.next_of_message(asking.id);
            let has_moved = engine.moves_of(asking.id) != Some(asking.moves);
            let Some(judged) = asking.judge(&self.step, after, has_moved) else { continue };
            let asking = self.open.swap_remove(at);
            self.end(&asking, judged);
        }
        let one_in = if self.step.begins_rarely { RARELY_ONE_IN } else { ONE_IN };
        if self.random.below(one_in) == 0 {
            self.ask(engine);
        }
    }

    fn end(&mut self, asking: &Asking, judged: Result<(), String>) {
        self.tally.asked[asking.told.waits_for as usize] += 1;
        let Err(instead) = judged else { return };
        if let Some(surprise) = asking.surprise {
            self.tally.surprised[surprise as usize] += 1;
            return;
        }
        let Asking { id, asked, told, .. } = asking;
        let what = format!(
            "message {id} was told at {:.6} s to {:?} after {} at {:?}, expiring at {:?}; at {:.6} s {instead}",
            asked.0 as f64 / 1e9,
            told.action,
            told.waits_for.name(),
            told.earliest,
            told.expires,
            self.step.now.0 as f64 / 1e9,
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

    fn ask_about(&mut self, engine: &Engine, id: SpoolId, told: Next) {
        let moves = engine.moves_of(id).expect("it is held");
        let is_open = self.open.iter().any(|one| one.id == id && one.moves == moves);
        let alike = self.open.iter().filter(|one| one.told.waits_for == told.waits_for);
        if alike.count() < OPEN && !is_open {
            let asking = Asking::new(id, moves, self.step.now, told);
            match asking.is_past(self.step.now) {
                true => self.end(&asking, Err("that is past already".into())),
                false => self.open.push(asking),
            }
        }
    }
}

/// What begins with it is often over soon.
fn begins_rarely(input: &Input) -> bool {
    match input {
        Input::Answer { answer, .. } => matches!(answer, Answer::Failed { .. }),
        Input::Resolved { resolution, .. } => matches!(resolution, Resolution::Failed { .. }),
        Input::Concluded { stored, .. } => !stored,
        Input::SpoolHealth { .. } | Input::SourceFailed { .. } => true,
        Input::Admin { .. } | Input::Stop => true,
        _ => false,
    }
}

/// Who waits for it goes on.
fn goes_on(input: &Input) -> bool {
    match input {
        Input::Answer { answer, .. } => !matches!(answer, Answer::Failed { .. }),
        Input::Resolved { resolution, .. } => matches!(resolution, Resolution::Found { .. }),
        Input::SessionClosed { cause, .. } => *cause == CloseCause::Done,
        _ => true,
    }
}

/// The inputs that end it; `None`: any may, and time.
fn ends_with(wait: Wait) -> Option<&'static [&'static str]> {
    let kinds: &[&str] = match wait {
        Wait::QueueConfig | Wait::Pool | Wait::EgressPath => &["Answer"],
        Wait::QuestionsBefore | Wait::Policy => &["Answer"],
        Wait::Dns => &["Resolved"],
        Wait::SpoolHealth => &["SpoolHealth"],
        Wait::Peer => &["Attempted", "BatchAttempted"],
        Wait::SpoolWrite => &["Concluded"],
        Wait::Connecting
        | Wait::BusyConnection
        | Wait::ClosingConnection
        | Wait::ConnectionLimit => {
            &["SessionReady", "Attempted", "BatchAttempted", "SessionClosed"]
        }
        Wait::Stop => &[],
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
        | Wait::RemovalRetry => return None,
    };
    Some(kinds)
}

/// Its end is known from the beginning.
fn is_fixed(wait: Wait) -> bool {
    matches!(
        wait,
        Wait::DueTime
            | Wait::Suspension
            | Wait::AnySource
            | Wait::QueueConfigRetry
            | Wait::PoolRetry
            | Wait::DnsRetry
            | Wait::EgressPathRetry
            | Wait::RemovalRetry
    )
}

impl Asking {
    fn new(id: SpoolId, moves: u32, asked: Mono, told: Next) -> Asking {
        Asking { id, moves, asked, told, last: told, unchanged: true, surprise: None }
    }

    /// What the engine says now is of the past.
    fn is_past(&self, now: Mono) -> bool {
        self.last.earliest.is_some_and(|earliest| earliest <= now)
    }

    /// Whether it went as told: once its message has moved, or the engine takes back what it said though nothing has happened to it.
    fn judge(
        &mut self,
        step: &Step,
        after: Option<Next>,
        has_moved: bool,
    ) -> Option<Result<(), String>> {
        if has_moved || after != Some(self.last) {
            self.surprise = self.surprised_by(step, after, has_moved).or(self.surprise);
        }
        if has_moved {
            let moved = || {
                let mut concluded = step.concluded.iter();
                let concluded = concluded.find(|one| one.message == self.id);
                let records = concluded.map(|one| &one.records);
                format!("{} moved it: {records:?} {after:?}", step.kind)
            };
            return Some(if self.is_as_told(step, after) { Ok(()) } else { Err(moved()) });
        }
        let after = after.expect("what isn't held any more has moved");
        let was = std::mem::replace(&mut self.last, after);
        self.unchanged &= after.waits_for == self.told.waits_for;
        if self.surprise.is_none() && has_given_way(&was, &after, step.now) {
            return Some(Err(format!("{} made of it {after:?}", step.kind)));
        }
        self.is_past(step.now).then(|| Err("nothing happened then".into()))
    }

    fn surprised_by(&self, step: &Step, after: Option<Next>, has_moved: bool) -> Option<Surprise> {
        let before = self.last;
        let same_action = has_moved || after.is_some_and(|after| after.action == before.action);
        let awaited = ends_with(before.waits_for).is_some_and(|kinds| kinds.contains(&step.kind));
        match step.surprise {
            Some(_) if awaited && step.goes_on && same_action => None,
            // When it would be looked at couldn't be said.
            None if matches!(before.action, Action::Bounce | Action::FailForItsDomain)
                && before.earliest.is_none()
                && !same_action =>
            {
                Some(Surprise::TookLong)
            }
            surprise => surprise,
        }
    }

    fn is_as_told(&self, step: &Step, after: Option<Next>) -> bool {
        let concluded = step.concluded.iter().find(|one| one.message == self.id);
        let recorded = |kind| concluded.is_some_and(|one| one.records == [kind]);
        let is_removed = concluded.is_some_and(|one| one.is_removed);
        let is_now =
            |places: &[Whereabouts]| after.is_some_and(|after| places.contains(&after.from));
        let has_failed = step.failed.contains(&self.id);
        // For good, or perhaps as long as its time lasts.
        let began_with = |kind| concluded.is_some_and(|one| one.records.first() == Some(&kind));
        let fails = has_failed
            || began_with(RecordKind::TransientFailure)
            || is_removed && recorded(RecordKind::Bounce);
        let Next { action, earliest, .. } = self.told;
        if recorded(RecordKind::Expiration) && action != Action::HearOf {
            // Before its configuration has come, nobody knows when.
            return self.last.expires.is_none_or(|expires| step.now >= expires);
        }
        let in_time = earliest.is_none_or(|earliest| step.now >= earliest);
        let went_on = is_now(&[Whereabouts::InReadyQueue, Whereabouts::InFlight])
            || is_now(&[Whereabouts::Asked]) && !has_failed;
        let as_told = match action {
            Action::BecomeDue => went_on || is_now(&[Whereabouts::InLine]) || fails,
            Action::BeRemoved => after.is_none() || is_now(&[Whereabouts::BeingWritten]),
            Action::Expire => false,
            Action::Bounce => {
                let silent = is_removed && concluded.is_some_and(|one| one.records.is_empty());
                silent || recorded(RecordKind::AdminBounce) || is_now(&[Whereabouts::Condemned])
            }
            Action::FailForItsDomain => fails,
            Action::MoveToReadyQueue => went_on && self.is_its_turn(step),
            Action::BeDelivered => is_now(&[Whereabouts::InFlight]) && self.is_its_turn(step),
            Action::HearOf => self.is_its_turn(step),
        };
        in_time && as_told
    }

    /// What it waits for is what has come.
    fn is_its_turn(&self, step: &Step) -> bool {
        let kinds = ends_with(self.told.waits_for).filter(|_| self.unchanged);
        kinds.is_none_or(|kinds| kinds.contains(&step.kind))
    }
}

/// What was said has been taken back before its time.
fn has_given_way(was: &Next, is: &Next, now: Mono) -> bool {
    let Some(earliest) = was.earliest.filter(|earliest| now < *earliest) else { return false };
    is_fixed(was.waits_for) && (was.waits_for, Some(earliest)) != (is.waits_for, is.earliest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn told(action: Action, waits_for: Wait, earliest: Option<u64>) -> Next {
        let from = match action {
            Action::BecomeDue | Action::Bounce => Whereabouts::Scheduled,
            Action::BeDelivered => Whereabouts::InReadyQueue,
            Action::HearOf => Whereabouts::BeingWritten,
            _ => Whereabouts::InLine,
        };
        let earliest = earliest.map(|seconds| Mono(seconds * SECOND));
        Next { from, action, waits_for, earliest, expires: Some(Mono(900 * SECOND)) }
    }

    fn asking(next: Next) -> Asking {
        Asking::new(SpoolId([7; 16]), 1, Mono(0), next)
    }

    fn step(kind: &'static str, seconds: u64) -> Step {
        Step { now: Mono(seconds * SECOND), kind, goes_on: true, ..Step::default() }
    }

    fn concluded(step: Step, records: &[RecordKind]) -> Step {
        let (message, records) = (SpoolId([7; 16]), records.to_vec());
        Step { concluded: vec![Concluded { message, records, is_removed: true }], ..step }
    }

    /// Whether it went as told, and what surprised; `None`: it goes on.
    fn judged(
        mut asking: Asking,
        steps: Vec<(Step, Option<Next>, bool)>,
    ) -> Option<(bool, Option<Surprise>)> {
        let judge = |(step, after, has_moved)| asking.judge(&step, after, has_moved);
        let judged = steps.into_iter().find_map(judge)?;
        Some((judged.is_ok(), asking.surprise))
    }

    #[test]
    fn what_happens_as_told_is_true() {
        let due = told(Action::BecomeDue, Wait::DueTime, Some(20));
        let in_line = told(Action::MoveToReadyQueue, Wait::Dns, None);
        let ready = told(Action::BeDelivered, Wait::Connecting, None);
        let policy = Step { surprise: Some(Surprise::Policy), ..step("Answer", 5) };
        let pool = told(Action::MoveToReadyQueue, Wait::Pool, None);
        for (next, steps) in [
            (due, vec![(step("Tick", 20), Some(in_line), true)]),
            (pool, vec![(policy, Some(in_line), false), (step("Resolved", 6), Some(ready), true)]),
        ] {
            assert_eq!(judged(asking(next), steps), Some((true, None)), "{next:?}");
        }
    }

    #[test]
    fn a_lie_is_found() {
        let retry = told(Action::MoveToReadyQueue, Wait::DnsRetry, Some(60));
        let dns = told(Action::MoveToReadyQueue, Wait::Dns, None);
        let due = told(Action::BecomeDue, Wait::DueTime, Some(20));
        let pool = told(Action::MoveToReadyQueue, Wait::Pool, None);
        let written = told(Action::HearOf, Wait::SpoolWrite, None);
        let ready = told(Action::BeDelivered, Wait::Connecting, None);
        let policy = Step { surprise: Some(Surprise::Policy), ..step("Answer", 5) };
        let bounced = concluded(step("Tick", 20), &[RecordKind::AdminBounce]);
        for (what, next, steps) in [
            ("asked before its time", retry, vec![(step("Tick", 30), Some(dns), false)]),
            ("its time passes", retry, vec![(step("Tick", 61), Some(retry), false)]),
            ("put off", due, vec![(step("Tick", 9), Some(Next { earliest: None, ..due }), false)]),
            ("too early", due, vec![(step("Tick", 19), Some(ready), true)]),
            ("something else", due, vec![(bounced, Some(written), true)]),
            (
                "fails on good news",
                pool,
                vec![(concluded(policy, &[RecordKind::Bounce]), None, true)],
            ),
            ("another's turn", ready, vec![(step("Admit", 5), Some(written), true)]),
        ] {
            assert_eq!(judged(asking(next), steps), Some((false, None)), "{what}");
        }
    }

    #[test]
    fn only_what_touches_the_message_surprises() {
        let due = told(Action::BecomeDue, Wait::DueTime, Some(20));
        let written = told(Action::HearOf, Wait::SpoolWrite, None);
        let order = || Step { surprise: Some(Surprise::Order), ..step("Admin", 5) };
        let bounce = told(Action::Bounce, Wait::DueTime, Some(20));
        let end = || (concluded(step("Tick", 20), &[RecordKind::AdminBounce]), Some(written), true);
        let others = vec![(order(), Some(due), false), end()];
        assert_eq!(judged(asking(due), others), Some((false, None)));
        let its = vec![(order(), Some(bounce), false), end()];
        assert_eq!(judged(asking(due), its), Some((false, Some(Surprise::Order))));
    }

    #[test]
    fn bad_news_surprises_though_it_is_waited_for() {
        let dns = told(Action::MoveToReadyQueue, Wait::Dns, None);
        let written = told(Action::HearOf, Wait::SpoolWrite, None);
        let news = Step { surprise: Some(Surprise::Dns), goes_on: false, ..step("Resolved", 5) };
        let steps = vec![(concluded(news, &[RecordKind::Bounce]), Some(written), true)];
        assert_eq!(judged(asking(dns), steps), Some((false, Some(Surprise::Dns))));
    }
}
