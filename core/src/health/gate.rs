//! The health gate of one store (seed.md 2; D15, D17, D18, D21). A fatal error shuts it at once; lesser ones are *trouble*, which shuts it if it
//! lasts. It opens again after a quiet time that a probe (a synced write, and its reading) has proved, and a latch for lack of room alone as soon
//! as there is room. Invariants: of [`Output::Probe`] and [`Output::Reopen`] at most one is under way; an error that comes while a probe runs
//! keeps the gate shut; the only gates without a timer are those that said that an operator is needed.
use crate::canary::{self, Canary};
use crate::port::{SpoolError, SpoolErrorKind};
use crate::time::{Duration, Mono};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};

/// Trouble ends after this, or a third of the latch time, without an error.
const QUIET: Duration = Duration::from_secs(5);
/// Between probes in trouble, and while room is waited for.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Kinds of damage that are told apart.
pub(super) const KNOWN_DAMAGE: usize = 256;
/// Between notices of errors that keep coming.
const NOTICE_EVERY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct GateConfig {
    /// As notices name it: `rocksdb at /var/spool/kumod`.
    pub store: String,
    /// Where to look further, such as its LOG file.
    pub look_at: String,
    pub error_latch: Duration,
    pub error_unlatch: Duration,
    pub allow_unlatch: bool,
}

