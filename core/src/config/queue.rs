//! `kumo.make_queue_config`: a scheduled queue's options (core.md 3.2), their defaults and how they are read.
//! Path templates are expanded elsewhere.
use super::options::{self, Constructed, OptionTable};
use super::options_of;
use super::rate::ThrottleSpec;
use super::read::{self, Form, Report, Table, is_host_name};
use super::render::{Secrets, Show};
use crate::limits;
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueConfig {
    #[serde(with = "super::duration::text")]
    pub retry_interval: Duration,
    #[serde(with = "super::duration::optional_text")]
    pub max_retry_interval: Option<Duration>,
    #[serde(with = "super::duration::text")]
    pub max_age: Duration,
    pub egress_pool: Option<Box<str>>,
    pub max_message_rate: Option<ThrottleSpec>,
    pub protocol: DeliveryProtocol,
    #[serde(with = "super::duration::text")]
    pub reap_interval: Duration,
    #[serde(with = "super::duration::text")]
    pub refresh_interval: Duration,
}

/// How a queue's messages leave (core.md 3.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeliveryProtocol {
    /// `smtp = { mx_list = … }`; an empty list means: ask the DNS.
    Smtp {
        mx_list: Vec<MxListEntry>,
    },
    Maildir {
        path: String,
        dir_mode: Option<u32>,
        file_mode: Option<u32>,
    },
    /// Delivered by being discarded.
    Null,
    /// `custom_lua = { … }`: by what policy makes.
    CustomLua(CustomLua),
}

/// A sender of policy's own, and how many messages it is given at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CustomLua {
    /// The event that makes the sender.
    pub constructor: Box<str>,
    pub batch_size: u64,
    /// Fewer wait for others, up to `max_batch_latency`.
    pub min_batch_size: u64,
    #[serde(with = "super::duration::text")]
    pub max_batch_latency: Duration,
}

/// `name`, `name:port`, `[ip]`, `[ip]:port` or `{name=, addr=}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MxListEntry {
    /// What is shown and used for certificate names; for `[ip]` the text as written.
    pub name: Box<str>,
    /// A fixed address instead of a look-up.
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            retry_interval: Duration::from_secs(20 * 60),
            max_retry_interval: None,
            max_age: Duration::from_secs(7 * 24 * 3600),
            egress_pool: None,
            max_message_rate: None,
            protocol: DeliveryProtocol::Smtp { mx_list: Vec::new() },
            reap_interval: Duration::from_secs(600),
            refresh_interval: Duration::from_secs(60),
        }
    }
}

options_of!(QueueConfig, {
    retry_interval max_retry_interval max_age egress_pool max_message_rate protocol reap_interval
    refresh_interval
});

impl Constructed for QueueConfig {
    const OPTIONS: &'static OptionTable = &options::QUEUE_CONFIG;
    fn read(table: &mut Table) -> QueueConfig {
        let mut config = QueueConfig::default();
        config.set(table);
        for (key, time) in [
            ("retry_interval", Some(config.retry_interval)),
            ("max_retry_interval", config.max_retry_interval),
            ("refresh_interval", Some(config.refresh_interval)),
        ] {
            table.check(key, time != Some(Duration::ZERO), "it must be above 0");
        }
        config
    }
}

impl Form for DeliveryProtocol {
    fn read(value: Value, report: &mut Report) -> Option<DeliveryProtocol> {
        let mut table = Table::open(value, &options::PROTOCOL, report)?;
        let smtp: Option<MxList> = table.optional("smtp");
        let path: Option<String> = table.optional("maildir_path");
        let dir_mode = mode(&mut table, "dir_mode");
        let file_mode = mode(&mut table, "file_mode");
        let lua: Option<CustomLua> = table.optional("custom_lua");
        if !table.finish() {
            return None;
        }
        let has_mode = dir_mode.or(file_mode).is_some();
        match (smtp, path, lua) {
            (Some(MxList(mx_list)), None, None) if !has_mode => {
                Some(DeliveryProtocol::Smtp { mx_list })
            }
            (None, Some(path), None) if !path.is_empty() => {
                Some(DeliveryProtocol::Maildir { path, dir_mode, file_mode })
            }
            (None, None, Some(lua)) if !has_mode => Some(DeliveryProtocol::CustomLua(lua)),
            _ => {
                report.error(format_args!(
                    "expected either smtp, or maildir_path with an optional dir_mode and \
                     file_mode, or custom_lua"
                ));
                None
            }
        }
    }
}

impl Show for DeliveryProtocol {
    fn show(&self, secrets: Secrets) -> Value {
        match self {
            DeliveryProtocol::Smtp { mx_list } => {
                json!({ "smtp": { "mx_list": mx_list.show(secrets) } })
            }
            DeliveryProtocol::Maildir { path, dir_mode, file_mode } => {
                json!({ "maildir_path": path, "dir_mode": dir_mode, "file_mode": file_mode })
            }
            // Of the queue of that name; no policy makes another.
            DeliveryProtocol::Null => Value::from("null"),
            DeliveryProtocol::CustomLua(lua) => json!({ "custom_lua": lua }),
        }
    }
}

