//! `kumo.make_*`, `kumo.start_*`, `kumo.define_spool` and `kumo.configure_local_logs`: tables to typed values.
//! Invariant: a value that policy holds was parsed strictly; what was wrong with it was raised with file and line.
//! Which keys there are is `kumo_core::config`'s business.
use super::convert::{Floats, show, to_json};
use super::error::{calling_line, fault};
use super::program::{Program, lock};
use super::setup::{Setup, Shared, expect_init};
use kumo_core::config::options::Constructed;
use kumo_core::config::{
    EgressPath, EgressPool, EgressSource, EsmtpListener, HttpListener, ListenerDomain, LocalLogs,
    ProxyListener, QueueConfig, SpoolDefinition,
};
use kumo_core::limits;
use mlua::{Lua, MetaMethod, Table, UserData, UserDataMethods, Value as Lv};
use serde_json::Value;
use std::sync::Arc;

/// What a `make_*` function returns: opaque to Lua, handed back from an event.
pub struct Made<T>(pub T);

impl<T: Constructed + 'static> UserData for Made<T> {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_meta_method(MetaMethod::ToString, |_, _, ()| {
            Ok(format!("{}{{…}}", T::CONSTRUCTOR))
        });
    }
}

/// Adds a parsed value to what `init` asks for; the text says why not.
pub type Ask<T> = fn(&mut Setup, T) -> Result<(), String>;

pub fn register(
    lua: &Lua,
    kumo: &Table,
    program: &Arc<Program>,
    shared: &Shared,
) -> mlua::Result<()> {
    make::<QueueConfig>(lua, kumo, program)?;
    make::<EgressPath>(lua, kumo, program)?;
    make::<EgressPool>(lua, kumo, program)?;
    make::<EgressSource>(lua, kumo, program)?;
    make::<ListenerDomain>(lua, kumo, program)?;
    field_names::<QueueConfig>(lua, kumo, "queue_config_field_names")?;
    ask::<EsmtpListener>(lua, kumo, program, shared, add_esmtp_listener)?;
    ask::<HttpListener>(lua, kumo, program, shared, add_http_listener)?;
    ask::<SpoolDefinition>(lua, kumo, program, shared, add_spool)?;
    ask::<LocalLogs>(lua, kumo, program, shared, set_local_logs)
}

/// The name within its module: without `kumo.`.
fn short_name(constructor: &'static str) -> &'static str {
    constructor.rsplit_once('.').map_or(constructor, |(_, name)| name)
}

fn make<T: Constructed + Send + Sync + 'static>(
    lua: &Lua,
    kumo: &Table,
    program: &Arc<Program>,
) -> mlua::Result<()> {
    let program = program.clone();
    let function = lua.create_function(move |lua, table: Lv| {
        lua.create_userdata(Made(parse::<T>(lua, &program, T::CONSTRUCTOR, &table)?))
    })?;
    kumo.raw_set(short_name(T::CONSTRUCTOR), function)
}

/// The keys that the constructor of `T` knows.
fn field_names<T: Constructed>(lua: &Lua, kumo: &Table, name: &str) -> mlua::Result<()> {
    let function = lua.create_function(|lua, ()| {
        lua.create_sequence_from(T::OPTIONS.options.iter().map(|option| option.key))
    })?;
    kumo.raw_set(name, function)
}

fn ask<T: Constructed + 'static>(
    lua: &Lua,
    kumo: &Table,
    program: &Arc<Program>,
    shared: &Shared,
    add: Ask<T>,
) -> mlua::Result<()> {
    ask_as(lua, kumo, T::CONSTRUCTOR, program, shared, add)
}

/// The function `name`, such as `kumo.define_spool`, in the table of its module.
pub fn ask_as<T: Constructed + 'static>(
    lua: &Lua,
    module: &Table,
    name: &'static str,
    program: &Arc<Program>,
    shared: &Shared,
    add: Ask<T>,
) -> mlua::Result<()> {
    let (program, shared) = (program.clone(), shared.clone());
    let function = lua.create_function(move |lua, table: Lv| {
        expect_init(lua, &program, &lock(&shared), name)?;
        let value = parse::<T>(lua, &program, name, &table)?;
        let added = add(&mut lock(&shared).setup, value);
        added.map_err(|why| fault(lua, format!("{name}: {why}")))
    })?;
    module.raw_set(short_name(name), function)
}

/// Strictly, with file and line in what is wrong.
pub fn parse<T: Constructed>(
    lua: &Lua,
    program: &Program,
    name: &str,
    table: &Lv,
) -> mlua::Result<T> {
    if !table.is_table() {
        let given = show(table);
        return Err(fault(lua, format!("{name}: expected a table, got {given}")));
    }
    let Value::Object(map) = to_json(lua, table, Floats::Whole)? else {
        return Err(fault(lua, format!("{name}: expected a table with keys, got a list")));
    };
    let parsed = T::parse(map).map_err(|error| fault(lua, format!("{name}: {}", error.text)))?;
    let place = calling_line(lua).map_or(String::new(), |place| format!("{place}: "));
    for warning in parsed.warnings {
        program.warn(format!("{place}{name}: {warning}"));
    }
    Ok(parsed.value)
}

fn add_esmtp_listener(setup: &mut Setup, listener: EsmtpListener) -> Result<(), String> {
    check_address(setup, listener.listen)?;
    setup.esmtp_listeners.push(listener);
    Ok(())
}

pub fn add_http_listener(setup: &mut Setup, listener: HttpListener) -> Result<(), String> {
    check_address(setup, listener.listen)?;
    setup.http_listeners.push(listener);
    Ok(())
}

pub fn add_proxy_listener(setup: &mut Setup, listener: ProxyListener) -> Result<(), String> {
    check_address(setup, listener.listen)?;
    setup.proxy_listeners.push(listener);
    Ok(())
}

fn check_address(setup: &Setup, address: std::net::SocketAddr) -> Result<(), String> {
    let smtp = setup.esmtp_listeners.iter().map(|listener| listener.listen);
    let http = setup.http_listeners.iter().map(|listener| listener.listen);
    let all = smtp.chain(http).chain(setup.proxy_listeners.iter().map(|listener| listener.listen));
    // Port 0 is a different port each time.
    if address.port() != 0 && all.clone().any(|other| other == address) {
        return Err(format!("there already is a listener on {address}"));
    }
    if all.count() >= limits::POLICY_LISTENERS {
        return Err(format!("more than {} listeners", limits::POLICY_LISTENERS));
    }
    Ok(())
}

fn add_spool(setup: &mut Setup, spool: SpoolDefinition) -> Result<(), String> {
    if setup.spools.iter().any(|other| other.name == spool.name) {
        return Err(format!("there already is a spool named {:?}", spool.name));
    }
    if setup.spools.len() >= limits::POLICY_SPOOLS {
        return Err(format!("more than {} spools", limits::POLICY_SPOOLS));
    }
    setup.spools.push(spool);
    Ok(())
}

fn set_local_logs(setup: &mut Setup, logs: LocalLogs) -> Result<(), String> {
    match setup.local_logs.replace(logs) {
        None => Ok(()),
        Some(_) => Err("it was called before; logs are configured once".into()),
    }
}
