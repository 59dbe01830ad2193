//! Log records: their kinds and parts (core.md 7.1, 7.2). Rendering and writing them is kumod's business.
use alloc::string::String;
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

impl RecordKind {
    pub const ALL: [RecordKind; 14] = [
        RecordKind::Reception,
        RecordKind::Delivery,
        RecordKind::Bounce,
        RecordKind::TransientFailure,
        RecordKind::Expiration,
        RecordKind::AdminBounce,
        RecordKind::Oob,
        RecordKind::Feedback,
        RecordKind::Rejection,
        RecordKind::AdminRebind,
        RecordKind::DeferredInjectionRebind,
        RecordKind::Delayed,
        RecordKind::XferOut,
        RecordKind::XferIn,
    ];

    /// As records and policy write it.
    pub fn name(self) -> &'static str {
        match self {
            RecordKind::Reception => "Reception",
            RecordKind::Delivery => "Delivery",
            RecordKind::Bounce => "Bounce",
            RecordKind::TransientFailure => "TransientFailure",
            RecordKind::Expiration => "Expiration",
            RecordKind::AdminBounce => "AdminBounce",
            RecordKind::Oob => "OOB",
            RecordKind::Feedback => "Feedback",
            RecordKind::Rejection => "Rejection",
            RecordKind::AdminRebind => "AdminRebind",
            RecordKind::DeferredInjectionRebind => "DeferredInjectionRebind",
            RecordKind::Delayed => "Delayed",
            RecordKind::XferOut => "XferOut",
            RecordKind::XferIn => "XferIn",
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_in_order_under_the_name_that_serde_knows() {
        for (position, kind) in RecordKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, position);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
