//! `kumo.make_egress_source` (seed.md 12.1, 12.4): a way out, and when it is suspended. What suspends it is counted in
//! [`source_health`](crate::source_health).
use super::egress::check_ehlo_domain;
use super::options::{self, Constructed, OptionTable};
use super::rate::ThrottleSpec;
use super::read::{Form, Report, Table};
use super::{Secret, fields};
use crate::proxy::ProxyServer;
use crate::proxy::socks5::client::Credentials;
use crate::time::Duration;
use alloc::boxed::Box;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What it takes to suspend a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "TriggerText", try_from = "TriggerText")]
pub enum Trigger {
    /// The first failure.
    Immediate,
    /// So many within a sliding period of a second at least.
    Threshold { failures: u64, period: Duration },
}

/// As it stands in policy.
#[derive(Serialize, Deserialize)]
enum TriggerText {
    Immediate,
    Threshold(ThrottleSpec),
}

impl From<Trigger> for TriggerText {
    fn from(trigger: Trigger) -> TriggerText {
        match trigger {
            Trigger::Immediate => TriggerText::Immediate,
            Trigger::Threshold { failures, period } => TriggerText::Threshold(ThrottleSpec {
                limit: failures,
                period,
                max_burst: None,
                local: false,
            }),
        }
    }
}

impl TryFrom<TriggerText> for Trigger {
    type Error = &'static str;
    fn try_from(text: TriggerText) -> Result<Trigger, &'static str> {
        match text {
            TriggerText::Immediate => Ok(Trigger::Immediate),
            TriggerText::Threshold(ThrottleSpec { max_burst: Some(_), .. }) => {
                Err("a threshold has no max_burst")
            }
            TriggerText::Threshold(ThrottleSpec { limit, period, .. }) => {
                Ok(Trigger::Threshold { failures: limit, period })
            }
        }
    }
}

/// Of `suspend_when_unplumbed` and `suspend_when_proxy_unhealthy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspendRule {
    pub trigger: Trigger,
    #[serde(with = "super::duration::text")]
    pub duration: Duration,
}

impl Form for Trigger {
    fn read(value: Value, report: &mut Report) -> Option<Trigger> {
        let threshold = match &value {
            Value::String(name) if name == "Immediate" => return Some(Trigger::Immediate),
            Value::Object(map) if map.len() == 1 => map.get("Threshold").and_then(Value::as_str),
            _ => None,
        };
        let Some(text) = threshold else {
            report.error(format_args!(
                "expected 'Immediate' or {{ Threshold = '5/60s' }}, found {value}"
            ));
            return None;
        };
        let parsed = text.parse::<ThrottleSpec>().map_err(|error| error.0);
        match parsed.and_then(|spec| Trigger::try_from(TriggerText::Threshold(spec))) {
            Ok(trigger) => Some(trigger),
            Err(why) => {
                let expected = "the number of failures and the period, as in '5/60s'";
                report.error(format_args!("Threshold: {text:?} isn't {expected}: {why}"));
                None
            }
        }
    }
}

