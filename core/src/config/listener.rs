//! `kumo.start_esmtp_listener`, `start_http_listener`, `make_listener_domain` (core.md 2.1, 8): types, defaults and how
//! they are read. PEM files are named here and read elsewhere.
use super::egress::Cidr;
use super::options::{self, Constructed, OptionTable};
use super::read::{self, Form, PemFile, Report, Table, is_host_name};
use super::{fields, name_forms};
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

name_forms!(LineEndings, BatchHandling);

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
    #[serde(with = "super::duration::text")]
    pub client_timeout: Duration,
    #[serde(with = "super::duration::text")]
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
            trace_headers: TraceHeaders::default(),
            meta: serde_json::Map::new(),
        }
    }
}

impl Default for TraceHeaders {
    fn default() -> TraceHeaders {
        TraceHeaders {
            received_header: true,
            supplemental_header: true,
            header_name: "X-KumoRef".into(),
            include_meta_names: Vec::new(),
        }
    }
}

impl Form for TraceHeaders {
    fn read(value: Value, report: &mut Report) -> Option<TraceHeaders> {
        let mut table = Table::open(value, &options::TRACE_HEADERS, report)?;
        let headers = fields!(table, TraceHeaders::default(), {
            received_header supplemental_header header_name include_meta_names
        });
        // RFC 5322 2.2: printable ASCII except the colon.
        let printable = |byte: u8| byte.is_ascii_graphic() && byte != b':';
        let name = &headers.header_name;
        let is_name = !name.is_empty() && name.bytes().all(printable);
        table.check("header_name", is_name, "it must be the name of a header field");
        table.finish();
        Some(headers)
    }
}

impl Constructed for EsmtpListener {
    const OPTIONS: &'static OptionTable = &options::ESMTP_LISTENER;
    fn read(table: &mut Table) -> EsmtpListener {
        let mut listener = fields!(table, EsmtpListener::default(), {
            listen hostname banner relay_hosts max_connections client_timeout
            data_processing_timeout max_messages_per_connection max_recipients_per_message
            max_message_size invalid_line_endings line_length_hard_limit batch_handling
            trace_headers meta
        });
        (listener.tls_certificate, listener.tls_private_key) = pem_files(table);
        check_hostname(table, listener.hostname.as_deref());
        let one_line = !listener.banner.contains(char::is_control);
        table.check("banner", one_line, "it must hold no line breaks or other control characters");
        listener
    }
}

pub(super) fn check_hostname(table: &mut Table, hostname: Option<&str>) {
    let wrong = "it must be a host name or an address in [ ]";
    table.check("hostname", hostname.is_none_or(is_host_name), wrong);
}

/// Certificate and private key.
pub(super) fn pem_files(table: &mut Table) -> (Option<String>, Option<String>) {
    table.together("tls_certificate", "tls_private_key");
    let mut file = |key| table.optional::<PemFile>(key).map(|PemFile(path)| path);
    (file("tls_certificate"), file("tls_private_key"))
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

impl Constructed for HttpListener {
    const OPTIONS: &'static OptionTable = &options::HTTP_LISTENER;
    fn read(table: &mut Table) -> HttpListener {
        let mut listener = fields!(table, HttpListener::default(), {
            listen hostname trusted_hosts request_body_limit use_tls
        });
        (listener.tls_certificate, listener.tls_private_key) = pem_files(table);
        check_hostname(table, listener.hostname.as_deref());
        listener
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

/// A name, or what older policies say: true for `LogThenRelay`, false for `Ignore`.
impl Form for ReportHandling {
    fn read(value: Value, report: &mut Report) -> Option<ReportHandling> {
        match value {
            Value::Bool(true) => Some(ReportHandling::LogThenRelay),
            Value::Bool(false) => Some(ReportHandling::Ignore),
            name => read::from_name(&name, report),
        }
    }
}

impl Constructed for ListenerDomain {
    const OPTIONS: &'static OptionTable = &options::LISTENER_DOMAIN;
    fn read(table: &mut Table) -> ListenerDomain {
        fields!(table, ListenerDomain::default(), { relay_to relay_from log_oob log_arf })
    }
}
