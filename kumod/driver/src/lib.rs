//! kumo-driver: feeds kumo-core's machines with what happens and performs what they ask for, generic over the ports.
//!
//! # What is here
//! - [`node`]: start, stop, and the [`node::Handle`] for the rest of the process.
//! - `engine_loop`: one engine, one input at a time. `committer`: the only writer of the spool.
//! - `server`, `intake`: mail comes in. `client`, `plan`, `local`, `sender`: mail goes out. `concluder`: records and removals.
//! - [`health`]: the spool's gates, what feeds them and what they stop.
//! - `journal`: the engine's inputs to disk. `questions`: policy and DNS for the engine. `enumeration`: what earlier lives left. `cache`: messages in memory.
//! - [`policy`], [`record`], [`world`]: ports that are the driver's own; [`counters`]: what it counts;
//!   [`conformance`]: what every implementation of a port has to pass.
//!
//! # Architecture invariants
//! - No decision is taken here: what to reply, retry, bounce or open is the machines' to say.
//! - No await without a deadline; every task has an owner that notices its end.
//! - The clock is `Host::now`; nothing here reads another.
//! - Texts (local parts, replies, headers) stay on this side of the engine.
//! - The engine's loop waits for nobody; nobody holds a lock across an await.
mod activity;
mod cache;
mod client;
mod committer;
mod concluder;
pub mod conformance;
pub mod counters;
mod dial;
pub mod dispatchers;
mod engine_loop;
mod enumeration;
pub mod health;
mod intake;
mod journal;
mod local;
pub mod node;
mod phase;
mod plan;
pub mod policy;
mod quarantine;
mod questions;
pub mod record;
mod sender;
mod server;
mod shared;
mod source_failures;
#[cfg(test)]
mod testing;
pub mod world;
