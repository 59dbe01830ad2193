//! What two ends of a simulated connection can expect, fault by fault. Its helpers serve the tests of TLS and of the proxy as well.
use super::*;
use crate::fault::{Fault, FaultId};
use crate::universe::Settings;
use bytes::BytesMut;
use kumo_core::port::Stream;
use madsim::runtime::Runtime;
use tokio::time::timeout;

pub(crate) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const SERVER: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 5)), 25);
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const AT_NODE: SocketAddr = SocketAddr::new(NODE, 25);
const LONG: Duration = Duration::from_secs(600);

/// A run of its own, with a node that has just begun to live.
pub(crate) fn run<T, F>(seed: u64, body: impl FnOnce(Arc<Universe>) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let inside = move || {
        Runtime::with_seed_and_config(seed, madsim::Config::default()).block_on(async move {
            let settings = Settings {
                disk: Default::default(),
                net: NetSettings::default(),
                interfaces: vec![NODE],
                policy: Default::default(),
                zones: Default::default(),
            };
            let universe = Universe::new(seed, settings);
            assert_eq!(universe.lives.begin(), 1);
            body(universe).await
        })
    };
    std::thread::spawn(inside).join().expect("the run ends without a panic")
}

pub(crate) fn begin(universe: &Universe, what: FaultKind) -> FaultId {
    universe.faults.begin(Fault { what, chance: 1000, amount: None, target: None })
}

pub(crate) fn fired(universe: &Universe, what: FaultKind) -> u64 {
    universe.faults.fired()[what as usize]
}

pub(crate) fn node(universe: &Arc<Universe>) -> SimNetwork {
    SimNetwork::of_node(universe, 1)
}

pub(crate) fn host(universe: &Arc<Universe>, address: IpAddr) -> SimNetwork {
    SimNetwork::of_host(universe, address)
}

pub(crate) fn request(remote: SocketAddr) -> DialRequest {
    DialRequest { remote, source_address: None }
}

/// From the node to a server.
pub(crate) async fn outgoing(universe: &Arc<Universe>) -> (SimStream, SimStream) {
    let mut listener = host(universe, SERVER.ip()).listen(SERVER).await.unwrap();
    let near = node(universe).dial(request(SERVER)).await.unwrap();
    let (far, peer) = listener.accept().await.unwrap();
    assert_eq!(Some(peer), near.local_address());
    (near, far)
}

/// From a client to the node: the client's end first.
pub(crate) async fn incoming(universe: &Arc<Universe>) -> (SimStream, SimStream) {
    let mut listener = node(universe).listen(AT_NODE).await.unwrap();
    let client = host(universe, CLIENT).dial(request(AT_NODE)).await.unwrap();
    let (served, _) = listener.accept().await.unwrap();
    (client, served)
}

/// Everything until the end, or the error that comes instead.
pub(crate) async fn read_all(stream: &mut SimStream) -> (Vec<u8>, Option<NetErrorKind>) {
    let mut buffer = BytesMut::new();
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return (buffer.to_vec(), None),
            Ok(_) => {}
            Err(error) => return (buffer.to_vec(), Some(error.kind)),
        }
    }
}

pub(crate) async fn read_some(stream: &mut SimStream) -> Result<Vec<u8>, NetErrorKind> {
    let mut buffer = BytesMut::new();
    stream.read(&mut buffer).await.map(|_| buffer.to_vec()).map_err(|error| error.kind)
}

pub(crate) async fn hears_nothing(stream: &mut SimStream) -> bool {
    timeout(LONG, read_some(stream)).await.is_err()
}

pub(crate) async fn write(stream: &mut SimStream, data: &[u8]) -> Result<(), NetErrorKind> {
    stream.write_all(data).await.map_err(|error| error.kind)
}

/// No octet is like the one 251 before it.
fn noise(octets: usize) -> Vec<u8> {
    (0..octets).map(|n| (n % 251) as u8).collect()
}

async fn is_carried_whole(universe: Arc<Universe>) -> Duration {
    let (mut near, mut far) = outgoing(&universe).await;
    let began = universe.now().mono;
    let answering = tokio::spawn(async move {
        let (heard, error) = read_all(&mut far).await;
        assert_eq!(error, None);
        for line in heard.chunks(700) {
            write(&mut far, line).await.unwrap();
        }
    });
    let sent = noise(100_000);
    for line in sent.chunks(9_000) {
        write(&mut near, line).await.unwrap();
    }
    near.end_writing().await;
    let (answer, error) = read_all(&mut near).await;
    assert_eq!(error, None);
    assert!(answer == sent, "in order and whole");
    answering.await.unwrap();
    universe.now().mono.since(began)
}

