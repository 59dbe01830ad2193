//! The real proxy-server as a process on loopback, with clients and destinations of our own, curl, and kumod.
mod support;

#[path = "proxy_server/behind_kumod.rs"]
mod behind_kumod;
#[path = "proxy_server/client.rs"]
mod client;
#[path = "proxy_server/process.rs"]
mod process;

use bytes::BytesMut;
use client::{SUCCEEDED, ask, connect, exchange, greeted, listen, log_in, octets, read, rest};
use client::{request, through};
use kumo_core::port::{DialRequest, Network, Stream, TlsConnect, TlsVerification};
use kumo_io_real::net::{RealNetwork, RealStream};
use process::{ProxyServer, refuses_to_start};
use rcgen::{CertificateParams, DnType, KeyPair};
use socket2::SockRef;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{PATIENCE, wait_for};
use tokio::time::timeout;

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];
const HTTP: [&str; 2] = ["--http-listen", "127.0.0.1:0"];
const FAILURES: &str = "kumod_proxy_failures_total";

fn start(more: &[&str]) -> ProxyServer {
    ProxyServer::start(&[&LISTEN[..], &HTTP, more].concat())
}

/// One end of a connection by the proxy, and the other.
fn joined(proxy: &ProxyServer, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = through(proxy.address(), listener.local_addr().unwrap());
    let (destination, _) = listener.accept().unwrap();
    destination.set_read_timeout(Some(PATIENCE)).unwrap();
    destination.set_write_timeout(Some(PATIENCE)).unwrap();
    (client, destination)
}

#[test]
fn what_both_sides_say_arrives_and_so_do_the_ends() {
    const OCTETS: usize = 50_000_000;
    for more in [&[][..], &["--no-splice"]] {
        let proxy = start(more);
        let (listener, _) = listen();
        let (client, destination) = joined(&proxy, &listener);
        let (there, back) = (octets(1, OCTETS), octets(2, OCTETS));
        let says = back.clone();
        let answering = std::thread::spawn(move || exchange(destination, says));
        assert!(exchange(client, there.clone()) == back, "{more:?}: what came back differs");
        assert!(answering.join().unwrap() == there, "{more:?}: what went there differs");
        proxy.wait_for_metric("proxy_connections_completed_total", &[], 1);
        let all = OCTETS as u64;
        assert_eq!(proxy.metric("proxy_bytes_client_to_dest_total", &[]), all);
        assert_eq!(proxy.metric("proxy_bytes_dest_to_client_total", &[]), all);
        assert_eq!(proxy.metric("proxy_active_connections", &[]), 0);
        proxy.stop();
    }
}

#[test]
fn a_side_that_has_ended_still_hears_the_other() {
    for more in [&[][..], &["--no-splice"]] {
        let proxy = start(more);
        let (listener, _) = listen();
        let (mut client, mut destination) = joined(&proxy, &listener);
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut destination), b"question");
        destination.write_all(b"answer").unwrap();
        assert_eq!(read(&mut client, 6), b"answer");
        drop(destination);
        assert_eq!(rest(&mut client), b"");
        proxy.wait_for_metric("proxy_connections_completed_total", &[], 1);
        proxy.stop();
    }
}

#[test]
fn a_side_that_breaks_off_takes_the_other_with_it() {
    let proxy = start(&[]);
    let (listener, _) = listen();
    let (client, mut destination) = joined(&proxy, &listener);
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let mut heard = [0; 1];
    assert!(!matches!(destination.read(&mut heard), Ok(1..)));
    proxy.wait_for_metric(FAILURES, &["stage=\"relay\""], 1);
    proxy.stop();
}

/// Answers one HTTP request; yields whom it saw.
fn http_server(listener: TcpListener) -> std::thread::JoinHandle<SocketAddr> {
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            heard.extend(read(&mut stream, 1));
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
            .unwrap();
        peer
    })
}

