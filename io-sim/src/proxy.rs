//! A relay between clients and somebody: it passes octets and the ends of streams on, of whatever kind they are, TLS included. Invariant: what
//! comes out is what went in, in order, until a fault of the proxy cuts it off; nothing of a connection outlives the proxy.
use crate::fault::FaultKind;
use crate::net::{SimNetwork, SimStream};
use crate::universe::Universe;
use bytes::BytesMut;
use kumo_core::port::{DialRequest, Listener, NetError, Network};
use kumo_core::random::Random;
use kumo_core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A flapping proxy drops a connection within this time.
const FLAP: Duration = Duration::from_secs(5);
/// Between attempts to listen or accept that failed.
const RETRY: Duration = Duration::from_secs(1);

/// How a connection will be treated, decided when it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Fair,
    Refuses,
    Hangs,
    /// Passes on only what the client says, or only what it is answered.
    HalfOpen {
        to_server: bool,
    },
    Flaps {
        after: Duration,
    },
}

/// Until it is dropped or killed.
pub async fn run(universe: Arc<Universe>, listen: SocketAddr, onward: SocketAddr) {
    let network = Arc::new(SimNetwork::of_host(&universe, listen.ip()));
    let mut random = Random::new(universe.seed, &format!("proxy {listen}"));
    let target = listen.ip().to_string();
    // Whose sender goes with this future.
    let (_running, stopped) = watch::channel(());
    loop {
        let Ok(mut listener) = network.listen(listen).await else {
            sleep(RETRY).await;
            continue;
        };
        while let Ok((client, _)) = listener.accept().await {
            let manner = draw(&universe, &target, &mut random);
            let (network, mut stopped) = (network.clone(), stopped.clone());
            drop(tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = stopped.changed() => {}
                    () = serve(&network, client, onward, manner) => {}
                }
            }));
        }
    }
}

fn draw(universe: &Universe, target: &str, random: &mut Random) -> Manner {
    let strikes = |kind| universe.faults.strikes(kind, target).is_some();
    if strikes(FaultKind::ProxyRefuse) {
        Manner::Refuses
    } else if strikes(FaultKind::ProxyHang) {
        Manner::Hangs
    } else if strikes(FaultKind::ProxyHalfOpen) {
        Manner::HalfOpen { to_server: random.below(2) == 0 }
    } else if strikes(FaultKind::ProxyFlap) {
        Manner::Flaps { after: random.duration_up_to(FLAP) }
    } else {
        Manner::Fair
    }
}

async fn serve(network: &SimNetwork, client: SimStream, onward: SocketAddr, manner: Manner) {
    match manner {
        Manner::Refuses => return client.reset(),
        Manner::Hangs => return drop(swallow(&client).await),
        _ => {}
    }
    let after = if let Manner::Flaps { after } = manner { Some(after) } else { None };
    let passing = pass(network, client, onward, manner);
    match after {
        Some(after) => drop(timeout(after, passing).await),
        None => passing.await,
    }
}

async fn pass(network: &SimNetwork, client: SimStream, onward: SocketAddr, manner: Manner) {
    let request = DialRequest { remote: onward, source_address: None };
    let Ok(server) = network.dial(request).await else { return client.reset() };
    let up = pump(&client, &server, manner != Manner::HalfOpen { to_server: false });
    let down = pump(&server, &client, manner != Manner::HalfOpen { to_server: true });
    if both(up, down).await.is_err() {
        client.reset();
        server.reset();
    }
}

/// Both of them to their end, or the first that fails.
async fn both(
    up: impl Future<Output = Result<(), NetError>>,
    down: impl Future<Output = Result<(), NetError>>,
) -> Result<(), NetError> {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        biased;
        ended = &mut up => { ended?; down.await }
        ended = &mut down => { ended?; up.await }
    }
}

async fn pump(from: &SimStream, to: &SimStream, passes: bool) -> Result<(), NetError> {
    if !passes {
        return swallow(from).await;
    }
    let mut buffer = BytesMut::new();
    loop {
        let (count, mark) = from.receive(None, &mut buffer).await?;
        if count == 0 {
            to.finish().await;
            return Ok(());
        }
        to.send(&buffer, mark).await?;
        buffer.clear();
    }
}

