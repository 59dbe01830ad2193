//! What a proxy does to connections, by the book and where a fault strikes.
use super::*;
use crate::fault::Fault;
use crate::fault::FaultKind::*;
use crate::net::SimListener;
use crate::net::tests::{self as net, *};
use kumo_core::port::{NetErrorKind, Stream, TlsAccept, TlsConnect, TlsVerification};
use kumo_core::proxy::connect::Blame;
use kumo_core::proxy::socks5::client::{Handshake, Output, Request};
use kumo_core::proxy::v2;
use std::net::{IpAddr, Ipv4Addr};
use tokio::task::JoinHandle;

const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 99)), 2525);

/// A running proxy, and the listener behind it.
async fn stand(universe: &Arc<Universe>) -> (JoinHandle<()>, SimListener) {
    stand_leading(universe, Onward::To(SERVER)).await
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

// ---- For those who say where to ------------------------------------------------------------------------------

/// Where the proxy can send from.
const PLUMBED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 98));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 97));

async fn stand_leading(universe: &Arc<Universe>, onward: Onward) -> (JoinHandle<()>, SimListener) {
    let listener = host(universe, SERVER.ip()).listen(SERVER).await.unwrap();
    let proxy = tokio::spawn(super::run(universe.clone(), PROXY, onward));
    sleep(Duration::from_millis(1)).await;
    (proxy, listener)
}

/// What a client of SOCKS5 gets to hear.
async fn ask(stream: &mut SimStream, destination: SocketAddr, source: IpAddr) -> Result<(), Blame> {
    let request = Request { destination, source: Some(source), credentials: None };
    let mut handshake = Handshake::new(request);
    loop {
        match handshake.poll() {
            Some(Output::Send(octets)) => write(stream, &octets).await.unwrap(),
            Some(Output::Done { .. }) => return Ok(()),
            Some(Output::Failed { blame, .. }) => return Err(blame),
            None => match read_some(stream).await.unwrap() {
                octets if octets.is_empty() => handshake.ended(),
                octets => handshake.handle(&octets),
            },
        }
    }
}

async fn echoes(near: &mut SimStream, listener: &mut SimListener) -> SocketAddr {
    let (mut far, peer) = listener.accept().await.unwrap();
    write(&mut far, b"220").await.unwrap();
    assert_eq!(read_some(near).await.unwrap(), b"220");
    write(near, b"EHLO").await.unwrap();
    assert_eq!(read_some(&mut far).await.unwrap(), b"EHLO");
    peer
}

#[test]
fn socks5_leads_where_it_is_asked_to_from_the_address_it_is_asked_for() {
    net::run(1, async |universe| {
        let onward = Onward::Asked { plumbed: vec![PLUMBED] };
        let (_proxy, mut listener) = stand_leading(&universe, onward).await;
        let mut near = dial(&universe).await;
        assert_eq!(ask(&mut near, SERVER, PLUMBED).await, Ok(()));
        assert_eq!(echoes(&mut near, &mut listener).await.ip(), PLUMBED);
    });
}

#[test]
fn socks5_refuses_addresses_it_has_not_or_no_more_and_places_where_nobody_is() {
    net::run(1, async |universe| {
        let onward = Onward::Asked { plumbed: vec![PLUMBED] };
        let (_proxy, listener) = stand_leading(&universe, onward).await;
        let asked = async |destination, source| {
            let mut near = dial(&universe).await;
            ask(&mut near, destination, source).await
        };
        assert_eq!(asked(SERVER, ELSEWHERE).await, Err(Blame::ProxyBind));
        drop(listener);
        assert_eq!(asked(SERVER, PLUMBED).await, Err(Blame::Other));
        let target = Some(PLUMBED.to_string().into());
        universe.faults.begin(Fault { what: HostLostAddress, chance: 1000, amount: None, target });
        assert_eq!(asked(SERVER, PLUMBED).await, Err(Blame::ProxyBind));
        assert_eq!(fired(&universe, HostLostAddress), 1);
    });
}

#[test]
fn a_proxy_header_is_followed_and_whatever_else_comes_is_a_reset() {
    net::run(1, async |universe| {
        let onward = Onward::Announced { plumbed: vec![PLUMBED] };
        let (_proxy, mut listener) = stand_leading(&universe, onward).await;
        let mut near = dial(&universe).await;
        let header = |source: IpAddr| v2::header(SocketAddr::new(source, 0), SERVER);
        write(&mut near, &header(PLUMBED)).await.unwrap();
        assert_eq!(echoes(&mut near, &mut listener).await.ip(), PLUMBED);
        for said in [header(ELSEWHERE), b"EHLO here.example\r\n".to_vec()] {
            let mut near = dial(&universe).await;
            write(&mut near, &said).await.unwrap();
            assert_eq!(read_some(&mut near).await, Err(NetErrorKind::Reset));
        }
    });
}

#[test]
fn a_client_that_says_nothing_is_not_waited_for_without_end() {
    let plumbed = || vec![PLUMBED];
    for onward in [Onward::Asked { plumbed: plumbed() }, Onward::Announced { plumbed: plumbed() }] {
        net::run(1, async |universe| {
            let (_proxy, _listener) = stand_leading(&universe, onward).await;
            let mut near = dial(&universe).await;
            let ended = timeout(Duration::from_secs(150), read_some(&mut near)).await;
            assert_eq!(ended.unwrap(), Err(NetErrorKind::Reset));
        });
    }
}