#[test]
fn octets_arrive_in_order_and_whole_whatever_slows_them() {
    use FaultKind::*;
    for seed in 0..10 {
        run(seed, is_carried_whole);
        for kinds in [
            &[NetPartialRead][..],
            &[NetPartialWrite],
            &[NetBackPressure],
            &[NetLatency],
            &[NetPartialRead, NetPartialWrite, NetBackPressure, NetLatency],
        ] {
            run(seed, async move |universe| {
                for kind in kinds {
                    begin(&universe, *kind);
                }
                is_carried_whole(universe.clone()).await;
                assert!(kinds.iter().all(|kind| fired(&universe, *kind) > 0));
            });
        }
    }
}

#[test]
fn latency_is_at_most_what_the_fault_says() {
    let took = |what: Option<Fault>| {
        run(3, async |universe| {
            what.map(|fault| universe.faults.begin(fault));
            is_carried_whole(universe).await
        })
    };
    let (what, amount) = (FaultKind::NetLatency, Some(Duration::from_secs(9)));
    let slow = Fault { what, chance: 1000, amount, target: Some("198.51.100.5".into()) };
    let elsewhere = Fault { target: Some("198.51.100.6".into()), ..slow.clone() };
    assert!(took(None) < Duration::from_millis(50));
    assert!(took(Some(elsewhere)) < Duration::from_millis(50));
    // Each direction fills its buffer twice.
    let slow = took(Some(slow));
    assert!(slow > Duration::from_secs(5) && slow < Duration::from_secs(37), "{slow:?}");
}

#[test]
fn a_writer_waits_while_the_other_end_does_not_read() {
    run(1, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        let sent = noise(64 * 1024 + 1);
        assert!(timeout(LONG, write(&mut near, &sent)).await.is_err());
        near.shutdown().await;
        assert_eq!(read_all(&mut far).await, (sent[..64 * 1024].to_vec(), None));
    });
}

#[test]
fn a_read_that_is_dropped_loses_nothing() {
    run(2, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        let mut buffer = BytesMut::new();
        assert!(timeout(Duration::from_millis(1), far.read(&mut buffer)).await.is_err());
        write(&mut near, b"hello").await.unwrap();
        assert!(timeout(Duration::from_millis(1), far.read(&mut buffer)).await.is_err());
        near.shutdown().await;
        assert_eq!(read_all(&mut far).await, (b"hello".to_vec(), None));
    });
}

#[test]
fn one_direction_ends_while_the_other_goes_on() {
    run(1, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        near.end_writing().await;
        assert_eq!(read_all(&mut far).await, (vec![], None));
        write(&mut far, b"still here").await.unwrap();
        assert_eq!(read_some(&mut near).await.unwrap(), b"still here");
        assert_eq!(write(&mut near, b"x").await, Err(NetErrorKind::Other));
    });
    for seed in 0..20 {
        run(seed, async |universe| {
            begin(&universe, FaultKind::NetHalfClose);
            let (near, far) = outgoing(&universe).await;
            let sent = noise(20_000);
            let talk = |mut stream: SimStream| {
                let sent = sent.clone();
                tokio::spawn(async move {
                    write(&mut stream, &sent).await.unwrap();
                    stream.end_writing().await;
                    let heard = read_all(&mut stream).await;
                    (stream, heard)
                })
            };
            let (near, far) = (talk(near), talk(far));
            let ((_near, near), (_far, far)) = (near.await.unwrap(), far.await.unwrap());
            assert_eq!((near.1, far.1), (None, None));
            let (cut, whole) = if near.0.len() < far.0.len() { (near, far) } else { (far, near) };
            assert!(cut.0.len() < 20_000 && sent.starts_with(&cut.0));
            assert!(whole.0 == sent);
        });
    }
}

