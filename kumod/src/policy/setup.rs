//! What a policy asks for while it starts: its handlers, then listeners, spools and logs.
//! Invariant: handlers are registered only while the files run, so that every state has the same ones; the rest
//! only inside `pre_init` and `init`, or `proxy_init`, which run once.
use super::error::{calling_line, fault};
use super::program::{Program, lock};
use super::{events, nearest};
use kumo_core::config::{EsmtpListener, HttpListener, LocalLogs, ProxyListener, SpoolDefinition};
use kumo_core::limits;
use mlua::{Function, Lua, Table};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What `init` asked for, each in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    pub esmtp_listeners: Vec<EsmtpListener>,
    pub http_listeners: Vec<HttpListener>,
    /// Of proxy-server alone.
    pub proxy_listeners: Vec<ProxyListener>,
    pub spools: Vec<SpoolDefinition>,
    pub local_logs: Option<LocalLogs>,
    /// Whether delivery pauses while the spool takes nothing (seed.md 2.5).
    pub suspend_delivery_when_spool_unhealthy: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            esmtp_listeners: Vec::new(),
            http_listeners: Vec::new(),
            proxy_listeners: Vec::new(),
            spools: Vec::new(),
            local_logs: None,
            suspend_delivery_when_spool_unhealthy: true,
        }
    }
}

/// A function that policy registered.
#[derive(Clone, Debug)]
pub struct Handler {
    pub function: Function,
    /// `FILE:LINE` of its definition.
    pub place: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The policy's files are being run.
    Loading,
    /// `pre_init`, `init` or `proxy_init` runs.
    Initialising,
    Serving,
}

/// What one Lua state collects; shared with the functions that policy calls.
#[derive(Debug)]
pub struct Collected {
    pub phase: Phase,
    pub handlers: BTreeMap<String, Vec<Handler>>,
    pub setup: Setup,
    /// `kumo.validation_failed` was called.
    pub validation_failed: bool,
}

pub type Shared = Arc<Mutex<Collected>>;

impl Collected {
    pub fn new() -> Collected {
        Collected {
            phase: Phase::Loading,
            handlers: BTreeMap::new(),
            setup: Setup::default(),
            validation_failed: false,
        }
    }

    fn handler_count(&self) -> usize {
        self.handlers.values().map(Vec::len).sum()
    }
}

/// Puts `kumo.on` into the module.
pub fn register(
    lua: &Lua,
    kumo: &Table,
    program: &Arc<Program>,
    shared: &Shared,
) -> mlua::Result<()> {
    let (program, collected) = (program.clone(), shared.clone());
    let on = lua.create_function(move |lua, (event, function): (String, Function)| {
        let mut collected = lock(&collected);
        if collected.phase != Phase::Loading {
            return Err(fault(
                lua,
                "kumo.on: handlers are registered while the policy's files run, not inside of a \
                 handler; move this to the top level",
            ));
        }
        if collected.handler_count() >= limits::POLICY_HANDLERS {
            let limit = limits::POLICY_HANDLERS;
            return Err(fault(lua, format!("kumo.on: more than {limit} handlers")));
        }
        say_if_never_called(lua, &program, &event);
        let handler = Handler { place: place_of(&function), function };
        let handlers = collected.handlers.entry(event.clone()).or_default();
        if !events::is_multiple(&event)
            && let Some(before) = handlers.pop()
        {
            program.warn(format!(
                "{}: this handler of {event} replaces the one at {}",
                handler.place, before.place
            ));
        }
        handlers.push(handler);
        Ok(())
    })?;
    kumo.raw_set("on", on)
}

fn say_if_never_called(lua: &Lua, program: &Program, event: &str) {
    let called = program.service.called();
    if called.contains(&event) {
        return;
    }
    let hint = match events::is_known(event) {
        true => String::new(),
        false => nearest::hint(event, called.iter().copied()),
    };
    // Any other name may be that of a constructor, which a queue's `custom_lua` says.
    if hint.is_empty() && !events::is_known(event) {
        return;
    }
    let place = calling_line(lua).map_or(String::new(), |place| format!("{place}: "));
    program.warn(format!("{place}kumo.on: this version never calls {event:?}{hint}"));
}

/// `FILE:LINE` of its definition.
pub fn place_of(function: &Function) -> String {
    let info = function.info();
    let file = info.short_src.as_deref().unwrap_or("?").to_string();
    format!("{file}:{}", info.line_defined.unwrap_or(0))
}

/// Fails unless `init` or `pre_init` runs, or what proxy-server has instead.
pub fn expect_init(
    lua: &Lua,
    program: &Program,
    collected: &Collected,
    function: &str,
) -> mlua::Result<()> {
    let init = program.service.init();
    match collected.phase {
        Phase::Initialising => Ok(()),
        Phase::Loading | Phase::Serving => {
            Err(fault(lua, format!("{function}: call it inside of the {init} event's handler")))
        }
    }
}
