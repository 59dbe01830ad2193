//! `resolve-egress-path`: what a domain's mail comes to, by this kumod's policy and resolver, without sending any.
use super::api::ResolvedEgressPath;
use super::errors::ApiError;
use super::serve::Operations;
use crate::resolve::{self, Resolved};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use kumo_core::config::render::{Secrets, Shown};
use kumo_driver::world::World;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveQuery {
    domain: String,
    #[serde(default = "unspecified")]
    source: String,
}

fn unspecified() -> String {
    "unspecified".into()
}

pub async fn egress_path(
    State(operations): State<Operations>,
    Query(query): Query<ResolveQuery>,
) -> Result<Json<ResolvedEgressPath>, ApiError> {
    let world = operations.handle.world();
    let ResolveQuery { domain, source } = query;
    resolve::check(&domain, &source).map_err(ApiError::unprocessable)?;
    let resolved = resolve::resolve(world.policy(), world.resolver(), &domain, &source).await;
    match resolved {
        Ok(resolved) => Ok(Json(document(resolved))),
        Err(why) => Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, why)),
    }
}

fn document(resolved: Resolved) -> ResolvedEgressPath {
    ResolvedEgressPath {
        queue_config: resolved.queue.table(Secrets::Hidden),
        path_config: resolved.path.table(Secrets::Hidden),
        domain: resolved.domain,
        source: resolved.source,
        mx: resolved.mx,
        mx_failure: resolved.mx_failure,
        queue_name: resolved.queue_name,
        constraints: resolved.constraints,
    }
}
