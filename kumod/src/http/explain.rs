//! Why something is as it is: the engine's reasons, and what the connections that it waits for say of themselves. Invariant: read from the timers
//! that will fire; nothing here guesses.
use super::api::{Explanation, Moment};
use super::errors::ApiError;
use super::inspect::parse_id;
use super::serve::Operations;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use kumo_core::config::duration;
use kumo_core::date;
use kumo_core::engine::{Engine, explain};
use kumo_core::id::SessionId;
use kumo_core::time::{Duration, Now};
use kumo_driver::dispatchers::{Dispatcher, Dispatchers};
use serde::Deserialize;

/// Connections that an explanation names.
const NAMED: usize = 5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    message: Option<String>,
    queue: Option<String>,
    source: Option<String>,
}

/// What of the engine is asked about.
type Look = Box<dyn FnOnce(&Engine) -> (Option<explain::Explanation>, Vec<SessionId>) + Send>;

pub async fn explain(
    State(operations): State<Operations>,
    Query(query): Query<ExplainQuery>,
) -> Result<Json<Explanation>, ApiError> {
    let ExplainQuery { message, queue, source } = query;
    let (what, look): (String, Look) = match (message, queue, source) {
        (Some(id), None, None) => {
            let id = parse_id(&id)?;
            let look =
                move |engine: &Engine| (engine.explain_message(id), engine.sessions_of_message(id));
            (
                format!("message {id}: delivered, bounced or never here; the logs know"),
                Box::new(look),
            )
        }
        (None, Some(name), None) => {
            let what = format!("queue {name}");
            let look = move |engine: &Engine| {
                (engine.explain_queue(&name), engine.sessions_of_ready(&name))
            };
            (what, Box::new(look))
        }
        (None, None, Some(name)) => {
            let what = format!("source {name} in use");
            (what, Box::new(move |engine: &Engine| (engine.explain_source(&name), Vec::new())))
        }
        _ => return Err(ApiError::unprocessable("give one of message, queue and source")),
    };
    let seen = operations.handle.inspect(move |engine, dispatchers, now| {
        let (explained, sessions) = look(engine);
        let connections = connections(dispatchers, &sessions, now);
        (explained, connections, now)
    });
    let (explained, connections, now) = seen.await.ok_or_else(ApiError::stopping)?;
    let missing = || ApiError::new(StatusCode::NOT_FOUND, format!("no such {what}"));
    let explained = explained.ok_or_else(missing)?;
    Ok(Json(Explanation {
        subject: explained.subject,
        next_action: explained.next_action,
        waits_for: explained.waits_for.map(Into::into),
        earliest: explained.earliest.map(Moment),
        why: explained.why.into_iter().chain(connections).collect(),
        now: Moment(now.wall),
    }))
}

fn connections(dispatchers: &Dispatchers, sessions: &[SessionId], now: Now) -> Vec<String> {
    let standing: Vec<Dispatcher> = sessions.iter().filter_map(|id| dispatchers.get(*id)).collect();
    let mut said: Vec<String> = standing.iter().take(NAMED).map(|one| in_words(one, now)).collect();
    if standing.len() > NAMED {
        said.push(format!("so many other connections: {}", standing.len() - NAMED));
    }
    said
}

fn in_words(dispatcher: &Dispatcher, now: Now) -> String {
    let Dispatcher { id, progress, threshold } = dispatcher;
    let detail = progress.detail.map_or(String::new(), |detail| format!(" ({detail})"));
    let idle = now.mono.since(progress.last);
    let left = threshold.saturating_sub(idle);
    format!(
        "connection {id}: {}{detail} for {}; without progress the watchdog cuts it off at {} at the latest",
        progress.phase,
        duration::render(Duration::from_secs(idle.as_secs())),
        date::rfc3339(now.wall + left),
    )
}
