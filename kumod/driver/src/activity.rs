//! What a session's task tells of itself while it works: for the watchdog, for operators, and for the records of what it has in hand when it is cut
//! off. Invariant: telling costs a lock that is held for a moment, and nothing here is ever waited for. What it means is
//! `core::dispatcher`'s to say.
use crate::shared::{Connection, lock};
use kumo_core::dispatcher::{Detail, Phase, Progress};
use kumo_core::time::Mono;
use std::sync::{Arc, Mutex};

#[derive(Debug)]
pub(crate) struct Activity {
    /// As its records bear it.
    pub session: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    progress: Progress,
    connection: Option<Arc<Connection>>,
}

impl Activity {
    pub fn new(session: String, now: Mono) -> Activity {
        let progress = Progress::new(now);
        let state = State { progress, connection: None };
        Activity { session, state: Mutex::new(state) }
    }

    pub fn enter(&self, now: Mono, phase: Phase, detail: Option<Detail>) {
        lock(&self.state).progress.enter(now, phase, detail);
    }

    pub fn touch(&self, now: Mono) {
        lock(&self.state).progress.touch(now);
    }

    /// The peer has taken so much more of a body.
    pub fn took(&self, now: Mono, octets: usize) {
        lock(&self.state).progress.took(now, octets);
    }

    pub fn connected(&self, connection: &Arc<Connection>) {
        lock(&self.state).connection = Some(connection.clone());
    }

    pub fn progress(&self) -> Progress {
        lock(&self.state).progress
    }

    pub fn connection(&self) -> Option<Arc<Connection>> {
        lock(&self.state).connection.clone()
    }
}
