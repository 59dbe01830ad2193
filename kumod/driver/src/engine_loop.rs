//! The engine's loop: one input after another, its outputs performed before the next.
//! Invariant: this loop never waits for anybody but its mail and its timer, so that nobody who waits for the engine waits for
//! long. What an output asks for is done by other tasks, each of which answers with mail.
use crate::client::{Command, Fenced, returned};
use crate::concluder::Job;
use crate::dispatchers::Dispatchers;
use crate::journal::Journal;
use crate::questions;
use crate::shared::{Ending, Shared};
use crate::world::World;
use kumo_core::engine::{
    AdminCommand, AdminReply, CloseCause, Engine, Input, Outcome, Outcomes, Output,
};
use kumo_core::id::{OpId, SessionId};
use kumo_core::smtp::reply::Reply;
use kumo_core::source_health::SourceEdge;
use kumo_core::time::{Duration, Now};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

pub(crate) type Look = Box<dyn FnOnce(&Engine, &Dispatchers, Now) + Send>;

/// What the engine's loop is sent.
pub(crate) enum Mail {
    Input(Input),
    /// Not heard if the session was cut off meanwhile.
    FromSession {
        session: SessionId,
        input: Input,
    },
    /// Looks at the engine; must be quick.
    Query(Look),
    Admin {
        command: AdminCommand,
        reply: oneshot::Sender<AdminReply>,
    },
}

/// Letters taken at one time.
const TAKEN_AT_ONCE: usize = 256;
/// Without a timer of the engine's.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Operations of the loop itself, told apart from the engine's own by their first bit.
const ADMIN_OPS: u64 = 1 << 63;

pub(crate) struct EngineLoop<W: World> {
    shared: Arc<Shared<W>>,
    engine: Engine,
    journal: Option<Journal<W>>,
    dispatchers: Dispatchers,
    admin: HashMap<OpId, oneshot::Sender<AdminReply>>,
    next_admin: u64,
    /// Inputs that this loop itself has found, before any mail.
    own: VecDeque<Input>,
    stopped: Option<oneshot::Sender<()>>,
}

impl<W: World> EngineLoop<W> {
    /// `stopped` is told once the engine has said [`Output::Stopped`].
    pub fn new(
        shared: Arc<Shared<W>>,
        engine: Engine,
        journal: Option<Journal<W>>,
        stopped: oneshot::Sender<()>,
    ) -> EngineLoop<W> {
        EngineLoop {
            shared,
            engine,
            journal,
            dispatchers: Dispatchers::default(),
            admin: HashMap::new(),
            next_admin: ADMIN_OPS,
            own: VecDeque::new(),
            stopped: Some(stopped),
        }
    }

    /// Runs as long as anybody can send mail.
    pub async fn run(mut self, mut mail: mpsc::Receiver<Mail>) {
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        loop {
            self.rest(mail.is_empty());
            let (wake, write, look) = (self.until_wake(), self.until_write(), self.until_look());
            let pause = wake.min(write).min(look);
            tokio::select! {
                biased;
                count = mail.recv_many(&mut taken, TAKEN_AT_ONCE) => if count == 0 { return },
                () = sleep(pause) => if wake == pause { self.feed(Input::Tick) },
            }
            taken.drain(..).for_each(|letter| self.open(letter));
            // Whatever woke it: also where there is always mail.
            if self.until_look().is_zero() {
                self.look_after_sessions();
            }
            self.shared.engine_full.store(self.engine.is_full(), Ordering::Relaxed);
        }
    }

    /// The journal ends with the engine's stop.
    fn rest(&mut self, idle: bool) {
        if self.stopped.is_none() {
            self.journal.take().into_iter().for_each(Journal::finish);
        }
        if let Some(journal) = &mut self.journal {
            journal.rest(&self.engine, idle);
        }
    }

    fn until_wake(&self) -> Duration {
        let now = self.shared.now().mono;
        self.engine.next_wake().map_or(LONGEST_SLEEP, |(wake, _)| wake.since(now))
    }

    /// Until the journal has something to hand over.
    fn until_write(&self) -> Duration {
        let due = self.journal.as_ref().and_then(Journal::due);
        due.map_or(LONGEST_SLEEP, |due| due.since(self.shared.now().mono))
    }

    /// Until somebody may be stuck.
    fn until_look(&self) -> Duration {
        let look = self.dispatchers.next_look();
        look.map_or(LONGEST_SLEEP, |look| look.since(self.shared.now().mono))
    }

    fn look_after_sessions(&mut self) {
        for (session, text) in self.dispatchers.stuck(self.shared.now().mono) {
            self.feed(Input::SessionStuck { session, text: text.into() });
        }
    }

