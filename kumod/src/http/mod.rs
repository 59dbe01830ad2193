//! HTTP: the API that kumod serves, and what its tools need to speak it.
//!
//! `serve` accepts and guards; `inject`, `admin`, `sources`, `spool`, `ready`, `resolve`, `explain` and `inspect` answer for kumod, `proxy` for proxy-server; [`api`] is the JSON; [`client`] is for the tools.
//! Invariant: only liveness answers a host that isn't in `trusted_hosts`; a 200 to an injection follows an `Accountable`.
mod admin;
pub mod api;
pub mod client;
mod errors;
mod explain;
mod inject;
mod inspect;
mod proxy;
mod ready;
mod resolve;
mod serve;
mod sources;
mod spool;

pub use proxy::ProxyOperations;
pub use serve::{HttpService, Operations};
