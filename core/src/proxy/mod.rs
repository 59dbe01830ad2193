//! Proxies between kumod and those it delivers to: where one is ([`ProxyServer`]), and how a connection through it is begun
//! ([`connect`]). Nothing here dials or waits.
pub mod connect;
pub mod socks5;
pub mod v2;

use crate::config::read::{self, Form, Report};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `192.0.2.1:1080`, `[2001:db8::1]:1080`, or `proxy.example.com:1080`. Serialised as its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ProxyServer {
    Address(SocketAddr),
    /// Resolved anew for each connection.
    Name {
        host: Box<str>,
        port: u16,
    },
}

impl FromStr for ProxyServer {
    type Err = String;
    fn from_str(text: &str) -> Result<ProxyServer, String> {
        let not_an_address = match text.parse() {
            Ok(address) => return port_of(address),
            Err(_) => "not IP:port or [IPv6]:port",
        };
        if text.starts_with('/') {
            return Err(format!("{text:?} is a path, and kumod speaks to proxies over TCP alone"));
        }
        let not_a_name = match text.rsplit_once(':') {
            None => "not host:port, since the port is missing",
            Some((host, port)) => match port.parse() {
                Ok(0) | Err(_) => "not host:port, since the port isn't a number from 1 to 65535",
                Ok(port) if is_dns_name(host) => {
                    return Ok(ProxyServer::Name { host: host.to_ascii_lowercase().into(), port });
                }
                Ok(_) => "not host:port, since the host isn't a DNS name",
            },
        };
        Err(format!("{text:?} is {not_an_address}, and {not_a_name}"))
    }
}

fn port_of(address: SocketAddr) -> Result<ProxyServer, String> {
    match address.port() {
        0 => Err(format!("{address} has no port that one can connect to")),
        _ => Ok(ProxyServer::Address(address)),
    }
}

/// What is of digits and dots alone is an address with an error in it.
fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_numeric = host.bytes().all(|octet| octet.is_ascii_digit() || octet == b'.');
    host.len() <= 253 && !is_numeric && host.split('.').all(is_label)
}

impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProxyServer::Address(address) => write!(f, "{address}"),
            ProxyServer::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl TryFrom<String> for ProxyServer {
    type Error = String;
    fn try_from(text: String) -> Result<ProxyServer, String> {
        text.parse()
    }
}

impl From<ProxyServer> for String {
    fn from(server: ProxyServer) -> String {
        server.to_string()
    }
}

impl Form for ProxyServer {
    fn read(value: Value, report: &mut Report) -> Option<ProxyServer> {
        read::from_text(
            value,
            "a proxy such as '192.0.2.1:1080' or 'proxy.example.com:1080'",
            report,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_rendered() {
        for text in ["127.0.0.1:1080", "[::1]:1", "proxy.example.com:65535", "localhost:80"] {
            assert_eq!(text.parse::<ProxyServer>().expect(text).to_string(), text);
        }
        let named: ProxyServer = "Proxy.Example.COM:1080".parse().unwrap();
        assert_eq!(named, ProxyServer::Name { host: "proxy.example.com".into(), port: 1080 });
    }

    #[test]
    fn what_is_wrong_is_said_of_each_reading() {
        for (text, why) in [
            ("", "the port is missing"),
            ("proxy.example.com", "the port is missing"),
            ("127.0.0.1", "not IP:port or [IPv6]:port"),
            ("::1", "the host isn't a DNS name"),
            ("10.0.0.256:25", "the host isn't a DNS name"),
            ("a:0", "a number from 1 to 65535"),
            ("a:65536", "a number from 1 to 65535"),
            ("a b:25", "the host isn't a DNS name"),
            ("127.0.0.1:0", "no port that one can connect to"),
            ("/run/proxy.sock", "over TCP alone"),
        ] {
            let error = text.parse::<ProxyServer>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
