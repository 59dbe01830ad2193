//! kumod: the product around kumo-core and kumo-driver. So far the Lua policy layer, [`policy`].
pub mod policy;
