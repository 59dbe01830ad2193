//! What configuration comes to, for policy and the tools that are written in it: throughput ceilings, configuration as TOML, and what the
//! events say (seed.md 10). Invariant: a table is parsed as strictly as its constructor parses it; what is returned is a plain table, which
//! the constructor takes again as it is: secrets stand in it, since policy has them anyway.
use super::constructors::{Made, parse};
use super::convert::{Floats, show, to_json, to_lua};
use super::error::fault;
use super::events;
use super::program::{Program, lock};
use super::setup::{Handler, Shared};
use kumo_core::ceilings::EffectiveConstraints;
use kumo_core::config::options::Constructed;
use kumo_core::config::render::{Secrets, Shown};
use kumo_core::config::{EgressPath, QueueConfig};
use kumo_core::queue_name::QueueName;
use mlua::{IntoLuaMulti, Lua, MultiValue, Table, Value as Lv};
use serde_json::{Map, Value};
use std::sync::Arc;

pub fn register(
    lua: &Lua,
    kumo: &Table,
    program: &Arc<Program>,
    shared: &Shared,
) -> mlua::Result<()> {
    register_constraints(lua, kumo, program)?;
    register_toml(lua, kumo, program)?;
    register_events(lua, kumo, program, shared)
}

/// What a constructor made, or a table that it would take.
fn taken<T: Constructed + Clone + 'static>(
    lua: &Lua,
    program: &Program,
    function: &str,
    value: &Lv,
) -> mlua::Result<T> {
    if let Lv::UserData(data) = value
        && let Ok(made) = data.borrow::<Made<T>>()
    {
        return Ok(made.0.clone());
    }
    parse::<T>(lua, program, function, value)
}

// ---- Ceilings ---------------------------------------------------------------------------------------------

fn register_constraints(lua: &Lua, kumo: &Table, program: &Arc<Program>) -> mlua::Result<()> {
    const OF_PATH: &str = "compute_egress_path_config_constraints";
    const OF_QUEUE: &str = "compute_queue_config_constraints";
    const FORMAT: &str = "format_egress_path_config_constraints";
    let of = program.clone();
    let of_path = lua.create_function(move |lua, (path, additional): (Lv, Option<Table>)| {
        let path: EgressPath = taken(lua, &of, &format!("kumo.{OF_PATH}"), &path)?;
        let constraints = EffectiveConstraints::of_path(&path);
        let merged = match additional {
            Some(additional) => constraints.merge(constraints_of(lua, OF_PATH, &additional)?),
            None => constraints,
        };
        constraints_to_lua(lua, &merged)
    })?;
    kumo.raw_set(OF_PATH, of_path)?;
    let of = program.clone();
    let of_queue = lua.create_function(move |lua, queue: Lv| {
        let queue: QueueConfig = taken(lua, &of, &format!("kumo.{OF_QUEUE}"), &queue)?;
        constraints_to_lua(lua, &EffectiveConstraints::of_queue(&queue))
    })?;
    kumo.raw_set(OF_QUEUE, of_queue)?;
    let format = lua.create_function(|lua, constraints: Table| {
        Ok(constraints_of(lua, FORMAT, &constraints)?.to_string())
    })?;
    kumo.raw_set(FORMAT, format)
}

/// Without bound is infinity in Lua, and null in JSON.
fn constraints_to_lua(lua: &Lua, constraints: &EffectiveConstraints) -> mlua::Result<Lv> {
    let json = serde_json::to_value(constraints).expect("constraints have text keys");
    let table = to_lua(lua, &json)?;
    let dispatchers = constraints.max_concurrent_dispatchers.value;
    if let (Lv::Table(table), true) = (&table, dispatchers.is_infinite()) {
        let ceiling: Table = table.raw_get("max_concurrent_dispatchers")?;
        ceiling.raw_set("value", dispatchers)?;
    }
    Ok(table)
}

fn constraints_of(lua: &Lua, function: &str, table: &Table) -> mlua::Result<EffectiveConstraints> {
    let wrong = |why: &dyn std::fmt::Display| {
        let text = format!("kumo.{function}: what compute_…_constraints returns is wanted: {why}");
        fault(lua, text)
    };
    let bounded = lua.create_table()?;
    for pair in table.pairs::<Lv, Lv>() {
        let (key, value) = pair?;
        bounded.raw_set(key, without_infinity(lua, value)?)?;
    }
    let mut json = to_json(lua, &Lv::Table(bounded), Floats::AsIs)?;
    // Nil vanishes from tables.
    if let Some(ceiling) = json.get_mut("max_concurrent_dispatchers").and_then(Value::as_object_mut)
    {
        ceiling.entry("value").or_insert(Value::Null);
    }
    serde_json::from_value(json).map_err(|error| wrong(&error))
}

