//! The way to a destination: its name looked up, its addresses tried one after another from the source address that the client
//! chose. Invariants: all of it together takes no longer than the listener's timeout; each refusal has the reply code that says
//! most about it.
use crate::connection::Listening;
use kumo_core::config::egress::IpLookupStrategy;
use kumo_core::config::proxy_listener::TcpKeepalive;
use kumo_core::port::{DialRequest, DnsError, NetError, NetErrorKind, Network, Resolver};
use kumo_core::proxy::connect::share;
use kumo_core::proxy::socks5::{Destination, ReplyCode};
use kumo_io_real::net::RealStream;
use socket2::SockRef;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub destination: Destination,
    pub source: Option<IpAddr>,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.destination {
            Destination::Address(address) => write!(f, "connect to {address}"),
            // A client may write anything there.
            Destination::Name { host, port } => write!(f, "connect to {host:?}, port {port}"),
        }
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: ReplyCode,
    pub text: String,
}

impl From<NetError> for Refused {
    fn from(NetError { kind, text }: NetError) -> Refused {
        let code = match kind {
            NetErrorKind::Refused => ReplyCode::CONNECTION_REFUSED,
            NetErrorKind::Unreachable => ReplyCode::NETWORK_UNREACHABLE,
            NetErrorKind::TimedOut => ReplyCode::TTL_EXPIRED,
            _ => ReplyCode::GENERAL_FAILURE,
        };
        Refused { code, text }
    }
}

/// Whether connections can come from this address.
pub fn can_bind(source: IpAddr) -> Result<(), Refused> {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| socket.bind(SocketAddr::new(source, 0)));
    bound.or_else(|error| {
        // Our own want says nothing about the address: connecting will tell.
        if let Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) =
            error.raw_os_error()
        {
            return Ok(());
        }
        let (code, advice) = match error.kind() {
            std::io::ErrorKind::AddrNotAvailable => (
                ReplyCode::ADDRESS_NOT_SUPPORTED,
                ": no interface of this host has the address (`ip address add` puts it there)",
            ),
            _ => (ReplyCode::GENERAL_FAILURE, ""),
        };
        Err(Refused { code, text: format!("bind to {source}: {error}{advice}") })
    })
}

pub async fn connect(listening: &Listening, wish: &Wish) -> Result<RealStream, Refused> {
    let deadline = Instant::now() + listening.timeout;
    let candidates = candidates(listening, wish, deadline).await?;
    let mut refused = None;
    for (tried, candidate) in candidates.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = share(left, candidates.len() - tried);
        match dial(listening, *candidate, wish.source, patience).await {
            Ok(stream) => {
                keep_alive(stream.tcp(), &listening.keepalive);
                listening.counters.connected(candidate.ip());
                return Ok(stream);
            }
            Err(why) => refused = Some(why),
        }
    }
    Err(refused.unwrap_or_else(|| Refused {
        code: ReplyCode::HOST_UNREACHABLE,
        text: format!("{wish}: it has no address"),
    }))
}

async fn dial(
    listening: &Listening,
    remote: SocketAddr,
    source_address: Option<IpAddr>,
    patience: Duration,
) -> Result<RealStream, Refused> {
    let dialled = listening.world.network.dial(DialRequest { remote, source_address });
    match timeout(patience, dialled).await {
        Ok(dialled) => dialled.map_err(Refused::from),
        Err(_) => Err(Refused {
            code: ReplyCode::TTL_EXPIRED,
            text: format!("connect to {remote}: no answer within {patience:?}"),
        }),
    }
}

/// The destination's addresses that the source address can reach.
async fn candidates(
    listening: &Listening,
    wish: &Wish,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, Refused> {
    let (addresses, port) = match &wish.destination {
        Destination::Address(address) => (vec![address.ip()], address.port()),
        Destination::Name { host, port } => {
            (look_up(listening, wish, host, deadline).await?, *port)
        }
    };
    let fits =
        |address: &IpAddr| wish.source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
    let found = addresses.len();
    let fitting: Vec<SocketAddr> =
        addresses.into_iter().filter(fits).map(|address| SocketAddr::new(address, port)).collect();
    match wish.source {
        Some(source) if fitting.is_empty() && found > 0 => Err(Refused {
            code: ReplyCode::ADDRESS_NOT_SUPPORTED,
            text: format!("{wish}: it has no address of the family of {source}"),
        }),
        _ => Ok(fitting),
    }
}

async fn look_up(
    listening: &Listening,
    wish: &Wish,
    host: &str,
    deadline: Instant,
) -> Result<Vec<IpAddr>, Refused> {
    let failed = |code, why: &dyn fmt::Display| Refused { code, text: format!("{wish}: {why}") };
    let Some(resolver) = &listening.world.resolver else {
        let why = "this host has no resolver: see the warning at the start";
        return Err(failed(ReplyCode::GENERAL_FAILURE, &why));
    };
    let asked = resolver.addresses(host, IpLookupStrategy::Ipv4AndIpv6);
    match timeout_at(deadline, asked).await {
        Ok(Ok(answer)) => Ok(answer.addresses),
        Ok(Err(DnsError::NoSuchDomain(_))) => {
            Err(failed(ReplyCode::HOST_UNREACHABLE, &"there is no such name"))
        }
        Ok(Err(error)) => Err(failed(ReplyCode::HOST_UNREACHABLE, &error)),
        Err(_) => {
            let why = format!("no answer from DNS within {:?}", listening.timeout);
            Err(failed(ReplyCode::HOST_UNREACHABLE, &why))
        }
    }
}

/// A socket on which it can't be set works without.
pub fn keep_alive(socket: &TcpStream, wanted: &TcpKeepalive) {
    if !wanted.enabled {
        return;
    }
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(wanted.time)
        .with_interval(wanted.interval)
        .with_retries(wanted.retries);
    if let Err(error) = SockRef::from(socket).set_tcp_keepalive(&keepalive) {
        tracing::debug!("TCP keepalive can't be set: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_code_that_says_most() {
        for (kind, code) in [
            (NetErrorKind::Refused, ReplyCode::CONNECTION_REFUSED),
            (NetErrorKind::Unreachable, ReplyCode::NETWORK_UNREACHABLE),
            (NetErrorKind::TimedOut, ReplyCode::TTL_EXPIRED),
            (NetErrorKind::Exhausted, ReplyCode::GENERAL_FAILURE),
        ] {
            let refused = Refused::from(NetError { kind, text: "why".into() });
            assert_eq!((refused.code, &*refused.text), (code, "why"), "{kind:?}");
        }
    }

    #[test]
    fn names_are_never_shown_as_they_are() {
        let destination = Destination::Name { host: "a\x1b[31m\nb".into(), port: 25 };
        let shown = Wish { destination, source: None }.to_string();
        assert!(!shown.contains(char::is_control), "{shown}");
    }

    #[tokio::test]
    async fn only_addresses_of_this_host_can_be_bound_to() {
        assert_eq!(can_bind([127, 0, 0, 2].into()), Ok(()));
        let refused = can_bind([192, 0, 2, 77].into()).unwrap_err();
        assert!(refused.text.contains("ip address add"), "{refused:?}");
    }
}
