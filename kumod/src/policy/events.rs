//! The events of policy: their names, and what a handler's values mean.
//! Invariant: a value of the wrong kind is an error that names the event, the value and the handler.
use super::constructors::Made;
use super::convert::show;
use super::error::PolicyError;
use super::setup::Handler;
use super::state::{CallError, State};
use kumo_core::config::options::Constructed;
use mlua::{MultiValue, Table, Value as Lv};

pub const INIT: &str = "init";
pub const PRE_INIT: &str = "pre_init";
pub const MAIN: &str = "main";
pub const VALIDATE_CONFIG: &str = "validate_config";
pub const CONNECTION_ACCEPTED: &str = "smtp_server_connection_accepted";
pub const EHLO: &str = "smtp_server_ehlo";
pub const AUTH_PLAIN: &str = "smtp_server_auth_plain";
pub const MAIL_FROM: &str = "smtp_server_mail_from";
pub const LISTENER_DOMAIN: &str = "get_listener_domain";
pub const RCPT_TO: &str = "smtp_server_rcpt_to";
pub const DATA: &str = "smtp_server_data";
pub const MESSAGE_RECEIVED: &str = "smtp_server_message_received";
pub const HTTP_MESSAGE_GENERATED: &str = "http_message_generated";
pub const QUEUE_CONFIG: &str = "get_queue_config";
pub const EGRESS_POOL: &str = "get_egress_pool";
pub const EGRESS_SOURCE: &str = "get_egress_source";
pub const EGRESS_PATH: &str = "get_egress_path_config";
pub const THROTTLE_INSERT: &str = "throttle_insert_ready_queue";
pub const REQUEUE: &str = "requeue_message";
pub const PROXY_INIT: &str = "proxy_init";
pub const PROXY_AUTH: &str = "proxy_server_auth_rfc1929";

/// The program whose policy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Kumod,
    ProxyServer,
}

/// By kumod.
const CALLED: [&str; 19] = [
    INIT,
    PRE_INIT,
    MAIN,
    VALIDATE_CONFIG,
    CONNECTION_ACCEPTED,
    EHLO,
    AUTH_PLAIN,
    MAIL_FROM,
    LISTENER_DOMAIN,
    RCPT_TO,
    DATA,
    MESSAGE_RECEIVED,
    HTTP_MESSAGE_GENERATED,
    QUEUE_CONFIG,
    EGRESS_POOL,
    EGRESS_SOURCE,
    EGRESS_PATH,
    THROTTLE_INSERT,
    REQUEUE,
];

const CALLED_BY_PROXY_SERVER: [&str; 2] = [PROXY_INIT, PROXY_AUTH];

/// Events of the reference MTA that this version of kumod never calls.
const NOT_YET: [&str; 17] = [
    "get_acl_definition",
    "http_server_validate_auth_basic",
    "http_server_validate_auth_bearer",
    PROXY_INIT,
    PROXY_AUTH,
    "rebind_message",
    "should_enqueue_log_record",
    "shutdown_logging",
    "smtp_client_rewrite_delivery_status",
    "smtp_server_get_dynamic_parameters",
    "smtp_server_message_deferred_inject",
    "smtp_server_rewrite_response",
    "smtp_server_split_transaction",
    "spool_message_enumerated",
    "tsa_init",
    "tsa_load_shaping_data",
    "xfer_message_received",
];

/// Events that may have several handlers; of any other only the last one counts.
const MULTIPLE: [&str; 5] = [PRE_INIT, VALIDATE_CONFIG, QUEUE_CONFIG, THROTTLE_INSERT, REQUEUE];

impl Service {
    /// The events it calls.
    pub fn called(self) -> &'static [&'static str] {
        match self {
            Service::Kumod => &CALLED,
            Service::ProxyServer => &CALLED_BY_PROXY_SERVER,
        }
    }

    /// The event in which things are started.
    pub fn init(self) -> &'static str {
        match self {
            Service::Kumod => INIT,
            Service::ProxyServer => PROXY_INIT,
        }
    }
}

/// By some program, in some version.
pub fn is_known(event: &str) -> bool {
    CALLED.contains(&event) || NOT_YET.contains(&event)
}

