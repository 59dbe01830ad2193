//! Tools that ask a policy, or the DNS, without a running kumod: `resolve-shaping-domain`, `resolve-queue-config`, `resolve-site-name` and
//! `explain-throttle` (seed.md 9). Invariant: they listen on nothing and open no spool; exit codes are 0 done, 1 not done, 2 usage.
use crate::policy::{LuaPolicy, PolicyOptions};
use crate::process;
use crate::resolve::{self, Resolved};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use kumo_core::config::ThrottleSpec;
use kumo_core::config::duration::render;
use kumo_core::config::queue::DeliveryProtocol;
use kumo_core::config::render::{Secrets, Shown};
use kumo_core::time::Duration;
use kumo_io_real::dns::RealResolver;
use serde_json::{Map, Value};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the policy stands unless POLICY_PATH says so.
const POLICY_PATH: &str = "/opt/kumomta/etc/policy/init.lua";

/// Shows what a domain's mail comes to by a policy: queue, egress path and ceilings
///
/// The policy is the file POLICY_PATH, by default /opt/kumomta/etc/policy/init.lua. It is loaded and asked, and nothing is started.
#[derive(Parser)]
#[command(
    name = "resolve-shaping-domain",
    after_help = "Example: POLICY_PATH=/etc/kumod/init.lua resolve-shaping-domain example.com ip-1"
)]
pub struct ShapingDomain {
    /// Print the egress path's configuration, as JSON
    #[arg(long)]
    json_config: bool,
    /// Print the scheduled queue's configuration, as JSON
    #[arg(long)]
    json_queue_config: bool,
    /// Print the ceilings, as JSON
    #[arg(long)]
    json_constraints: bool,
    #[arg(value_name = "DOMAIN_NAME")]
    domain: String,
    #[arg(value_name = "SOURCE_NAME", default_value = "unspecified")]
    source: String,
}

/// Shows the configuration that a policy gives a scheduled queue, as JSON
///
/// The policy is the file POLICY_PATH, by default /opt/kumomta/etc/policy/init.lua.
#[derive(Parser)]
#[command(
    name = "resolve-queue-config",
    after_help = "Example: resolve-queue-config campaign:tenant@example.com"
)]
pub struct QueueConfigOf {
    #[arg(value_name = "QUEUE")]
    queue: String,
}

/// Shows the site name of a domain: the name that its MX hosts have in common
#[derive(Parser)]
#[command(name = "resolve-site-name", after_help = "Example: resolve-site-name example.com")]
pub struct SiteName {
    /// For the sake of scripts: kumod has one resolver
    #[arg(long)]
    unbound: bool,
    /// Refused: kumod doesn't validate DNSSEC yet
    #[arg(long)]
    dnssec: bool,
    #[arg(value_name = "DOMAIN")]
    domain: String,
}

/// Says what a throttle such as `100/m,max_burst=5` allows
#[derive(Parser)]
#[command(name = "explain-throttle", after_help = "Example: explain-throttle '1000/h'")]
pub struct Throttle {
    #[arg(value_name = "SPEC")]
    spec: String,
}

// ---- What they have in common -----------------------------------------------------------------------------

/// Runs one of them with the arguments of the process.
pub fn main<T: Parser + CommandFactory>(
    run: impl AsyncFnOnce(T) -> Result<String, String>,
) -> ExitCode {
    let arguments = match T::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage::<T>(&error),
    };
    let done = process::block_on(run(arguments)).and_then(|text| {
        let written = std::io::stdout().lock().write_all(text.as_bytes());
        written.map_err(|error| format!("can't write the output: {error}"))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{}: {why}", T::command().get_name());
            ExitCode::from(1)
        }
    }
}

/// As scripts know it: an unknown option is 2, nothing to look at is the help and 1.
fn usage<T: CommandFactory>(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::UnknownArgument => {
            let unknown = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::String(option)) => option.as_str(),
                _ => "?",
            };
            eprintln!("unknown option: {unknown}");
            ExitCode::from(2)
        }
        ErrorKind::MissingRequiredArgument => {
            let _ = T::command().print_help();
            ExitCode::from(1)
        }
        _ => {
            let _ = error.print();
            ExitCode::from(2)
        }
    }
}

async fn policy() -> Result<LuaPolicy, String> {
    let path = std::env::var_os("POLICY_PATH").map_or_else(|| POLICY_PATH.into(), PathBuf::from);
    let loaded = LuaPolicy::load(&path, PolicyOptions::default()).await;
    Ok(loaded.map_err(|error| error.to_string())?.policy)
}

