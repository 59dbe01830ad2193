//! One connection of a session to one address: straight, or by way of its source's proxy. Invariants: name resolution, every
//! connection to the proxy and its handshake end within one `connect_timeout`; what goes wrong is told with whom it speaks
//! against. Which addresses, in what time, and what their failures come to is `core::proxy::connect`'s to say.
use crate::client::Link;
use crate::world::World;
use bytes::BytesMut;
use kumo_core::config::EgressSource;
use kumo_core::config::egress::IpLookupStrategy;
use kumo_core::config::source::Proxy;
use kumo_core::log::SourceAddress;
use kumo_core::port::{DialRequest, DnsError, NetError, NetErrorKind, Network, Resolver, Stream};
use kumo_core::proxy::connect::{self, Blame, Failure};
use kumo_core::proxy::socks5::client::{Handshake, Output, Request};
use kumo_core::proxy::{ProxyServer, v2};
use kumo_core::source_health::SourceFailure;
use kumo_core::time::{Duration, Mono};
use std::net::{IpAddr, SocketAddr};
use tokio::time::timeout;

/// After looking a proxy's name up, at least so much of `connect_timeout` has to be left to judge the proxy by.
const LEFT_TO_CONNECT: Duration = Duration::from_secs(1);

type StreamOf<W> = <<W as World>::Network as Network>::Stream;

pub(crate) struct Dialled<S> {
    pub stream: S,
    /// What the destination said while the proxy's handshake was being read.
    pub rest: BytesMut,
    pub source_address: Option<SourceAddress>,
}

pub(crate) struct NotDialled {
    pub why: String,
    pub blame: Blame,
    /// Whether it counts against the source.
    pub counts: Option<SourceFailure>,
}

impl NotDialled {
    fn before_dialling(why: String) -> NotDialled {
        NotDialled { why, blame: Blame::Other, counts: None }
    }

    fn of(source: &EgressSource, failures: &[Failure]) -> NotDialled {
        let proxy = source.proxy();
        let proxy = proxy.as_ref().map(Proxy::server);
        let (why, counts) = connect::combine(&source.name, proxy, failures);
        let first = failures.first().map_or(Blame::Other, |failure| failure.blame);
        let blame =
            if failures.iter().all(|one| one.blame == first) { first } else { Blame::Other };
        NotDialled { why, blame, counts }
    }
}

pub(crate) async fn dial<W: World>(
    link: &Link<W>,
    remote: SocketAddr,
) -> Result<Dialled<StreamOf<W>>, NotDialled> {
    match link.target.source.proxy() {
        None => straight(link, remote).await,
        Some(proxy) => through(link, remote, &proxy).await,
    }
}

async fn straight<W: World>(
    link: &Link<W>,
    remote: SocketAddr,
) -> Result<Dialled<StreamOf<W>>, NotDialled> {
    let patience = link.target.path.connect_timeout;
    match connection(link, remote, patience, Blame::Other).await {
        Ok(stream) => {
            let source_address = stream.local_address().map(|local| SourceAddress {
                address: local.to_string(),
                server: None,
                protocol: None,
            });
            Ok(Dialled { stream, rest: BytesMut::new(), source_address })
        }
        Err(failure) => Err(NotDialled::of(&link.target.source, &[failure])),
    }
}

/// A bare connection from the source's own address. `blame`: whom it speaks against if it can't be made.
async fn connection<W: World>(
    link: &Link<W>,
    remote: SocketAddr,
    patience: Duration,
    blame: Blame,
) -> Result<StreamOf<W>, Failure> {
    let source_address = link.target.source.source_address;
    let request = DialRequest { remote, source_address };
    let failure = |blame, text| Failure { candidate: remote, blame, text };
    match timeout(patience, link.shared.world.network().dial(request)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(NetError { kind, text })) => {
            let blame = match kind {
                NetErrorKind::AddressNotAvailable => Blame::Unplumbed,
                NetErrorKind::Bind => Blame::Bind,
                // Our own want speaks against nobody.
                NetErrorKind::Exhausted => Blame::Other,
                _ => blame,
            };
            if blame == Blame::Unplumbed {
                link.shared.counters.bind_failures.add(1);
            }
            Err(failure(blame, text))
        }
        Err(_) => Err(failure(blame, format!("no connection to {remote} within {patience:?}"))),
    }
}

