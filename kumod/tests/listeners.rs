//! What the options of listeners do that only the whole binary decides: whom an HTTP listener serves, and which
//! certificate both kinds of listener show. Nothing in here looks inside of the process.
mod support;

use bytes::BytesMut;
use kumo_core::port::{DialRequest, Network, Stream, TlsConnect, TlsVerification};
use kumo_io_real::net::{RealNetwork, RealStream};
use rcgen::{CertificateParams, DnType, KeyPair};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use support::{Home, Kumod, PATIENCE};
use tokio::time::timeout;

/// A kumod whose `init` does this besides defining its spools.
fn start(home: &Home, listeners: &str) -> Kumod {
    let spool = home.path("spool").display().to_string();
    Kumod::start(&home.policy_text(&format!(
        "local kumo = require 'kumo'
         kumo.on('init', function()
           kumo.define_spool {{ name = 'data', path = '{spool}', min_free_space = 1000000 }}
           kumo.define_spool {{ name = 'meta', path = '{spool}', min_free_space = 1000000 }}
           {listeners}
         end)"
    )))
}

/// Where it said that its listener of that kind listens on `ip`.
fn listener(kumod: &Kumod, scheme: &str, ip: &str) -> SocketAddr {
    let beginning = format!("{scheme} listener on ");
    let addresses = kumod.said().into_iter().filter_map(|line| {
        line.strip_prefix(&beginning).map(|address| address.parse().expect("an address"))
    });
    let on_ip = addresses.into_iter().find(|address: &SocketAddr| address.ip().to_string() == ip);
    on_ip.unwrap_or_else(|| panic!("no {scheme} listener on {ip}: {:?}", kumod.said()))
}

/// The status of the answer.
fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn an_http_listener_serves_whom_it_trusts_and_bodies_up_to_its_limit() {
    let home = Home::new();
    let kumod = start(
        &home,
        "kumo.start_http_listener { listen = '127.0.0.1:0', trusted_hosts = { '192.0.2.0/24' } }
         kumo.start_http_listener { listen = '127.0.0.2:0', request_body_limit = 1000 }",
    );
    let (strict, open) =
        (listener(&kumod, "http", "127.0.0.1"), listener(&kumod, "http", "127.0.0.2"));
    assert_eq!(ask(strict, "GET", "/metrics", ""), "403");
    assert_eq!(ask(strict, "GET", "/api/check-liveness/v1", ""), "200");
    assert_eq!(ask(open, "GET", "/metrics", ""), "200");
    let inject = |octets: usize| {
        let empty = r#"{"envelope_sender":"a@b.test","recipients":[],"content":""}"#;
        ask(open, "POST", "/api/inject/v1", &format!("{empty:octets$}"))
    };
    assert_ne!(inject(1000), "413");
    assert_eq!(inject(1001), "413");
    kumod.stop();
}

async fn dial(address: SocketAddr) -> RealStream {
    let network = RealNetwork::from_system().expect("trust anchors");
    let request = DialRequest { remote: address, source_address: None };
    timeout(PATIENCE, network.dial(request)).await.expect("in time").expect("a connection")
}

/// The subject of the certificate that is shown.
async fn shown(stream: RealStream) -> Vec<String> {
    let connect =
        TlsConnect { server_name: "x.example".into(), verification: TlsVerification::None };
    let upgraded = timeout(PATIENCE, stream.upgrade_client(connect)).await;
    upgraded.expect("in time").expect("TLS").1.peer_subject
}

/// Up to the answer to STARTTLS.
async fn start_tls(address: SocketAddr) -> RealStream {
    let mut stream = dial(address).await;
    let mut heard = BytesMut::new();
    for (said, last_line) in
        [("", "220 "), ("EHLO client.example\r\n", "250 "), ("STARTTLS\r\n", "220 ")]
    {
        stream.write_all(said.as_bytes()).await.unwrap();
        heard.clear();
        let ends = |heard: &[u8]| {
            let text = String::from_utf8_lossy(heard);
            text.ends_with("\r\n") && text.lines().any(|line| line.starts_with(last_line))
        };
        while !ends(&heard) {
            let read = timeout(PATIENCE, stream.read(&mut heard)).await.expect("in time");
            assert_ne!(read.unwrap(), 0, "{heard:?}");
        }
    }
    stream
}

/// Options that name a certificate for `name` in this folder, as Lua fields.
fn certificate(home: &Home, name: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let certificate = parameters.self_signed(&key).unwrap();
    let (certificate_file, key_file) = (home.path("mx.crt"), home.path("mx.key"));
    fs::write(&certificate_file, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    format!(
        "tls_certificate = '{}', tls_private_key = '{}'",
        certificate_file.display(),
        key_file.display()
    )
}

#[tokio::test]
async fn both_kinds_of_listener_show_the_certificate_they_are_given() {
    let home = Home::new();
    let files = certificate(&home, "files.example");
    let kumod = start(
        &home,
        &format!(
            "kumo.start_esmtp_listener {{ listen = '127.0.0.1:0', {files} }}
             kumo.start_http_listener {{ listen = '127.0.0.2:0', use_tls = true, {files} }}"
        ),
    );
    assert_eq!(shown(start_tls(kumod.address()).await).await, ["CN=files.example"]);
    let https = dial(listener(&kumod, "https", "127.0.0.2")).await;
    assert_eq!(shown(https).await, ["CN=files.example"]);
    kumod.stop();
}

#[tokio::test]
async fn an_http_listener_without_a_certificate_makes_one_for_its_hostname() {
    let home = Home::new();
    let kumod = start(
        &home,
        "kumo.start_http_listener {
           listen = '127.0.0.1:0', use_tls = true, hostname = 'http.example'
         }",
    );
    let https = dial(listener(&kumod, "https", "127.0.0.1")).await;
    assert_eq!(shown(https).await, ["CN=http.example"]);
    kumod.stop();
}
