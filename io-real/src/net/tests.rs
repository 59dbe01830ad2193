//! Connections over loopback sockets, in clear text and in TLS.
use super::*;
use bytes::{Bytes, BytesMut};
use kumo_core::limits::READ_CHUNK_OCTETS;
use kumo_core::port::{Stream, TlsConnect, TlsInfo, TlsVerification};
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn network() -> RealNetwork {
    let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    RealNetwork::with_roots(roots).expect("set up")
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn to(remote: SocketAddr) -> DialRequest {
    DialRequest { remote, source_address: None }
}

fn self_signed() -> Arc<TlsAccept> {
    Arc::new(TlsAccept { hostname: "mx.example.test".into(), certificate: None })
}

fn connect_to(server_name: &str, verification: TlsVerification) -> TlsConnect {
    TlsConnect { server_name: server_name.into(), verification }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("done in time")
}

/// Both ends of one connection: the client's, the server's.
async fn pair() -> (RealStream, RealStream) {
    let network = network();
    let mut listener = network.listen(loopback(0)).await.expect("listens");
    let dialled = network.dial(to(listener.local_address())).await.expect("connects");
    let (accepted, _) = in_time(listener.accept()).await.expect("accepted");
    (dialled, accepted)
}

type Upgraded = Result<(RealStream, TlsInfo), NetError>;

async fn upgrade(connect: TlsConnect) -> (Upgraded, Upgraded) {
    let (client, server) = pair().await;
    in_time(async {
        tokio::join!(client.upgrade_client(connect), server.upgrade_server(self_signed()))
    })
    .await
}

async fn tls_pair() -> (RealStream, RealStream) {
    let (client, server) = upgrade(connect_to("mx.example.test", TlsVerification::None)).await;
    (client.expect("client upgraded").0, server.expect("server upgraded").0)
}

/// One pair of each sort.
async fn both_sorts() -> [(&'static str, (RealStream, RealStream)); 2] {
    [("plain", pair().await), ("tls", tls_pair().await)]
}

async fn read_exactly(stream: &mut RealStream, count: usize) -> Bytes {
    let mut buffer = BytesMut::new();
    while buffer.len() < count {
        let read = in_time(stream.read(&mut buffer)).await.expect("read");
        assert_ne!(read, 0, "the end after {} of {count}", buffer.len());
    }
    buffer.freeze()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn what_is_written_arrives_after_what_the_buffer_held() {
    for (sort, (mut client, mut server)) in both_sorts().await {
        client.write_all(b"EHLO there\r\n").await.expect("written");
        let mut buffer = BytesMut::from("before ");
        let read = in_time(server.read(&mut buffer)).await.expect("read");
        assert_eq!((read, &buffer[..]), (12, &b"before EHLO there\r\n"[..]), "{sort}");
        assert!(client.tcp().nodelay().expect("a socket"), "{sort}");
        assert!(server.tcp().nodelay().expect("a socket"), "{sort}");
        let ports = (client.local_address(), server.tcp().peer_addr().ok());
        assert_eq!(ports.0, ports.1, "{sort}");
    }
}

#[tokio::test]
async fn a_megabyte_crosses_in_both_directions_at_once() {
    let data = pattern(1 << 20);
    for (sort, (mut client, mut server)) in both_sorts().await {
        let (got_a, got_b) = in_time(async {
            let a = async {
                client.write_all(&data).await.expect("written");
                read_exactly(&mut client, data.len()).await
            };
            let b = async {
                let got = read_exactly(&mut server, data.len()).await;
                server.write_all(&got).await.expect("written");
                got
            };
            tokio::join!(a, b)
        })
        .await;
        assert!(got_a == data && got_b == data, "{sort}");
    }
}

#[tokio::test]
async fn a_source_address_is_what_the_peer_sees() {
    let network = network();
    let mut listener = network.listen(loopback(0)).await.expect("listens");
    let source = IpAddr::from([127, 0, 0, 5]);
    let request = DialRequest { source_address: Some(source), ..to(listener.local_address()) };
    let client = network.dial(request).await.expect("all of 127/8 is ours");
    let (_server, peer) = in_time(listener.accept()).await.expect("accepted");
    assert_eq!(peer.ip(), source);
    assert_eq!(client.local_address(), Some(peer));
}

#[tokio::test]
async fn each_way_of_not_connecting_has_its_kind_and_says_what_to_do() {
    let network = network();
    let free = network.listen(loopback(0)).await.expect("listens").local_address();
    let from = |source: &str, remote| DialRequest {
        source_address: Some(source.parse().expect("an address")),
        ..to(remote)
    };
    for (request, kind, text) in [
        (to(free), NetErrorKind::Refused, "connect to 127.0.0.1:"),
        (from("127.0.0.1", free), NetErrorKind::Refused, "connect from 127.0.0.1 to 127.0.0.1:"),
        (
            from("192.0.2.1", free),
            NetErrorKind::AddressNotAvailable,
            "no interface has this address",
        ),
        (from("::1", free), NetErrorKind::Unreachable, "different families"),
    ] {
        let error = in_time(network.dial(request)).await.err().expect("nobody listens");
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.text.contains(text), "{error}");
    }
}

#[tokio::test]
async fn listening_twice_says_how_to_find_the_other_and_a_restart_needs_no_wait() {
    let network = network();
    let mut listener = network.listen(loopback(0)).await.expect("listens");
    let address = listener.local_address();
    let error = network.listen(address).await.err().expect("taken");
    assert_eq!(error.kind, NetErrorKind::AddressInUse);
    assert!(error.text.starts_with(&format!("listen on {address}: ")), "{error}");
    assert!(error.text.contains("ss -ltnp"), "{error}");

    let mut client = network.dial(to(address)).await.expect("connects");
    let (mut server, _) = in_time(listener.accept()).await.expect("accepted");
    server.shutdown().await;
    assert_eq!(in_time(client.read(&mut BytesMut::new())).await, Ok(0));
    client.shutdown().await;
    drop((listener, server, client)); // Leaves TIME_WAIT on the server's side.
    network.listen(address).await.expect("at once");

    let foreign = network.listen("192.0.2.1:0".parse().expect("an address")).await;
    assert_eq!(foreign.err().map(|error| error.kind), Some(NetErrorKind::AddressNotAvailable));
}

#[tokio::test]
async fn after_shutdown_the_other_direction_still_works() {
    for (sort, (mut client, mut server)) in both_sorts().await {
        client.write_all(b"QUIT\r\n").await.expect("written");
        client.shutdown().await;
        assert_eq!(&read_exactly(&mut server, 6).await[..], b"QUIT\r\n", "{sort}");
        let end = in_time(server.read(&mut BytesMut::new())).await;
        assert_eq!(end, Ok(0), "{sort}");
        server.write_all(b"221 bye\r\n").await.expect("written");
        assert_eq!(&read_exactly(&mut client, 9).await[..], b"221 bye\r\n", "{sort}");
        client.shutdown().await; // A second one does no harm.
    }
}

#[tokio::test]
async fn a_read_that_is_dropped_loses_nothing() {
    let data = pattern(50_000);
    for (sort, (mut client, mut server)) in both_sorts().await {
        let (sent, mut dropped) = (data.clone(), 0);
        let writer = tokio::spawn(async move {
            for part in sent.chunks(777) {
                client.write_all(part).await.expect("written");
                tokio::time::sleep(Duration::from_micros(1_500)).await;
            }
            client
        });
        let mut buffer = BytesMut::new();
        while buffer.len() < data.len() {
            tokio::select! {
                biased;
                read = server.read(&mut buffer) => assert_ne!(read, Ok(0), "{sort}"),
                () = tokio::time::sleep(Duration::from_micros(300)) => dropped += 1,
            }
        }
        assert!(buffer == data, "{sort}");
        assert!(dropped > 5, "{sort}: only {dropped} reads were dropped");
        in_time(writer).await.expect("no panic");
    }
}

#[tokio::test]
async fn room_for_reading_follows_the_traffic() {
    let (mut client, mut server) = pair().await;
    let mut idle = BytesMut::new();
    let nothing = timeout(Duration::from_millis(20), server.read(&mut idle)).await;
    assert!(nothing.is_err());
    assert!(idle.capacity() <= 4_096, "an idle connection holds {}", idle.capacity());

    let writer = tokio::spawn(async move {
        client.write_all(&pattern(1 << 20)).await.expect("written");
        client
    });
    let (mut total, mut largest) = (0, 0);
    while total < 1 << 20 {
        let read = in_time(server.read(&mut BytesMut::new())).await.expect("read");
        (total, largest) = (total + read, largest.max(read));
    }
    assert_eq!(largest, READ_CHUNK_OCTETS);

    let mut client = in_time(writer).await.expect("no panic");
    for _ in 0..8 {
        client.write_all(b"NOOP\r\n").await.expect("written");
        read_exactly(&mut server, 6).await;
    }
    let mut quiet = BytesMut::new();
    assert!(timeout(Duration::from_millis(20), server.read(&mut quiet)).await.is_err());
    assert!(quiet.capacity() <= 4_096, "a quiet connection holds {}", quiet.capacity());
}

#[tokio::test]
async fn one_read_brings_at_most_a_chunk_into_a_larger_buffer() {
    let (mut client, mut server) = pair().await;
    let writer = tokio::spawn(async move {
        client.write_all(&pattern(4 * READ_CHUNK_OCTETS)).await.expect("written");
        client
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut buffer = BytesMut::with_capacity(4 * READ_CHUNK_OCTETS);
    let read = in_time(server.read(&mut buffer)).await.expect("read");
    assert_eq!((read, buffer.len()), (READ_CHUNK_OCTETS, READ_CHUNK_OCTETS));
    read_exactly(&mut server, 3 * READ_CHUNK_OCTETS).await;
    in_time(writer).await.expect("no panic");
}

#[tokio::test]
async fn a_reset_is_told_as_one() {
    let (client, mut server) = pair().await;
    server.write_all(b"220 unread\r\n").await.expect("written");
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(client); // Closing with unread octets sends RST.
    let error = in_time(server.read(&mut BytesMut::new())).await.expect_err("reset");
    assert_eq!(error.kind, NetErrorKind::Reset);
    assert!(error.text.starts_with("read from "), "{error}");
}

#[tokio::test]
async fn opportunistic_tls_takes_a_self_signed_certificate_and_both_ends_say_what_was_agreed() {
    let (client, server) = upgrade(connect_to("mx.example.test", TlsVerification::None)).await;
    let (mut client, ours) = client.expect("client upgraded");
    let (mut server, theirs) = server.expect("server upgraded");
    assert_eq!((ours.protocol.as_str(), theirs.protocol.as_str()), ("TLSv1.3", "TLSv1.3"));
    assert!(ours.cipher.starts_with("TLS13_"), "{ours:?}");
    assert_eq!(ours.cipher, theirs.cipher);
    assert_eq!(ours.peer_subject, ["CN=mx.example.test"]);
    assert_eq!(theirs.peer_subject, Vec::<String>::new());
    server.write_all(b"250 ok\r\n").await.expect("written");
    assert_eq!(&read_exactly(&mut client, 8).await[..], b"250 ok\r\n");
}

#[tokio::test]
async fn full_verification_refuses_a_self_signed_certificate_on_both_ends() {
    let (client, server) = upgrade(connect_to("mx.example.test", TlsVerification::Full)).await;
    let error = client.err().expect("no anchor knows it");
    assert_eq!(error.kind, NetErrorKind::Tls);
    assert!(error.text.starts_with("TLS handshake with mx.example.test (127.0.0.1:"), "{error}");
    assert!(error.text.contains("UnknownIssuer"), "{error}");
    // With TLS 1.3 the server's part may be over before the client says no.
    if let Ok((mut server, _)) = server {
        let error = in_time(server.read(&mut BytesMut::new())).await.expect_err("an alert");
        assert_eq!(error.kind, NetErrorKind::Tls);
    }
}

#[tokio::test]
async fn a_name_that_no_certificate_can_bear_matters_only_to_full_verification() {
    for name in ["127.0.0.1", "::1", "[127.0.0.1]", "not a name", "a_b.example", "-", ""] {
        let (client, server) = upgrade(connect_to(name, TlsVerification::None)).await;
        assert!(client.is_ok() && server.is_ok(), "{name:?}");
    }
    let (client, _server) = pair().await;
    let refused = client.upgrade_client(connect_to("not a name", TlsVerification::Full)).await;
    let error = refused.err().expect("nothing to verify against");
    assert_eq!(error.kind, NetErrorKind::Tls);
    assert!(error.text.contains("\"not a name\""), "{error}");
}

#[tokio::test]
async fn garbage_and_an_early_end_are_tls_errors_on_either_side() {
    for garbage in ["EHLO there\r\n", "\u{16}\u{3}\u{1}\u{0}\u{1}x", "GET / HTTP/1.1\r\n\r\n", ""] {
        let (mut client, server) = pair().await;
        client.write_all(garbage.as_bytes()).await.expect("written");
        client.shutdown().await;
        let error = in_time(server.upgrade_server(self_signed())).await.err().expect(garbage);
        assert_eq!(error.kind, NetErrorKind::Tls, "{garbage:?}: {error}");

        let (client, mut server) = pair().await;
        server.write_all(garbage.as_bytes()).await.expect("written");
        server.shutdown().await;
        let connect = connect_to("mx.example.test", TlsVerification::None);
        let error = in_time(client.upgrade_client(connect)).await.err().expect(garbage);
        assert_eq!(error.kind, NetErrorKind::Tls, "{garbage:?}: {error}");
    }
}

#[tokio::test]
async fn a_handshake_that_is_dropped_closes_the_connection() {
    let (client, mut server) = pair().await;
    let connect = connect_to("mx.example.test", TlsVerification::None);
    let stalled = timeout(Duration::from_millis(50), client.upgrade_client(connect)).await;
    assert!(stalled.is_err());
    let hello = in_time(server.read(&mut BytesMut::new())).await.expect("a hello");
    assert!(hello > 0);
    assert_eq!(in_time(server.read(&mut BytesMut::new())).await, Ok(0));
}

#[tokio::test]
async fn tls_inside_tls_is_refused() {
    let (client, server) = tls_pair().await;
    let connect = connect_to("mx.example.test", TlsVerification::None);
    let error = client.upgrade_client(connect).await.err().expect("TLS already");
    assert_eq!(error.kind, NetErrorKind::Tls);
    let error = server.upgrade_server(self_signed()).await.err().expect("TLS already");
    assert!(error.text.contains("is TLS already"), "{error}");
}

#[tokio::test]
async fn a_peer_that_leaves_tls_without_close_notify_is_just_the_end() {
    let (mut client, mut server) = tls_pair().await;
    client.write_all(b"QUIT\r\n").await.expect("written");
    tokio::io::AsyncWriteExt::shutdown(client.tcp_mut()).await.expect("FIN sent");
    assert_eq!(&read_exactly(&mut server, 6).await[..], b"QUIT\r\n");
    assert_eq!(in_time(server.read(&mut BytesMut::new())).await, Ok(0));
}

#[tokio::test]
async fn a_peer_that_reads_nothing_holds_up_a_shutdown_for_two_seconds_at_most() {
    for (sort, (mut client, mut server)) in both_sorts().await {
        let endless = vec![0; 1 << 20];
        let write = async {
            loop {
                client.write_all(&endless).await.expect("written");
            }
        };
        let stuck: Result<(), _> = timeout(Duration::from_millis(300), write).await;
        assert!(stuck.is_err());
        let began = Instant::now();
        client.shutdown().await;
        assert!(began.elapsed() < Duration::from_secs(4), "{sort}: {:?}", began.elapsed());
        // However it went, a FIN is on its way after what the kernel had taken.
        let ended = in_time(async {
            let mut buffer = BytesMut::new();
            while server.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                buffer.clear();
            }
        });
        ended.await;
    }
}

/// What an HTTP library sees of a stream.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> [u8; 5] {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut request = [0; 5];
    stream.read_exact(&mut request).await.expect("read");
    let parts = [std::io::IoSlice::new(b"HTTP/1.1 "), std::io::IoSlice::new(b"200 OK")];
    let written = stream.write_vectored(&parts).await.expect("written");
    stream.write_all(&b"HTTP/1.1 200 OK"[written..]).await.expect("written");
    stream.shutdown().await.expect("closed");
    request
}

async fn request(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"GET /").await.expect("written");
    stream.flush().await.expect("flushed");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("read to a clean end");
    reply
}

#[tokio::test]
async fn a_stream_serves_those_who_know_only_async_read_and_write() {
    for (sort, (client, server)) in both_sorts().await {
        let (reply, asked) = in_time(async { tokio::join!(request(client), serve(server)) }).await;
        assert_eq!((reply.as_str(), &asked), ("HTTP/1.1 200 OK", b"GET /"), "{sort}");
    }
}

#[test]
fn ipv4_shows_as_ipv4_on_a_socket_for_both_families() {
    for (shown, expected) in [
        ("[::ffff:192.0.2.1]:25", "192.0.2.1:25"),
        ("[2001:db8::1]:25", "[2001:db8::1]:25"),
        ("192.0.2.1:25", "192.0.2.1:25"),
    ] {
        assert_eq!(canonical(shown.parse().expect("an address")).to_string(), expected);
    }
}
