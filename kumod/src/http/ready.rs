//! Ready queues from inside, and the end of one of their connections (seed.md 5, 7). What a dispatcher does is its own to tell, what holds a
//! queue back the engine's; here both are put together.
use super::api::{
    AbortConnection, DispatcherState, InspectReadyQ, Moment, Obstacle, ReadyQState, ReadyQStates,
    ReadyQSuspension,
};
use super::errors::{ApiError, parse};
use super::serve::Operations;
use crate::resolve::mx_hosts;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kumo_core::ceilings::EffectiveConstraints;
use kumo_core::config::duration;
use kumo_core::config::queue::DeliveryProtocol;
use kumo_core::config::render::{Secrets, Shown};
use kumo_core::dispatcher::{self, Phase};
use kumo_core::engine::inspect::{ReadyInspection, SessionSummary};
use kumo_core::engine::{AdminCommand, AdminReply, Engine, Held};
use kumo_core::time::{Duration, Mono, Now, Wall};
use kumo_driver::dispatchers::{Dispatcher, Dispatchers};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectQuery {
    queue_name: String,
    #[serde(default)]
    include_scheduled_queues: bool,
}

pub async fn inspect(
    State(operations): State<Operations>,
    Query(query): Query<InspectQuery>,
) -> Result<Json<InspectReadyQ>, ApiError> {
    let InspectQuery { queue_name, include_scheduled_queues } = query;
    let name = queue_name.clone();
    let look = move |engine: &Engine, dispatchers: &Dispatchers, now: Now| {
        let inspection = engine.inspect_ready(&name)?;
        let of_session =
            |summary: &SessionSummary| Some((*summary, dispatchers.get(summary.session)?));
        let dispatchers = inspection.sessions.iter().filter_map(of_session).collect();
        let queues = include_scheduled_queues.then(|| engine.queues_of_ready(&name));
        Some((inspection, dispatchers, queues, now))
    };
    let seen = operations.handle.inspect(look).await.ok_or_else(ApiError::stopping)?;
    let (inspection, dispatchers, queues, now) = seen.ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, format!("no such ready queue {queue_name}"))
    })?;
    Ok(Json(document(inspection, dispatchers, queues, now)))
}

type Seen = Vec<(SessionSummary, Dispatcher)>;

fn document(
    inspection: ReadyInspection,
    seen: Seen,
    queues: Option<Vec<String>>,
    now: Now,
) -> InspectReadyQ {
    let state = state(&inspection, now);
    let path = inspection.path.as_deref();
    InspectReadyQ {
        mx: mx_hosts(&inspection.protocol, inspection.site.clone(), &inspection.hosts),
        egress_source: inspection.source.clone(),
        egress_pool: inspection.pool.as_ref().into(),
        protocol: protocol(&inspection.name).into(),
        path_config: path.map(|path| path.table(Secrets::Hidden)),
        constraints: path.map(EffectiveConstraints::of_path),
        scheduled_queue_names: queues,
        dispatchers: seen
            .iter()
            .map(|(summary, one)| row(&inspection, summary, one, now))
            .collect(),
        queue_name: inspection.name.as_ref().into(),
        now: Moment(now.wall),
        state,
    }
}

/// As the queue's name has it, without what its protocol is made with.
fn protocol(queue: &str) -> &str {
    let protocol = queue.rsplit_once('@').map_or(queue, |(_, protocol)| protocol);
    protocol.split(':').next().unwrap_or(protocol)
}

fn state(inspection: &ReadyInspection, now: Now) -> ReadyQState {
    let held = |context: &dyn Fn(&Held) -> Option<String>| {
        let (held, since) = inspection.held.as_ref()?;
        Some(Obstacle { context: context(held)?, since: Moment(*since) })
    };
    let wait = |until: Mono| duration::render(whole_millis(until.since(now.mono)));
    let path = inspection.path.as_deref();
    let threshold = path.map(|path| dispatcher::threshold(path, &inspection.protocol));
    ReadyQState {
        ready_count: inspection.ready,
        connection_count: inspection.sessions.len() as u64,
        connection_rate_throttled: held(&|held| match held {
            Held::ConnectionRate { until } => {
                Some(format!("max_connection_rate throttling for {}", wait(*until)))
            }
            _ => None,
        }),
        connection_limited: held(&|held| match held {
            Held::ConnectionLimit { label } => Some(format!("TooManyLeases for {label}")),
            _ => None,
        }),
        message_rate_throttled: held(&|held| match held {
            Held::MessageRate { until } => {
                Some(format!("max_message_rate throttling for {}", wait(*until)))
            }
            _ => None,
        }),
        suspended: inspection.suspension.as_ref().map(|suspension| ReadyQSuspension {
            id: suspension.id.as_ref().into(),
            name: suspension.name.as_ref().into(),
            reason: suspension.reason.as_ref().into(),
            duration: whole_millis(suspension.expires.since(now.wall)),
            expires: Moment(suspension.expires),
        }),
        watchdog_threshold: threshold,
    }
}

