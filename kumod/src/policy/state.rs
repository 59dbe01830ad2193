//! One Lua state with the policy loaded into it. Used by one call at a time.
//! Invariant: every piece of policy, the file itself included, runs through [`State::run`], within its budget.
use super::budget::out_of_memory;
use super::error::{PolicyError, describe, first_line_in};
use super::library::{self, Library};
use super::module;
use super::program::{Program, lock};
use super::reject::{Raised, raised};
use super::setup::{Collected, Handler, Phase, Setup, Shared};
use mlua::{Function, Lua, MultiValue, Thread};
use std::sync::{Arc, Mutex};

pub struct State {
    library: Library,
    program: Arc<Program>,
    shared: Shared,
    uses: u32,
    /// It ran out of something: not to be used again.
    spoiled: bool,
}

/// A call that returned nothing.
#[derive(Debug)]
pub enum CallError {
    /// `kumo.reject` or `kumo.disconnect`.
    Raised(Raised),
    Failed(PolicyError),
}

impl CallError {
    /// For events in which a rejection means nothing.
    pub fn into_failure(self, event: &str) -> PolicyError {
        match self {
            CallError::Failed(error) => error,
            CallError::Raised(raised) => PolicyError {
                event: Some(event.into()),
                place: None,
                text: format!("kumo.reject and kumo.disconnect mean nothing here ({raised})"),
            },
        }
    }
}

impl State {
    /// A state that has run the policy's file, and through it every file that it requires.
    pub async fn load(program: &Arc<Program>) -> Result<State, PolicyError> {
        let shared: Shared = Arc::new(Mutex::new(Collected::new()));
        let unable = |error: mlua::Error| PolicyError {
            event: None,
            place: Some(program.path.display().to_string()),
            text: describe(&error).1.unwrap_or_else(|| out_of_memory(program.options.memory)),
        };
        let library = library::open(program).map_err(unable)?;
        module::register(&library.lua, program, &shared, &library.budget).map_err(unable)?;
        let mut state =
            State { library, program: program.clone(), shared, uses: 0, spoiled: false };
        state.run_file().await.map_err(|error| error.into_failure("the policy's file"))?;
        lock(&state.shared).phase = Phase::Serving;
        Ok(state)
    }

    async fn run_file(&mut self) -> Result<(), CallError> {
        let program = self.program.clone();
        let chunk = library::chunk(self.lua(), &program.path, &program.source);
        let function = chunk.into_function().map_err(|error| {
            let (place, text) = describe(&error);
            let text = text.unwrap_or_else(|| out_of_memory(program.options.memory));
            CallError::Failed(PolicyError { event: None, place, text })
        })?;
        self.run(None, &function, MultiValue::new(), program.options.instructions).await?;
        Ok(())
    }

    pub fn lua(&self) -> &Lua {
        &self.library.lua
    }

    pub fn budget(&self) -> &Arc<super::budget::Budget> {
        &self.library.budget
    }

    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// In the order of registration.
    pub fn handlers(&self, event: &str) -> Vec<Handler> {
        lock(&self.shared).handlers.get(event).cloned().unwrap_or_default()
    }

    pub fn events(&self) -> Vec<String> {
        lock(&self.shared).handlers.keys().cloned().collect()
    }

    pub fn enter(&mut self, phase: Phase) {
        lock(&self.shared).phase = phase;
    }

    /// What the handlers run so far asked for.
    pub fn take_setup(&mut self) -> Setup {
        std::mem::take(&mut lock(&self.shared).setup)
    }

    pub fn validation_failed(&self) -> bool {
        lock(&self.shared).validation_failed
    }

    /// Calls one handler with the budget of a call.
    pub async fn call(
        &mut self,
        event: &str,
        handler: &Handler,
        arguments: MultiValue,
    ) -> Result<MultiValue, CallError> {
        let limit = self.program.options.instructions;
        let result = self.run(Some(event), &handler.function, arguments, limit).await;
        result.map_err(|error| match error {
            CallError::Failed(mut failure) => {
                failure.place.get_or_insert_with(|| handler.place.clone());
                CallError::Failed(failure)
            }
            raised => raised,
        })
    }

    pub async fn run(
        &mut self,
        event: Option<&str>,
        function: &Function,
        arguments: MultiValue,
        limit: u64,
    ) -> Result<MultiValue, CallError> {
        self.uses = self.uses.saturating_add(1);
        let thread = match self.lua().create_thread(function.clone()) {
            Ok(thread) => thread,
            Err(error) => return Err(self.explain(event, None, &error)),
        };
        self.library.budget.begin(&thread, limit);
        let result = match thread.clone().into_async::<MultiValue>(arguments) {
            Ok(call) => call.await,
            Err(error) => Err(error),
        };
        // Also where policy caught the error and went on.
        if let Some(error) = self.library.budget.verdict(event) {
            self.spoiled = true;
            return Err(CallError::Failed(error));
        }
        result.map_err(|error| self.explain(event, Some(&thread), &error))
    }

    /// Arguments for a call; making them fails where no memory is left.
    pub fn arguments<T>(&mut self, event: &str, made: mlua::Result<T>) -> Result<T, CallError> {
        made.map_err(|error| self.explain(Some(event), None, &error))
    }

    fn explain(
        &mut self,
        event: Option<&str>,
        thread: Option<&Thread>,
        error: &mlua::Error,
    ) -> CallError {
        if let Some(raised) = raised(error) {
            return CallError::Raised(raised.clone());
        }
        let (place, text) = describe(error);
        let event = event.map(String::from);
        if let Some(text) = text {
            return CallError::Failed(PolicyError { event, place, text });
        }
        self.spoiled = true;
        let place = place.or_else(|| self.stopped_at(thread?));
        let text = out_of_memory(self.program.options.memory);
        CallError::Failed(PolicyError { event, place, text })
    }

    /// The line at which a thread died of lack of memory: Lua's own message doesn't say.
    fn stopped_at(&self, thread: &Thread) -> Option<String> {
        // Without a limit, since there is no memory left to look with; the state is given up afterwards.
        self.lua().set_memory_limit(0).ok()?;
        let trace = self.library.traceback.call::<String>((thread, "")).ok()?;
        first_line_in(&trace)
    }

    /// It ran out of something: there is no use in another call.
    pub fn is_spoiled(&self) -> bool {
        self.spoiled || self.library.budget.is_exhausted()
    }

    /// Whether the next call may have this state, too. Collects garbage where there is much of it.
    pub fn is_reusable(&self) -> bool {
        let options = &self.program.options;
        if self.is_spoiled() || self.uses >= options.uses {
            return false;
        }
        let much = options.memory / 8;
        if self.lua().used_memory() < much {
            return true;
        }
        self.lua().gc_collect().is_ok() && self.lua().used_memory() < much
    }
}
