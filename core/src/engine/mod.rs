//! The control plane: one machine that owns every decision about queued mail.
//!
//! - [`io`]: what it can be told and what it can want. `model`: what it remembers; `arena`, `timers`: how.
//! - `admission`: messages come and go. `promotion`: from a scheduled queue to a ready queue. `dispatch`: from a ready queue
//!   over a session to the peer. `batches`: several messages at once, to policy's own senders. `outcome`: what an attempt means.
//!   `admin`: what operators ordered. `schedule`: when. `sources`: which ways out are suspended. `abort`: sessions that are cut off.
//! - [`next`]: what a message does next; [`explain`]: why something is as it is; [`listing`]: what there is; [`inspect`]: one ready queue from inside.
//!
//! # Invariants
//! - A message is in exactly one place (`model::Place`); whoever moves it goes through `Engine::place`.
//! - Every operation asked for is in `pending` until its one completion; another completion panics.
//! - Whatever waits has a timer or stands in the line of what it waits for, and says why (`model::Block`, `Held`).
//! - Decisions never depend on the order of a hashed map.
mod abort;
mod admin;
mod admission;
mod arena;
mod batches;
mod dispatch;
pub mod explain;
pub mod inspect;
pub mod io;
pub mod listing;
mod model;
pub mod next;
mod outcome;
mod promotion;
mod schedule;
mod sources;
#[cfg(test)]
mod tests;
mod timers;

pub use io::*;
pub use model::{Block, Held, Tally};
pub use promotion::ready_queue_name;
pub use timers::WakeReason;

use crate::id::{OpId, SessionId, SpoolId};
use crate::marks::{Mark, reached};
use crate::random::Random;
use crate::throttle::Throttle;
use crate::time::{Duration, Mono, Now};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use arena::Arena;
use model::*;
use serde::{Deserialize, Serialize};
use sources::{Source, SourceHandle};
use timers::{NEVER, Timer, Timers};

/// What is fixed for a life of the engine. Part of a journal's beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineConfig {
    /// `throttle_insert_ready_queue` has a handler.
    pub asks_throttle_insert: bool,
    /// `requeue_message` has a handler.
    pub asks_requeue: bool,
    /// How long policy may take over a question.
    pub ask_timeout: Duration,
    pub resolve_timeout: Duration,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            asks_throttle_insert: false,
            asks_requeue: false,
            ask_timeout: Duration::from_secs(60),
            resolve_timeout: Duration::from_secs(60),
        }
    }
}

/// What to look at before the next input is taken.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Work {
    Scheduled(QueueHandle),
    Ready(ReadyHandle),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Engine {
    config: EngineConfig,
    now: Now,
    retry_random: Random,
    route_random: Random,
    outputs: VecDeque<Output>,
    next_op: u64,
    next_session: u64,
    pending: Map<OpId, Pending>,
    messages: Arena<Message>,
    message_by_id: Map<SpoolId, MessageHandle>,
    queues: Arena<ScheduledQueue>,
    queue_by_name: Map<Arc<str>, QueueHandle>,
    ready: Arena<ReadyQueue>,
    ready_by_name: Map<Arc<str>, ReadyHandle>,
    sources: Arena<Source>,
    source_by_name: Map<Arc<str>, SourceHandle>,
    /// Until then, looking for sources to be forgotten would be in vain.
    sources_full_until: Mono,
    sessions: BTreeMap<SessionId, Session>,
    pools: BTreeMap<Arc<str>, Pool>,
    leases: BTreeMap<Arc<str>, Lease>,
    shared_throttles: BTreeMap<Box<str>, Throttle>,
    timers: Timers,
    work: VecDeque<Work>,
    admin: Admin,
    /// Bounced by an operator, waiting for their turn to be concluded.
    condemned: VecDeque<(MessageHandle, Arc<AdminEntry>)>,
    condemned_concluding: usize,
    /// Conclusions and notes outstanding: a stop waits for them.
    concluding: usize,
    counts: listing::Counts,
    spool_healthy: bool,
    stopping: bool,
    stopped: bool,
}

fn seeded<K, V>(seed: u64) -> Map<K, V> {
    Map::with_hasher(foldhash::fast::FixedState::with_seed(seed))
}

impl Engine {
    pub fn new(config: EngineConfig, seed: u64) -> Engine {
        Engine {
            config,
            now: Now::default(),
            retry_random: Random::new(seed, "retry jitter"),
            route_random: Random::new(seed, "routes"),
            outputs: VecDeque::new(),
            next_op: 1,
            next_session: 1,
            pending: seeded(seed),
            messages: Arena::default(),
            message_by_id: seeded(seed),
            queues: Arena::default(),
            queue_by_name: seeded(seed),
            ready: Arena::default(),
            ready_by_name: seeded(seed),
            sources: Arena::default(),
            source_by_name: seeded(seed),
            sources_full_until: Mono(0),
            sessions: BTreeMap::new(),
            pools: BTreeMap::new(),
            leases: BTreeMap::new(),
            shared_throttles: BTreeMap::new(),
            timers: Timers::default(),
            work: VecDeque::new(),
            admin: Admin::default(),
            condemned: VecDeque::new(),
            condemned_concluding: 0,
            concluding: 0,
            counts: listing::Counts::default(),
            spool_healthy: true,
            stopping: false,
            stopped: false,
        }
    }

