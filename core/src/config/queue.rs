//! `kumo.make_queue_config`: a scheduled queue's options (core.md 3.2).
use super::rate::ThrottleSpec;
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueConfig {
    pub retry_interval: Duration,
    pub max_retry_interval: Option<Duration>,
    pub max_age: Duration,
    pub egress_pool: Option<Box<str>>,
    pub max_message_rate: Option<ThrottleSpec>,
    pub protocol: DeliveryProtocol,
    pub reap_interval: Duration,
    pub refresh_interval: Duration,
    pub provider_name: Option<Box<str>>,
}

/// How a queue's messages leave (core.md 3.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeliveryProtocol {
    /// `smtp = { mx_list = … }`; an empty list means: ask the DNS.
    Smtp {
        mx_list: Vec<MxListEntry>,
    },
    Maildir {
        path: String,
        dir_mode: Option<u32>,
        file_mode: Option<u32>,
    },
    /// Delivered by being discarded.
    Null,
}

/// `name`, `name:port`, `[ip]`, `[ip]:port` or `{name=, addr=}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MxListEntry {
    /// What is shown and used for certificate names; for `[ip]` the text as written.
    pub name: Box<str>,
    /// A fixed address instead of a look-up.
    pub address: Option<core::net::IpAddr>,
    pub port: Option<u16>,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        QueueConfig {
            retry_interval: Duration::from_secs(20 * 60),
            max_retry_interval: None,
            max_age: Duration::from_secs(7 * 24 * 3600),
            egress_pool: None,
            max_message_rate: None,
            protocol: DeliveryProtocol::Smtp { mx_list: Vec::new() },
            reap_interval: Duration::from_secs(600),
            refresh_interval: Duration::from_secs(60),
            provider_name: None,
        }
    }
}
