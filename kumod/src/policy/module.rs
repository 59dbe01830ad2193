//! The `kumo` module: what policy gets from `require 'kumo'`. What belongs to proxy-server alone is [`proxy`]'s.
//! Invariant: a name that isn't here is an error that says so, never a silent nil.
use super::budget::Budget;
use super::convert::{Floats, to_json};
use super::error::{calling_line, fault};
use super::events::Service;
use super::program::{Program, lock};
use super::setup::{self, Shared};
use super::{
    config_module, constructors, kept, nearest, proxy, reject, serde_module, shaping_module,
    throttle_module, time_module,
};
use mlua::{Lua, Table, Value as Lv, Variadic};
use std::sync::Arc;

/// Tuning of the reference MTA that has no counterpart here: accepted, warned about once.
const WITHOUT_EFFECT: [&str; 18] = [
    "enable_memory_callstack_tracking",
    "set_config_monitor_globs",
    "set_httpinject_threads",
    "set_logging_threads",
    "set_lruttl_cache_capacity",
    "set_lua_gc_on_put",
    "set_max_lua_context_age",
    "set_max_lua_context_use_count",
    "set_max_spare_lua_contexts",
    "set_memory_hard_limit",
    "set_memory_low_thresh",
    "set_memory_soft_limit",
    "set_qmaint_threads",
    "set_ready_qmaint_threads",
    "set_readyq_threads",
    "set_smtpsrv_threads",
    "set_spoolin_threads",
    "set_timeq_spawn_reinsertion",
];

pub fn register(
    lua: &Lua,
    program: &Arc<Program>,
    shared: &Shared,
    budget: &Arc<Budget>,
) -> mlua::Result<()> {
    let kumo = lua.create_table()?;
    kumo.raw_set("version", concat!("kumod ", env!("CARGO_PKG_VERSION")))?;
    setup::register(lua, &kumo, program, shared)?;
    reject::register(lua, &kumo)?;
    constructors::register(lua, &kumo, program, shared)?;
    config_module::register(lua, &kumo, program, shared)?;
    serde_module::register(lua, &kumo, budget)?;
    kept::register(lua, &kumo, program)?;
    shaping_module::register(lua, &kumo, program)?;
    throttle_module::register(lua, &kumo, program)?;
    time_module::register(lua, &kumo)?;
    register_logging(lua, &kumo)?;
    register_without_effect(lua, &kumo, program)?;
    let (failing, collected) = (shared.clone(), shared.clone());
    let failed = lua.create_function(move |_, ()| {
        lock(&failing).validation_failed = true;
        Ok(())
    })?;
    kumo.raw_set("validation_failed", failed)?;
    register_suspension(lua, &kumo, program, collected)?;
    forbid_unknown_names(lua, &kumo, "kumo")?;
    lua.register_module("kumo", kumo)?;
    match program.service {
        Service::Kumod => Ok(()),
        Service::ProxyServer => proxy::register(lua, program, shared),
    }
}

fn register_suspension(
    lua: &Lua,
    kumo: &Table,
    program: &Arc<Program>,
    collected: Shared,
) -> mlua::Result<()> {
    const NAME: &str = "suspend_delivery_when_spool_unhealthy";
    let program = program.clone();
    let function = lua.create_function(move |lua, suspend: Lv| {
        let Lv::Boolean(suspend) = suspend else {
            let text = format!("kumo.{NAME} wants true or false, not a {}", suspend.type_name());
            return Err(fault(lua, text));
        };
        let mut collected = lock(&collected);
        setup::expect_init(lua, &program, &collected, &format!("kumo.{NAME}"))?;
        collected.setup.suspend_delivery_when_spool_unhealthy = suspend;
        Ok(())
    })?;
    kumo.raw_set(NAME, function)
}

/// Of the module called `module`.
pub fn forbid_unknown_names(lua: &Lua, table: &Table, module: &'static str) -> mlua::Result<()> {
    let names = table.pairs::<String, Lv>().map(|pair| Ok(pair?.0));
    let names: Vec<String> = names.collect::<mlua::Result<_>>()?;
    let unknown = lua.create_function(move |lua, (_, name): (Lv, String)| {
        let hint = nearest::hint(&name, names.iter().map(String::as_str));
        Err::<(), _>(fault(lua, format!("this version has no {module}.{name}{hint}")))
    })?;
    let meta = lua.create_table()?;
    meta.raw_set("__index", unknown)?;
    table.set_metatable(Some(meta))
}

fn register_without_effect(lua: &Lua, kumo: &Table, program: &Arc<Program>) -> mlua::Result<()> {
    for name in WITHOUT_EFFECT {
        let program = program.clone();
        let function = lua.create_function(move |lua, _: Variadic<Lv>| {
            let place = calling_line(lua).map_or(String::new(), |place| format!("{place}: "));
            program.warn(format!("{place}kumo.{name} is accepted and has no effect"));
            Ok(())
        })?;
        kumo.raw_set(name, function)?;
    }
    Ok(())
}

/// Writes a text with the line it comes from.
type Log = fn(&str, &str);

fn register_logging(lua: &Lua, kumo: &Table) -> mlua::Result<()> {
    let levels: [(&str, Log); 4] = [
        ("log_debug", |place, text| tracing::debug!(target: "policy", place, "{text}")),
        ("log_info", |place, text| tracing::info!(target: "policy", place, "{text}")),
        ("log_warn", |place, text| tracing::warn!(target: "policy", place, "{text}")),
        ("log_error", |place, text| tracing::error!(target: "policy", place, "{text}")),
    ];
    for (name, log) in levels {
        let function = lua.create_function(move |lua, values: Variadic<Lv>| {
            let texts: Vec<String> = values.iter().map(|value| text_of(lua, value)).collect();
            log(&calling_line(lua).unwrap_or_default(), &texts.join(" "));
            Ok(())
        })?;
        kumo.raw_set(name, function)?;
    }
    Ok(())
}

/// Tables as JSON, everything else as `tostring` has it.
fn text_of(lua: &Lua, value: &Lv) -> String {
    let json = match value {
        Lv::Table(table) if table.metatable().is_none() => to_json(lua, value, Floats::AsIs).ok(),
        _ => None,
    };
    match json {
        Some(json) => json.to_string(),
        None => value.to_string().unwrap_or_else(|_| value.type_name().into()),
    }
}
