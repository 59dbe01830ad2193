//! The outgoing sessions that stand, as the engine's loop has them: their tasks, and the watchdog over them. Invariant: a session is here from its
//! `Open` until its end is heard or it is cut off. When one is stuck is `core::dispatcher`'s to say, what follows the engine's.
use crate::client::SessionTask;
use crate::shared::Shared;
use crate::world::World;
use kumo_core::canary::{self, Canary};
use kumo_core::dispatcher::{self, Progress, Watchdog};
use kumo_core::engine::Target;
use kumo_core::id::SessionId;
use kumo_core::time::{Duration, Mono};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
pub struct Dispatchers {
    tasks: HashMap<SessionId, SessionTask>,
    watchdog: Watchdog,
}

/// What one does, for operators.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    /// As its records bear it.
    pub id: String,
    pub progress: Progress,
    /// It is cut off after so long without progress.
    pub threshold: Duration,
}

impl Dispatchers {
    pub(crate) fn start<W: World>(
        &mut self,
        shared: &Arc<Shared<W>>,
        session: SessionId,
        target: Target,
    ) {
        let patience = dispatcher::threshold(&target.path, &target.protocol);
        self.watchdog.watch(session, patience, shared.now().mono);
        self.tasks.insert(session, SessionTask::start(shared, session, target));
    }

    /// `None`: it was cut off.
    pub(crate) fn standing(&mut self, session: SessionId) -> Option<&mut SessionTask> {
        self.tasks.get_mut(&session)
    }

    /// One of which the engine knows.
    pub(crate) fn task(&mut self, session: SessionId) -> &mut SessionTask {
        self.standing(session).expect("the engine knows which sessions stand")
    }

    pub(crate) fn forget(&mut self, session: SessionId) {
        self.tasks.remove(&session);
        self.watchdog.forget(session);
    }

    /// When somebody may be stuck.
    pub(crate) fn next_look(&self) -> Option<Mono> {
        self.watchdog.next_look()
    }

    /// Those that are stuck, with what their records are to say of it.
    pub(crate) fn stuck(&mut self, now: Mono) -> Vec<(SessionId, String)> {
        let heard = |session: SessionId| match canary::planted(Canary::WatchdogNeverFires) {
            false => self.tasks[&session].activity.progress().last,
            true => now,
        };
        let stuck = self.watchdog.look(now, heard);
        let text = |session: SessionId| {
            let SessionTask { activity, ready_queue, .. } = &self.tasks[&session];
            let text = activity.progress().abort_text(&activity.session, now);
            tracing::error!(queue = &**ready_queue, "{text}");
            (session, text)
        };
        stuck.into_iter().map(text).collect()
    }

    pub fn get(&self, session: SessionId) -> Option<Dispatcher> {
        let activity = &self.tasks.get(&session)?.activity;
        let threshold = self.watchdog.threshold(session)?;
        Some(Dispatcher { id: activity.session.clone(), progress: activity.progress(), threshold })
    }

    /// By the name that its records bear.
    pub fn named(&self, id: &str) -> Option<SessionId> {
        let mut tasks = self.tasks.iter();
        tasks.find(|(_, task)| task.activity.session == id).map(|(session, _)| *session)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, Dispatcher)> + '_ {
        self.tasks.keys().filter_map(|session| Some((*session, self.get(*session)?)))
    }
}
