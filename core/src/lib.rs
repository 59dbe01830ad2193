//! kumo-core: every decision kumod makes, and nothing else.
//!
//! # What is here
//! - [`smtp::server`]: the receiving side of a connection; bytes in, bytes and requests out.
//! - [`smtp::client`]: the sending side, likewise. [`dispatcher`]: what such a session tells of itself, and when it is stuck.
//! - [`engine`]: what the control plane can be told and what it can want.
//! - [`commit`]: who waits for which batch of the spool, its order, deadlines and undo.
//! - [`journal`]: the inputs of the engine written down, and run again.
//! - [`record`]: the versioned, checksummed spool record.
//! - [`config`]: the types behind every `make_*` and `start_*` option. [`ceilings`]: what their limits come to.
//!   [`toml_text`]: how people read them.
//! - [`shaping`]: shaping files: how they merge, which of their sections hold for a path, which rules for a record.
//! - [`port`]: what the outside must offer.
//! - [`marks`], [`canary`]: for the simulator: branches it has to reach, and bugs it has to catch. Nothing in other builds.
//!
//! # The run loop
//! A machine is fed with one input at a time and drained after each:
//!
//! ```text
//! machine.handle(now, input);
//! while let Some(output) = machine.poll() { perform(output) }
//! arm_timer(machine.next_wake());
//! ```
//!
//! # Architecture invariants
//! - No runtime, clock, thread, socket, file or ambient randomness: time is the argument [`time::Now`],
//!   randomness the argument `seed`. The crate is `no_std`.
//! - Every operation a machine asks for has an id and gets exactly one completion; a second or unknown one
//!   is a broken invariant and panics. Input from peers, policy or disk never does: it is an error value.
//! - Every collection has its maximum in [`limits`].
//! - `250` to a final dot needs a [`commit::Accountable`], which only a durable completion or a named waiver yields.
#![cfg_attr(not(test), no_std)]
extern crate alloc;

pub mod address;
pub mod canary;
pub mod ceilings;
pub mod commit;
pub mod config;
pub mod date;
pub mod dispatcher;
pub mod engine;
pub mod header;
pub mod health;
pub mod id;
pub mod journal;
pub mod limits;
pub mod log;
pub mod marks;
pub mod message;
pub mod mx;
pub mod port;
pub mod proxy;
pub mod queue_name;
pub mod random;
pub mod recipients;
pub mod record;
pub mod report;
pub mod shaping;
pub mod smtp;
pub mod source_health;
pub mod throttle;
pub mod time;
pub mod toml_text;