fn curl(arguments: &[&str]) -> (i32, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--noproxy", ""])
        .args(arguments)
        .output()
        .expect("curl can be run; kumod/tools/setup.sh test installs what is missing");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap_or(-1), said + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn curl_gets_there_by_address_and_by_name() {
    let proxy = start(&[]);
    let at = proxy.address().to_string();
    for (option, host) in [("--socks5", "127.0.0.1"), ("--socks5-hostname", "localhost")] {
        let (listener, address) = listen();
        let server = http_server(listener);
        let url = format!("http://{host}:{}/", address.port());
        assert_eq!(curl(&[option, &at, &url]), (0, "hello".into()), "{option}");
        assert_eq!(server.join().unwrap().ip(), IpAddr::from([127, 0, 0, 1]));
    }
    let (code, said) = curl(&["--socks5-hostname", &at, "http://nowhere.invalid/"]);
    assert_eq!(code, 97, "{said}");
    proxy.wait_for_metric(FAILURES, &["stage=\"connect\""], 1);
    assert!(proxy.stop().iter().any(|line| line.contains("there is no such name")));
}

#[test]
fn the_source_address_is_the_one_that_the_client_binds_to() {
    let proxy = start(&[]);
    let (listener, address) = listen();
    let mut client = greeted(proxy.address());
    let source: SocketAddr = "127.0.0.2:0".parse().unwrap();
    assert_eq!(ask(&mut client, 2, source), (SUCCEEDED, source));
    let (code, from) = ask(&mut client, 1, address);
    let (_destination, seen) = listener.accept().unwrap();
    assert_eq!((code, from), (SUCCEEDED, seen));
    assert_eq!(seen.ip(), source.ip());
    let labels = ["destination=\"127.0.0.1\""];
    assert_eq!(proxy.metric("proxy_outbound_connections_total", &labels), 1);
    // An address that this one can't reach, being of the other family.
    let mut client = greeted(proxy.address());
    assert_eq!(ask(&mut client, 2, source).0, SUCCEEDED);
    client.write_all(&[&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 25]].concat()).unwrap();
    assert_eq!(client::reply(&mut client).0, 8);
    proxy.stop();
}

#[test]
fn each_refusal_has_its_code_and_is_told_why() {
    let proxy = start(&[]);
    let (listener, closed) = listen();
    drop(listener);
    for (command, address, code, stage, why) in [
        (2, "192.0.2.77:0", 8, "bind", "no interface of this host has the address"),
        (2, "127.0.0.2:25", 2, "handshake", "wants to be called back"),
        (1, &closed.to_string(), 5, "connect", "Connection refused"),
        (3, "127.0.0.1:25", 7, "handshake", "wants command 3"),
        (9, "127.0.0.1:25", 7, "handshake", "wants command 9"),
    ] {
        let mut client = greeted(proxy.address());
        let before = proxy.metric(FAILURES, &[&format!("stage=\"{stage}\"")]);
        assert_eq!(ask(&mut client, command, address.parse().unwrap()).0, code, "{address}");
        assert_eq!(rest(&mut client), b"");
        drop(client);
        proxy.wait_for_metric(FAILURES, &[&format!("stage=\"{stage}\"")], before + 1);
        wait_for(why, PATIENCE, || {
            proxy.said().iter().any(|line| line.contains(why)).then_some(())
        });
    }
    proxy.stop();
}

#[test]
fn who_speaks_something_else_is_closed_and_counted() {
    let proxy = start(&[]);
    let garbage: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\x04\x01\0\x19\x7f\0\0\x01\0", b"\x05\x01\x02", b"\x05\0"];
    for said in garbage {
        let mut client = connect(proxy.address());
        client.write_all(said).unwrap();
        let heard = rest(&mut client);
        assert!(heard.is_empty() || heard == [5, 0xff], "{said:?}: {heard:?}");
    }
    let mut client = greeted(proxy.address());
    // Of more than it takes in before it answers, the rest is of no interest to it.
    let _ = client.write_all(&[1; 100_000]);
    let mut heard = [0; 1];
    assert!(!matches!(client.read(&mut heard), Ok(1..)));
    proxy.wait_for_metric(FAILURES, &["stage=\"handshake\""], 5);
    assert_eq!(proxy.metric("proxy_connections_failed_total", &[]), 5);
    proxy.stop();
}

#[test]
fn what_comes_before_the_answer_is_the_destinations() {
    for more in [&[][..], &["--no-splice"]] {
        let proxy = start(more);
        let (listener, address) = listen();
        let mut client = connect(proxy.address());
        let early = octets(3, 3000);
        let all = [client::NO_AUTH, &request(1, address), &early].concat();
        client.write_all(&all).unwrap();
        assert_eq!(read(&mut client, 2), [5, 0]);
        assert_eq!(client::reply(&mut client).0, SUCCEEDED);
        client.shutdown(Shutdown::Write).unwrap();
        let (mut destination, _) = listener.accept().unwrap();
        destination.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(rest(&mut destination), early);
        proxy.stop();
    }
}

