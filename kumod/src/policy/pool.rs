//! Lua states, each used by one call at a time.
//! Invariant: at most `states` exist at once, and only a state whose call came back is ever used again: one whose
//! call was dropped at its deadline is thrown away with whatever it was doing.
use super::error::PolicyError;
use super::program::{Program, lock};
use super::state::State;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, SemaphorePermit};

pub struct Pool {
    program: Arc<Program>,
    idle: Mutex<Vec<State>>,
    permits: Semaphore,
}

pub struct Lease<'a> {
    pool: &'a Pool,
    state: Option<State>,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    pub fn new(program: Arc<Program>) -> Pool {
        let permits = Semaphore::new(program.options.states);
        Pool { program, idle: Mutex::default(), permits }
    }

    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Waits until there is a state to be had; the caller has the deadline.
    pub async fn lease(&self) -> Result<Lease<'_>, PolicyError> {
        let permit = self.permits.acquire().await.expect("nobody closes this semaphore");
        let idle = lock(&self.idle).pop();
        let state = match idle {
            Some(state) => state,
            None => State::load(&self.program).await?,
        };
        Ok(Lease { pool: self, state: Some(state), _permit: permit })
    }

    pub fn idle_states(&self) -> usize {
        lock(&self.idle).len()
    }
}

impl Lease<'_> {
    /// The call came back.
    pub fn finish(mut self) {
        let Some(state) = self.state.take() else { return };
        if state.is_reusable() {
            lock(&self.pool.idle).push(state);
        }
    }
}

impl Deref for Lease<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        self.state.as_ref().expect("only finish takes it, and consumes the lease")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state.as_mut().expect("only finish takes it, and consumes the lease")
    }
}
