//! Sources behind proxies: what the proxy is told, what the destination gets, and what is said when it doesn't work.
use super::memory::Line;
use super::*;
use kumo_core::config::queue::{DeliveryProtocol, MxListEntry};
use kumo_core::config::{Secret, SuspendRule, Trigger};
use kumo_core::engine::listing::SourceSummary;
use kumo_core::proxy::socks5::ReplyCode;
use kumo_core::proxy::socks5::server::{Authentication, Output, Server};
use kumo_core::proxy::v2;
use std::net::IpAddr;

const PROXY: &str = "192.0.2.70:1080";
/// What the proxy is to send from.
const SOURCE: [u8; 4] = [192, 0, 2, 71];

/// A proxy that leads to the sink, whatever it is asked for.
#[derive(Clone, Default)]
struct Proxy {
    sink: Sink,
    password: Option<&'static str>,
    /// It can't bind.
    is_bare: bool,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn listen(&self, network: &MemoryNetwork, at: &str, serve: fn(Proxy, Pipe) -> Serving) {
        let mut listener = network.listen(at.parse().unwrap()).await.unwrap();
        let proxy = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(proxy.clone(), stream));
            }
        });
    }

    fn note(&self, asked: String) {
        self.asked.lock().unwrap().push(asked);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

type Serving = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn haproxy(proxy: Proxy, mut stream: Pipe) -> Serving {
    Box::pin(async move {
        let mut buffer = bytes::BytesMut::new();
        loop {
            stream.read(&mut buffer).await.unwrap();
            if let v2::Parsed::Header { addresses, octets } = v2::parse(&buffer).unwrap() {
                assert_eq!(octets, buffer.len(), "the destination speaks first");
                let (from, to) = addresses.expect("it isn't about the sender");
                proxy.note(format!("{from} to {to}"));
                break;
            }
        }
        proxy.sink.serve(stream).await;
    })
}

fn socks5(proxy: Proxy, mut stream: Pipe) -> Serving {
    Box::pin(async move {
        let mut machine = Server::new(match proxy.password {
            Some(_) => Authentication::Required,
            None => Authentication::None,
        });
        let mut buffer = bytes::BytesMut::new();
        loop {
            match machine.poll() {
                Some(Output::Send(octets)) => stream.write_all(&octets).await.unwrap(),
                Some(Output::Authenticate { username, password }) => {
                    proxy.note(format!("password of {username}"));
                    machine.authenticated(proxy.password == Some(&*password));
                }
                Some(Output::Bind(address)) => {
                    proxy.note(format!("bind {address}"));
                    let bound = SocketAddr::new(address, 0);
                    machine.bound(if proxy.is_bare {
                        Err(ReplyCode::ADDRESS_NOT_SUPPORTED)
                    } else {
                        Ok(bound)
                    });
                }
                Some(Output::Connect { destination, .. }) => {
                    proxy.note(format!("connect {destination}"));
                    machine.connected(Ok(SocketAddr::new(SOURCE.into(), 4000)));
                }
                Some(Output::Relay { .. }) => break,
                Some(Output::Close(_)) => return,
                None => {
                    buffer.clear();
                    if stream.read(&mut buffer).await.unwrap() == 0 {
                        return;
                    }
                    machine.handle(&buffer);
                }
            }
        }
        proxy.sink.serve(stream).await;
    })
}

/// Takes a connection and says nothing.
fn silent(_: Proxy, stream: Pipe) -> Serving {
    Box::pin(async move {
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
    })
}

/// Does all that is its own, and then waits for the destination.
fn waiting(proxy: Proxy, mut stream: Pipe) -> Serving {
    Box::pin(async move {
        let mut machine = Server::new(Authentication::None);
        let mut buffer = bytes::BytesMut::new();
        loop {
            match machine.poll() {
                Some(Output::Send(octets)) => stream.write_all(&octets).await.unwrap(),
                Some(Output::Bind(address)) => machine.bound(Ok(SocketAddr::new(address, 0))),
                Some(Output::Connect { .. }) => return silent(proxy, stream).await,
                Some(other) => panic!("{other:?}"),
                None => {
                    buffer.clear();
                    stream.read(&mut buffer).await.unwrap();
                    machine.handle(&buffer);
                }
            }
        }
    })
}

fn garbage(_: Proxy, mut stream: Pipe) -> Serving {
    Box::pin(async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        tokio::time::sleep(PATIENCE).await;
    })
}

fn behind_haproxy() -> FixedPolicy {
    let mut policy = FixedPolicy::to(sink_address());
    policy.source.ha_proxy_server = Some(PROXY.parse().unwrap());
    policy.source.ha_proxy_source_address = Some(SOURCE.into());
    policy
}

fn behind_socks5() -> FixedPolicy {
    let mut policy = FixedPolicy::to(sink_address());
    policy.source.socks5_proxy_server = Some(PROXY.parse().unwrap());
    policy
}

