//! `kumo.make_egress_source` (seed.md 12.1, 12.4): a way out, and when it is suspended. What suspends it is counted in
//! [`source_health`](crate::source_health).
use super::egress::check_ehlo_domain;
use super::fields;
use super::options::{self, Constructed, OptionTable};
use super::rate::ThrottleSpec;
use super::read::{Form, Report, Table};
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
            suspend_when_unplumbed: None,
            suspend_when_proxy_unhealthy: None,
            ttl: Duration::from_secs(60),
        }
    }
}

impl Constructed for EgressSource {
    const OPTIONS: &'static OptionTable = &options::EGRESS_SOURCE;
    fn read(table: &mut Table) -> EgressSource {
        let name = table.required_text("name");
        let source = fields!(table, EgressSource::named(&name), {
            ehlo_domain source_address remote_port suspend_when_unplumbed
            suspend_when_proxy_unhealthy ttl
        });
        table.check("remote_port", source.remote_port != Some(0), "it must be at least 1");
        check_ehlo_domain(table, source.ehlo_domain.as_deref());
        source
    }
}
