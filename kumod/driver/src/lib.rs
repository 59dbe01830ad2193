//! kumo-driver: feeds kumo-core's machines with what happens and performs what they ask for, generic over the ports.
//! The same code runs over tokio and RocksDB in production and, compiled with `--cfg madsim`, in the simulator.
//!
//! # Architecture invariants
//! - No decision is taken here: what to reply, retry, bounce or open is the machines' to say.
//! - No await without a deadline; every task has an owner that notices its end.
//! - The clock is `Host::now`; nothing here reads another.
//! - Texts (local parts, replies, headers) stay on this side of the engine.
pub mod counters;
pub mod policy;
pub mod record;
pub mod world;
