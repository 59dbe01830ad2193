//! kumo-io-sim: the ports of kumo-core and kumo-driver over a simulated outside, and the people in it. Everything runs on madsim's
//! executor and virtual time; nothing here reads a clock, a file or randomness of the machine.
//!
//! # What is here
//! - [`universe`]: all that outlives the node under test. [`world`]: its ports for one life.
//! - [`spool`], [`net`], [`tls`], [`dns`], [`host`], [`files`]: the ports, file by file as in io-real. [`policy`] with its [`sender`]s, [`recorder`]: the driver's own.
//! - [`fault`]: every way in which this world can be bad. A port asks it; nothing else decides that something goes wrong.
//! - [`lives`]: when the node dies, and that nothing of a dead life happens any more. [`waits`]: what the node is waiting for.
//! - [`peer`], [`client`], [`proxy`]: scripted servers, clients, and what stands between; [`lines`]: what both speak by. [`ledger`]: what they saw.
//!
//! # Architecture invariants
//! - One seed, one course of events: all draws come from generators derived from it.
//! - What was durable before a crash is after it; what wasn't is drawn anew. The truth lies beside the damage, never under it.
//! - No task of this crate runs on the node under test but those that the driver itself awaits.
#![cfg(madsim)]

pub mod client;
pub mod dns;
pub mod fault;
pub mod files;
pub mod host;
pub mod ledger;
mod lines;
pub mod lives;
pub mod net;
pub mod peer;
pub mod policy;
pub mod proxy;
pub mod recorder;
pub mod sender;
pub mod spool;
pub mod tls;
pub mod universe;
pub mod waits;
pub mod world;