#[test]
fn who_never_ends_a_handshake_is_cut_off_in_time() {
    let proxy = start(&["--timeout-seconds", "2"]);
    let began = Instant::now();
    let mut silent = connect(proxy.address());
    let mut slow = connect(proxy.address());
    let trickling = std::thread::spawn(move || {
        for octet in [5, 200].iter().chain(&[1; 100]) {
            if slow.write_all(&[*octet]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        began.elapsed()
    });
    assert_eq!(rest(&mut silent), b"");
    assert!((2..15).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(trickling.join().unwrap() < Duration::from_secs(15));
    proxy.wait_for_metric(FAILURES, &["stage=\"handshake\""], 2);
    proxy.wait_for_metric("proxy_active_connections", &[], 0);
    proxy.stop();
}

#[test]
fn a_relay_in_which_nobody_speaks_ends_and_one_that_goes_on_doesnt() {
    let proxy = start(&["--timeout-seconds", "1", "--idle-timeout-seconds", "2"]);
    let (listener, _) = listen();
    let (mut idle, _idle_destination) = joined(&proxy, &listener);
    let (client, mut destination) = joined(&proxy, &listener);
    let began = Instant::now();
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(500));
        // One direction is enough.
        (&client).write_all(b"x").unwrap();
    }
    assert_eq!(read(&mut destination, 8), [b'x'; 8]);
    assert!(began.elapsed() > Duration::from_secs(4));
    let mut heard = [0; 1];
    assert!(!matches!(idle.read(&mut heard), Ok(1..)));
    proxy.wait_for_metric(FAILURES, &["stage=\"relay\""], 1);
    assert_eq!(proxy.metric("proxy_active_connections", &[]), 1);
    let said = proxy.stop();
    assert!(said.iter().any(|line| line.contains("nobody said anything for 2s")), "{said:?}");
}

const AUTH: &str = "kumo.on('proxy_server_auth_rfc1929', function(username, password, conn_meta)
  if username == 'broken' then error 'the table is gone' end
  assert(conn_meta.peer_address:find('^127%.0%.0%.1:%d+$'), conn_meta.peer_address)
  assert(conn_meta.local_address:find('^127%.0%.0%.1:%d+$'), conn_meta.local_address)
  return username == 'joe' and password == 'sesame'
end)";

const POLICY_HTTP: &str = "proxy.start_http_listener { listen = '127.0.0.1:0' }";

#[test]
fn policy_judges_passwords() {
    let init = format!(
        "proxy.start_proxy_listener {{ listen = '127.0.0.1:0', require_auth = true }} {POLICY_HTTP}"
    );
    let proxy = ProxyServer::with_policy(&init, AUTH);
    for (username, password) in [("joe", "open"), ("ann", "sesame"), ("broken", "x")] {
        let mut client = connect(proxy.address());
        assert_ne!(log_in(&mut client, username, password), 0, "{username}");
        assert_eq!(rest(&mut client), b"");
    }
    proxy.wait_for_metric(FAILURES, &["stage=\"authentication\""], 3);
    let mut client = connect(proxy.address());
    client.write_all(client::NO_AUTH).unwrap();
    assert_eq!(rest(&mut client), [5, 0xff]);
    let (listener, address) = listen();
    let mut client = connect(proxy.address());
    assert_eq!(log_in(&mut client, "joe", "sesame"), 0);
    assert_eq!(ask(&mut client, 1, address).0, SUCCEEDED);
    drop(listener);
    let (listener, address) = listen();
    let server = http_server(listener);
    let (at, url) = (proxy.address().to_string(), format!("http://{address}/"));
    let with = |user| curl(&["--socks5", &at, "--proxy-user", user, &url]);
    assert_eq!(with("joe:wrong").0, 97);
    assert_eq!(with("joe:sesame"), (0, "hello".into()));
    server.join().unwrap();
    let said = proxy.stop().join("\n");
    assert!(said.contains("the table is gone") && said.contains("proxy.lua:"), "{said}");
    assert!(!said.contains("sesame"), "passwords are nobody's business: {said}");
}

