//! The types behind the policy's constructors, one file each; [`options`] is the table that says what every key
//! does. Values arrive as JSON (the policy layer converts Lua tables) and are parsed strictly: an unknown key is
//! an error that names the nearest known one. Nothing here reads files or runs Lua.
pub mod egress;
pub mod listener;
pub mod options;
pub mod queue;
pub mod rate;
pub mod service;

pub use egress::{EgressPath, EgressPool, EgressSource, PoolEntry};
pub use listener::{EsmtpListener, HttpListener, ListenerDomain};
pub use queue::QueueConfig;
pub use rate::{LimitSpec, ThrottleSpec};
pub use service::{LocalLogs, RocksParams, SpoolDefinition, SpoolKind};
