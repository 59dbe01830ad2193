//! Looking without touching: liveness, metrics, queues, and a message.
use super::api::{
    InspectMessage, MessageInformation, Moment, OneOrMany, QueueSummary, QueueSummaryQuery,
    ReadyQueue, ScheduledQueue, Scheduling,
};
use super::errors::ApiError;
use super::serve::Operations;
use crate::metrics::{self, LogSnapshot, RoomSnapshot, Snapshot, SpoolSnapshot};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kumo_core::address::Mailbox;
use kumo_core::engine::Engine;
use kumo_core::engine::explain;
use kumo_core::engine::listing::{Counts, ReadySummary, ScheduledSummary, SourceSummary};
use kumo_core::id::SpoolId;
use kumo_core::message::Message;
use kumo_core::port::Host;
use kumo_core::queue_name::QueueName;
use kumo_driver::node::{FolderReport, StoreReport};
use serde::Deserialize;

pub async fn liveness(State(operations): State<Operations>) -> Response {
    match operations.handle.not_live() {
        None => (StatusCode::OK, "OK").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

// ---- Metrics ----------------------------------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsQuery {
    pub prefix: Option<String>,
}

pub async fn metrics(
    State(operations): State<Operations>,
    Query(query): Query<MetricsQuery>,
) -> Result<Response, ApiError> {
    let text =
        with_snapshot(&operations, |snapshot| metrics::render(snapshot, query.prefix.as_deref()));
    Ok(exposition(text.await?))
}

pub async fn metrics_json(
    State(operations): State<Operations>,
    Query(query): Query<MetricsQuery>,
) -> Result<Response, ApiError> {
    let prefix = query.prefix.as_deref();
    let text = with_snapshot(&operations, |snapshot| metrics::render_json(snapshot, prefix));
    Ok(json(text.await?))
}

/// Prometheus' text format.
pub fn exposition(text: String) -> Response {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub fn json(text: String) -> Response {
    ([("content-type", "application/json")], text).into_response()
}

struct Seen {
    counts: Counts,
    messages: u64,
    scheduled: Vec<ScheduledSummary>,
    ready: Vec<ReadySummary>,
    sources: Vec<SourceSummary>,
}

fn see(engine: &Engine) -> Seen {
    Seen {
        counts: engine.counts(),
        messages: engine.message_count() as u64,
        scheduled: engine.scheduled_queues(),
        ready: engine.ready_queues(),
        sources: engine.sources(),
    }
}

async fn with_snapshot(
    operations: &Operations,
    render: impl FnOnce(&Snapshot<'_>) -> String,
) -> Result<String, ApiError> {
    let seen = operations.handle.query(|engine, _| see(engine)).await;
    let Seen { counts, messages, scheduled, ready, sources } =
        seen.ok_or_else(ApiError::stopping)?;
    let world = operations.handle.world();
    let stores = operations.handle.spool_health();
    let rooms = rooms(&stores, operations.handle.guarded_folders());
    let spools: Vec<SpoolSnapshot> = stores.into_iter().map(spool).collect();
    let logs = world.logger.counters();
    let logs = logs.map(|counters| LogSnapshot { counters, waiting: world.logger.waiting() });
    Ok(render(&Snapshot {
        counters: operations.handle.counters(),
        counts,
        messages,
        scheduled: &scheduled,
        ready: &ready,
        sources: &sources,
        spools: &spools,
        rooms: &rooms,
        memory: world.host.memory(),
        logs,
        lua_idle_states: world.policy.idle_states() as u64,
    }))
}

fn spool(store: StoreReport) -> SpoolSnapshot {
    SpoolSnapshot {
        name: store.holds.join(" and "),
        path: store.path,
        properties: store.properties,
        load_shed: store.latched,
    }
}

/// Those that could be looked at.
fn rooms(stores: &[StoreReport], logs: Vec<FolderReport>) -> Vec<RoomSnapshot> {
    let of_stores = stores.iter().map(|store| (store.holds.join(" and "), store.free));
    let of_logs = logs.into_iter().map(|folder| (format!("logs at {}", folder.path), folder.free));
    let rooms = of_stores.chain(of_logs).map(|(name, free)| RoomSnapshot { name, free });
    rooms.filter(|room| room.free.octets_total > 0).collect()
}

// ---- Queues -----------------------------------------------------------------------------------------------

pub async fn queue_summary(
    State(operations): State<Operations>,
    Query(query): Query<QueueSummaryQuery>,
) -> Result<Json<QueueSummary>, ApiError> {
    let look = operations.handle.query(move |engine, _| summarize(engine, &query)).await;
    look.map(Json).ok_or_else(ApiError::stopping)
}

fn summarize(engine: &Engine, query: &QueueSummaryQuery) -> QueueSummary {
    let wanted = |name: &str| {
        query.domain.as_deref().is_none_or(|domain| {
            let name = QueueName::parse(name);
            name.domain == domain || name.routing_domain == Some(domain)
        })
    };
    let mut scheduled: Vec<ScheduledQueue> = engine
        .scheduled_queues()
        .into_iter()
        .filter(|queue| wanted(&queue.name))
        .map(|queue| ScheduledQueue {
            name: queue.name,
            messages: queue.messages,
            waiting: queue.waiting,
            blocked: queue.blocked.as_ref().map(explain::describe),
        })
        .collect();
    let mut ready: Vec<ReadyQueue> = engine
        .ready_queues()
        .into_iter()
        .map(|queue| ReadyQueue {
            held: queue.held.as_ref().map(|held| engine.describe_held(held)),
            name: queue.name,
            site: queue.site,
            source: queue.source,
            pool: queue.pool,
            ready: queue.ready,
            in_flight: queue.in_flight,
            connections: queue.connections,
            connection_limit: queue.connection_limit,
            suspended: queue.suspended,
        })
        .collect();
    let totals = QueueSummary {
        scheduled_queues: scheduled.len() as u64,
        scheduled_messages: scheduled.iter().map(|queue| queue.messages).sum(),
        ready_queues: ready.len() as u64,
        ready_messages: ready.iter().map(|queue| queue.ready).sum(),
        ..QueueSummary::default()
    };
    if query.by_volume {
        scheduled.sort_by_key(|queue| std::cmp::Reverse(queue.messages));
        ready.sort_by_key(|queue| std::cmp::Reverse(queue.ready));
    }
    let limit = query.limit.unwrap_or(usize::MAX);
    scheduled.truncate(limit);
    ready.truncate(limit);
    QueueSummary { scheduled, ready, ..totals }
}

// ---- A message --------------------------------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageQuery {
    id: String,
    #[serde(default)]
    want_body: bool,
}

pub async fn message(
    State(operations): State<Operations>,
    Query(query): Query<MessageQuery>,
) -> Result<Json<InspectMessage>, ApiError> {
    let id = parse_id(&query.id)?;
    let read = operations.handle.read_message(id).await;
    let read = read.map_err(|why| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, why))?;
    let missing = || ApiError::new(StatusCode::NOT_FOUND, format!("no such message {id}"));
    let message = read.ok_or_else(missing)?;
    Ok(Json(InspectMessage { id: id.to_string(), message: describe(&message, query.want_body) }))
}

pub fn parse_id(text: &str) -> Result<SpoolId, ApiError> {
    text.parse()
        .map_err(|error: kumo_core::id::SpoolIdError| ApiError::unprocessable(error.to_string()))
}

fn describe(message: &Message, want_body: bool) -> MessageInformation {
    let recipients = &message.envelope.recipients;
    let remaining = message.remaining.iter().filter_map(|index| recipients.get(index as usize));
    let mut remaining: Vec<String> = remaining.map(Mailbox::as_str).map(String::from).collect();
    let recipient = match remaining.len() {
        1 => OneOrMany::One(remaining.remove(0)),
        _ => OneOrMany::Many(remaining),
    };
    let expires = message.schedule.expires;
    MessageInformation {
        sender: message.envelope.sender.as_str().into(),
        recipient,
        meta: message.meta.clone(),
        data: want_body.then(|| String::from_utf8_lossy(&message.body).into_owned()),
        due: message.schedule.due.map(Moment),
        num_attempts: Some(message.attempts),
        scheduling: expires.map(|expires| Scheduling { expires: Moment(expires) }),
    }
}
