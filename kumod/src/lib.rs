//! kumod: the product around kumo-core and kumo-driver. So far the Lua policy layer, [`policy`],
//! and what operators watch: [`logs`].
pub mod logs;
pub mod policy;