/// Reads to the end and passes nothing on.
async fn swallow(from: &SimStream) -> Result<(), NetError> {
    let mut buffer = BytesMut::new();
    while from.receive(None, &mut buffer).await?.0 > 0 {
        buffer.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind::*;
    use crate::net::SimListener;
    use crate::net::tests::{self as net, *};
    use kumo_core::port::{NetErrorKind, Stream, TlsAccept, TlsConnect, TlsVerification};
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::task::JoinHandle;

    const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 99)), 2525);

    /// A running proxy, and the listener behind it.
    async fn stand(universe: &Arc<Universe>) -> (JoinHandle<()>, SimListener) {
        let listener = host(universe, SERVER.ip()).listen(SERVER).await.unwrap();
        let proxy = tokio::spawn(super::run(universe.clone(), PROXY, SERVER));
        sleep(Duration::from_millis(1)).await;
        (proxy, listener)
    }

    async fn dial(universe: &Arc<Universe>) -> SimStream {
        node(universe).dial(request(PROXY)).await.unwrap()
    }

    #[test]
    fn it_passes_octets_and_ends_both_ways() {
        for seed in 0..10 {
            net::run(seed, async |universe| {
                let _ = [NetPartialRead, NetPartialWrite].map(|kind| begin(&universe, kind));
                let (_proxy, mut listener) = stand(&universe).await;
                let mut near = dial(&universe).await;
                let (mut far, peer) = listener.accept().await.unwrap();
                assert_eq!(peer.ip(), PROXY.ip());
                let sent: Vec<u8> = (0..200_000).map(|n| (n % 251) as u8).collect();
                let expected = sent.clone();
                // Both talk at once and more than any buffer takes, and one of them doesn't listen meanwhile.
                let talking = tokio::spawn(async move {
                    write(&mut far, &sent[..100_000]).await.unwrap();
                    let heard = read_all(&mut far).await;
                    far.shutdown().await;
                    (heard, far)
                });
                write(&mut near, &expected[..100_000]).await.unwrap();
                near.end_writing().await;
                assert!(read_all(&mut near).await == (expected[..100_000].to_vec(), None));
                let (heard, _far) = talking.await.unwrap();
                assert!(heard == (expected[..100_000].to_vec(), None));
            });
        }
    }

    #[test]
    fn it_passes_tls_and_resets() {
        net::run(1, async |universe| {
            let (_proxy, mut listener) = stand(&universe).await;
            let near = dial(&universe).await;
            let (far, _) = listener.accept().await.unwrap();
            let accept = TlsAccept { hostname: "mx.example".into(), certificate: None };
            let serving = tokio::spawn(far.upgrade_server(Arc::new(accept)));
            let (server_name, verification) = ("mx.example".into(), TlsVerification::Full);
            let connect = TlsConnect { server_name, verification };
            let (mut near, _) = near.upgrade_client(connect).await.unwrap();
            let (mut far, _) = serving.await.unwrap().unwrap();
            write(&mut near, b"EHLO").await.unwrap();
            assert_eq!(read_some(&mut far).await.unwrap(), b"EHLO");
            far.reset();
            assert_eq!(read_some(&mut near).await, Err(NetErrorKind::Reset));
        });
    }

    #[test]
    fn nothing_of_it_stays_when_it_is_gone_and_nobody_behind_it_is_a_reset() {
        net::run(1, async |universe| {
            let (proxy, mut listener) = stand(&universe).await;
            let mut near = dial(&universe).await;
            let (mut far, _) = listener.accept().await.unwrap();
            drop(listener);
            let mut unlucky = dial(&universe).await;
            assert_eq!(read_some(&mut unlucky).await, Err(NetErrorKind::Reset));
            proxy.abort();
            assert_eq!(read_some(&mut near).await, Ok(vec![]));
            assert_eq!(read_some(&mut far).await, Ok(vec![]));
            assert_eq!(universe.net.open_connections(PROXY), 0);
            assert!(node(&universe).dial(request(PROXY)).await.is_err());
        });
    }

    #[test]
    fn a_proxy_that_refuses_resets_and_one_that_hangs_says_nothing() {
        net::run(1, async |universe| {
            let (_proxy, mut listener) = stand(&universe).await;
            let refuse = begin(&universe, ProxyRefuse);
            let mut near = dial(&universe).await;
            assert_eq!(read_some(&mut near).await, Err(NetErrorKind::Reset));
            universe.faults.end(refuse);
            begin(&universe, ProxyHang);
            let mut near = dial(&universe).await;
            write(&mut near, b"EHLO").await.unwrap();
            assert!(hears_nothing(&mut near).await);
            assert!(timeout(FLAP, listener.accept()).await.is_err());
            assert_eq!((fired(&universe, ProxyRefuse), fired(&universe, ProxyHang)), (1, 1));
        });
    }

    #[test]
    fn a_half_open_proxy_passes_in_one_direction() {
        let mut seen = [0, 0];
        for seed in 0..10 {
            let (near_hears, far_hears) = net::run(seed, async |universe| {
                begin(&universe, ProxyHalfOpen);
                let (_proxy, mut listener) = stand(&universe).await;
                let mut near = dial(&universe).await;
                let (mut far, _) = listener.accept().await.unwrap();
                write(&mut near, b"EHLO").await.unwrap();
                write(&mut far, b"220").await.unwrap();
                (!hears_nothing(&mut near).await, !hears_nothing(&mut far).await)
            });
            assert_ne!(near_hears, far_hears);
            seen[usize::from(near_hears)] += 1;
        }
        assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
    }

    #[test]
    fn a_flapping_proxy_drops_both_ends_soon() {
        for seed in 0..5 {
            net::run(seed, async |universe| {
                begin(&universe, ProxyFlap);
                let (_proxy, mut listener) = stand(&universe).await;
                let mut near = dial(&universe).await;
                let accepted = timeout(FLAP, listener.accept()).await;
                let dropped = timeout(FLAP + FLAP, read_some(&mut near)).await.unwrap();
                assert!(dropped.is_err() || dropped == Ok(vec![]));
                if let Ok(Ok((mut far, _))) = accepted {
                    assert_eq!(read_some(&mut far).await, Ok(vec![]));
                }
            });
        }
    }
}
