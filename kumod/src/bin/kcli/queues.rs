//! `queue-summary`.
use super::arguments::QueueSummary as Wanted;
use super::output::{self, counted, grouped, or_dash};
use super::server::{Failure, Server, read};
use kumod::http::api::{QueueSummary, ReadyQueue, ScheduledQueue};
use kumod::http::client::with_query;

pub async fn summary(server: &mut Server, wanted: &Wanted) -> Result<String, Failure> {
    let limit = wanted.limit.map(|limit| limit.to_string());
    let mut query = Vec::new();
    query.extend(limit.as_deref().map(|limit| ("limit", limit)));
    query.extend(wanted.by_volume.then_some(("by_volume", "true")));
    query.extend(wanted.domain.as_deref().map(|domain| ("domain", domain)));
    let document = server.get(&with_query("/api/admin/queue-summary/v1", &query)).await?;
    match wanted.json {
        true => Ok(output::json(&document)),
        false => Ok(render(&read(&document)?)),
    }
}

pub fn render(summary: &QueueSummary) -> String {
    let mut text = format!(
        "{}, {}\n",
        counted(summary.ready_queues, "ready queue"),
        counted(summary.ready_messages, "message")
    );
    if !summary.ready.is_empty() {
        let headers = ["READY QUEUE", "READY>", "FLIGHT>", "CONN>", "HELD UP BY"];
        text.push_str(&output::table(headers, summary.ready.iter().map(ready_row)));
    }
    text.push_str(&format!(
        "\n{}, {}\n",
        counted(summary.scheduled_queues, "scheduled queue"),
        counted(summary.scheduled_messages, "message")
    ));
    if !summary.scheduled.is_empty() {
        let headers = ["SCHEDULED QUEUE", "QUEUED>", "DUE>", "HELD UP BY"];
        text.push_str(&output::table(headers, summary.scheduled.iter().map(scheduled_row)));
    }
    text
}

fn ready_row(queue: &ReadyQueue) -> [String; 5] {
    let connections = match queue.connection_limit {
        Some(limit) => format!("{}/{}", grouped(queue.connections), grouped(limit)),
        None => grouped(queue.connections),
    };
    let suspended = queue.suspended.as_deref().map(|reason| format!("suspended: {reason}"));
    [
        queue.name.clone(),
        grouped(queue.ready),
        grouped(queue.in_flight),
        connections,
        or_dash(suspended.as_deref().or(queue.held.as_deref())),
    ]
}

fn scheduled_row(queue: &ScheduledQueue) -> [String; 4] {
    [
        queue.name.clone(),
        grouped(queue.messages),
        grouped(queue.waiting),
        or_dash(queue.blocked.as_deref()),
    ]
}