fn without_infinity(lua: &Lua, ceiling: Lv) -> mlua::Result<Lv> {
    let Lv::Table(table) = &ceiling else { return Ok(ceiling) };
    let is_infinite = |value: &Lv| matches!(value, Lv::Number(number) if number.is_infinite());
    let finite = lua.create_table()?;
    for pair in table.pairs::<Lv, Lv>() {
        let (key, value) = pair?;
        if !is_infinite(&value) {
            finite.raw_set(key, value)?;
        }
    }
    Ok(Lv::Table(finite))
}

// ---- TOML -------------------------------------------------------------------------------------------------

fn register_toml(lua: &Lua, kumo: &Table, program: &Arc<Program>) -> mlua::Result<()> {
    const PATH: &str = "format_egress_path_config_toml";
    const QUEUE: &str = "format_queue_config_toml";
    let of = program.clone();
    let path = lua.create_function(move |lua, path: Lv| {
        let path: EgressPath = taken(lua, &of, &format!("kumo.{PATH}"), &path)?;
        Ok(path.toml(Secrets::Shown))
    })?;
    kumo.raw_set(PATH, path)?;
    let of = program.clone();
    let queue = lua.create_function(move |lua, queue: Lv| {
        let queue: QueueConfig = taken(lua, &of, &format!("kumo.{QUEUE}"), &queue)?;
        Ok(queue.toml(Secrets::Shown))
    })?;
    kumo.raw_set(QUEUE, queue)
}

// ---- What the events say ----------------------------------------------------------------------------------

fn register_events(
    lua: &Lua,
    kumo: &Table,
    program: &Arc<Program>,
    shared: &Shared,
) -> mlua::Result<()> {
    let (of, from) = (program.clone(), shared.clone());
    let queue = lua.create_async_function(move |lua, name: String| {
        let (of, from) = (of.clone(), from.clone());
        async move {
            let parts = QueueName::parse(&name);
            let arguments = (parts.domain, parts.tenant, parts.campaign, parts.routing_domain);
            let arguments = arguments.into_lua_multi(&lua)?;
            let config = asked::<QueueConfig>(&lua, &of, &from, events::QUEUE_CONFIG, arguments);
            table(&lua, config.await?.table(Secrets::Shown))
        }
    })?;
    kumo.raw_set("invoke_get_queue_config", queue)?;
    let (of, from) = (program.clone(), shared.clone());
    let path = lua.create_async_function(move |lua, names: (String, String, String)| {
        let (of, from) = (of.clone(), from.clone());
        async move {
            let arguments = names.into_lua_multi(&lua)?;
            let path = asked::<EgressPath>(&lua, &of, &from, events::EGRESS_PATH, arguments);
            table(&lua, path.await?.table(Secrets::Shown))
        }
    })?;
    kumo.raw_set("invoke_get_egress_path_config", path)
}

fn table(lua: &Lua, rendered: Map<String, Value>) -> mlua::Result<Lv> {
    to_lua(lua, &Value::Object(rendered))
}

/// As the engine asks; without a handler, or where none has an answer, the default.
async fn asked<T: Constructed + Clone + Default + 'static>(
    lua: &Lua,
    program: &Program,
    shared: &Shared,
    event: &str,
    arguments: MultiValue,
) -> mlua::Result<T> {
    let handlers: Vec<Handler> = lock(shared).handlers.get(event).cloned().unwrap_or_default();
    for Handler { function, place } in handlers {
        let value: Lv = function.call_async(arguments.clone()).await?;
        match &value {
            Lv::Nil => {}
            Lv::UserData(_) | Lv::Table(_) => {
                return taken(lua, program, &format!("{event} at {place}"), &value);
            }
            other => {
                let (shown, constructor) = (show(other), T::CONSTRUCTOR);
                let text =
                    format!("{event} at {place} returned {shown}, not what {constructor} makes");
                return Err(fault(lua, text));
            }
        }
    }
    Ok(T::default())
}
