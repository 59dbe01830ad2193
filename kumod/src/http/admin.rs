//! Orders of administrators: bounce, suspend, new configuration, the diagnostic filter. What they do is the engine's to say.
use super::api::{
    ADMIN_DURATION_DEFAULT, BounceEntry, BounceRequest, BounceResponse, EntryId, LogFilterRequest,
    Moment, SuspendEntry, SuspendReadyEntry, SuspendReadyRequest, SuspendRequest,
};
use super::errors::{ApiError, parse};
use super::serve::Operations;
use crate::diagnostics::Diagnostics;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use kumo_core::engine::{AdminCommand, AdminEntry, AdminReply, QueueSelector, ReadySuspension};
use kumo_core::time::{Duration, Wall};
use std::collections::BTreeMap;
use std::sync::Arc;

type Answer<T> = Result<T, ApiError>;

/// A UUID, version 4 in form. Names an order; it isn't a secret.
fn new_entry_id(operations: &Operations) -> String {
    let hex = operations.handle.new_id().to_string();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn expires(operations: &Operations, duration: Option<Duration>, at: Option<Moment>) -> Wall {
    let now = operations.handle.now().wall;
    at.map_or_else(|| now + duration.unwrap_or(ADMIN_DURATION_DEFAULT), |Moment(at)| at)
}

fn boxed(text: &Option<String>) -> Option<Box<str>> {
    text.as_deref().map(Into::into)
}

fn names(names: &[String]) -> Vec<Box<str>> {
    names.iter().map(|name| name.as_str().into()).collect()
}

fn strings(names: &[Box<str>]) -> Vec<String> {
    names.iter().map(|name| name.as_ref().into()).collect()
}

fn counts(bounced: impl IntoIterator<Item = (Arc<str>, u64)>) -> (BTreeMap<String, u64>, u64) {
    let bounced: BTreeMap<String, u64> =
        bounced.into_iter().map(|(name, count)| (name.as_ref().into(), count)).collect();
    let total = bounced.values().sum();
    (bounced, total)
}

async fn order(operations: &Operations, command: AdminCommand) -> Answer<AdminReply> {
    match operations.handle.admin(command).await.ok_or_else(ApiError::stopping)? {
        AdminReply::UnknownId => Err(ApiError::new(StatusCode::NOT_FOUND, "no such entry")),
        AdminReply::Full => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too many entries are in force"))
        }
        reply => Ok(reply),
    }
}

// ---- Bounce -----------------------------------------------------------------------------------------------

fn bounce_selector(request: &BounceRequest) -> QueueSelector {
    QueueSelector {
        campaign: boxed(&request.campaign),
        tenant: boxed(&request.tenant),
        domain: boxed(&request.domain),
        routing_domain: boxed(&request.routing_domain),
        queue_names: names(&request.queue_names),
    }
}

pub async fn bounce(
    State(operations): State<Operations>,
    body: Bytes,
) -> Answer<Json<BounceResponse>> {
    let request: BounceRequest = parse(&body)?;
    let id = new_entry_id(&operations);
    let entry = AdminEntry {
        id: id.as_str().into(),
        selector: bounce_selector(&request),
        reason: request.reason.as_str().into(),
        expires: expires(&operations, request.duration, request.expires),
        suppress_logging: request.suppress_logging,
    };
    let AdminReply::Bounced(bounced) = order(&operations, AdminCommand::Bounce(entry)).await?
    else {
        return Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the engine didn't say what it bounced",
        ));
    };
    let (bounced, total_bounced) = counts(bounced);
    Ok(Json(BounceResponse { id: Some(id), bounced, total_bounced }))
}

/// What a bounce would take, without ordering it.
pub async fn preview_bounce(
    State(operations): State<Operations>,
    body: Bytes,
) -> Answer<Json<BounceResponse>> {
    let request: BounceRequest = parse(&body)?;
    let selector = bounce_selector(&request);
    let look = operations.handle.query(move |engine, _| engine.preview_bounce(&selector)).await;
    let (bounced, total_bounced) = counts(look.ok_or_else(ApiError::stopping)?);
    Ok(Json(BounceResponse { id: None, bounced, total_bounced }))
}

