//! `get_meta` and `set_meta`, of messages and of connections.
//! Invariant: metadata stays below its limit, and what queue names are made of is text.
use super::budget::{Budget, check_octets};
use super::convert::{Floats, map_octets, octets, show, to_json, to_lua};
use super::error::fault;
use super::loan::Borrowed;
use super::nearest;
use kumo_core::limits;
use kumo_core::message::Meta;
use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value as Lv};
use std::sync::Arc;

/// What a scheduled queue's name is made of.
const TEXTS: [&str; 4] = ["queue", "tenant", "campaign", "routing_domain"];

pub fn get(lua: &Lua, meta: &Meta, name: &str) -> mlua::Result<Lv> {
    meta.get(name).map_or(Ok(Lv::Nil), |value| to_lua(lua, value))
}

/// Nil removes the name.
pub fn set(
    lua: &Lua,
    budget: &Arc<Budget>,
    meta: &mut Meta,
    name: String,
    value: &Lv,
) -> mlua::Result<()> {
    if value.is_nil() {
        meta.remove(&name);
        return Ok(());
    }
    if TEXTS.contains(&name.as_str()) && !value.is_string() {
        return Err(fault(lua, format!("set_meta: {name} is a string, not {}", show(value))));
    }
    let value = to_json(lua, value, Floats::AsIs)?;
    let before = meta.get(&name).map_or(0, |old| octets(old) + name.len());
    let total = map_octets(meta) - before + octets(&value) + name.len();
    budget.charge_copying(lua, total)?;
    check_octets(lua, "the metadata", total, limits::META_OCTETS)?;
    meta.insert(name, value);
    Ok(())
}

/// What is replaced counts twice here; the limit is far away.
pub fn extend(lua: &Lua, meta: &mut Meta, more: Meta) -> mlua::Result<()> {
    let total = map_octets(meta) + map_octets(&more);
    check_octets(lua, "the metadata", total, limits::META_OCTETS)?;
    meta.extend(more);
    Ok(())
}

/// A connection's metadata as Lua sees it.
pub struct ConnectionMeta {
    pub meta: Borrowed<Meta>,
    pub budget: Arc<Budget>,
}

const WHAT: &str = "connection metadata";

impl UserData for ConnectionMeta {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_method("get_meta", |lua, this, name: String| {
            this.meta.with(lua, WHAT, |meta| get(lua, meta, &name))
        });
        methods.add_method("set_meta", |lua, this, (name, value): (String, Lv)| {
            this.meta.with(lua, WHAT, |meta| set(lua, &this.budget, meta, name, &value))
        });
        methods.add_meta_method(MetaMethod::Index, |lua, _, key: String| -> mlua::Result<()> {
            let hint = nearest::hint(&key, ["get_meta", "set_meta"].into_iter());
            Err(fault(lua, format!("connection metadata has no method {key:?}{hint}")))
        });
    }
}
