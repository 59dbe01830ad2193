//! `kumo.keep(name, value)` and `kumo.kept(name)`: values that outlive a Lua state, for modules that have to go on with what
//! was right before. Invariant: what is kept is bounded, and is data: no functions, no objects.
use super::convert::{Floats, to_json, to_lua};
use super::error::fault;
use super::program::{Program, lock};
use kumo_core::limits;
use mlua::{Lua, Table, Value as Lv};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Debug, Default)]
pub struct Kept(Mutex<BTreeMap<String, Arc<Value>>>);

pub fn register(lua: &Lua, kumo: &Table, program: &Arc<Program>) -> mlua::Result<()> {
    let mine = program.clone();
    let keep = lua.create_function(move |lua, (name, value): (String, Lv)| {
        let value = to_json(lua, &value, Floats::AsIs)?;
        let mut kept = lock(&mine.kept.0);
        if kept.len() >= limits::POLICY_KEPT && !kept.contains_key(&name) {
            let limit = limits::POLICY_KEPT;
            return Err(fault(lua, format!("kumo.keep: more than {limit} values")));
        }
        kept.insert(name, Arc::new(value));
        Ok(())
    })?;
    kumo.raw_set("keep", keep)?;
    let mine = program.clone();
    let kept = lua.create_function(move |lua, name: String| {
        let kept = lock(&mine.kept.0).get(&name).cloned();
        kept.map_or(Ok(Lv::Nil), |value| to_lua(lua, &value))
    })?;
    kumo.raw_set("kept", kept)
}