fn resolver() -> Result<RealResolver, String> {
    RealResolver::from_system().map_err(|error| format!("there is no resolver: {error}"))
}

/// The same octets for the same configuration, whatever the release: keys in order, what isn't set is null, an empty list is `{}`.
fn pretty(document: impl Into<Value>) -> String {
    format!("{:#}\n", stable(document.into()))
}

fn stable(value: Value) -> Value {
    match value {
        Value::Array(items) if items.is_empty() => Value::Object(Map::new()),
        Value::Array(items) => items.into_iter().map(stable).collect(),
        Value::Object(table) => {
            let mut pairs: Vec<(String, Value)> = table.into_iter().collect();
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            pairs.into_iter().map(|(key, value)| (key, stable(value))).collect()
        }
        other => other,
    }
}

// ---- Each of them -----------------------------------------------------------------------------------------

pub async fn shaping_domain(wanted: ShapingDomain) -> Result<String, String> {
    let (policy, resolver) = (policy().await?, resolver()?);
    let resolved = resolve::resolve(&policy, &resolver, &wanted.domain, &wanted.source).await?;
    Ok(show(&wanted, &resolved))
}

fn show(wanted: &ShapingDomain, resolved: &Resolved) -> String {
    let mut documents = Vec::new();
    if wanted.json_queue_config {
        documents.push(pretty(resolved.queue.table(Secrets::Hidden)));
    }
    if wanted.json_config {
        documents.push(pretty(resolved.path.table(Secrets::Hidden)));
    }
    if wanted.json_constraints {
        let constraints = serde_json::to_value(&resolved.constraints);
        documents.push(pretty(constraints.expect("constraints have text keys")));
    }
    if documents.is_empty() {
        let section = |title: &str, text: String| format!("--- {title} ---\n\n{text}");
        documents.push(section("scheduled queue config", resolved.queue.toml(Secrets::Hidden)));
        documents.push(section("egress path config", resolved.path.toml(Secrets::Hidden)));
        documents.push(section("effective ceilings", resolved.constraints.to_string()));
    }
    documents.join("\n")
}

pub async fn queue_config_of(wanted: QueueConfigOf) -> Result<String, String> {
    let config = resolve::queue_config(&policy().await?, &wanted.queue).await?;
    Ok(pretty(config.table(Secrets::Hidden)))
}

pub async fn site_name(wanted: SiteName) -> Result<String, String> {
    if wanted.dnssec {
        return Err("kumod doesn't validate DNSSEC yet; leave --dnssec out".into());
    }
    if wanted.unbound {
        eprintln!("resolve-site-name: --unbound makes no difference: kumod has one resolver");
    }
    let by_dns = DeliveryProtocol::Smtp { mx_list: Vec::new() };
    let found = resolve::site(&resolver()?, &wanted.domain, &by_dns).await;
    let domain = &wanted.domain;
    let (site, _) = found.ok_or_else(|| {
        format!("{domain} has no mail hosts, or the DNS doesn't tell; `dig MX {domain}` says which")
    })?;
    Ok(format!("{site}\n"))
}

pub async fn throttle(wanted: Throttle) -> Result<String, String> {
    let spec: ThrottleSpec =
        wanted.spec.parse().map_err(|error| format!("{:?}: {error}", wanted.spec))?;
    Ok(explain(&spec))
}

fn explain(spec: &ThrottleSpec) -> String {
    let each = spec.period.as_secs_f64() / spec.limit as f64;
    let burst = spec.max_burst.unwrap_or(spec.limit);
    let local = if spec.local { "local: this node's alone\n" } else { "" };
    format!(
        "{spec}\nlimit: {} in {}\nrate: {:.3} a second, one each {}\nburst: {burst} at once after a pause\n{local}",
        spec.limit,
        render(spec.period),
        1.0 / each,
        render(Duration::from_nanos((each * 1e9) as u64)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_the_same_for_every_release() {
        let value = serde_json::json!({ "b": [], "a": null, "c": [{ "z": [1], "y": {} }] });
        let expected = "{\n  \"a\": null,\n  \"b\": {},\n  \"c\": [\n    {\n      \"y\": {},\n      \"z\": [\n        1\n      ]\n    }\n  ]\n}\n";
        assert_eq!(pretty(value), expected);
    }

    #[test]
    fn a_throttle_is_said_in_words() {
        let spec = "local:100/m,max_burst=5".parse().unwrap();
        let expected = "local:100/m,max_burst=5\nlimit: 100 in 1m\nrate: 1.667 a second, one each 600ms\nburst: 5 at once after a pause\nlocal: this node's alone\n";
        assert_eq!(explain(&spec), expected);
    }
}
