//! What a proxy does to connections, by the book and where a fault strikes.
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