/// What is recorded of the first attempt, and how the source is then.
async fn first_attempt(
    policy: FixedPolicy,
    proxy: &Proxy,
    listens: &str,
    serve: fn(Proxy, Pipe) -> Serving,
) -> (Line, SourceSummary) {
    let world = MemoryWorld::new(policy);
    let node = Node::start(world.clone(), config()).await.unwrap();
    proxy.listen(&world.network, listens, serve).await;
    let mut stream = client(&world.network).await;
    assert!(send(&mut stream, "joe@example.com").await.starts_with("250"));
    until("an attempt", || kinds(&world).len() == 2).await;
    let sources = node.handle().query(|engine, _| engine.sources()).await.unwrap();
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
    (world.lines.lines.lock().unwrap()[1].clone(), sources[0].clone())
}

fn failures(source: &SourceSummary) -> Vec<u64> {
    source.classes.iter().map(|class| class.failures).collect()
}

#[tokio::test]
async fn a_source_behind_haproxy_announces_its_address_to_the_proxy() {
    let proxy = Proxy::default();
    let (line, source) = first_attempt(behind_haproxy(), &proxy, PROXY, haproxy).await;
    assert_eq!(line.kind, RecordKind::Delivery, "{line:?}");
    assert_eq!(proxy.asked(), ["192.0.2.71:0 to 192.0.2.8:25"]);
    let address = line.source_address.unwrap();
    assert_eq!((&*address.address, address.server.as_deref()), ("192.0.2.71:0", Some(PROXY)));
    assert_eq!(address.protocol.as_deref(), Some("haproxy"));
    assert_eq!(failures(&source), [0, 0]);
}

#[tokio::test]
async fn a_source_behind_socks5_asks_for_its_address_and_its_destination() {
    let proxy = Proxy::default();
    let mut policy = behind_socks5();
    policy.source.socks5_proxy_source_address = Some(SOURCE.into());
    let (line, _) = first_attempt(policy, &proxy, PROXY, socks5).await;
    assert_eq!(line.kind, RecordKind::Delivery, "{line:?}");
    assert_eq!(proxy.asked(), ["bind 192.0.2.71", "connect 192.0.2.8:25"]);
    let address = line.source_address.unwrap();
    assert_eq!((&*address.address, address.server.as_deref()), ("192.0.2.71:4000", Some(PROXY)));
    assert_eq!(address.protocol.as_deref(), Some("socks5"));
}

/// D33: other people's proxies.
#[tokio::test]
async fn a_socks5_proxy_chooses_the_address_itself_if_none_is_asked_for() {
    let proxy = Proxy { is_bare: true, ..Proxy::default() };
    let (line, _) = first_attempt(behind_socks5(), &proxy, PROXY, socks5).await;
    assert_eq!(line.kind, RecordKind::Delivery, "{line:?}");
    assert_eq!(proxy.asked(), ["connect 192.0.2.8:25"]);
}

#[tokio::test]
async fn a_socks5_proxy_that_wants_a_password_gets_it() {
    for (password, arrives) in [("sesame", true), ("wrong", false)] {
        let proxy = Proxy { password: Some("sesame"), ..Proxy::default() };
        let mut policy = behind_socks5();
        policy.source.socks5_proxy_username = Some("joe".into());
        policy.source.socks5_proxy_password = Some(Secret::new(password));
        let (line, source) = first_attempt(policy, &proxy, PROXY, socks5).await;
        assert_eq!(line.kind == RecordKind::Delivery, arrives, "{line:?}");
        assert_eq!(proxy.asked()[0], "password of joe");
        assert_eq!(failures(&source), [0, 0], "a wrong password is nobody's health");
        assert!(arrives || line.text.contains("it refuses the user name and password"), "{line:?}");
        assert!(!line.text.contains("wrong"), "{line:?}");
    }
}

#[tokio::test]
async fn each_address_of_a_named_proxy_is_tried_in_turn() {
    let proxy = Proxy::default();
    let mut policy = behind_socks5();
    policy.source.socks5_proxy_server = Some("proxy.example:1080".parse().unwrap());
    // Nobody listens at its first address, 192.0.2.1.
    let (line, source) = first_attempt(policy, &proxy, "[2001:db8::1]:1080", socks5).await;
    assert_eq!(line.kind, RecordKind::Delivery, "{line:?}");
    assert_eq!(line.source_address.unwrap().server.as_deref(), Some("[2001:db8::1]:1080"));
    assert_eq!(failures(&source), [0, 0]);
    let (line, source) = {
        let mut policy = behind_socks5();
        policy.source.socks5_proxy_server = Some("proxy.example:1080".parse().unwrap());
        first_attempt(policy, &Proxy::default(), "192.0.2.99:1", socks5).await
    };
    assert_eq!(line.kind, RecordKind::TransientFailure);
    let expected = "failed to connect via any of 2 candidate(s) for source unspecified: 192.0.2.1:1080: connection refused; \
                    [2001:db8::1]:1080: connection refused";
    assert!(line.text.contains(expected), "{line:?}");
    assert!(line.text.contains("the source's proxy can't be reached: "), "{line:?}");
    assert_eq!(failures(&source), [0, 1], "one attempt, however many addresses");
}