#[test]
fn a_reset_reaches_both_ends_at_some_octet() {
    for seed in 0..20 {
        run(seed, async |universe| {
            begin(&universe, FaultKind::NetReset);
            let (mut near, mut far) = outgoing(&universe).await;
            let sent = noise(20_001);
            let mut result = write(&mut near, &sent).await;
            if result.is_ok() {
                result = write(&mut near, b"x").await;
            }
            assert_eq!(result, Err(NetErrorKind::Reset));
            assert_eq!(read_some(&mut near).await, Err(NetErrorKind::Reset));
            let (heard, error) = read_all(&mut far).await;
            assert_eq!(error, Some(NetErrorKind::Reset));
            assert!(sent.starts_with(&heard));
            assert_eq!(write(&mut far, b"x").await, Err(NetErrorKind::Reset));
        });
    }
}

#[test]
fn a_drop_is_an_end_or_if_octets_wait_unread_a_reset() {
    run(1, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        write(&mut far, b"bye").await.unwrap();
        drop(far);
        assert_eq!(read_all(&mut near).await, (b"bye".to_vec(), None));
        // What goes to somebody who left comes back as a reset, in time.
        write(&mut near, b"a").await.unwrap();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(write(&mut near, b"b").await, Err(NetErrorKind::Reset));
    });
    run(2, async |universe| {
        let (mut near, far) = outgoing(&universe).await;
        write(&mut near, b"is anybody there").await.unwrap();
        sleep(Duration::from_millis(20)).await;
        drop(far);
        assert_eq!(read_all(&mut near).await, (vec![], Some(NetErrorKind::Reset)));
    });
    run(3, async |universe| {
        let (mut near, far) = outgoing(&universe).await;
        far.reset();
        assert_eq!(read_some(&mut near).await, Err(NetErrorKind::Reset));
    });
}

#[test]
fn a_writer_that_waits_learns_of_a_reset() {
    run(4, async |universe| {
        let (mut near, far) = outgoing(&universe).await;
        let writing = tokio::spawn(async move { write(&mut near, &noise(100_000)).await });
        sleep(Duration::from_secs(1)).await;
        far.reset();
        assert_eq!(writing.await.unwrap(), Err(NetErrorKind::Reset));
    });
}

async fn dial_error(universe: &Arc<Universe>, request: DialRequest) -> NetErrorKind {
    match node(universe).dial(request).await {
        Ok(_) => panic!("nobody should answer"),
        Err(error) => error.kind,
    }
}

#[test]
fn an_attempt_is_refused_after_a_round_trip_or_not_answered_at_all() {
    run(1, async |universe| {
        let began = universe.now().mono;
        assert_eq!(dial_error(&universe, request(SERVER)).await, NetErrorKind::Refused);
        let took = universe.now().mono.since(began);
        assert!(took >= Duration::from_millis(4) && took <= Duration::from_millis(11), "{took:?}");

        let _listener = host(&universe, SERVER.ip()).listen(SERVER).await.unwrap();
        let refuse = begin(&universe, FaultKind::NetRefuse);
        assert_eq!(dial_error(&universe, request(SERVER)).await, NetErrorKind::Refused);
        universe.faults.end(refuse);
        let hole = begin(&universe, FaultKind::NetBlackHole);
        assert!(timeout(LONG, node(&universe).dial(request(SERVER))).await.is_err());
        universe.faults.end(hole);
        let partition = begin(&universe, FaultKind::NetPartition);
        assert!(timeout(LONG, node(&universe).dial(request(SERVER))).await.is_err());
        // The rest of the world is whole.
        assert!(host(&universe, CLIENT).dial(request(SERVER)).await.is_ok());
        universe.faults.end(partition);
        let exhausted = begin(&universe, FaultKind::NetExhausted);
        assert_eq!(dial_error(&universe, request(SERVER)).await, NetErrorKind::Exhausted);
        universe.faults.end(exhausted);
        assert!(node(&universe).dial(request(SERVER)).await.is_ok());
    });
}

#[test]
fn a_dial_comes_from_an_address_that_the_node_has() {
    run(1, async |universe| {
        let mut listener = host(&universe, SERVER.ip()).listen(SERVER).await.unwrap();
        let from = |address: &str| DialRequest {
            source_address: Some(address.parse().unwrap()),
            ..request(SERVER)
        };
        let _stream = node(&universe).dial(from("192.0.2.1")).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip(), NODE);
        let kind = dial_error(&universe, from("192.0.2.77")).await;
        assert_eq!(kind, NetErrorKind::AddressNotAvailable);
        assert_eq!(dial_error(&universe, from("2001:db8::1")).await, NetErrorKind::Unreachable);
        let v6 = request("[2001:db8::5]:25".parse().unwrap());
        assert_eq!(dial_error(&universe, v6).await, NetErrorKind::Unreachable);
        begin(&universe, FaultKind::HostLostAddress);
        let kind = dial_error(&universe, from("192.0.2.1")).await;
        assert_eq!(kind, NetErrorKind::AddressNotAvailable);
        assert_eq!(fired(&universe, FaultKind::HostLostAddress), 1);
    });
}