pub async fn bounces(State(operations): State<Operations>) -> Answer<Json<Vec<BounceEntry>>> {
    let look = operations.handle.query(|engine, now| (engine.bounces(), now)).await;
    let (bounces, now) = look.ok_or_else(ApiError::stopping)?;
    let entry = |(entry, bounced): (AdminEntry, BTreeMap<Arc<str>, u64>)| {
        let (bounced, total_bounced) = counts(bounced);
        BounceEntry {
            id: entry.id.into(),
            campaign: entry.selector.campaign.map(Into::into),
            tenant: entry.selector.tenant.map(Into::into),
            domain: entry.selector.domain.map(Into::into),
            routing_domain: entry.selector.routing_domain.map(Into::into),
            queue_names: strings(&entry.selector.queue_names),
            reason: entry.reason.into(),
            duration: whole_seconds(entry.expires.since(now.wall)),
            bounced,
            total_bounced,
        }
    };
    Ok(Json(bounces.into_iter().map(entry).collect()))
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

pub async fn cancel_bounce(State(operations): State<Operations>, body: Bytes) -> Answer<()> {
    let EntryId { id } = parse(&body)?;
    order(&operations, AdminCommand::CancelBounce { id: id.into() }).await.map(drop)
}

// ---- Suspend ----------------------------------------------------------------------------------------------

pub async fn suspend(State(operations): State<Operations>, body: Bytes) -> Answer<Json<EntryId>> {
    let request: SuspendRequest = parse(&body)?;
    let id = new_entry_id(&operations);
    let entry = AdminEntry {
        id: id.as_str().into(),
        selector: QueueSelector {
            campaign: boxed(&request.campaign),
            tenant: boxed(&request.tenant),
            domain: boxed(&request.domain),
            routing_domain: None,
            queue_names: names(&request.queue_names),
        },
        reason: request.reason.as_str().into(),
        expires: expires(&operations, request.duration, request.expires),
        suppress_logging: false,
    };
    order(&operations, AdminCommand::Suspend(entry)).await?;
    Ok(Json(EntryId { id }))
}

pub async fn suspensions(State(operations): State<Operations>) -> Answer<Json<Vec<SuspendEntry>>> {
    let look = operations.handle.query(|engine, now| (engine.suspensions(), now)).await;
    let (suspensions, now) = look.ok_or_else(ApiError::stopping)?;
    let entry = |entry: AdminEntry| SuspendEntry {
        id: entry.id.into(),
        campaign: entry.selector.campaign.map(Into::into),
        tenant: entry.selector.tenant.map(Into::into),
        domain: entry.selector.domain.map(Into::into),
        queue_names: strings(&entry.selector.queue_names),
        reason: entry.reason.into(),
        duration: whole_seconds(entry.expires.since(now.wall)),
    };
    Ok(Json(suspensions.into_iter().map(entry).collect()))
}

pub async fn cancel_suspension(State(operations): State<Operations>, body: Bytes) -> Answer<()> {
    let EntryId { id } = parse(&body)?;
    order(&operations, AdminCommand::CancelSuspend { id: id.into() }).await.map(drop)
}

pub async fn suspend_ready(
    State(operations): State<Operations>,
    body: Bytes,
) -> Answer<Json<EntryId>> {
    let request: SuspendReadyRequest = parse(&body)?;
    let id = new_entry_id(&operations);
    let suspension = ReadySuspension {
        id: id.as_str().into(),
        name: request.name.as_str().into(),
        reason: request.reason.as_str().into(),
        expires: expires(&operations, request.duration, request.expires),
    };
    order(&operations, AdminCommand::SuspendReady(suspension)).await?;
    Ok(Json(EntryId { id }))
}

pub async fn ready_suspensions(
    State(operations): State<Operations>,
) -> Answer<Json<Vec<SuspendReadyEntry>>> {
    let look = operations.handle.query(|engine, now| (engine.ready_suspensions(), now)).await;
    let (suspensions, now) = look.ok_or_else(ApiError::stopping)?;
    let entry = |entry: ReadySuspension| SuspendReadyEntry {
        id: entry.id.into(),
        name: entry.name.into(),
        reason: entry.reason.into(),
        duration: whole_seconds(entry.expires.since(now.wall)),
        expires: Moment(entry.expires),
    };
    Ok(Json(suspensions.into_iter().map(entry).collect()))
}

pub async fn cancel_ready_suspension(
    State(operations): State<Operations>,
    body: Bytes,
) -> Answer<()> {
    let EntryId { id } = parse(&body)?;
    order(&operations, AdminCommand::CancelSuspendReady { id: id.into() }).await.map(drop)
}

// ---- The rest ---------------------------------------------------------------------------------------------

pub async fn bump_epoch(State(operations): State<Operations>) -> Answer<()> {
    order(&operations, AdminCommand::BumpEpoch).await.map(drop)
}

pub async fn set_log_filter(State(operations): State<Operations>, body: Bytes) -> Answer<()> {
    set_filter(&operations.diagnostics, &body)
}

/// Of a process of whichever kind.
pub fn set_filter(diagnostics: &Diagnostics, body: &[u8]) -> Answer<()> {
    let LogFilterRequest { filter } = parse(body)?;
    diagnostics.set_filter(&filter).map_err(ApiError::unprocessable)
}