    fn open(&mut self, letter: Mail) {
        match letter {
            Mail::Input(input) => self.feed(input),
            Mail::FromSession { session, input } => self.hear(session, input),
            Mail::Query(look) => look(&self.engine, &self.dispatchers, self.shared.now()),
            Mail::Admin { command, reply } => {
                let op = OpId(self.next_admin);
                self.next_admin += 1;
                self.admin.insert(op, reply);
                self.feed(Input::Admin { op, command });
            }
        }
    }

    fn hear(&mut self, session: SessionId, input: Input) {
        let Some(task) = self.dispatchers.standing(session) else {
            return self.shared.counters.late_completions.add(1);
        };
        match &input {
            Input::Attempted { .. } | Input::BatchAttempted { .. } => task.given = None,
            Input::SessionClosed { .. } => self.dispatchers.forget(session),
            _ => {}
        }
        self.feed(input);
    }

    fn feed(&mut self, input: Input) {
        self.own.push_back(input);
        while let Some(input) = self.own.pop_front() {
            let now = self.shared.now();
            if let Some(journal) = &mut self.journal {
                journal.begin_step(now, &input);
            }
            self.engine.handle(now, input);
            while let Some(output) = self.engine.poll() {
                if let Some(journal) = &mut self.journal {
                    journal.output(&output);
                }
                self.perform(output);
            }
            if let Some(journal) = &mut self.journal {
                journal.end_step();
                journal.rest(&self.engine, false);
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Ask { op, question, deadline } => {
                questions::ask(&self.shared, op, question, deadline);
            }
            Output::Resolve { op, domain, deadline } => {
                questions::resolve(&self.shared, op, domain, deadline);
            }
            Output::Open { session, target } => {
                self.dispatchers.start(&self.shared, session, *target);
            }
            // Each wait of a session has a deadline of its own, and one that makes no progress at all has the watchdog.
            Output::Deliver { op, session, message, recipients, deadline: _ } => {
                let command = Command::Deliver { op, message, recipients };
                if let Some(Command::Deliver { op, .. }) =
                    self.dispatchers.task(session).tell(command)
                {
                    self.own.push_back(returned(op));
                }
            }
            Output::DeliverBatch { op, session, messages, deadline: _ } => {
                let command = Command::DeliverBatch { op, messages };
                if self.dispatchers.task(session).tell(command).is_some() {
                    self.own.push_back(returned(op));
                }
            }
            Output::Close { session } => {
                drop(self.dispatchers.task(session).tell(Command::Close));
            }
            Output::Abort { session, why } => self.abort(session, &why),
            Output::Conclude { op, conclusion } => {
                // The concluders live as long as the process.
                let _ = self.shared.conclusions.send(Job { op, conclusion });
            }
            Output::AdminDone { op, reply } => {
                let waiting = self.admin.remove(&op).expect("only this loop gives orders");
                // Who asked may be gone.
                let _ = waiting.send(reply);
            }
            Output::SourceChanged { source, edge } => self.log_source(&source, edge),
            Output::Stopped => {
                let stopped = self.stopped.take().expect("the engine stops once");
                let _ = stopped.send(());
            }
        }
    }

    /// Fences: from here on the task isn't heard any more, and what it owed is completed in its place. Unless its word is on the way.
    fn abort(&mut self, session: SessionId, why: &str) {
        let task = self.dispatchers.task(session);
        let Some(Fenced { body_began: began }) = task.abort() else { return };
        let (given, activity) = (task.given, task.activity.clone());
        tracing::debug!(session = activity.session, why, "outgoing session aborted");
        let connection = activity.connection().unwrap_or_default();
        self.shared.keep_ending(session, Ending { reply: Reply::new(451, why), connection });
        if let Some(op) = given {
            let outcomes = Outcomes::Uniform(Outcome::Aborted { began });
            self.own.push_back(Input::Attempted { op, outcomes, reusable: false });
        }
        self.own.push_back(Input::SessionClosed { session, cause: CloseCause::Aborted });
        self.dispatchers.forget(session);
    }

    fn log_source(&self, source: &str, edge: SourceEdge) {
        let why = |reason| self.shared.source_failures.last(source, reason).unwrap_or_default();
        match edge {
            SourceEdge::Suspended { reason, duration } => {
                let why = why(reason);
                tracing::warn!(source, ?reason, ?duration, why, "egress source auto-suspended");
            }
            SourceEdge::Extended { reason, duration } => {
                let why = why(reason);
                tracing::debug!(
                    source,
                    ?reason,
                    ?duration,
                    why,
                    "egress source suspension extended"
                );
            }
            SourceEdge::Cleared { reason } => {
                tracing::info!(source, ?reason, "egress source auto-suspension cleared");
            }
        }
    }
}
