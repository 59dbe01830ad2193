//! The spool for its operator: how its stores are, compaction, and records in quarantine. What is damaged or ill is the driver's to know.
use super::api::{
    CompactRequest, ExportedRecord, LogFolder, QuarantinedMessage, SpoolStore, SpoolTroubles,
    StoreHealth, TOO_LITTLE_ROOM,
};
use super::errors::{ApiError, parse};
use super::serve::Operations;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use kumo_core::id::SpoolId;
use kumo_core::port::Family;
use kumo_core::smtp::base64;
use kumo_driver::node::{DropError, FolderReport};
use serde::Deserialize;

type Answer<T> = Result<T, ApiError>;

pub async fn health(State(operations): State<Operations>) -> Json<StoreHealth> {
    let report = operations.handle.spool_health().into_iter();
    let store = |store: kumo_driver::node::StoreReport| SpoolStore {
        path: store.path,
        holds: store.holds.iter().map(|name| (*name).into()).collect(),
        accepts_writes: !store.latched && !store.disk_full,
        why: store.why.or(why(store.disk_full, store.properties.automatic_compaction_off)),
        free_octets: store.free.octets,
        free_inodes: store.free.inodes,
        background_errors: store.properties.background_errors,
        write_stopped: store.properties.write_stopped,
        automatic_compaction_off: store.properties.automatic_compaction_off,
    };
    let log = |folder: FolderReport| LogFolder {
        path: folder.path,
        is_full: folder.is_full,
        free_octets: folder.free.octets,
        free_inodes: folder.free.inodes,
    };
    let logs = operations.handle.guarded_folders().into_iter().map(log).collect();
    Json(StoreHealth { stores: report.map(store).collect(), logs })
}

/// Where the gate has nothing to say.
fn why(is_full: bool, is_damaged: bool) -> Option<String> {
    let said = if is_full {
        TOO_LITTLE_ROOM
    } else if is_damaged {
        "nothing is compacted, since damage was found: stop kumod when it suits, and run kumod spool check --repair"
    } else {
        return None;
    };
    Some(said.into())
}

fn family(name: &str) -> Answer<Family> {
    match name {
        "data" => Ok(Family::Data),
        "meta" => Ok(Family::Meta),
        _ => Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("no spool named '{name}' has been defined: there are data and meta"),
        )),
    }
}

/// Goes on to its end whether or not anybody waits for it.
pub async fn compact(State(operations): State<Operations>, body: Bytes) -> Answer<()> {
    let request: CompactRequest = parse(&body)?;
    let family = family(&request.name)?;
    tracing::info!("compaction of the spool {} begins", request.name);
    let handle = operations.handle.clone();
    let compacting = tokio::spawn(async move { handle.compact(family).await });
    let result = compacting.await.map_err(|_| ApiError::stopping())?;
    tracing::info!("compaction of the spool {} has ended: {result:?}", request.name);
    result.map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

pub async fn quarantine(State(operations): State<Operations>) -> Json<SpoolTroubles> {
    let listed = operations.handle.quarantine().into_iter();
    let messages = listed.map(|(id, why)| QuarantinedMessage { id: id.to_string(), why }).collect();
    let found = operations.handle.counters().quarantined.get();
    Json(SpoolTroubles { messages, found })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageQuery {
    id: String,
}

fn id_of(query: &MessageQuery) -> Answer<SpoolId> {
    query.id.parse().map_err(|error| ApiError::unprocessable(format!("{error}")))
}

/// The records as they lie in the spool, damage included.
pub async fn export(
    State(operations): State<Operations>,
    Query(query): Query<MessageQuery>,
) -> Answer<Json<ExportedRecord>> {
    let id = id_of(&query)?;
    let record = |read: Result<Option<Bytes>, String>| match read {
        Ok(value) => (value.map(|octets| base64::encode(&octets)), None),
        Err(why) => (None, Some(why)),
    };
    let (meta, meta_error) = record(operations.handle.raw_record(Family::Meta, id).await);
    let (data, data_error) = record(operations.handle.raw_record(Family::Data, id).await);
    if meta.is_none() && data.is_none() && meta_error.is_none() && data_error.is_none() {
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("there is no message {id}")));
    }
    Ok(Json(ExportedRecord { id: id.to_string(), meta, meta_error, data, data_error }))
}

pub async fn drop_quarantined(
    State(operations): State<Operations>,
    Query(query): Query<MessageQuery>,
) -> Answer<()> {
    let id = id_of(&query)?;
    operations.handle.drop_quarantined(id).await.map_err(|error| {
        let status = match error {
            DropError::NotQuarantined => StatusCode::NOT_FOUND,
            DropError::StillQueued => StatusCode::CONFLICT,
            DropError::Spool(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        ApiError::new(status, format!("{id}: {error}"))
    })
}
