//! kumod: the product around kumo-core and kumo-driver: Lua [`policy`], local
//! [`logs`], [`metrics`], [`diagnostics`], the [`http`] API, [`shaping`] files, and the [`daemon`] that puts
//! them together with io-real's ports ([`world`]). [`offline`]: tools that ask a policy without running it.
//!
//! # Architecture invariants
//! - Only `policy` names mlua, only `http` names axum.
//! - Nothing here decides about a message; what operators see is put into words here.
pub mod daemon;
pub mod diagnostics;
mod folder;
pub mod http;
mod line_ends;
pub mod logs;
pub mod metrics;
pub mod offline;
pub mod policy;
pub mod privileges;
pub mod process;
pub mod resolve;
pub mod shaping;
pub mod spool_check;
pub mod world;