#[test]
fn where_no_password_is_required_one_that_is_offered_has_to_be_right() {
    let init = "proxy.start_proxy_listener { listen = '127.0.0.1:0' }";
    let proxy = ProxyServer::with_policy(init, AUTH);
    let (_listener, address) = listen();
    drop(through(proxy.address(), address));
    let mut client = connect(proxy.address());
    assert_ne!(log_in(&mut client, "joe", "wrong"), 0);
    let mut client = connect(proxy.address());
    assert_eq!(log_in(&mut client, "joe", "sesame"), 0);
    assert_eq!(ask(&mut client, 1, address).0, SUCCEEDED);
    proxy.stop();
}

async fn dial(address: SocketAddr) -> RealStream {
    let network = RealNetwork::from_system().expect("trust anchors");
    let request = DialRequest { remote: address, source_address: None };
    timeout(PATIENCE, network.dial(request)).await.expect("in time").expect("a connection")
}

/// TLS, and the subject of the certificate.
async fn secure(address: SocketAddr) -> (RealStream, Vec<String>) {
    let connect =
        TlsConnect { server_name: "x.example".into(), verification: TlsVerification::None };
    let upgraded = timeout(PATIENCE, dial(address).await.upgrade_client(connect)).await;
    let (stream, info) = upgraded.expect("in time").expect("TLS");
    (stream, info.peer_subject)
}

async fn hear(stream: &mut RealStream, octets: usize) -> Vec<u8> {
    let mut heard = BytesMut::new();
    while heard.len() < octets {
        let read = timeout(PATIENCE, Stream::read(stream, &mut heard)).await.expect("in time");
        assert_ne!(read.unwrap(), 0, "the end came too early");
    }
    heard.to_vec()
}

async fn say(stream: &mut RealStream, octets: &[u8]) {
    timeout(PATIENCE, Stream::write_all(stream, octets)).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_tls_listener_serves_tls_alone() {
    let init = format!(
        "proxy.start_proxy_listener {{
           listen = '127.0.0.1:0', use_tls = true, hostname = 'proxy.example',
         }} {POLICY_HTTP}"
    );
    let proxy = ProxyServer::with_policy(&init, "");
    let (mut client, shown) = secure(proxy.tls_address()).await;
    assert_eq!(shown, ["CN=proxy.example"]);
    say(&mut client, client::NO_AUTH).await;
    assert_eq!(hear(&mut client, 2).await, [5, 0]);
    let (listener, address) = listen();
    say(&mut client, &request(1, address)).await;
    assert_eq!(hear(&mut client, 10).await[..2], [5, SUCCEEDED]);
    let (destination, _) = listener.accept().unwrap();
    let (there, back) = (octets(4, 5_000_000), octets(5, 5_000_000));
    let says = back.clone();
    let answering = std::thread::spawn(move || exchange(destination, says));
    let (mut reading, mut writing) = tokio::io::split(client);
    let mut heard = Vec::new();
    let writing = async {
        tokio::io::AsyncWriteExt::write_all(&mut writing, &there).await.unwrap();
        // The end that TLS has of its own.
        tokio::io::AsyncWriteExt::shutdown(&mut writing).await.unwrap();
    };
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut heard);
    let (_, read) = timeout(PATIENCE, async { tokio::join!(writing, reading) }).await.unwrap();
    read.unwrap();
    assert!(heard == back, "what came back differs");
    assert!(answering.join().unwrap() == there, "what went there differs");
    proxy.wait_for_metric("proxy_connections_completed_total", &[], 1);

    let mut plain = connect(proxy.tls_address());
    plain.write_all(client::NO_AUTH).unwrap();
    plain.write_all(&[0; 100]).unwrap();
    let mut heard = Vec::new();
    let _ = plain.read_to_end(&mut heard);
    assert_ne!(heard, [5, 0]);
    proxy.wait_for_metric("proxy_tls_handshake_failures_total", &[], 1);
    proxy.stop();
}