// ---- By way of a proxy ------------------------------------------------------------------------------------

async fn through<W: World>(
    link: &Link<W>,
    remote: SocketAddr,
    proxy: &Proxy<'_>,
) -> Result<Dialled<StreamOf<W>>, NotDialled> {
    let source = &link.target.source;
    let deadline = link.shared.now().mono + link.target.path.connect_timeout;
    check_family(&source.name, remote, proxy).map_err(NotDialled::before_dialling)?;
    let candidates = candidates(link, proxy, deadline).await;
    let candidates = candidates.map_err(NotDialled::before_dialling)?;
    if deadline.since(link.shared.now().mono)
        < LEFT_TO_CONNECT.min(link.target.path.connect_timeout / 10)
    {
        // What would follow could only be blamed on the proxy.
        let why = format!("timeout resolving {} for source {}", proxy.server(), source.name);
        return Err(NotDialled::before_dialling(why));
    }
    let mut failures = Vec::with_capacity(candidates.len());
    for (tried, candidate) in candidates.iter().enumerate() {
        let left = deadline.since(link.shared.now().mono);
        let patience = connect::share(left, candidates.len() - tried);
        match through_one(link, *candidate, remote, proxy, patience).await {
            Ok(dialled) => return Ok(dialled),
            Err(failure) => {
                if matches!(failure.blame, Blame::Proxy | Blame::ProxyBind) {
                    link.shared.counters.proxy_connection_failures.add(1);
                }
                failures.push(failure);
            }
        }
    }
    Err(NotDialled::of(source, &failures))
}

/// A proxy doesn't translate between families.
fn check_family(source: &str, remote: SocketAddr, proxy: &Proxy<'_>) -> Result<(), String> {
    let (option, address) = match proxy {
        Proxy::HaProxy { source_address, .. } => ("ha_proxy_source_address", *source_address),
        Proxy::Socks5 { source_address: Some(address), .. } => {
            ("socks5_proxy_source_address", *address)
        }
        Proxy::Socks5 { source_address: None, .. } => return Ok(()),
    };
    if address.is_ipv4() == remote.is_ipv4() {
        return Ok(());
    }
    Err(format!(
        "Skipping {source} because {option} {address} address family does not match the destination address family {remote}"
    ))
}

async fn candidates<W: World>(
    link: &Link<W>,
    proxy: &Proxy<'_>,
    deadline: Mono,
) -> Result<Vec<SocketAddr>, String> {
    let source = &link.target.source;
    let option = match proxy {
        Proxy::HaProxy { .. } => "ha_proxy_server",
        Proxy::Socks5 { .. } => "socks5_proxy_server",
    };
    let server = proxy.server();
    let (addresses, port) = match server {
        ProxyServer::Address(address) => (vec![address.ip()], address.port()),
        ProxyServer::Name { host, port } => {
            let left = deadline.since(link.shared.now().mono);
            (resolved(link, host, left, option).await?, *port)
        }
    };
    let name = server.to_string();
    connect::candidates(&source.name, option, &name, (&addresses, port), source.source_address)
}

async fn resolved<W: World>(
    link: &Link<W>,
    host: &str,
    patience: Duration,
    option: &str,
) -> Result<Vec<IpAddr>, String> {
    let source = &link.target.source.name;
    let lookup = link.shared.world.resolver().addresses(host, IpLookupStrategy::Ipv4AndIpv6);
    match timeout(patience, lookup).await {
        Ok(Ok(answer)) => Ok(answer.addresses),
        Ok(Err(DnsError::NoSuchDomain(_))) => Ok(Vec::new()),
        Ok(Err(DnsError::Failed(why))) => {
            Err(format!("source {source}: {option} {host} can't be resolved: {why}"))
        }
        Err(_) => Err(format!("timeout resolving {option} {host} for source {source}")),
    }
}

