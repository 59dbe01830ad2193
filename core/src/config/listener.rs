//! `kumo.start_esmtp_listener`, `start_http_listener`, `make_listener_domain` (core.md 2.1, 8).
use super::egress::Cidr;
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineEndings {
    Deny,
    Allow,
    Fix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BatchHandling {
    /// A message for each recipient.
    BifurcateAlways,
    /// Recipients of one domain stay together.
    BatchByDomain,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceHeaders {
    pub received_header: bool,
    pub supplemental_header: bool,
    pub header_name: String,
    pub include_meta_names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EsmtpListener {
    pub listen: SocketAddr,
    /// `None`: the host's own name.
    pub hostname: Option<Box<str>>,
    pub banner: String,
    pub relay_hosts: Vec<Cidr>,
    pub max_connections: u64,
    pub client_timeout: Duration,
    pub data_processing_timeout: Duration,
    pub max_messages_per_connection: u64,
    pub max_recipients_per_message: u64,
    pub max_message_size: u64,
    pub invalid_line_endings: LineEndings,
    pub line_length_hard_limit: u64,
    pub batch_handling: BatchHandling,
    /// PEM files; a self-signed certificate is made when both are absent.
    pub tls_certificate: Option<String>,
    pub tls_private_key: Option<String>,
    pub trace_headers: TraceHeaders,
    pub meta: serde_json::Map<String, serde_json::Value>,
}

fn loopback() -> Vec<Cidr> {
    alloc::vec![
        Cidr { address: IpAddr::V4(Ipv4Addr::LOCALHOST), prefix: 32 },
        Cidr { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    ]
}

impl Default for EsmtpListener {
    fn default() -> EsmtpListener {
        EsmtpListener {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2025),
            hostname: None,
            banner: "kumod".into(),
            relay_hosts: loopback(),
            max_connections: 32_768,
            client_timeout: Duration::from_secs(60),
            data_processing_timeout: Duration::from_secs(300),
            max_messages_per_connection: 10_000,
            max_recipients_per_message: 1024,
            max_message_size: 20 * 1024 * 1024,
            invalid_line_endings: LineEndings::Deny,
            line_length_hard_limit: 998,
            batch_handling: BatchHandling::BifurcateAlways,
            tls_certificate: None,
            tls_private_key: None,
            trace_headers: TraceHeaders {
                received_header: true,
                supplemental_header: true,
                header_name: "X-KumoRef".into(),
                include_meta_names: Vec::new(),
            },
            meta: serde_json::Map::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpListener {
    pub listen: SocketAddr,
    pub hostname: Option<Box<str>>,
    pub trusted_hosts: Vec<Cidr>,
    pub request_body_limit: u64,
    pub use_tls: bool,
    pub tls_certificate: Option<String>,
    pub tls_private_key: Option<String>,
}

impl Default for HttpListener {
    fn default() -> HttpListener {
        HttpListener {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
            hostname: None,
            trusted_hosts: loopback(),
            request_body_limit: 2 * 1024 * 1024,
            use_tls: false,
            tls_certificate: None,
            tls_private_key: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportHandling {
    #[default]
    Ignore,
    LogThenRelay,
    LogThenDrop,
}

/// `kumo.make_listener_domain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ListenerDomain {
    pub relay_to: bool,
    pub relay_from: Vec<Cidr>,
    pub log_oob: ReportHandling,
    pub log_arf: ReportHandling,
}
