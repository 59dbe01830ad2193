//! Policy: what an operator's Lua 5.4 files say, behind the driver's `Policy` port.
//!
//! # How a question becomes a call
//! [`LuaPolicy`] looks whether the event has a handler at all; without one nothing of Lua is touched. Otherwise it
//! takes a state from the pool, calls the handler as an async function, and reads what it returned. A state is made by
//! running the policy's file; the text of that file, and of those it requires, is read once, when kumod starts.
//!
//! # Budgets
//! Each call has a number of instructions and the state an amount of memory. A hook counts in every coroutine; every
//! hundred thousand instructions it lets other tasks run, so that the caller's deadline holds also against a loop that stays
//! within its budget. A state that ran out, or whose call was dropped, is never used again.
//! Not covered: a single C function that computes for long without allocating, which is what `string.find` can do
//! with a pattern that backtracks; and waiting for the disk in `io`.
//!
//! # Senders
//! What a `custom_lua` constructor makes lives in a state and on a thread of its own for as long as its session does (`sender`), so that
//! one that blocks its thread holds up nobody else's mail. The thread lets others go first (`turn`), so neither does one that computes.
//!
//! # Errors
//! An error of policy names the event, file and line. In a session it is `421 4.3.0 … technical difficulties` and the
//! text goes into the Rejection record; in the engine it is `Answer::Failed`. `kumo.reject` is not an error.
//!
//! # Invariants
//! - Only this module names mlua.
//! - Handlers are the same in every state: they are registered while the files run, never later.
//! - Messages and metadata are lent: policy can't use them after its handler returned.
mod address;
mod budget;
mod config_module;
mod constructors;
mod convert;
pub(crate) mod encoded_word;
mod engine;
mod error;
mod events;
mod instant;
mod kept;
mod library;
mod loan;
mod message;
mod meta;
mod module;
mod nearest;
mod places;
mod pool;
mod program;
mod proxy;
mod reject;
mod sender;
mod serde_module;
mod service;
mod session;
mod setup;
mod shaping_module;
mod shipped;
mod state;
mod throttle_module;
mod time_module;
mod tools;
mod turn;

#[cfg(test)]
mod tests;

pub use error::PolicyError;
pub(crate) use program::read_file;
pub use proxy::{Client, LoadedProxy, ProxyPolicy};
pub(crate) use serde_module::without_comments;
pub use service::{Loaded, LuaPolicy};
pub use setup::Setup;
pub use tools::{Report, script, validate};

/// What policy may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyOptions {
    /// Lua states, and so calls at one time.
    pub states: usize,
    /// Senders that policy has made and that haven't ended; each has a state and a thread of its own.
    pub senders: usize,
    /// Calls after which a state is replaced.
    pub uses: u32,
    /// Lua instructions of one call.
    pub instructions: u64,
    /// Octets that one state may hold.
    pub memory: usize,
}

impl Default for PolicyOptions {
    fn default() -> PolicyOptions {
        PolicyOptions {
            // As many as there have to be: one that never sleeps is done before the next thread asks.
            states: 64,
            senders: 512,
            uses: 1_000,
            instructions: 100_000_000,
            memory: 256 * 1024 * 1024,
        }
    }
}