#[tokio::test]
async fn a_proxy_that_is_silent_or_speaks_something_else_ends_in_time_and_counts() {
    for (serve, said) in [
        (silent as fn(Proxy, Pipe) -> Serving, "before it chose a method"),
        (garbage, "its answer isn't SOCKS5: \"HT"),
    ] {
        let mut policy = behind_socks5();
        policy.path.connect_timeout = Duration::from_millis(300);
        let began = std::time::Instant::now();
        let (line, source) = first_attempt(policy, &Proxy::default(), PROXY, serve).await;
        assert!(began.elapsed() < PATIENCE / 2);
        assert_eq!(line.kind, RecordKind::TransientFailure);
        assert!(line.text.contains(said), "{line:?}");
        assert!(line.text.contains("proxy 192.0.2.70:1080 of source unspecified"), "{line:?}");
        assert_eq!(failures(&source), [0, 1]);
    }
}

#[tokio::test]
async fn a_proxy_that_waits_for_a_dead_destination_is_not_to_blame() {
    for source in [None, Some(SOURCE.into())] {
        let mut policy = behind_socks5();
        policy.source.socks5_proxy_source_address = source;
        policy.path.connect_timeout = Duration::from_millis(300);
        let (line, source) = first_attempt(policy, &Proxy::default(), PROXY, waiting).await;
        assert!(line.text.contains("before it answered CONNECT"), "{line:?}");
        assert!(!line.text.contains("the source's proxy can't be reached"), "{line:?}");
        assert_eq!(failures(&source), [0, 0]);
    }
}

#[tokio::test]
async fn a_session_whose_proxy_is_dead_counts_once_and_tries_no_other_host() {
    let mut policy = behind_socks5();
    let DeliveryProtocol::Smtp { mx_list } = &mut policy.queue.protocol else { panic!("SMTP") };
    let first = mx_list[0].clone();
    let other = |last| MxListEntry {
        name: format!("other-{last}.example").into(),
        address: Some([192, 0, 2, last].into()),
        ..first.clone()
    };
    mx_list.extend([other(101), other(102)]);
    let (line, source) = first_attempt(policy, &Proxy::default(), "192.0.2.99:1", socks5).await;
    assert_eq!(line.kind, RecordKind::TransientFailure);
    assert!(line.text.contains("the source's proxy can't be reached: "), "{line:?}");
    assert!(!line.text.contains("other-"), "{line:?}");
    assert_eq!(failures(&source), [0, 1]);
}

#[tokio::test]
async fn an_address_that_the_proxy_lacks_counts_and_a_family_that_doesnt_fit_is_skipped() {
    let proxy = Proxy { is_bare: true, ..Proxy::default() };
    let mut policy = behind_socks5();
    policy.source.socks5_proxy_source_address = Some(SOURCE.into());
    let (line, source) = first_attempt(policy, &proxy, PROXY, socks5).await;
    assert!(line.text.contains("can't bind to 192.0.2.71: address type not supported"), "{line:?}");
    assert!(line.text.contains("the proxy can't send from the source's address: "), "{line:?}");
    assert_eq!(failures(&source), [0, 1]);
    let mut policy = behind_haproxy();
    let six: IpAddr = "2001:db8::7".parse().unwrap();
    policy.source.ha_proxy_source_address = Some(six);
    let (line, source) = first_attempt(policy, &Proxy::default(), PROXY, haproxy).await;
    let expected = "Skipping unspecified because ha_proxy_source_address 2001:db8::7 address family does not match the destination \
                    address family 192.0.2.8:25";
    assert!(line.text.contains(expected), "{line:?}");
    assert_eq!(failures(&source), [0, 0]);
}

/// The suspension ends by itself, and the message then leaves.
#[tokio::test]
async fn a_source_whose_proxy_is_gone_is_suspended_and_used_again_in_time() {
    let mut policy = behind_socks5();
    policy.source.suspend_when_proxy_unhealthy =
        Some(SuspendRule { trigger: Trigger::Immediate, duration: Duration::from_secs(2) });
    let world = MemoryWorld::new(policy);
    let node = Node::start(world.clone(), config()).await.unwrap();
    let mut stream = client(&world.network).await;
    let began = std::time::Instant::now();
    assert!(send(&mut stream, "joe@example.com").await.starts_with("250"));
    let look = || async { node.handle().query(|engine, _| engine.sources()).await.unwrap() };
    while look().await.first().is_none_or(|source| source.suspension.is_none()) {
        assert!(began.elapsed() < PATIENCE, "it isn't suspended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let proxy = Proxy::default();
    proxy.listen(&world.network, PROXY, socks5).await;
    until("a delivery", || kinds(&world).contains(&RecordKind::Delivery)).await;
    let took = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&took), "{took:?}");
    let expected = [RecordKind::Reception, RecordKind::TransientFailure, RecordKind::Delivery];
    assert_eq!(kinds(&world), expected);
    let text = world.lines.lines.lock().unwrap()[1].text.clone();
    assert!(text.contains("are eligible for selection at this time"), "{text}");
    timeout(PATIENCE, node.stop()).await.expect("a stop ends in time");
}
