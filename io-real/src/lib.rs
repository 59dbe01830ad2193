//! kumo-io-real: the ports of `kumo_core::port` over the real world.
//!
//! # Architecture invariants
//! - The only crate on a message's way that names RocksDB, hickory, rustls or a socket.
//! - Nothing here decides anything about a message, and nothing the outside does panics the process.
#[cfg(madsim)]
compile_error!("kumo-io-real is the real world; the simulator must not compile it");

pub mod dns;
pub mod files;
pub mod folder;
pub mod host;
pub mod net;
pub mod spool;
pub mod tls;