#[test]
fn a_backlog_is_bounded_and_a_full_one_does_not_answer() {
    run(1, async |universe| {
        let mut listener = host(&universe, SERVER.ip()).listen(SERVER).await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..BACKLOG {
            streams.push(node(&universe).dial(request(SERVER)).await.unwrap());
        }
        assert_eq!(universe.net.open_connections(SERVER), BACKLOG as u64);
        assert!(timeout(LONG, node(&universe).dial(request(SERVER))).await.is_err());
        let _first = listener.accept().await.unwrap();
        streams.push(node(&universe).dial(request(SERVER)).await.unwrap());
        // Who waits at a listener that goes away is reset.
        drop(listener);
        let mut last = streams.pop().unwrap();
        assert_eq!(read_some(&mut last).await, Err(NetErrorKind::Reset));
        assert_eq!(universe.net.open_connections(SERVER), 1);
        drop((streams, last));
        assert_eq!(universe.net.open_connections(SERVER), 0);
        assert!(universe.net.state().nodes.is_empty());
    });
}

#[test]
fn an_exhausted_accept_takes_no_connection() {
    run(1, async |universe| {
        let mut listener = node(&universe).listen(AT_NODE).await.unwrap();
        let again = node(&universe).listen(AT_NODE).await.map(drop).map_err(|error| error.kind);
        assert_eq!(again, Err(NetErrorKind::AddressInUse));
        let mut client = host(&universe, CLIENT).dial(request(AT_NODE)).await.unwrap();
        let exhausted = begin(&universe, FaultKind::NetExhausted);
        let error = listener.accept().await.map(drop).unwrap_err();
        assert_eq!(error.kind, NetErrorKind::Exhausted);
        universe.faults.end(exhausted);
        let (mut served, peer) = listener.accept().await.unwrap();
        assert_eq!((peer, peer.ip()), (served.peer_address(), CLIENT));
        write(&mut served, b"220").await.unwrap();
        assert_eq!(read_some(&mut client).await.unwrap(), b"220");
    });
}

#[test]
fn a_silent_connection_stays_silent_and_is_counted_once() {
    run(1, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        write(&mut near, b"before").await.unwrap();
        let silence = begin(&universe, FaultKind::NetSilence);
        write(&mut near, b"during").await.unwrap();
        write(&mut far, b"during").await.unwrap();
        universe.faults.end(silence);
        write(&mut near, b"after").await.unwrap();
        assert_eq!(read_some(&mut far).await.unwrap(), b"before");
        drop(near);
        assert!(hears_nothing(&mut far).await);
        assert_eq!(fired(&universe, FaultKind::NetSilence), 1);
    });
}

#[test]
fn what_a_partition_held_is_delivered_when_it_is_over() {
    run(1, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        let (mut client, mut served) = incoming(&universe).await;
        let partition = begin(&universe, FaultKind::NetPartition);
        for stream in [&mut near, &mut far, &mut client, &mut served] {
            write(stream, b"held").await.unwrap();
            stream.end_writing().await;
        }
        let reading = tokio::spawn(async move { (read_all(&mut far).await, far) });
        assert!(hears_nothing(&mut near).await);
        universe.faults.end(partition);
        let healed = universe.now().mono;
        let whole = (b"held".to_vec(), None);
        assert_eq!(reading.await.unwrap().0, whole);
        for stream in [&mut near, &mut client, &mut served] {
            assert_eq!(read_all(stream).await, whole);
        }
        assert!(universe.now().mono.since(healed) < Duration::from_secs(5));
    });
}