impl Form for CustomLua {
    fn read(value: Value, report: &mut Report) -> Option<CustomLua> {
        let mut table = Table::open(value, &options::CUSTOM_LUA, report)?;
        let constructor = table.required_text("constructor");
        let is_name = constructor.is_empty() || is_event_name(&constructor);
        table.check("constructor", is_name, "it must be the name of an event, without spaces");
        let lua = CustomLua {
            constructor: constructor.into(),
            batch_size: table.or("batch_size", 1),
            min_batch_size: table.or("min_batch_size", 1),
            max_batch_latency: table.or("max_batch_latency", Duration::ZERO),
        };
        let most = limits::BATCH_MESSAGES;
        if !(1..=most).contains(&lua.batch_size) {
            table.error("batch_size", format_args!("it must be from 1 to {most}"));
        }
        let fits = (1..=lua.batch_size).contains(&lua.min_batch_size);
        table.check("min_batch_size", fits, "it must be from 1 to batch_size");
        if lua.min_batch_size > 1 && lua.max_batch_latency.is_zero() {
            let text = format_args!("it has no effect without a max_batch_latency to wait for");
            table.warn("min_batch_size", text);
        }
        table.finish().then_some(lua)
    }
}

/// It is part of a ready queue's name.
fn is_event_name(name: &str) -> bool {
    name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn mode(table: &mut Table, key: &'static str) -> Option<u32> {
    let mode: Option<u32> = table.optional(key);
    let wrong = "it must be at most 7777 octal; write tonumber('755', 8)";
    table.check(key, mode.is_none_or(|mode| mode <= 0o7777), wrong);
    mode
}

/// The table under `smtp`.
struct MxList(Vec<MxListEntry>);

impl Form for MxList {
    fn read(value: Value, report: &mut Report) -> Option<MxList> {
        let mut table = Table::open(value, &options::SMTP, report)?;
        let list: Vec<MxListEntry> = table.or("mx_list", Vec::new());
        if list.len() > limits::MX_HOSTS {
            let most = limits::MX_HOSTS;
            table.error("mx_list", format_args!("{} hosts are more than {most}", list.len()));
        }
        table.finish();
        Some(MxList(list))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MxListError(&'static str);

impl FromStr for MxListEntry {
    type Err = MxListError;
    fn from_str(text: &str) -> Result<MxListEntry, MxListError> {
        let (host, port) = split_port(text)?;
        let address = match host.strip_prefix('[') {
            Some(literal) => Some(address_literal(literal.strip_suffix(']'))?),
            None if host.parse::<IpAddr>().is_ok() => {
                return Err(MxListError("an address stands in [ ]"));
            }
            None => None,
        };
        match is_host_name(host) && (address.is_some() || !host.contains(['[', ']', ':'])) {
            true => Ok(MxListEntry { name: host.into(), address, port }),
            false => Err(MxListError("it isn't a host name")),
        }
    }
}

/// A port is what follows the last colon that isn't inside `[ ]`.
fn split_port(text: &str) -> Result<(&str, Option<u16>), MxListError> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) =>
        {
            let port = port.parse().ok().filter(|port| *port != 0);
            Ok((host, Some(port.ok_or(MxListError("a port is a number from 1 to 65535"))?)))
        }
        _ => Ok((text, None)),
    }
}

/// What stands in `[ ]`; SMTP's own form says `IPv6:` (RFC 5321 4.1.3).
fn address_literal(inside: Option<&str>) -> Result<IpAddr, MxListError> {
    let wrong = MxListError("no IP address stands in [ ]");
    let inside = inside.ok_or(MxListError("the ] is missing"))?;
    match inside.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")) {
        Some(tag) => inside[tag.len()..].parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| wrong),
        None => inside.parse().map_err(|_| wrong),
    }
}

impl Form for MxListEntry {
    fn read(value: Value, report: &mut Report) -> Option<MxListEntry> {
        if value.is_object() {
            return named_address(value, report);
        }
        read::from_text(
            value,
            "a host: 'name', 'name:port', '[ip]', '[ip]:port' or { name, addr }",
            report,
        )
    }
}

/// As it may be written in policy, but for a name with an address of its own.
impl fmt::Display for MxListEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Show for MxListEntry {
    fn show(&self, _: Secrets) -> Value {
        let text = self.to_string();
        match text.parse().as_ref() == Ok(self) {
            true => Value::from(text),
            false => json!({ "name": self.name, "addr": self.address }),
        }
    }
}

/// `{ name = 'mx.example.com', addr = '10.0.0.1' }`
fn named_address(value: Value, report: &mut Report) -> Option<MxListEntry> {
    let mut table = Table::open(value, &options::MX_LIST, report)?;
    let name = table.required_text("name");
    table.check("name", name.is_empty() || is_host_name(&name), "it must be a host name");
    table.require("addr");
    let address = table.optional("addr");
    table.finish();
    Some(MxListEntry { name: name.into(), address, port: None })
}
