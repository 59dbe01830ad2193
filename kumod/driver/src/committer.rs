//! The committer's loop: feeds `core::commit::Committer` with what is submitted and performs its calls of the spool.
//! Invariant: each submission's waiter hears its end exactly once; only this loop writes messages to the spool.
use crate::engine_loop::Mail;
use crate::shared::Shared;
use crate::world::World;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kumo_core::commit::{
    CommitConfig, CommitOutcome, Committer, Deadline, Input, Output, Refusal, StageId, Ticket,
    Whose, Work,
};
use kumo_core::engine;
use kumo_core::health::Call;
use kumo_core::id::{OpId, SpoolId};
use kumo_core::marks::{Mark, reached};
use kumo_core::port::{Family, Spool, SpoolError, SpoolOperation, SyncMode};
use kumo_core::time::{Duration, Mono};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// Taken from the channel at one time.
const TAKEN_AT_ONCE: usize = 512;
/// A write that has taken so long is the spool's to answer for, whoever lost patience.
const SLOW: Duration = Duration::from_secs(1);

pub(crate) struct Submission {
    pub work: Work,
    pub waiter: Waiter,
    /// The submitter's own deadline; `store_deadline` counts in any case.
    pub deadline: Option<Mono>,
}

pub(crate) enum Waiter {
    Session(oneshot::Sender<CommitOutcome>),
    /// The engine, which hears whether its conclusion was stored.
    Engine {
        op: OpId,
        ends: Option<SpoolId>,
    },
    /// Nobody: what is written is a repair.
    Nobody,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    /// The health gate has changed.
    Gate {
        is_open: bool,
    },
    Stop,
    Drain,
}

type Stage = Pin<Box<dyn Future<Output = Applied> + Send>>;

/// The end of a call of the spool.
struct Applied {
    stage: StageId,
    family: Family,
    synced: bool,
    /// Handed over though its store's gate is shut: it may well fail, and would keep the gate from opening.
    is_repair: bool,
    result: Result<(), SpoolError>,
}

pub(crate) struct CommitterLoop<W: World> {
    shared: Arc<Shared<W>>,
    machine: Committer,
    /// With when it was submitted.
    waiters: HashMap<Ticket, (Waiter, Mono)>,
    next_ticket: u64,
    stages: FuturesUnordered<Stage>,
}

impl<W: World> CommitterLoop<W> {
    pub fn new(shared: Arc<Shared<W>>) -> CommitterLoop<W> {
        let atomic = shared.world.spool().is_atomic_across_families();
        let config = CommitConfig { atomic, sync: shared.sync };
        CommitterLoop {
            shared,
            machine: Committer::new(config),
            waiters: HashMap::new(),
            next_ticket: 1,
            stages: FuturesUnordered::new(),
        }
    }

    /// Runs until drained; returns what it couldn't undo.
    pub async fn run(
        mut self,
        mut submissions: mpsc::Receiver<Submission>,
        mut control: mpsc::Receiver<Control>,
    ) -> Vec<SpoolId> {
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        loop {
            let wake = self.until_wake();
            tokio::select! {
                biased;
                Some(applied) = self.stages.next(), if !self.stages.is_empty() => {
                    self.applied(applied);
                }
                Some(control) = control.recv() => match control {
                    Control::Gate { is_open } => self.handle(Input::Gate { is_open }),
                    Control::Stop => self.handle(Input::Stop),
                    Control::Drain => {
                        submissions.close();
                        while let Ok(submission) = submissions.try_recv() {
                            self.submit(submission);
                        }
                        self.handle(Input::Drain);
                    }
                },
                _ = submissions.recv_many(&mut taken, TAKEN_AT_ONCE), if !submissions.is_closed() => {
                    taken.drain(..).for_each(|submission| self.submit(submission));
                    self.handle(Input::Tick);
                }
                () = sleep(wake) => self.handle(Input::Tick),
            }
            if let Some(owed) = self.perform().await {
                return owed;
            }
        }
    }

