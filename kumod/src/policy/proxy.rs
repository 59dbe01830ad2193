//! The policy of proxy-server: the `proxy` module, and the events that only this program calls.
//! Invariant: what means nothing to a proxy, such as a spool, is an error and never silently left out.
use super::PolicyOptions;
use super::constructors::{add_http_listener, add_proxy_listener, ask_as};
use super::error::PolicyError;
use super::events::{self, Service};
use super::module::forbid_unknown_names;
use super::pool::Pool;
use super::program::Program;
use super::setup::{Phase, Setup, Shared};
use super::state::State;
use kumo_core::config::options::Constructed;
use kumo_core::config::{HttpListener, ProxyListener};
use mlua::{IntoLuaMulti, Lua, MultiValue};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

const START_HTTP: &str = "proxy.start_http_listener";

/// What `require 'proxy'` yields.
pub fn register(lua: &Lua, program: &Arc<Program>, shared: &Shared) -> mlua::Result<()> {
    let proxy = lua.create_table()?;
    let start_proxy = ProxyListener::CONSTRUCTOR;
    ask_as::<ProxyListener>(lua, &proxy, start_proxy, program, shared, add_proxy_listener)?;
    ask_as::<HttpListener>(lua, &proxy, START_HTTP, program, shared, add_http_listener)?;
    forbid_unknown_names(lua, &proxy, "proxy")?;
    lua.register_module("proxy", proxy)
}

/// Whom a password comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// An operator's policy for proxy-server, ready to be asked.
pub struct ProxyPolicy {
    pool: Pool,
    judges_passwords: bool,
}

/// A policy whose `proxy_init` has run.
pub struct LoadedProxy {
    pub policy: ProxyPolicy,
    pub proxy_listeners: Vec<ProxyListener>,
    pub http_listeners: Vec<HttpListener>,
}

impl ProxyPolicy {
    /// Runs the file, then `proxy_init`, in a state that is thrown away afterwards.
    pub async fn load(path: &Path, options: PolicyOptions) -> Result<LoadedProxy, PolicyError> {
        let program = Program::read_for(Service::ProxyServer, path, options)?;
        let mut state = State::load(&program).await?;
        state.enter(Phase::Initialising);
        let called = events::call_all(&mut state, events::PROXY_INIT, MultiValue::new()).await;
        called.map_err(|error| error.into_failure(events::PROXY_INIT))?;
        let events: BTreeSet<String> = state.events().into_iter().collect();
        let setup = state.take_setup();
        check(&setup, &events).map_err(|text| PolicyError {
            event: Some(events::PROXY_INIT.into()),
            place: Some(path.display().to_string()),
            text,
        })?;
        let judges_passwords = events.contains(events::PROXY_AUTH);
        let policy = ProxyPolicy { pool: Pool::new(program), judges_passwords };
        let Setup { proxy_listeners, http_listeners, .. } = setup;
        Ok(LoadedProxy { policy, proxy_listeners, http_listeners })
    }

    /// Whether it has a handler for passwords.
    pub fn judges_passwords(&self) -> bool {
        self.judges_passwords
    }

    /// Whether policy takes this password; without a handler none is right. The caller has the deadline.
    pub async fn authenticate(
        &self,
        username: &str,
        password: &str,
        client: Client,
    ) -> Result<bool, PolicyError> {
        if !self.judges_passwords {
            return Ok(false);
        }
        let mut lease = self.pool.lease().await?;
        let judged = ask(&mut lease, username, password, client).await;
        lease.finish();
        judged
    }
}

async fn ask(
    state: &mut State,
    username: &str,
    password: &str,
    client: Client,
) -> Result<bool, PolicyError> {
    const EVENT: &str = events::PROXY_AUTH;
    let arguments = arguments(state.lua(), username, password, client);
    let called = match state.arguments(EVENT, arguments) {
        Ok(arguments) => events::call(state, EVENT, arguments).await,
        Err(error) => Err(error),
    };
    let judged = called.and_then(|returned| returned.map_or(Ok(false), |said| said.boolean()));
    judged.map_err(|error| error.into_failure(EVENT))
}

fn arguments(
    lua: &Lua,
    username: &str,
    password: &str,
    client: Client,
) -> mlua::Result<MultiValue> {
    let meta = lua.create_table()?;
    meta.raw_set("peer_address", client.peer.to_string())?;
    meta.raw_set("local_address", client.local.to_string())?;
    (username, password, meta).into_lua_multi(lua)
}

fn check(setup: &Setup, events: &BTreeSet<String>) -> Result<(), String> {
    let of_kumod =
        !setup.esmtp_listeners.is_empty() || !setup.spools.is_empty() || setup.local_logs.is_some();
    if of_kumod {
        return Err(
            "proxy-server has no SMTP listeners, spools or logs of messages; take them out, \
                    they are kumod's"
                .into(),
        );
    }
    if setup.proxy_listeners.is_empty() {
        return Err("nothing to do: call proxy.start_proxy_listener { listen = … } in \
                    kumo.on('proxy_init', function() … end)"
            .into());
    }
    let wants_password = setup.proxy_listeners.iter().any(|listener| listener.require_auth);
    if wants_password && !events.contains(events::PROXY_AUTH) {
        let event = events::PROXY_AUTH;
        return Err(format!(
            "require_auth needs somebody who knows the passwords: kumo.on('{event}', \
             function(username, password, conn_meta) … end)"
        ));
    }
    Ok(())
}
