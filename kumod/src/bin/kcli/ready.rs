//! `inspect-ready-q`, `abort-ready-q-conn` and `resolve-egress-path`. The text's layout is the one that operators know (seed.md 5, 8).
use super::arguments::{InspectReadyQArguments, ResolveEgressPathArguments};
use super::output::{self, grouped, plain};
use super::server::{Failure, Server, read};
use hyper::Method;
use kumo_core::config::duration;
use kumo_core::toml_text;
use kumod::http::api::{
    AbortConnection, DispatcherState, InspectReadyQ, MxHosts, ResolvedEgressPath,
};
use kumod::http::client::with_query;
use serde_json::{Map, Value};
use std::time::Duration;

const INSPECT: &str = "/api/admin/inspect-ready-q/v1";
const ABORT: &str = "/api/admin/abort-ready-q-conn/v1";
const RESOLVE: &str = "/api/admin/resolve-egress-path/v1";

pub async fn inspect(
    server: &mut Server,
    wanted: &InspectReadyQArguments,
) -> Result<String, Failure> {
    let with_queues = (wanted.json || wanted.sched_q).to_string();
    let query =
        [("queue_name", wanted.queue_name.as_str()), ("include_scheduled_queues", &with_queues)];
    let document = server.get(&with_query(INSPECT, &query)).await?;
    match wanted.json {
        true => Ok(output::json(&document)),
        false => Ok(render(&read(&document)?, wanted)),
    }
}

pub async fn abort(server: &mut Server, request: AbortConnection) -> Result<String, Failure> {
    let answer = server.send(Method::POST, ABORT, &request).await?.text();
    let text = if answer.is_empty() { "OK" } else { answer.as_str() };
    Ok(format!("{}\n", plain(text)))
}

// ---- Text -------------------------------------------------------------------------------------------------

pub fn render(queue: &InspectReadyQ, wanted: &InspectReadyQArguments) -> String {
    let mut blocks = vec![format!("queue: {}\n", plain(&queue.queue_name)), summary(queue)];
    blocks.extend(queue.mx.as_ref().map(mx));
    blocks.push(format!("ready: {}\n", grouped(queue.state.ready_count)));
    blocks.extend(obstacles(queue));
    blocks.extend(
        queue.constraints.as_ref().map(|constraints| plain_lines(&constraints.to_string())),
    );
    if let (true, Some(names)) = (wanted.sched_q, &queue.scheduled_queue_names) {
        let lines = names.iter().map(|name| format!("  {}\n", plain(name)));
        blocks.push(format!(
            "scheduled queues: {}\n{}",
            grouped(names.len() as u64),
            lines.collect::<String>()
        ));
    }
    blocks.push(connections(queue, wanted.connections));
    if let (true, Some(config)) = (wanted.config, &queue.path_config) {
        blocks.push(format!("config:\n{}", indented(&toml(config))));
    }
    blocks.join("\n")
}

/// As TOML, whatever the server's options are; JSON has a null that TOML lacks.
fn toml(config: &Map<String, Value>) -> String {
    toml_text::pretty_compact(config)
        .unwrap_or_else(|_| format!("{:#}\n", Value::Object(config.clone())))
}

pub async fn resolve(
    server: &mut Server,
    wanted: &ResolveEgressPathArguments,
) -> Result<String, Failure> {
    let query = [("domain", wanted.domain.as_str()), ("source", wanted.source.as_str())];
    let document = server.get(&with_query(RESOLVE, &query)).await?;
    if wanted.json {
        return Ok(output::json(&document));
    }
    let resolved: ResolvedEgressPath = read(&document)?;
    Ok(match (wanted.config, wanted.constraints) {
        (true, _) => plain_lines(&toml(&resolved.path_config)),
        (_, true) => plain_lines(&resolved.constraints.to_string()),
        _ => render_resolved(&resolved),
    })
}

pub fn render_resolved(resolved: &ResolvedEgressPath) -> String {
    let ResolvedEgressPath { domain, source, queue_name, .. } = resolved;
    let mx = match (&resolved.mx, &resolved.mx_failure) {
        (Some(hosts), _) => mx(hosts),
        (None, Some(why)) => format!("mx: <not resolved> ({})\n", plain(why)),
        (None, None) => "mx: <not resolved>\n".into(),
    };
    let section = |title: &str, text: String| format!("--- {title} ---\n\n{}", plain_lines(&text));
    [
        format!(
            "domain: {}\nsource: {}\nqueue:  {}\n",
            plain(domain),
            plain(source),
            plain(queue_name)
        ),
        mx,
        section("scheduled queue config", toml(&resolved.queue_config)),
        section("egress path config", toml(&resolved.path_config)),
        section("effective ceilings", resolved.constraints.to_string()),
    ]
    .join("\n")
}

fn summary(queue: &InspectReadyQ) -> String {
    let threshold = queue.state.watchdog_threshold.map_or("not known yet".into(), duration::render);
    let lines = [
        ("egress pool:", queue.egress_pool.clone()),
        ("egress source:", queue.egress_source.clone()),
        ("protocol:", queue.protocol.clone()),
        ("watchdog threshold:", threshold),
    ];
    let widest = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let line = |(label, value): &(&str, String)| format!("{label:<widest$} {}\n", plain(value));
    lines.iter().map(line).collect()
}

