//! kumo-driver: feeds kumo-core's machines with what happens and performs what they ask for, generic over the ports.
//!
//! So far it declares its own ports: [`policy`], [`record`], and [`world`], which bundles all of them; and what it
//! will count, [`counters`]; and the suites that every implementation of a port has to pass, [`conformance`]. The loops that drive the machines aren't written yet.
//!
//! # Architecture invariants
//! - No decision is taken here: what to reply, retry, bounce or open is the machines' to say.
//! - No await without a deadline; every task has an owner that notices its end.
//! - The clock is `Host::now`; nothing here reads another.
//! - Texts (local parts, replies, headers) stay on this side of the engine.
pub mod conformance;
pub mod counters;
pub mod policy;
pub mod record;
pub mod world;
