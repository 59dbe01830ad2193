//! SOCKS5 (RFC 1928) with user names and passwords (RFC 1929): what both ends have in common. The client's handshake is [`client`]'s, the proxy's
//! is [`server`]'s.
pub mod client;
pub mod server;

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

pub(super) const VERSION: u8 = 5;
/// Of RFC 1929's exchange.
pub(super) const AUTH_VERSION: u8 = 1;
pub(super) const NO_AUTH: u8 = 0;
pub(super) const USER_PASS: u8 = 2;
pub(super) const NOTHING_FITS: u8 = 0xff;
pub(super) const CONNECT: u8 = 1;
pub(super) const BIND: u8 = 2;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Of a reply (RFC 1928, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyCode(pub u8);

impl ReplyCode {
    pub const SUCCEEDED: ReplyCode = ReplyCode(0);
    pub const GENERAL_FAILURE: ReplyCode = ReplyCode(1);
    pub const NOT_ALLOWED: ReplyCode = ReplyCode(2);
    pub const NETWORK_UNREACHABLE: ReplyCode = ReplyCode(3);
    pub const HOST_UNREACHABLE: ReplyCode = ReplyCode(4);
    pub const CONNECTION_REFUSED: ReplyCode = ReplyCode(5);
    pub const TTL_EXPIRED: ReplyCode = ReplyCode(6);
    pub const COMMAND_NOT_SUPPORTED: ReplyCode = ReplyCode(7);
    pub const ADDRESS_NOT_SUPPORTED: ReplyCode = ReplyCode(8);
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0 => "succeeded",
            1 => "general failure",
            2 => "connection not allowed by its rules",
            3 => "network unreachable",
            4 => "host unreachable",
            5 => "connection refused",
            6 => "TTL expired",
            7 => "command not supported",
            8 => "address type not supported",
            other => return write!(f, "reply code {other}"),
        };
        f.write_str(text)
    }
}

/// Where a request leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Address(SocketAddr),
    Name { host: Box<str>, port: u16 },
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Address(address) => write!(f, "{address}"),
            Destination::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A request or a reply, which have the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The command, or the reply's code.
    pub code: u8,
    pub destination: Destination,
}

/// The message at the beginning of `octets`, and its length; `None`: there is more to come.
pub(super) fn parse(octets: &[u8]) -> Result<Option<(Message, usize)>, Box<str>> {
    let Some(version) = octets.first() else { return Ok(None) };
    if *version != VERSION {
        return Err(format!("version {version} instead of 5").into());
    }
    let Some([_, code, _, kind]) = octets.first_chunk() else { return Ok(None) };
    let (from, width) = match *kind {
        IPV4 => (4, 4),
        IPV6 => (4, 16),
        NAME => match octets.get(4) {
            Some(length) => (5, usize::from(*length)),
            None => return Ok(None),
        },
        other => return Err(format!("address type {other}, which isn't known").into()),
    };
    let end = from + width + 2;
    let (Some(address), Some(port)) = (octets.get(from..end - 2), octets.get(end - 2..end)) else {
        return Ok(None);
    };
    let port = u16::from_be_bytes([port[0], port[1]]);
    let destination = match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
        _ if *kind == NAME => {
            let host = core::str::from_utf8(address).map_err(|_| "a host name that is no text")?;
            Destination::Name { host: host.into(), port }
        }
        (Ok(four), _) => Destination::Address(SocketAddr::new(IpAddr::from(four), port)),
        (_, Ok(sixteen)) => Destination::Address(SocketAddr::new(IpAddr::from(sixteen), port)),
        _ => unreachable!("there are two widths"),
    };
    Ok(Some((Message { code: *code, destination }, end)))
}

pub(super) fn render(code: u8, address: SocketAddr) -> Vec<u8> {
    let mut octets = Vec::with_capacity(22);
    octets.extend([VERSION, code, 0]);
    match address.ip() {
        IpAddr::V4(four) => {
            octets.push(IPV4);
            octets.extend(four.octets());
        }
        IpAddr::V6(six) => {
            octets.push(IPV6);
            octets.extend(six.octets());
        }
    }
    octets.extend(address.port().to_be_bytes());
    octets
}