fn row(
    inspection: &ReadyInspection,
    summary: &SessionSummary,
    dispatcher: &Dispatcher,
    now: Now,
) -> DispatcherState {
    let progress = dispatcher.progress;
    let age = now.mono.since(progress.began);
    let tally = summary.tally;
    let done = tally.delivered + tally.transfailed + tally.failed;
    DispatcherState {
        session_id: dispatcher.id.clone(),
        started_at: Moment(Wall(now.wall.0.saturating_sub(age.as_nanos() as i64))),
        age: whole_millis(age),
        phase: serde_json::to_value(phase(inspection, summary, progress.phase))
            .expect("a phase is a name"),
        detail: progress.detail.map(|detail| detail.to_string()),
        time_in_current_phase: whole_millis(now.mono.since(progress.last)),
        messages_delivered: tally.delivered,
        messages_transfailed: tally.transfailed,
        messages_failed: tally.failed,
        delivered_this_connection: 0,
        overall_rate_per_sec: done as f64 / age.as_secs_f64().max(0.001),
    }
}

/// An idle one may have something to wait for of which it doesn't know.
fn phase(inspection: &ReadyInspection, summary: &SessionSummary, told: Phase) -> Phase {
    let held = inspection.held.as_ref().map(|(held, _)| held);
    match (told, held, &*inspection.protocol) {
        _ if !summary.is_idle => told,
        (Phase::Idle, Some(Held::Batch { .. }), DeliveryProtocol::CustomLua(lua)) => {
            Phase::AccumulatingBatch { have: inspection.ready, want: lua.min_batch_size }
        }
        (Phase::Idle, Some(Held::MessageRate { .. }), _) => Phase::MessageRateThrottled,
        _ => told,
    }
}

fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatesQuery {
    /// Separated by commas; absent: all.
    queues: Option<String>,
}

pub async fn states(
    State(operations): State<Operations>,
    Query(query): Query<StatesQuery>,
) -> Result<Json<ReadyQStates>, ApiError> {
    let look = move |engine: &Engine, now: Now| -> BTreeMap<String, ReadyQState> {
        let names: BTreeSet<String> = match &query.queues {
            Some(named) => named.split(',').map(Into::into).collect(),
            None => engine.ready_queues().into_iter().map(|queue| queue.name).collect(),
        };
        let found = names.into_iter().filter_map(|name| {
            let inspection = engine.inspect_ready(&name)?;
            Some((name, state(&inspection, now)))
        });
        found.collect()
    };
    let states = operations.handle.query(look).await.ok_or_else(ApiError::stopping)?;
    Ok(Json(ReadyQStates { states_by_ready_queue: states }))
}

pub async fn abort(
    State(operations): State<Operations>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let AbortConnection { queue_name, session_id } = parse(&body)?;
    let id = session_id.clone();
    let find = move |_: &Engine, dispatchers: &Dispatchers, _: Now| dispatchers.named(&id);
    let found = operations.handle.inspect(find).await.ok_or_else(ApiError::stopping)?;
    let done = match found {
        Some(session) => {
            let ready_queue = queue_name.as_str().into();
            let command = AdminCommand::AbortSession { ready_queue, session };
            operations.handle.admin(command).await.ok_or_else(ApiError::stopping)?
        }
        None => AdminReply::UnknownId,
    };
    Ok(match done {
        AdminReply::Done => {
            tracing::info!(
                "an operator cut off connection {session_id} of ready queue {queue_name}"
            );
            format!("aborted {session_id}").into_response()
        }
        _ => {
            let text =
                format!("no matching dispatcher for queue={queue_name} session={session_id}");
            (StatusCode::NOT_FOUND, text).into_response()
        }
    })
}
