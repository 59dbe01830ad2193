//! What proxy-server's HTTP listeners answer: metrics, whether it is well, and the filter of its diagnostics. Invariant: a
//! client learns nothing here about what others send; the guard is `serve`'s.
use super::admin::set_filter;
use super::errors::ApiError;
use super::inspect::{MetricsQuery, exposition, json};
use super::serve::guarded;
use crate::diagnostics::Diagnostics;
use crate::metrics::proxy::{ProxyCounters, render, render_json};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use kumo_driver::counters::Service;
use std::sync::Arc;

/// What the handlers work with.
#[derive(Clone)]
pub struct ProxyOperations {
    /// One for each of its proxy listeners.
    pub listeners: Arc<[Arc<ProxyCounters>]>,
    /// Of the HTTP listeners themselves.
    pub http: Arc<Service>,
    pub diagnostics: Diagnostics,
}

pub fn router(operations: ProxyOperations, body_limit: usize) -> Router {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/metrics.json", get(metrics_json))
        .route("/proxy/status", get(status))
        .route("/api/check-liveness/v1", get(liveness))
        .route("/api/admin/set_diagnostic_log_filter/v1", post(set_log_filter));
    guarded(routes, body_limit).with_state(operations)
}

async fn metrics(
    State(operations): State<ProxyOperations>,
    Query(query): Query<MetricsQuery>,
) -> Response {
    exposition(render(&operations.listeners, query.prefix.as_deref()))
}

async fn metrics_json(
    State(operations): State<ProxyOperations>,
    Query(query): Query<MetricsQuery>,
) -> Response {
    json(render_json(&operations.listeners, query.prefix.as_deref()))
}

/// A line for each listener.
async fn status(State(operations): State<ProxyOperations>) -> String {
    let line = |of: &Arc<ProxyCounters>| {
        let (active, accepted) = (of.active.get(), of.accepted.get());
        format!("{}: {active} connections now, {accepted} so far\n", of.listener)
    };
    let lines: String = operations.listeners.iter().map(line).collect();
    format!("OK\n{lines}")
}

async fn liveness() -> &'static str {
    "OK"
}

async fn set_log_filter(
    State(operations): State<ProxyOperations>,
    body: Bytes,
) -> Result<(), ApiError> {
    set_filter(&operations.diagnostics, &body)
}