#[tokio::test]
async fn a_tls_listener_shows_the_certificate_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(["files.example".to_owned()]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, "files.example");
    let certificate = parameters.self_signed(&key).unwrap();
    fs::write(path("proxy.crt"), certificate.pem()).unwrap();
    fs::write(path("proxy.key"), key.serialize_pem()).unwrap();
    let listener = |certificate: &str| {
        format!(
            "proxy.start_proxy_listener {{
               listen = '127.0.0.1:0', use_tls = true,
               tls_certificate = '{}', tls_private_key = '{}',
             }}",
            path(certificate),
            path("proxy.key")
        )
    };
    let proxy = ProxyServer::with_policy(&listener("proxy.crt"), "");
    assert_eq!(secure(proxy.tls_address()).await.1, ["CN=files.example"]);
    proxy.stop();
    let said = refuses_to_start(ProxyServer::launch_policy(&listener("absent.crt"), ""), 1);
    assert!(said.contains("absent.crt"), "{said}");
}

/// Of both sockets of a relay: whether it is on, time, interval and retries.
fn keepalive(proxy: &ProxyServer) -> Vec<(bool, Duration, Duration, u32)> {
    let (listener, _) = listen();
    let (client, destination) = joined(proxy, &listener);
    let peers = [client.local_addr().unwrap(), destination.local_addr().unwrap()];
    let sockets = proxy.connections();
    let ours = sockets.iter().filter(|(_, peer)| peers.contains(peer));
    let options = ours.map(|(socket, _)| {
        let socket = SockRef::from(socket);
        (
            socket.keepalive().unwrap(),
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
        )
    });
    options.collect()
}

#[test]
fn both_sockets_are_kept_alive_as_told() {
    let with = |keepalive: &str| {
        let init = format!("proxy.start_proxy_listener {{ listen = '127.0.0.1:0' {keepalive} }}");
        ProxyServer::with_policy(&init, "")
    };
    let seconds = Duration::from_secs;
    let default = with("");
    assert_eq!(keepalive(&default), [(true, seconds(300), seconds(30), 3); 2]);
    let told =
        with(", tcp_keepalive = { time = '2 minutes', interval = '15 seconds', retries = 4 }");
    assert_eq!(keepalive(&told), [(true, seconds(120), seconds(15), 4); 2]);
    let off = keepalive(&with(", tcp_keepalive = { enabled = false }"));
    assert!(off.len() == 2 && off.iter().all(|(is_on, ..)| !is_on), "{off:?}");
}

#[test]
fn a_listener_takes_as_many_connections_as_it_may() {
    let init = format!(
        "proxy.start_proxy_listener {{ listen = '127.0.0.1:0', max_connections = 2 }} {POLICY_HTTP}"
    );
    let proxy = ProxyServer::with_policy(&init, "");
    let (first, _second) = (greeted(proxy.address()), greeted(proxy.address()));
    let mut third = connect(proxy.address());
    assert!(!matches!(third.read(&mut [0; 1]), Ok(1..)));
    proxy.wait_for_metric("proxy_connections_denied_total", &[], 1);
    drop(first);
    proxy.wait_for_metric("proxy_active_connections", &[], 1);
    // Its slot is free a moment later.
    wait_for("a free slot", PATIENCE, || {
        let mut stream = connect(proxy.address());
        stream.write_all(client::NO_AUTH).ok()?;
        stream.read_exact(&mut [0; 2]).ok()
    });
    proxy.stop();
}

#[test]
fn metrics_and_status_are_for_those_who_are_trusted() {
    let proxy = start(&[]);
    let _standing = greeted(proxy.address());
    proxy.wait_for_metric("proxy_active_connections", &[], 1);
    let (status, text) = proxy.get("/proxy/status");
    assert_eq!(status, "200");
    let line = format!("{}: 1 connections now, 1 so far", proxy.address());
    assert!(text.starts_with("OK\n") && text.contains(&line), "{text}");
    let (_, json) = proxy.get("/metrics.json?prefix=proxy_active");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let name = proxy.address().to_string();
    assert_eq!(json["proxy_active_connections"]["value"]["listener"][name], 1);
    proxy.stop();

    let strict = ProxyServer::with_policy(
        "proxy.start_proxy_listener { listen = '127.0.0.1:0' }
         proxy.start_http_listener { listen = '127.0.0.1:0', trusted_hosts = { '192.0.2.0/24' } }",
        "",
    );
    assert_eq!(strict.get("/metrics").0, "403");
    assert_eq!(strict.get("/api/check-liveness/v1").0, "200");
    strict.stop();
}