async fn through_one<W: World>(
    link: &Link<W>,
    candidate: SocketAddr,
    remote: SocketAddr,
    proxy: &Proxy<'_>,
    patience: Duration,
) -> Result<Dialled<StreamOf<W>>, Failure> {
    let began = link.shared.now().mono;
    let stream = connection(link, candidate, patience, Blame::Proxy).await?;
    let left = patience.saturating_sub(link.shared.now().mono.since(began));
    let shaken = match proxy {
        Proxy::HaProxy { source_address, .. } => {
            announce(stream, remote, SocketAddr::new(*source_address, 0), left).await
        }
        Proxy::Socks5 { source_address, credentials, .. } => {
            let (source, credentials) = (*source_address, credentials.clone());
            shake(stream, Request { destination: remote, source, credentials }, left).await
        }
    };
    let (stream, rest, from) =
        shaken.map_err(|(blame, text)| Failure { candidate, blame, text })?;
    let source_address = SourceAddress {
        // One that chooses its address and doesn't tell it sends from its own, as far as one can know.
        address: from.map_or(candidate.ip().to_string(), |from| from.to_string()),
        server: Some(candidate.to_string()),
        protocol: Some(proxy.protocol().into()),
    };
    Ok(Dialled { stream, rest, source_address: Some(source_address) })
}

/// The connection, what came with the last answer, and the address that the destination sees.
type Shaken<S> = Result<(S, BytesMut, Option<SocketAddr>), (Blame, String)>;

async fn announce<S: Stream>(
    mut stream: S,
    remote: SocketAddr,
    source: SocketAddr,
    patience: Duration,
) -> Shaken<S> {
    match timeout(patience, stream.write_all(&v2::header(source, remote))).await {
        Ok(Ok(())) => Ok((stream, BytesMut::new(), Some(source))),
        Ok(Err(error)) => Err((Blame::Proxy, error.to_string())),
        Err(_) => Err((Blame::Proxy, format!("it took no header within {patience:?}"))),
    }
}

async fn shake<S: Stream>(mut stream: S, request: Request, patience: Duration) -> Shaken<S> {
    let asked_from = request.source.map(|source| SocketAddr::new(source, 0));
    let mut handshake = Handshake::new(request);
    let shaking = handshake_over(&mut stream, &mut handshake);
    match timeout(patience, shaking).await {
        Ok(Ok((rest, from))) => {
            let from = from.or(asked_from);
            Ok((stream, BytesMut::from(&rest[..]), from))
        }
        Ok(Err(failed)) => Err(failed),
        Err(_) => {
            let stage = handshake.where_it_stood();
            let patience = Duration::from_millis(patience.as_millis() as u64);
            let text = format!("nothing came within {patience:?} {stage}");
            Err((handshake.blame_of_silence(), text))
        }
    }
}

async fn handshake_over<S: Stream>(
    stream: &mut S,
    handshake: &mut Handshake,
) -> Result<(Vec<u8>, Option<SocketAddr>), (Blame, String)> {
    let broken = |error: NetError| (Blame::Proxy, error.to_string());
    let mut input = BytesMut::new();
    loop {
        match handshake.poll() {
            Some(Output::Send(octets)) => stream.write_all(&octets).await.map_err(broken)?,
            Some(Output::Done { rest, from }) => return Ok((rest, from)),
            Some(Output::Failed { blame, text }) => return Err((blame, text)),
            None => {
                input.clear();
                match stream.read(&mut input).await.map_err(broken)? {
                    0 => handshake.ended(),
                    _ => handshake.handle(&input),
                }
            }
        }
    }
}
