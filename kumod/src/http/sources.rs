//! Egress sources for their operator: how each is, and the end of a suspension. When one is suspended is the engine's to say.
use super::api::{FailureClass, Moment, ResumeSource, Source, SourceSuspension, Sources};
use super::errors::{ApiError, parse};
use super::serve::Operations;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use kumo_core::engine::listing::{ClassSummary, SourceSummary, SuspensionSummary};
use kumo_core::engine::{AdminCommand, AdminReply};

pub async fn list(State(operations): State<Operations>) -> Result<Json<Sources>, ApiError> {
    let look = operations.handle.query(|engine, now| (engine.sources(), now)).await;
    let (sources, now) = look.ok_or_else(ApiError::stopping)?;
    let sources = sources.into_iter().map(|summary| source(&operations, summary));
    Ok(Json(Sources { sources: sources.collect(), now: Moment(now.wall) }))
}

fn source(operations: &Operations, summary: SourceSummary) -> Source {
    let suspension = |suspension: SuspensionSummary| SourceSuspension {
        reason: suspension.reason.name().into(),
        since: Moment(suspension.since),
        until: Moment(suspension.until),
    };
    let class = |class: &ClassSummary| FailureClass {
        class: class.failure.name().into(),
        failures: class.failures,
        last: class.last.map(Moment),
        why: operations.handle.source_failure(&summary.name, class.failure),
    };
    Source {
        failures: summary.classes.iter().map(class).collect(),
        suspension: summary.suspension.map(suspension),
        address: summary.address,
        proxy: summary.proxy,
        name: summary.name,
    }
}

pub async fn resume(State(operations): State<Operations>, body: Bytes) -> Result<(), ApiError> {
    let ResumeSource { name } = parse(&body)?;
    let command = AdminCommand::ResumeSource { name: name.as_str().into() };
    match operations.handle.admin(command).await.ok_or_else(ApiError::stopping)? {
        AdminReply::Done => Ok(()),
        _ => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("no egress source named '{name}' is suspended"),
        )),
    }
}
