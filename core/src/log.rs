//! Log records: their kinds, fields and JSON form (core.md 7.1, 7.2). Writing segments is kumod's business.
use crate::smtp::reply::Reply;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RecordKind {
    Reception,
    Delivery,
    Bounce,
    TransientFailure,
    Expiration,
    AdminBounce,
    #[serde(rename = "OOB")]
    Oob,
    Feedback,
    Rejection,
    AdminRebind,
    DeferredInjectionRebind,
    Delayed,
    XferOut,
    XferIn,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerAddress {
    pub name: String,
    pub addr: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceAddress {
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// One string where there is one recipient, an array otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Recipients {
    One(String),
    Many(Vec<String>),
}

/// One line of the log. Field names and order are those operators' tools read.
#[derive(Clone, Debug, Serialize)]
pub struct LogRecord {
    #[serde(rename = "type")]
    pub kind: RecordKind,
    pub id: String,
    pub sender: String,
    pub recipient: Recipients,
    pub queue: String,
    pub site: String,
    pub size: u64,
    pub response: Reply,
    pub peer_address: Option<PeerAddress>,
    /// Whole seconds since 1970.
    pub timestamp: i64,
    /// RFC 3339.
    pub event_time: String,
    pub created: i64,
    pub created_time: String,
    pub num_attempts: u16,
    pub bounce_classification: String,
    pub egress_pool: Option<String>,
    pub egress_source: Option<String>,
    pub source_address: Option<SourceAddress>,
    pub feedback_report: Option<()>,
    pub meta: serde_json::Map<String, serde_json::Value>,
    pub headers: serde_json::Map<String, serde_json::Value>,
    pub delivery_protocol: Option<String>,
    pub reception_protocol: Option<String>,
    pub nodeid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cipher: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_protocol_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_peer_subject_name: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}
