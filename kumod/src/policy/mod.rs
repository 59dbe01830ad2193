//! The Lua policy layer.
