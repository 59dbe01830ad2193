//! The types behind the policy's constructors, one file each; [`options`] is the table that says what every key
//! does. Values arrive as JSON (the policy layer converts Lua tables) and are parsed strictly: an unknown key is
//! an error that names the nearest known one. Nothing here reads files or runs Lua.
pub mod duration;
pub mod egress;
pub mod listener;
pub mod options;
pub mod proxy_listener;
pub mod queue;
pub mod rate;
pub mod read;
pub mod render;
pub mod secret;
pub mod service;
pub mod source;
#[cfg(test)]
mod tests;

pub use egress::{EgressPath, EgressPool, PoolEntry};
pub use listener::{EsmtpListener, HttpListener, ListenerDomain};
pub use proxy_listener::ProxyListener;
pub use queue::QueueConfig;
pub use rate::{LimitSpec, ThrottleSpec};
pub use secret::Secret;
pub use service::{LocalLogs, RocksParams, SpoolDefinition, SpoolKind};
pub use source::{EgressSource, SuspendRule, Trigger};

/// `fields!(table, Default::default(), { key … })`: each key sets the field of its name.
macro_rules! fields {
    ($table:expr, $default:expr, { $($field:ident)* }) => {{
        let mut value = $default;
        $($table.set(stringify!($field), &mut value.$field);)*
        value
    }};
}

/// `options_of!(Type, { key … })`: `set` reads each key into the field of its name, and [`render::Shown`] shows the same ones.
macro_rules! options_of {
    ($made:ty, { $($field:ident)* }) => {
        impl $made {
            fn set(&mut self, table: &mut $crate::config::read::Table) {
                $(table.set(stringify!($field), &mut self.$field);)*
            }
        }
        impl $crate::config::render::Shown for $made {
            fn table(
                &self,
                secrets: $crate::config::render::Secrets,
            ) -> serde_json::Map<alloc::string::String, serde_json::Value> {
                use $crate::config::render::Show;
                let mut table = serde_json::Map::new();
                $(table.insert(stringify!($field).into(), self.$field.show(secrets));)*
                table
            }
        }
    };
}

/// Enumerations whose values are written as their names.
macro_rules! name_forms {
    ($($name:ty),+) => { $(impl $crate::config::read::Form for $name {
        fn read(
            value: serde_json::Value,
            report: &mut $crate::config::read::Report,
        ) -> Option<$name> {
            $crate::config::read::from_name(&value, report)
        }
    })+ };
}

use fields;
pub(crate) use name_forms;
use options_of;
