//! `proxy.start_proxy_listener` (core.md 16): a listener of proxy-server, its defaults and how they are read.
use super::fields;
use super::listener::{check_hostname, pem_files};
use super::options::{self, Constructed, OptionTable};
use super::read::{Form, Report, Table};
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::string::String;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// More isn't a number of probes that a kernel takes.
const PROBES: u32 = 127;
/// The longest time between probes that a kernel takes.
const PROBE_TIME: Duration = Duration::from_secs(32_767);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyListener {
    pub listen: SocketAddr,
    /// In the certificate that is made where none is given; `None`: the host's own name.
    pub hostname: Option<Box<str>>,
    /// For a handshake as a whole, and for the connection to its destination.
    #[serde(with = "super::duration::text")]
    pub timeout: Duration,
    /// For a relay in which nobody says anything. By default longer than any wait of SMTP (RFC 5321 4.5.3.2): one that is cut off
    /// after the final dot is mail sent twice.
    #[serde(with = "super::duration::text")]
    pub idle_timeout: Duration,
    pub use_tls: bool,
    /// PEM files; a self-signed certificate is made when both are absent.
    pub tls_certificate: Option<String>,
    pub tls_private_key: Option<String>,
    pub require_auth: bool,
    /// Octets go from socket to socket without passing through the process, where neither side is TLS.
    pub use_splice: bool,
    pub tcp_keepalive: TcpKeepalive,
    pub max_connections: u64,
}

/// What the kernel does to find out that a silent peer is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpKeepalive {
    pub enabled: bool,
    /// Of silence, until the first probe.
    #[serde(with = "super::duration::text")]
    pub time: Duration,
    #[serde(with = "super::duration::text")]
    pub interval: Duration,
    pub retries: u32,
}

impl Default for ProxyListener {
    fn default() -> ProxyListener {
        ProxyListener {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1080),
            hostname: None,
            timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(3600),
            use_tls: false,
            tls_certificate: None,
            tls_private_key: None,
            require_auth: false,
            use_splice: true,
            tcp_keepalive: TcpKeepalive::default(),
            max_connections: 32_768,
        }
    }
}

impl Default for TcpKeepalive {
    fn default() -> TcpKeepalive {
        TcpKeepalive {
            enabled: true,
            time: Duration::from_secs(300),
            interval: Duration::from_secs(30),
            retries: 3,
        }
    }
}

impl Constructed for ProxyListener {
    const OPTIONS: &'static OptionTable = &options::PROXY_LISTENER;
    fn read(table: &mut Table) -> ProxyListener {
        table.require("listen");
        let mut listener = fields!(table, ProxyListener::default(), {
            listen hostname timeout idle_timeout use_tls require_auth use_splice tcp_keepalive max_connections
        });
        (listener.tls_certificate, listener.tls_private_key) = pem_files(table);
        if listener.tls_certificate.is_some() && !listener.use_tls {
            table.warn(
                "tls_certificate",
                format_args!("nothing is encrypted without use_tls = true"),
            );
        }
        check_hostname(table, listener.hostname.as_deref());
        table.check("timeout", !listener.timeout.is_zero(), "it must be above 0");
        table.check("idle_timeout", !listener.idle_timeout.is_zero(), "it must be above 0");
        table.check("max_connections", listener.max_connections > 0, "it must be above 0");
        listener
    }
}

impl Form for TcpKeepalive {
    fn read(value: Value, report: &mut Report) -> Option<TcpKeepalive> {
        let mut table = Table::open(value, &options::TCP_KEEPALIVE, report)?;
        let keepalive = fields!(table, TcpKeepalive::default(), { enabled time interval retries });
        let is_time = |time: Duration| (Duration::from_secs(1)..=PROBE_TIME).contains(&time);
        let wrong = "it must be between 1s and 32767s";
        table.check("time", is_time(keepalive.time), wrong);
        table.check("interval", is_time(keepalive.interval), wrong);
        let retries = (1..=PROBES).contains(&keepalive.retries);
        table.check("retries", retries, "it must be between 1 and 127");
        table.finish();
        Some(keepalive)
    }
}
