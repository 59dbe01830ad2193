//! kumod: the product around kumo-core and kumo-driver. The Lua policy layer is [`policy`], the HTTP API [`http`].
pub mod http;
pub mod policy;