#[test]
fn a_killed_node_resets_its_connections_and_listens_again() {
    run(1, async |universe| {
        let (near, mut far) = outgoing(&universe).await;
        let (mut client, served) = incoming(&universe).await;
        let listener = node(&universe).listen("192.0.2.1:26".parse().unwrap()).await.unwrap();
        universe.lives.end();
        universe.net.node_died(&universe, false);
        drop((near, served, listener));
        assert_eq!(read_some(&mut far).await, Err(NetErrorKind::Reset));
        assert_eq!(read_some(&mut client).await, Err(NetErrorKind::Reset));
        assert_eq!(universe.net.open_connections(SERVER), 0);
        let dial = async || host(&universe, CLIENT).dial(request(AT_NODE)).await;
        assert_eq!(dial().await.map(drop).unwrap_err().kind, NetErrorKind::Refused);

        let life = universe.lives.begin();
        let network = SimNetwork::of_node(&universe, life);
        let _listener = network.listen("0.0.0.0:25".parse().unwrap()).await.unwrap();
        assert!(dial().await.is_ok());
    });
}

#[test]
fn after_a_power_cut_nobody_hears_anything() {
    run(1, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        let (mut client, served) = incoming(&universe).await;
        write(&mut near, b"sent before").await.unwrap();
        universe.lives.end();
        universe.net.node_died(&universe, true);
        drop((near, served));
        assert_eq!(read_some(&mut far).await.unwrap(), b"sent before");
        write(&mut far, b"hello?").await.unwrap();
        assert!(hears_nothing(&mut far).await);
        assert!(hears_nothing(&mut client).await);
        let dial = async || host(&universe, CLIENT).dial(request(AT_NODE)).await;
        assert!(timeout(LONG, dial()).await.is_err());

        let life = universe.lives.begin();
        let network = SimNetwork::of_node(&universe, life);
        assert_eq!(dial().await.map(drop).unwrap_err().kind, NetErrorKind::Refused);
        let _listener = network.listen(AT_NODE).await.unwrap();
        assert!(dial().await.is_ok());
    });
}

#[test]
fn nothing_of_a_dead_life_has_an_effect() {
    run(1, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        universe.lives.end();
        assert!(timeout(LONG, write(&mut near, b"ghost")).await.is_err());
        assert!(timeout(LONG, near.shutdown()).await.is_err());
        assert!(timeout(LONG, node(&universe).dial(request(SERVER))).await.is_err());
        drop(near);
        assert!(hears_nothing(&mut far).await);
        universe.net.node_died(&universe, false);
        assert_eq!(read_some(&mut far).await, Err(NetErrorKind::Reset));
    });
}

#[test]
fn dials_and_writes_of_the_node_are_steps_and_its_waits_are_known() {
    run(1, async |universe| {
        let (mut near, mut far) = outgoing(&universe).await;
        assert_eq!(universe.lives.steps(), 1);
        write(&mut near, b"a").await.unwrap();
        write(&mut far, b"b").await.unwrap();
        assert_eq!(universe.lives.steps(), 2);
        read_some(&mut near).await.unwrap();
        let waiting = tokio::spawn(async move { read_some(&mut near).await });
        sleep(Duration::from_secs(1)).await;
        let standing: Vec<_> = universe.waits.standing().iter().map(|(kind, _)| *kind).collect();
        assert_eq!(standing, [WaitKind::Read]);
        far.shutdown().await;
        assert_eq!(waiting.await.unwrap(), Ok(vec![]));
        assert!(universe.waits.standing().is_empty());
    });
}

/// Who heard what, and when.
fn trace(seed: u64) -> Vec<(u64, String)> {
    run(seed, async |universe| {
        for what in [FaultKind::NetReset, FaultKind::NetHalfClose, FaultKind::NetPartialWrite] {
            universe.faults.begin(Fault { what, chance: 300, amount: None, target: None });
        }
        let mut listener = host(&universe, SERVER.ip()).listen(SERVER).await.unwrap();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = write(&mut stream, &noise(3_000)).await;
                    read_all(&mut stream).await;
                });
            }
        });
        let mut seen = Vec::new();
        for _ in 0..20 {
            let mut near = node(&universe).dial(request(SERVER)).await.unwrap();
            let wrote = write(&mut near, &noise(4_000)).await;
            near.end_writing().await;
            loop {
                let read = read_some(&mut near).await.map(|octets| octets.len());
                seen.push((universe.now().mono.0, format!("{wrote:?} {read:?}")));
                if !read.is_ok_and(|count| count > 0) {
                    break;
                }
            }
        }
        serving.abort();
        seen
    })
}

#[test]
fn the_same_seed_gives_the_same_course_of_events() {
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