#[test]
fn stopping_waits_for_relays_but_not_for_long() {
    let mut proxy = start(&[]);
    let (listener, _) = listen();
    let (mut client, mut destination) = joined(&proxy, &listener);
    let mut greeting = greeted(proxy.address());
    proxy.signal(libc::SIGTERM);
    assert_eq!(rest(&mut greeting), b"", "without a destination there is nothing to wait for");
    wait_for("the listener to be gone", PATIENCE, || {
        TcpStream::connect(proxy.address()).is_err().then_some(())
    });
    client.write_all(b"last word").unwrap();
    assert_eq!(read(&mut destination, 9), b"last word");
    drop((client, destination));
    let began = Instant::now();
    assert!(proxy.wait(PATIENCE).success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    let mut proxy = start(&[]);
    let (mut client, _destination) = joined(&proxy, &listener);
    let began = Instant::now();
    proxy.signal(libc::SIGINT);
    assert!(proxy.wait(PATIENCE).success());
    assert!((7..11).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)));
    assert!(proxy.said().iter().any(|line| line.contains("1 connections were cut off")));
}

#[test]
fn what_cannot_start_says_why_and_what_to_do() {
    let (_taken, address) = listen();
    let launch = |arguments: &[&str]| ProxyServer::launch(arguments, None);
    let taken = refuses_to_start(launch(&["--listen", &address.to_string()]), 1);
    assert!(taken.contains(&format!("listen on {address}")), "{taken}");
    assert!(refuses_to_start(launch(&[]), 2).contains("--listen"));
    let absent = refuses_to_start(launch(&["--proxy-config", "/nowhere/proxy.lua"]), 1);
    assert!(absent.contains("/nowhere/proxy.lua"), "{absent}");
    for (init, why) in [
        ("", "call proxy.start_proxy_listener"),
        (
            "proxy.start_proxy_listener { }",
            "proxy.lua:5: proxy.start_proxy_listener: listen: it is required",
        ),
        (
            "proxy.start_proxy_listener { listen = '127.0.0.1:0', use_slice = true }",
            "the nearest known one is 'use_splice'",
        ),
        (
            "proxy.start_proxy_listener { listen = '127.0.0.1:0', require_auth = true }",
            "require_auth needs somebody who knows the passwords",
        ),
        ("proxy.start_http_listener { listen = 5 }", "proxy.start_http_listener: listen: "),
        ("proxy.start_listener { }", "this version has no proxy.start_listener"),
        (
            "proxy.start_proxy_listener { listen = '127.0.0.1:0' }
             kumo.define_spool { name = 'data', path = '/x' }",
            "proxy-server has no SMTP listeners, spools or logs",
        ),
        (
            "proxy.start_proxy_listener { listen = '127.0.0.1:9' }
             proxy.start_http_listener { listen = '127.0.0.1:9' }",
            "there already is a listener on 127.0.0.1:9",
        ),
    ] {
        let said = refuses_to_start(ProxyServer::launch_policy(init, ""), 1);
        assert!(said.contains(why), "{why}: {said}");
    }
    let late =
        ProxyServer::launch_policy("", "proxy.start_proxy_listener { listen = '127.0.0.1:0' }");
    let said = refuses_to_start(late, 1);
    assert!(said.contains("call it inside of the proxy_init event's handler"), "{said}");
}

#[test]
fn nothing_is_left_of_connections_that_have_ended() {
    let proxy = start(&[]);
    let (listener, address) = listen();
    let one_of_each = |number: u8| {
        drop(connect(proxy.address()));
        drop(greeted(proxy.address()));
        let mut refused = greeted(proxy.address());
        assert_ne!(ask(&mut refused, 3, address).0, SUCCEEDED);
        let (client, destination) = joined(&proxy, &listener);
        let answering = std::thread::spawn(move || exchange(destination, vec![number; 1000]));
        assert_eq!(exchange(client, vec![number; 2000]), [number; 1000]);
        assert_eq!(answering.join().unwrap(), [number; 2000]);
    };
    let settled = || {
        proxy.wait_for_metric("proxy_active_connections", &[], 0);
        proxy.descriptors()
    };
    one_of_each(0);
    let before = settled();
    (1..100).for_each(one_of_each);
    // Whose answer is on its way is one more for a moment.
    wait_for("all descriptors to be closed", PATIENCE, || (settled() <= before).then_some(()));
    proxy.stop();
}