pub fn is_multiple(event: &str) -> bool {
    MULTIPLE.contains(&event)
}

/// One handler's values.
pub struct Returned<'a> {
    event: &'a str,
    handler: Handler,
    values: MultiValue,
}

/// Calls the event's last handler; `None` if there is none.
pub async fn call<'a>(
    state: &mut State,
    event: &'a str,
    arguments: MultiValue,
) -> Result<Option<Returned<'a>>, CallError> {
    let Some(handler) = state.handlers(event).pop() else { return Ok(None) };
    let values = state.call(event, &handler, arguments).await?;
    Ok(Some(Returned { event, handler, values }))
}

/// Calls the handlers in order until one returns something other than nil.
pub async fn call_until_value<'a>(
    state: &mut State,
    event: &'a str,
    arguments: MultiValue,
) -> Result<Option<Returned<'a>>, CallError> {
    for handler in state.handlers(event) {
        let values = state.call(event, &handler, arguments.clone()).await?;
        if values.front().is_some_and(|value| !value.is_nil()) {
            return Ok(Some(Returned { event, handler, values }));
        }
    }
    Ok(None)
}

/// Calls the handlers in order until one returns explicitly, be it nil.
pub async fn call_until_return(
    state: &mut State,
    event: &str,
    arguments: MultiValue,
) -> Result<(), CallError> {
    for handler in state.handlers(event) {
        if !state.call(event, &handler, arguments.clone()).await?.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Calls every handler.
pub async fn call_all(
    state: &mut State,
    event: &str,
    arguments: MultiValue,
) -> Result<(), CallError> {
    for handler in state.handlers(event) {
        state.call(event, &handler, arguments.clone()).await?;
    }
    Ok(())
}

impl Returned<'_> {
    fn first(&self) -> Lv {
        self.values.front().cloned().unwrap_or(Lv::Nil)
    }

    fn wrong(&self, expected: &str) -> CallError {
        let given = show(&self.first());
        CallError::Failed(PolicyError {
            event: Some(self.event.into()),
            place: Some(self.handler.place.clone()),
            text: format!("this handler returned {given}; it has to return {expected}"),
        })
    }

    /// For events whose values are ignored: says so.
    pub fn nothing(&self, state: &State) {
        let given = self.first();
        if !given.is_nil() {
            let (place, event) = (&self.handler.place, self.event);
            let shown = show(&given);
            state.program().warn(format!("{place}: what {event} returns is ignored: {shown}"));
        }
    }

    /// Nil is no.
    pub fn boolean(&self) -> Result<bool, CallError> {
        match self.first() {
            Lv::Nil => Ok(false),
            Lv::Boolean(value) => Ok(value),
            _ => Err(self.wrong("true or false")),
        }
    }

    pub fn texts(&self) -> Result<Option<Vec<String>>, CallError> {
        const EXPECTED: &str = "a list of strings, or nil";
        let table = match self.first() {
            Lv::Nil => return Ok(None),
            Lv::Table(table) => table,
            _ => return Err(self.wrong(EXPECTED)),
        };
        let text =
            |item: mlua::Result<Lv>| item.ok()?.as_string()?.to_str().ok().map(|s| s.to_string());
        let texts: Option<Vec<String>> = table.sequence_values::<Lv>().map(text).collect();
        texts.map(Some).ok_or_else(|| self.wrong(EXPECTED))
    }

    /// A table, and where the handler stands.
    pub fn table(&self) -> Result<(Table, &str), CallError> {
        match self.first() {
            Lv::Table(table) => Ok((table, &self.handler.place)),
            _ => Err(self.wrong("a table")),
        }
    }

    /// What the constructor of `T` made, or nil.
    pub fn made<T: Constructed + Clone + 'static>(&self) -> Result<Option<T>, CallError> {
        match self.first() {
            Lv::Nil => Ok(None),
            Lv::UserData(data) => match data.borrow::<Made<T>>() {
                Ok(made) => Ok(Some(made.0.clone())),
                Err(_) => Err(self.wrong(&format!("what {} makes, or nil", T::CONSTRUCTOR))),
            },
            _ => Err(self.wrong(&format!("what {} makes, or nil", T::CONSTRUCTOR))),
        }
    }
}
