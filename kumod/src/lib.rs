//! kumod: the product around kumo-core and kumo-driver. So far the Lua policy layer, [`policy`],
//! and what operators watch: [`diagnostics`], [`logs`], [`metrics`].
pub mod diagnostics;
pub mod logs;
pub mod metrics;
pub mod policy;
