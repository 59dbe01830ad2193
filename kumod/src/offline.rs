//! Tools that ask a policy, or the DNS, without a running kumod: `resolve-shaping-domain`, `resolve-queue-config`, `resolve-site-name` and
//! `explain-throttle` (seed.md 9). Invariant: `init` doesn't run, so nothing is opened or listened on; stdout holds the answer alone; exit codes
//! are 0 done, 1 not done, 2 usage.
use crate::diagnostics::{DiagnosticOptions, Diagnostics};
use crate::policy::{LuaPolicy, PolicyOptions};
use crate::resolve::{self, Resolved};
use crate::{privileges, process};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use kumo_core::config::ThrottleSpec;
use kumo_core::config::duration::render;
use kumo_core::config::queue::DeliveryProtocol;
use kumo_core::config::render::{Secrets, Shown};
use kumo_io_real::dns::RealResolver;
use serde_json::{Map, Value};
use std::io::{ErrorKind as ErrorKindOfIo, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the policy stands unless POLICY_PATH says so.
const POLICY_PATH: &str = "/opt/kumomta/etc/policy/init.lua";
/// The user that kumod runs as, and whom its policy is written for.
const USER: &str = "kumod";

/// Shows what a domain's mail comes to by a policy: queue, egress path and ceilings
///
/// The policy is the file POLICY_PATH, by default /opt/kumomta/etc/policy/init.lua. Its handlers are asked; its init doesn't run.
/// Started as root, the tool becomes the user kumod, if there is one. Limits that many paths share count in full for each, and bursts and round
/// trips are left out.
#[derive(Parser)]
#[command(
    name = "resolve-shaping-domain",
    version,
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
/// The policy is the file POLICY_PATH, by default /opt/kumomta/etc/policy/init.lua. Its init doesn't run. Started as root, the tool becomes
/// the user kumod, if there is one.
#[derive(Parser)]
#[command(
    name = "resolve-queue-config",
    version,
    after_help = "Example: resolve-queue-config campaign:tenant@example.com"
)]
pub struct QueueConfigOf {
    #[arg(value_name = "QUEUE")]
    queue: String,
}

/// Shows the site name of a domain: the name that its MX hosts have in common
#[derive(Parser)]
#[command(
    name = "resolve-site-name",
    version,
    after_help = "Example: resolve-site-name example.com"
)]
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
#[command(name = "explain-throttle", version, after_help = "Example: explain-throttle '1000/h'")]
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
    // Before there are threads: rights belong to each.
    let done = give_up_root().and_then(|()| process::block_on(run(arguments)));
    let done = done.and_then(|text| print(&text));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{}: {why}", T::command().get_name());
            ExitCode::from(1)
        }
    }
}

fn give_up_root() -> Result<(), String> {
    match privileges::is_root() && privileges::ids_of(USER).is_ok() {
        true => privileges::become_user(USER),
        false => Ok(()),
    }
}

/// Whoever stops reading, such as `head`, has what it wanted.
fn print(text: &str) -> Result<(), String> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKindOfIo::BrokenPipe => {
            Err(format!("can't write the output: {error}"))
        }
        _ => Ok(()),
    }
}

/// As scripts know it: an unknown option is 2, nothing to look at is the help and 1.
fn usage<T: CommandFactory>(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
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
    // On stderr: what policy logs, and what it is warned about.
    Diagnostics::start(&DiagnosticOptions::default())?;
    let path = std::env::var_os("POLICY_PATH").map_or_else(|| POLICY_PATH.into(), PathBuf::from);
    let loaded = LuaPolicy::load_without_init(&path, PolicyOptions::default()).await;
    loaded.map_err(|error| {
        let hint = if path.exists() { "" } else { "; POLICY_PATH names the policy" };
        format!("{error}{hint}")
    })
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
    resolve::check(&wanted.domain, &wanted.source)?;
    let resolved = resolve::resolve(&policy, &resolver, &wanted.domain, &wanted.source).await?;
    if let Some(why) = &resolved.mx_failure {
        eprintln!("resolve-shaping-domain: {why}; its site is taken to be {}", resolved.site);
    }
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
    let (site, _) = found?;
    Ok(format!("{site}\n"))
}

pub async fn throttle(wanted: Throttle) -> Result<String, String> {
    let spec: ThrottleSpec =
        wanted.spec.parse().map_err(|error| format!("{:?}: {error}", wanted.spec))?;
    Ok(explain(&spec))
}

fn explain(spec: &ThrottleSpec) -> String {
    let burst = spec.burst();
    let burst = match spec.max_burst {
        Some(_) => format!("{burst} at once after a pause"),
        None => format!("{burst} at once after a pause: its limit, since there is no max_burst"),
    };
    let scope = match spec.local {
        true => "this node's alone",
        false => "this node's alone: kumod shares no throttles between nodes yet",
    };
    let lines = [
        ("throttle:", spec.to_string()),
        ("limit:", format!("{} in {}", spec.limit, render(spec.period))),
        ("rate:", rates(spec)),
        ("spacing:", format!("one each {}", render(spec.interval()))),
        ("burst:", burst),
        ("scope:", scope.into()),
    ];
    lines.map(|(label, text)| format!("{label:<10}{text}\n")).concat()
}

/// By whichever of them the operator thinks in.
fn rates(spec: &ThrottleSpec) -> String {
    let a_second = spec.limit as f64 / spec.period.as_secs_f64();
    let units = [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    units.map(|(unit, seconds)| format!("{}/{unit}", four_digits(a_second * seconds))).join(" = ")
}

/// Or all before the point, if they are more.
fn four_digits(number: f64) -> String {
    let before = number.log10().floor();
    let decimals = (3.0 - before).clamp(0.0, 15.0) as usize;
    let text = format!("{number:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
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
        let said = |spec: &str| explain(&spec.parse().unwrap());
        let expected = "throttle: local:1000/300s,max_burst=10
limit:    1000 in 5m
rate:     3.333/s = 200/m = 12000/h = 288000/d
spacing:  one each 300ms
burst:    10 at once after a pause
scope:    this node's alone
";
        assert_eq!(said("local:1,000/5m,max_burst=10"), expected);
        let slow = said("1/d");
        assert!(slow.contains("0.00001157/s = 0.0006944/m = 0.04167/h = 1/d\n"), "{slow}");
        assert!(slow.contains("one each 1day\n") && slow.contains("since there is no"), "{slow}");
    }
}