#[derive(Debug)]
pub enum Input<'a> {
    /// A call of the store failed. A damage that can't be read shuts the gate when it is met, not at each message that lies in it.
    Failed { call: Call, kind: SpoolErrorKind, text: &'a str },
    /// The store was damaged when it was opened, and what could be read of it is served.
    Damaged { text: &'a str },
    /// A store asked for patience until somebody's deadline had passed.
    DeadlineUsedUp,
    /// The store's own count of errors in flush and compaction, which only grows.
    BackgroundErrors(u64),
    /// A synced write has succeeded.
    Synced,
    /// Whether there is room on its file system.
    Room(bool),
    /// Completes [`Output::Probe`].
    Probed(Result<(), &'a SpoolError>),
    /// Completes [`Output::Reopen`]; `Busy`: it couldn't be closed.
    Reopened(Result<(), &'a SpoolError>),
    /// Early ones are harmless.
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write, sync, read, and remove a record that is no message.
    Probe,
    Reopen,
    Notice(Notice),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Info,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub level: Level,
    pub text: String,
}

/// What a shut gate is shut for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Fatal,
    Sustained,
    NoSpace,
    /// It was opened damaged.
    Damaged,
}

#[derive(Debug)]
enum State {
    Healthy,
    Trouble(Trouble),
    Latched(Latched),
}

#[derive(Debug)]
struct Trouble {
    since: Mono,
    errors: u64,
    synced: Option<Mono>,
    /// The last attempt to prove that a synced write succeeds.
    probed: Mono,
}

#[derive(Debug)]
struct Latched {
    since: Mono,
    cause: Cause,
    /// In the words of the notice that told of it.
    why: String,
    tried: Mono,
    /// It can't be closed: only a restart helps.
    is_stuck: bool,
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    /// To prove that trouble is over.
    Proving,
    /// To open; it may be read-only, and is opened again if so. `seen`: errors when that began.
    Trying {
        seen: u64,
    },
    Reopening {
        seen: u64,
    },
    TryingAgain {
        seen: u64,
    },
}

#[derive(Debug)]
pub struct Gate {
    config: GateConfig,
    state: State,
    step: Step,
    /// Foreground errors so far.
    errors: u64,
    /// Errors of either kind, and when the last of them was.
    seen: u64,
    last_error: Mono,
    background: Option<u64>,
    has_room: bool,
    /// Damage that has shut it once: see [`damaged_part`].
    known: BTreeSet<String>,
    noticed: u64,
    notice_from: Mono,
    outputs: VecDeque<Output>,
}

impl Gate {
    pub fn new(config: GateConfig) -> Gate {
        Gate {
            config,
            state: State::Healthy,
            step: Step::Idle,
            errors: 0,
            seen: 0,
            last_error: Mono(0),
            background: None,
            has_room: true,
            known: BTreeSet::new(),
            noticed: 0,
            notice_from: Mono(0),
            outputs: VecDeque::new(),
        }
    }

    pub fn is_latched(&self) -> bool {
        matches!(self.state, State::Latched(_))
    }

    /// Whether it wants to hear of [`Input::Synced`]: that spares a healthy store the telling.
    pub fn is_troubled(&self) -> bool {
        matches!(self.state, State::Trouble(_))
    }

    pub fn cause(&self) -> Option<Cause> {
        match &self.state {
            State::Latched(latched) => Some(latched.cause),
            _ => None,
        }
    }

    /// Why it is shut and what comes next, for an operator.
    pub fn explain(&self) -> Option<String> {
        let State::Latched(latched) = &self.state else { return None };
        let next = match latched.cause {
            _ if latched.is_stuck => "it couldn't be closed: restart kumod".to_string(),
            Cause::Damaged if !self.config.allow_unlatch => {
                "allow_error_unlatch is false: stop kumod and run kumod spool check --repair".into()
            }
            _ if !self.config.allow_unlatch => "allow_error_unlatch is false: restart kumod".into(),
            Cause::NoSpace if !self.has_room => "it waits for room on its file system".into(),
            Cause::NoSpace => "there is room again, and a probe is to prove it".into(),
            _ => {
                let quiet = self.config.error_unlatch;
                format!("it opens after {quiet:?} without an error and a probe")
            }
        };
        Some(format!("{}; {next}", latched.why))
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn handle(&mut self, now: Mono, input: Input<'_>) {
        match input {
            Input::Failed { call, kind, text } => {
                if call == Call::Write || self.is_read_news(kind, text) {
                    self.failed(now, kind, text);
                } else {
                    self.errors += 1;
                }
            }
            Input::Damaged { text } => {
                self.know(text);
                self.latch(now, Cause::Damaged, text);
            }
            Input::DeadlineUsedUp => {
                self.error(now, "a write was held up until its deadline had passed");
            }
            Input::BackgroundErrors(count) => self.background_errors(now, count),
            Input::Synced => self.synced(now),
            Input::Room(has_room) => self.has_room = has_room,
            Input::Probed(result) => self.probed(now, result),
            Input::Reopened(result) => self.reopened(now, result),
            Input::Tick => {}
        }
        self.advance(now);
    }

    /// When a `Tick` is wanted.
    pub fn next_wake(&self) -> Option<Mono> {
        match &self.state {
            State::Healthy => None,
            State::Trouble(trouble) => {
                let latch = trouble.since + self.config.error_latch;
                let end = trouble.synced.map(|_| self.last_error + self.quiet());
                let probe = (self.step == Step::Idle && trouble.synced.is_none())
                    .then_some(trouble.probed + PROBE_EVERY);
                [Some(latch), end, probe].into_iter().flatten().min()
            }
            State::Latched(latched) => {
                if self.step == Step::Idle {
                    self.try_at(latched)
                } else {
                    None
                }
            }
        }
    }

    // ---- Errors ----------------------------------------------------------------------------------------

    /// Whether a read's error isn't that of damage which has shut the gate before. What else fails reads says nothing new of a shut gate,
    /// and must not put off its opening.
    fn is_read_news(&self, kind: SpoolErrorKind, text: &str) -> bool {
        match kind {
            SpoolErrorKind::Corruption | SpoolErrorKind::Io => {
                self.known.len() < KNOWN_DAMAGE && !self.known.contains(damaged_part(text))
            }
            _ => !self.is_latched(),
        }
    }

    fn know(&mut self, damage: &str) {
        if self.known.len() < KNOWN_DAMAGE {
            self.known.insert(damaged_part(damage).into());
        }
    }

    fn failed(&mut self, now: Mono, kind: SpoolErrorKind, text: &str) {
        let cause = match kind {
            SpoolErrorKind::Corruption | SpoolErrorKind::Io => {
                self.know(text);
                Cause::Fatal
            }
            SpoolErrorKind::NoSpace => Cause::NoSpace,
            // The store asks for patience, or is on its way out.
            SpoolErrorKind::Busy | SpoolErrorKind::Closed => return,
            SpoolErrorKind::Other => return self.error(now, text),
        };
        self.errors += 1;
        self.seen += 1;
        self.last_error = now;
        if cause == Cause::NoSpace {
            // Until the next sample says otherwise.
            self.has_room = false;
        }
        let kind = format!("{kind:?}");
        let Gate { config: GateConfig { store, look_at, .. }, .. } = self;
        let why = format!(
            "{store}: fatal foreground error ({kind}); load-shedding gate latched immediately. \
             Underlying error: {text}. See {look_at}"
        );
        self.latch(now, cause, &why);
    }

    /// One that doesn't shut the gate by itself.
    fn error(&mut self, now: Mono, text: &str) {
        self.errors += 1;
        self.trouble(now);
        if now >= self.notice_from {
            self.notice_from = now + NOTICE_EVERY;
            let before = core::mem::replace(&mut self.noticed, self.errors);
            let GateConfig { store, look_at, .. } = &self.config;
            let text = format!(
                "{store}: foreground errors went from {before} to {}, the last of them: {text}. A table file may be \
                 missing or damaged: see {look_at}",
                self.errors
            );
            self.notice(Level::Error, text);
        }
    }

    /// The first count is where it starts from, so that a restart on an old database isn't trouble.
    fn background_errors(&mut self, now: Mono, count: u64) {
        let Some(before) = self.background.replace(count).filter(|before| count > *before) else {
            return;
        };
        self.trouble(now);
        let GateConfig { store, look_at, .. } = &self.config;
        let text = format!(
            "{store}: background errors went from {before} to {count}: flush or compaction fails, see {look_at}"
        );
        self.notice(Level::Error, text);
    }

    fn trouble(&mut self, now: Mono) {
        self.seen += 1;
        self.last_error = now;
        match &mut self.state {
            State::Healthy => {
                self.state =
                    State::Trouble(Trouble { since: now, errors: 1, synced: None, probed: now });
            }
            State::Trouble(trouble) => {
                trouble.errors += 1;
                trouble.synced = None;
            }
            State::Latched(_) => {}
        }
    }

    fn synced(&mut self, now: Mono) {
        if let State::Trouble(trouble) = &mut self.state {
            trouble.synced = Some(now);
        }
    }

    /// A shorter latch time means a shorter memory.
    fn quiet(&self) -> Duration {
        QUIET.min(self.config.error_latch / 3)
    }

    fn notice(&mut self, level: Level, text: String) {
        self.outputs.push_back(Output::Notice(Notice { level, text }));
    }

    // ---- Shutting --------------------------------------------------------------------------------------

    fn latch(&mut self, now: Mono, cause: Cause, why: &str) {
        if canary::planted(Canary::GateNeverShuts) {
            return;
        }
        if let State::Latched(latched) = &mut self.state {
            // What is more than lack of room takes more than room to be over.
            if latched.cause == Cause::NoSpace && cause != Cause::NoSpace {
                (latched.cause, latched.why) = (cause, why.into());
            }
            return;
        }
        let why: String = why.into();
        self.notice(Level::Error, why.clone());
        self.last_error = self.last_error.max(now);
        // What was under way to prove that trouble is over has nothing to prove any more.
        self.state =
            State::Latched(Latched { since: now, cause, why, tried: now, is_stuck: false });
    }

    // ---- Time ------------------------------------------------------------------------------------------

    fn advance(&mut self, now: Mono) {
        match &self.state {
            State::Healthy => {}
            State::Trouble(trouble) => {
                let is_over = trouble.synced.is_some() && now >= self.last_error + self.quiet();
                if is_over {
                    self.state = State::Healthy;
                } else if now >= trouble.since + self.config.error_latch {
                    self.latch_sustained(now);
                } else if trouble.synced.is_none()
                    && now >= trouble.probed + PROBE_EVERY
                    && self.step == Step::Idle
                {
                    self.probe(now, Step::Proving);
                }
            }
            State::Latched(latched) => {
                let is_due = self.try_at(latched).is_some_and(|at| at <= now);
                if is_due && self.step == Step::Idle {
                    self.probe(now, Step::Trying { seen: self.seen });
                }
            }
        }
    }

    fn latch_sustained(&mut self, now: Mono) {
        let State::Trouble(trouble) = &self.state else { return };
        let GateConfig { store, look_at, .. } = &self.config;
        let why = format!(
            "{store}: errors for {:?}, {} of them; load-shedding gate latched. Ingress paths will now reject traffic: \
             see {look_at}",
            now.since(trouble.since),
            trouble.errors
        );
        self.latch(now, Cause::Sustained, &why);
    }

    fn probe(&mut self, now: Mono, step: Step) {
        match &mut self.state {
            State::Trouble(trouble) => trouble.probed = now,
            State::Latched(latched) => latched.tried = now,
            State::Healthy => {}
        }
        self.step = step;
        self.outputs.push_back(Output::Probe);
    }

    /// When to try to open; `None`: not by itself.
    fn try_at(&self, latched: &Latched) -> Option<Mono> {
        let by_itself = self.config.allow_unlatch && !latched.is_stuck;
        if !by_itself || canary::planted(Canary::GateNeverOpens) {
            return None;
        }
        match latched.cause {
            Cause::NoSpace => self.has_room.then_some(latched.tried + PROBE_EVERY),
            _ => Some(latched.since.max(self.last_error) + self.config.error_unlatch),
        }
    }

    // ---- Opening ---------------------------------------------------------------------------------------

    fn probed(&mut self, now: Mono, result: Result<(), &SpoolError>) {
        let step = core::mem::replace(&mut self.step, Step::Idle);
        match (step, result) {
            (Step::Proving, Ok(())) => self.synced(now),
            (Step::Proving, Err(error)) => self.failed_probe(now, error),
            (Step::Trying { seen } | Step::TryingAgain { seen }, Ok(())) => {
                if seen == self.seen {
                    self.open(now);
                }
            }
            (Step::Trying { seen }, Err(_)) => {
                // It may have become read-only.
                self.step = Step::Reopening { seen };
                self.outputs.push_back(Output::Reopen);
            }
            (Step::TryingAgain { .. }, Err(error)) => self.failed_probe(now, error),
            (Step::Idle | Step::Reopening { .. }, _) => panic!("nobody asked for this probe"),
        }
    }

    fn reopened(&mut self, now: Mono, result: Result<(), &SpoolError>) {
        let Step::Reopening { seen } = core::mem::replace(&mut self.step, Step::Idle) else {
            panic!("nobody asked to open it again");
        };
        match result {
            Ok(()) => {
                // The count is the opened database's own.
                self.background = None;
                self.probe(now, Step::TryingAgain { seen });
            }
            Err(error) if error.kind == SpoolErrorKind::Busy => self.stick(&error.text),
            Err(error) => self.failed_probe(now, error),
        }
    }

    fn failed_probe(&mut self, now: Mono, error: &SpoolError) {
        let SpoolError { kind, text } = error;
        match kind {
            // These aren't errors elsewhere, but a probe has failed all the same.
            SpoolErrorKind::Busy | SpoolErrorKind::Closed | SpoolErrorKind::Other => {
                self.error(now, text);
            }
            _ => {
                let was_latched = self.is_latched();
                self.failed(now, *kind, text);
                if was_latched {
                    let GateConfig { store, look_at, .. } = &self.config;
                    let text =
                        format!("{store}: still latched, a probe failed: {text}. See {look_at}");
                    self.notice(Level::Error, text);
                }
            }
        }
    }

    fn stick(&mut self, text: &str) {
        let GateConfig { store, .. } = &self.config;
        let notice = format!(
            "{store}: it can't be opened again, since it couldn't be closed: {text}. The gate stays latched: restart kumod"
        );
        if let State::Latched(latched) = &mut self.state {
            latched.is_stuck = true;
        }
        self.notice(Level::Error, notice);
    }

    fn open(&mut self, now: Mono) {
        let State::Latched(latched) = &self.state else { return };
        let GateConfig { store, .. } = &self.config;
        let quiet = now.since(latched.since.max(self.last_error));
        let background = self.background.unwrap_or(0);
        let text = format!(
            "{store}: no errors for {quiet:?} and a probe succeeded; load-shedding gate cleared after {:?}, background \
             errors count from {background}. Ingress resumes",
            now.since(latched.since)
        );
        self.state = State::Healthy;
        self.notice(Level::Info, text);
    }
}

/// What damage is told apart by: the name of the table that the store's words name, whatever else they say, or else the words.
fn damaged_part(text: &str) -> &str {
    let names = text.split(|c: char| c.is_whitespace() || "/:,;()".contains(c));
    names.into_iter().find(|name| name.ends_with(".sst")).unwrap_or(text)
}