    /// Panics on an input that breaks the contract of [`io`]; never on what peers, policy or disk say.
    pub fn handle(&mut self, now: Now, input: Input) {
        assert!(self.outputs.is_empty(), "outputs are drained before the next input");
        // A clock that went back is the host's fault; what was decided stays decided.
        self.now = Now { mono: now.mono.max(self.now.mono), wall: now.wall };
        match input {
            Input::Tick => {}
            Input::Admit(admission) => self.admit(admission),
            Input::Answer { op, answer } => self.answered(op, answer),
            Input::Resolved { op, resolution } => self.resolved(op, resolution),
            Input::SessionReady { session } => self.session_ready(session),
            Input::Attempted { op, outcomes, reusable } => self.attempted(op, outcomes, reusable),
            Input::BatchAttempted { op, outcomes, reusable } => {
                self.batch_attempted(op, outcomes, reusable);
            }
            Input::SessionClosed { session, cause } => self.session_closed(session, cause),
            Input::Concluded { op, stored } => self.concluded(op, stored),
            Input::Admin { op, command } => self.administer(op, command),
            Input::SpoolHealth { healthy } => self.spool_health(healthy),
            Input::SourceFailed { session, failure } => self.source_failed(session, failure),
            Input::SessionStuck { session, text } => self.session_stuck(session, text),
            Input::Stop => self.stop(),
        }
        self.fire_timers();
        self.run();
        self.say_stopped();
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the next [`Input::Tick`] is wanted, and what for.
    pub fn next_wake(&self) -> Option<(Mono, WakeReason)> {
        self.timers.next()
    }

    fn run(&mut self) {
        while let Some(work) = self.work.pop_front() {
            match work {
                Work::Scheduled(queue) => self.pump_scheduled(queue),
                Work::Ready(ready) => self.pump_ready(ready),
            }
        }
    }

    fn fire_timers(&mut self) {
        while let Some(timer) = self.timers.pop(self.now.mono) {
            match timer {
                Timer::Message(message) => {
                    self.messages[message].armed = NEVER;
                    self.message_timer(message);
                }
                Timer::Scheduled(queue) => {
                    self.queues[queue].armed = NEVER;
                    self.scheduled_timer(queue);
                }
                Timer::Ready(ready) => {
                    self.ready[ready].armed = NEVER;
                    self.ready_timer(ready);
                }
                Timer::Admin => {
                    self.admin.armed = NEVER;
                    self.admin_timer();
                }
                Timer::Source(source) => {
                    self.sources[source].armed = NEVER;
                    self.source_timer(source);
                }
            }
        }
    }

    // ---- What every part needs -------------------------------------------------------------------------

    fn start(&mut self, pending: Pending) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.pending.insert(op, pending);
        op
    }

    /// Panics on an unknown or second completion.
    fn finish(&mut self, op: OpId) -> Pending {
        self.pending.remove(&op).unwrap_or_else(|| panic!("{op:?} isn't outstanding"))
    }

    fn ask(&mut self, pending: Pending, question: Question) -> OpId {
        let deadline = self.now.mono + self.config.ask_timeout;
        let op = self.start(pending);
        self.outputs.push_back(Output::Ask { op, question, deadline });
        op
    }

    fn list_scheduled(&mut self, queue: QueueHandle) {
        let Some(scheduled) = self.queues.get_mut(queue) else { return };
        if !scheduled.listed {
            scheduled.listed = true;
            self.work.push_back(Work::Scheduled(queue));
        }
    }

    fn list_ready(&mut self, ready: ReadyHandle) {
        let Some(queue) = self.ready.get_mut(ready) else { return };
        if !queue.listed {
            queue.listed = true;
            self.work.push_back(Work::Ready(ready));
        }
    }

    /// Looks at every line that stands still again: something that concerns many has changed.
    fn list_blocked(&mut self, which: impl Fn(&Block) -> bool) {
        let blocked: alloc::vec::Vec<QueueHandle> = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.block.as_ref().is_some_and(&which))
            .map(|(handle, _)| handle)
            .collect();
        blocked.into_iter().for_each(|queue| self.list_scheduled(queue));
    }

    // ---- Health and stop -------------------------------------------------------------------------------

    fn spool_health(&mut self, healthy: bool) {
        self.spool_healthy = healthy;
        if healthy {
            self.list_blocked(|block| *block == Block::SpoolUnhealthy);
            let ready: alloc::vec::Vec<ReadyHandle> =
                self.ready.iter().map(|(handle, _)| handle).collect();
            ready.into_iter().for_each(|handle| self.list_ready(handle));
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        let sessions: alloc::vec::Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.close_session(session);
        }
        self.settle_requeues();
    }

    /// What these messages' attempts came to has to be written down before the stop, whatever policy would have said.
    fn settle_requeues(&mut self) {
        let is_requeue = |(_, pending): &(&OpId, &Pending)| matches!(pending, Pending::Requeue(_));
        let mut asked: alloc::vec::Vec<OpId> =
            self.pending.iter().filter(is_requeue).map(|(op, _)| *op).collect();
        asked.sort_unstable();
        for op in asked {
            reached(Mark::SettledAtStop);
            let pending = self.pending.insert(op, Pending::Settled);
            let Some(Pending::Requeue(requeue)) = pending else { unreachable!("filtered above") };
            self.requeue_answered(*requeue, RequeueAnswer::Keep);
        }
    }

    fn say_stopped(&mut self) {
        // Questions to policy and DNS may be answered later or never: nothing hangs on them any more.
        let idle = self.sessions.is_empty() && self.concluding == 0;
        if self.stopping && !self.stopped && idle {
            self.stopped = true;
            self.outputs.push_back(Output::Stopped);
        }
    }
}
