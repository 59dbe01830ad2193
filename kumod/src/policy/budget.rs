//! What one call into policy may use: instructions, counted by a hook in every coroutine, and memory.
//! Invariant: once the instructions are used up, each further instruction of the thread that used them raises the
//! same error again, so no `pcall` loop outlives it; a state that ran out is never used again (see `pool`).
//! Not covered: a single C function that runs for long without allocating, such as `string.find` with a
//! pattern that backtracks without end.
use super::error::{Fault, PolicyError, calling_line, fault, position};
use super::turn;
use mlua::debug::HookTriggers;
use mlua::{Lua, Thread, VmState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Instructions between two looks at the budget.
const INTERVAL: u64 = 10_000;
/// Instructions after which a call lets other tasks of its worker run. Under a millisecond: a tokio worker that always
/// has something to do looks at its timers, and so at our caller's deadline, only every 61st time.
const YIELD_EVERY: u64 = 100_000;
/// What starting a coroutine is charged, so that many short ones are counted too.
const COROUTINE: u64 = 1_000;
/// Octets copied on behalf of policy that cost as much as one instruction.
const OCTETS_PER_INSTRUCTION: u64 = 64;

#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: AtomicU64,
    memory: usize,
    exhausted: AtomicBool,
    /// Where it ran out first.
    fault: Mutex<Option<Fault>>,
    /// The call's own thread: the only one that may be suspended without policy noticing.
    outermost: AtomicUsize,
}

impl Budget {
    /// Puts the hook into `lua`, and the limit on its memory.
    pub fn install(lua: &Lua, memory: usize) -> mlua::Result<Arc<Budget>> {
        let budget = Arc::new(Budget {
            used: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            memory,
            exhausted: AtomicBool::new(false),
            fault: Mutex::new(None),
            outermost: AtomicUsize::new(0),
        });
        lua.set_memory_limit(memory)?;
        budget.hook(lua, INTERVAL)?;
        Ok(budget)
    }

    fn hook(self: &Arc<Budget>, lua: &Lua, interval: u64) -> mlua::Result<()> {
        let budget = self.clone();
        let triggers = HookTriggers::new().every_nth_instruction(interval as u32);
        lua.set_global_hook(triggers, move |lua, frame| budget.on_tick(lua, frame, interval))
    }

    /// A new call begins on `thread`.
    pub fn begin(&self, thread: &Thread, limit: u64) {
        self.used.store(0, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.outermost.store(thread.to_pointer() as usize, Ordering::Relaxed);
    }

    fn on_tick(
        self: &Arc<Budget>,
        lua: &Lua,
        frame: &mlua::debug::Debug<'_>,
        interval: u64,
    ) -> mlua::Result<VmState> {
        turn::let_others_go();
        let before = self.used.fetch_add(interval, Ordering::Relaxed);
        let after = before.saturating_add(interval);
        if after > self.limit.load(Ordering::Relaxed) {
            return Err(self.run_out_of_instructions(lua, position(frame))?);
        }
        let turn = before / YIELD_EVERY != after / YIELD_EVERY;
        Ok(match turn && self.is_outermost(lua) {
            true => VmState::Yield,
            false => VmState::Continue,
        })
    }

    fn is_outermost(&self, lua: &Lua) -> bool {
        let current = lua.current_thread().to_pointer() as usize;
        current == self.outermost.load(Ordering::Relaxed)
    }

    fn run_out_of_instructions(
        self: &Arc<Budget>,
        lua: &Lua,
        place: Option<String>,
    ) -> mlua::Result<mlua::Error> {
        let limit = self.limit.load(Ordering::Relaxed);
        let text = format!("ran out of its {limit} instructions; is there a loop without end?");
        self.run_out(lua, Fault { place, text })
    }

    /// Policy caught the error that lack of memory is.
    pub fn run_out_of_memory(self: &Arc<Budget>, lua: &Lua) -> mlua::Result<mlua::Error> {
        let found = Fault { place: calling_line(lua), text: out_of_memory(self.memory) };
        self.run_out(lua, found)
    }

    /// The error to raise. From now on the hook is called before every instruction.
    fn run_out(self: &Arc<Budget>, lua: &Lua, found: Fault) -> mlua::Result<mlua::Error> {
        self.exhausted.store(true, Ordering::Relaxed);
        // Nothing is left to spend, whatever ran out.
        self.limit.store(0, Ordering::Relaxed);
        self.hook(lua, 1)?;
        let mut first = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(mlua::Error::external(first.get_or_insert(found).clone()))
    }

    /// Charges for octets that one of our functions looks at one by one on behalf of policy.
    pub fn charge_reading(self: &Arc<Budget>, lua: &Lua, octets: usize) -> mlua::Result<()> {
        self.charge(lua, octets as u64)
    }

    /// Charges for octets that are only copied.
    pub fn charge_copying(self: &Arc<Budget>, lua: &Lua, octets: usize) -> mlua::Result<()> {
        self.charge(lua, octets as u64 / OCTETS_PER_INSTRUCTION)
    }

    pub fn charge_coroutine(self: &Arc<Budget>, lua: &Lua) -> mlua::Result<()> {
        self.charge(lua, COROUTINE)
    }

    fn charge(self: &Arc<Budget>, lua: &Lua, instructions: u64) -> mlua::Result<()> {
        let before = self.used.fetch_add(instructions, Ordering::Relaxed);
        if before.saturating_add(instructions) <= self.limit.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(self.run_out_of_instructions(lua, calling_line(lua))?)
    }

    /// Whether it ran out, also if policy hid that.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// The error of `event` if the instructions ran out.
    pub fn verdict(&self, event: Option<&str>) -> Option<PolicyError> {
        let first = self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(PolicyError { event: event.map(String::from), place: first.place, text: first.text })
    }
}

/// The text for a call that needed more than `memory` octets.
pub fn out_of_memory(memory: usize) -> String {
    format!("needs more than the {} MiB of memory policy may use", memory >> 20)
}

/// Raises unless `octets` can be kept; for what policy makes us hold outside of Lua's own memory.
pub fn check_octets(lua: &Lua, what: &str, octets: usize, limit: usize) -> mlua::Result<()> {
    if octets <= limit {
        return Ok(());
    }
    Err(fault(lua, format!("{what} would be {octets} octets long, the limit is {limit}")))
}