impl Form for SuspendRule {
    fn read(value: Value, report: &mut Report) -> Option<SuspendRule> {
        let mut table = Table::open(value, &options::SUSPEND_RULE, report)?;
        let trigger = table.or("trigger", Trigger::Immediate);
        let duration: Duration = table.required("duration");
        table.check("duration", !duration.is_zero(), "it must be above 0");
        table.finish();
        Some(SuspendRule { trigger, duration })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EgressSource {
    pub name: Box<str>,
    pub ehlo_domain: Option<Box<str>>,
    pub source_address: Option<IpAddr>,
    pub remote_port: Option<u16>,
    /// See [`EgressSource::proxy`].
    pub ha_proxy_server: Option<ProxyServer>,
    pub ha_proxy_source_address: Option<IpAddr>,
    pub socks5_proxy_server: Option<ProxyServer>,
    pub socks5_proxy_source_address: Option<IpAddr>,
    pub socks5_proxy_username: Option<Box<str>>,
    pub socks5_proxy_password: Option<Secret>,
    pub suspend_when_unplumbed: Option<SuspendRule>,
    pub suspend_when_proxy_unhealthy: Option<SuspendRule>,
    #[serde(with = "super::duration::text")]
    pub ttl: Duration,
}

impl EgressSource {
    /// A source with nothing but its name; `unspecified` is the built-in one.
    pub fn named(name: &str) -> EgressSource {
        EgressSource {
            name: name.into(),
            ehlo_domain: None,
            source_address: None,
            remote_port: None,
            ha_proxy_server: None,
            ha_proxy_source_address: None,
            socks5_proxy_server: None,
            socks5_proxy_source_address: None,
            socks5_proxy_username: None,
            socks5_proxy_password: None,
            suspend_when_unplumbed: None,
            suspend_when_proxy_unhealthy: None,
            ttl: Duration::from_secs(60),
        }
    }

    /// PROXY goes before SOCKS5 if both are configured.
    pub fn proxy(&self) -> Option<Proxy<'_>> {
        let ha_proxy = || {
            let server = self.ha_proxy_server.as_ref()?;
            Some(Proxy::HaProxy { server, source_address: self.ha_proxy_source_address? })
        };
        let socks5 = || {
            let server = self.socks5_proxy_server.as_ref()?;
            Some(Proxy::Socks5 {
                server,
                source_address: self.socks5_proxy_source_address,
                credentials: self.credentials(),
            })
        };
        ha_proxy().or_else(socks5)
    }

    /// What destinations see, if policy says it.
    pub fn egress_address(&self) -> Option<IpAddr> {
        match self.proxy() {
            None => self.source_address,
            Some(Proxy::HaProxy { source_address, .. }) => Some(source_address),
            Some(Proxy::Socks5 { source_address, .. }) => source_address,
        }
    }

    fn credentials(&self) -> Option<Credentials> {
        Some(Credentials {
            username: self.socks5_proxy_username.clone()?,
            password: self.socks5_proxy_password.clone()?,
        })
    }
}

/// By way of what a source connects.
#[derive(Clone, Debug, PartialEq)]
pub enum Proxy<'a> {
    HaProxy {
        server: &'a ProxyServer,
        source_address: IpAddr,
    },
    /// `source_address`: asked of the proxy, if it isn't to choose (D33).
    Socks5 {
        server: &'a ProxyServer,
        source_address: Option<IpAddr>,
        credentials: Option<Credentials>,
    },
}

impl EgressSource {
    fn check_proxies(&self, table: &mut Table) {
        let fits = |text: &str| (1..=255).contains(&text.len());
        let username = self.socks5_proxy_username.as_deref().is_none_or(fits);
        table.check("socks5_proxy_username", username, "it must be of 1 to 255 octets");
        let password = self.socks5_proxy_password.as_ref();
        let password = password.is_none_or(|password| fits(password.expose()));
        table.check("socks5_proxy_password", password, "it must be of 1 to 255 octets");
        if self.ha_proxy_server.is_some() && self.socks5_proxy_server.is_some() {
            table
                .warn("socks5_proxy_server", format_args!("ha_proxy_server is used instead of it"));
        }
        if self.suspend_when_unplumbed.is_some() && self.source_address.is_none() {
            let why = format_args!("it never applies, since the source has no source_address");
            table.warn("suspend_when_unplumbed", why);
        }
        if self.suspend_when_proxy_unhealthy.is_some() && self.proxy().is_none() {
            let why = format_args!("it never applies, since the source has no proxy");
            table.warn("suspend_when_proxy_unhealthy", why);
        }
        if let (Some(source), Some(ProxyServer::Address(proxy))) =
            (self.source_address, self.proxy().map(|proxy| proxy.server().clone()))
        {
            let of_one_family = source.is_ipv4() == proxy.is_ipv4();
            let wrong = "it and the proxy's address are of different families, so that nothing can be reached";
            table.check("source_address", of_one_family, wrong);
        }
    }
}

impl Proxy<'_> {
    /// As delivery records have it.
    pub fn protocol(&self) -> &'static str {
        match self {
            Proxy::HaProxy { .. } => "haproxy",
            Proxy::Socks5 { .. } => "socks5",
        }
    }

    pub fn server(&self) -> &ProxyServer {
        match self {
            Proxy::HaProxy { server, .. } | Proxy::Socks5 { server, .. } => server,
        }
    }
}

impl Constructed for EgressSource {
    const OPTIONS: &'static OptionTable = &options::EGRESS_SOURCE;
    fn read(table: &mut Table) -> EgressSource {
        let name = table.required_text("name");
        table.together("ha_proxy_server", "ha_proxy_source_address");
        table.together("socks5_proxy_username", "socks5_proxy_password");
        for key in ["socks5_proxy_source_address", "socks5_proxy_username"] {
            table.requires(key, "socks5_proxy_server");
        }
        let source = fields!(table, EgressSource::named(&name), {
            ehlo_domain source_address remote_port
            ha_proxy_server ha_proxy_source_address
            socks5_proxy_server socks5_proxy_source_address
            socks5_proxy_username socks5_proxy_password
            suspend_when_unplumbed suspend_when_proxy_unhealthy ttl
        });
        source.check_proxies(table);
        table.check("remote_port", source.remote_port != Some(0), "it must be at least 1");
        check_ehlo_domain(table, source.ehlo_domain.as_deref());
        source
    }
}