fn mx(mx: &MxHosts) -> String {
    let said = [
        (!mx.is_mx, ", synthesised"),
        (mx.is_domain_literal, ", domain literal"),
        (mx.is_secure, ", dnssec verified"),
    ];
    let said: String = said.iter().filter(|(is, _)| *is).map(|(_, text)| *text).collect();
    let mut text = format!("mx (site: {}{said}):\n", plain(&mx.site_name));
    let mut by_preference: Vec<(u32, &Vec<String>)> = mx
        .by_preference
        .iter()
        .map(|(preference, hosts)| (preference.parse().unwrap_or(u32::MAX), hosts))
        .collect();
    by_preference.sort_by_key(|(preference, _)| *preference);
    for (preference, hosts) in by_preference {
        hosts.iter().for_each(|host| text += &format!("  {preference:>4}  {}\n", plain(host)));
    }
    text
}

fn obstacles(queue: &InspectReadyQ) -> Option<String> {
    let state = &queue.state;
    let mut text = String::new();
    for (label, obstacle) in [
        ("connection rate throttled", &state.connection_rate_throttled),
        ("connection limited", &state.connection_limited),
        ("message rate throttled", &state.message_rate_throttled),
    ] {
        if let Some(obstacle) = obstacle {
            let context = plain(&obstacle.context);
            text += &format!("{label}: {context}\n  since: {}\n", obstacle.since);
        }
    }
    if let Some(suspended) = &state.suspended {
        let left = duration::render(whole_seconds(suspended.duration));
        text += &format!("suspended: {}\n  expires in: {left}\n", plain(&suspended.reason));
    }
    (!text.is_empty()).then_some(text)
}

fn connections(queue: &InspectReadyQ, listed: bool) -> String {
    let mut text = format!("connections: {}\n", grouped(queue.dispatchers.len() as u64));
    if listed && !queue.dispatchers.is_empty() {
        text += "\n";
        text += &table(queue);
    }
    text
}

/// A row for each, and below it what it does.
struct Row {
    cells: [String; 6],
    marker: &'static str,
    below: Vec<String>,
}

fn row(dispatcher: &DispatcherState, threshold: Option<Duration>) -> Row {
    let idle = dispatcher.time_in_current_phase;
    let marker = match threshold {
        Some(threshold) if idle >= threshold => "⚠ STUCK",
        Some(threshold) if idle * 4 >= threshold * 3 => "⚠ STALL?",
        _ => "",
    };
    let time = |time| duration::render(whole_seconds(time));
    let mut below = vec![format!("  {} for {}", phase(&dispatcher.phase), time(idle))];
    below.extend(dispatcher.detail.as_deref().map(|detail| format!("  {}", plain(detail))));
    let cells = [
        plain(&dispatcher.session_id),
        grouped(dispatcher.messages_delivered),
        grouped(dispatcher.messages_transfailed),
        grouped(dispatcher.messages_failed),
        time(dispatcher.age),
        format!("{:.1}/s", dispatcher.overall_rate_per_sec),
    ];
    Row { cells, marker, below }
}

fn table(queue: &InspectReadyQ) -> String {
    const HEADERS: [&str; 6] = ["SESSION", "DELIV", "TRANS", "FAIL", "AGE", "RATE"];
    let rows: Vec<Row> =
        queue.dispatchers.iter().map(|one| row(one, queue.state.watchdog_threshold)).collect();
    let width = |text: &str| text.chars().count();
    let mut widths = HEADERS.map(width);
    for row in &rows {
        for (column, cell) in widths.iter_mut().zip(&row.cells) {
            *column = width(cell).max(*column);
        }
        widths[0] = row.below.iter().map(|line| width(line)).max().unwrap_or(0).max(widths[0]);
    }
    let line = |cells: [&str; 6], marker: &str| {
        let mut text = format!("  {:<1$}", cells[0], widths[0]);
        for (cell, width) in cells.iter().zip(widths).skip(1) {
            // One space, so that a line fits into 80 columns.
            text += &format!(" {cell:>width$}");
        }
        let text = format!("{text} {marker}");
        format!("{}\n", text.trim_end())
    };
    let mut text = line(HEADERS, "");
    for Row { cells, marker, below } in &rows {
        text += &line(cells.each_ref().map(String::as_str), marker);
        below.iter().for_each(|said| text += &format!("  {said}\n"));
        text += "\n";
    }
    text.pop();
    text
}

/// `Idle`, or `AccumulatingBatch(1/5)`.
fn phase(phase: &Value) -> String {
    let text = match phase {
        Value::String(name) => name.clone(),
        Value::Object(named) => named
            .iter()
            .map(|(name, values)| {
                let values = ["have", "want", "label"].iter().filter_map(|key| values.get(key));
                let values: Vec<String> = values
                    .map(|value| value.as_str().map_or_else(|| value.to_string(), Into::into))
                    .collect();
                format!("{name}({})", values.join("/"))
            })
            .collect(),
        other => other.to_string(),
    };
    plain(&text)
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

fn plain_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", plain(line))).collect()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {}\n", plain(line))).collect()
}