    fn until_wake(&self) -> Duration {
        let now = self.shared.now().mono;
        self.machine.next_wake().map_or(Duration::from_secs(3600), |wake| wake.since(now))
    }

    fn handle(&mut self, input: Input) {
        let now = self.shared.now().mono;
        self.machine.handle(now, input);
    }

    fn submit(&mut self, submission: Submission) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiters.insert(ticket, (submission.waiter, self.shared.now().mono));
        let spool = self.shared.now().mono + self.shared.store_deadline;
        let deadline = Deadline::of(spool, submission.deadline);
        self.machine.submit(ticket, submission.work, deadline);
    }

    /// The gate hears of it before whoever waits for it does, so that it can shut before the next store.
    fn applied(&mut self, applied: Applied) {
        let Applied { stage, family, synced, is_repair, result } = applied;
        let now = self.shared.now().mono;
        let health = &self.shared.health;
        match &result {
            Ok(()) if synced => health.synced(now, family),
            Err(error) if !(is_repair && health.is_latched(family)) => {
                health.failed(now, family, Call::Write, error)
            }
            _ => {}
        }
        if result.is_err() && health.is_shut() {
            self.machine.handle(now, Input::Gate { is_open: false });
        }
        self.handle(Input::Applied { stage, result });
    }

    async fn perform(&mut self) -> Option<Vec<SpoolId>> {
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Apply { stage, batch, sync } => {
                    if sync == SyncMode::Synced {
                        self.shared.counters.synced_batches.add(1);
                    }
                    let shared = self.shared.clone();
                    let family = batch.first().map_or(Family::Meta, SpoolOperation::family);
                    let synced = sync == SyncMode::Synced;
                    let is_repair = shared.health.is_latched(family);
                    self.stages.push(Box::pin(async move {
                        let result = shared.world.spool().apply(batch, sync).await;
                        Applied { stage, family, synced, is_repair, result }
                    }));
                }
                Output::Sync { stage } => {
                    let (shared, family) = (self.shared.clone(), Family::Meta);
                    let is_repair = shared.health.is_latched(family);
                    self.stages.push(Box::pin(async move {
                        let result = shared.world.spool().sync(family).await;
                        Applied { stage, family, synced: true, is_repair, result }
                    }));
                }
                Output::Done { ticket, outcome } => self.done(ticket, outcome).await,
                Output::Undone { ids } => {
                    self.shared.counters.undone.add(ids.len() as u64);
                    tracing::warn!(
                        ?ids,
                        "what the spool may hold of messages that were refused was taken back"
                    );
                }
                Output::Drained { owed } => return Some(owed),
            }
        }
        None
    }

    async fn done(&mut self, ticket: Ticket, outcome: CommitOutcome) {
        let (waiter, since) = self.waiters.remove(&ticket).expect("each ticket is done once");
        let waited = self.shared.now().mono.since(since);
        match &outcome {
            // A caller who came late has nothing to say about the spool.
            CommitOutcome::TimedOut(whose) if *whose == Whose::Spool || waited >= SLOW => {
                self.shared.health.deadline_used_up(self.shared.now().mono);
            }
            CommitOutcome::Refused(Refusal::Unhealthy) => reached(Mark::RefusedUnhealthy),
            _ => {}
        }
        match waiter {
            // A session that is gone no longer wants to know.
            Waiter::Session(done) => drop(done.send(outcome)),
            Waiter::Engine { op, ends } => {
                let stored = matches!(outcome, CommitOutcome::Written);
                if stored {
                    ends.into_iter().for_each(|id| self.shared.forget_unlogged(id));
                } else {
                    tracing::error!(?outcome, "the spool didn't take an update or a removal");
                }
                let input = engine::Input::Concluded { op, stored };
                let _ = self.shared.engine.send(Mail::Input(input)).await;
            }
            Waiter::Nobody => {}
        }
    }
}
