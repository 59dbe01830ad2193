//! The kcli program itself: its exit codes, and where it prints.
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread;

fn kcli(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kcli"))
        .args(arguments)
        .env_remove("KUMO_KCLI_ENDPOINT")
        .output()
        .unwrap()
}

/// An endpoint that answers one request, whatever it is.
fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        assert!(tcp.read(&mut request).unwrap() > 0);
        tcp.write_all(answer.as_bytes()).unwrap();
    });
    endpoint
}

#[test]
fn exit_codes_tell_refusal_usage_and_absence_apart() {
    let listing = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]";
    let done = kcli(&["--endpoint", &server(listing), "bounce-list"]);
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "[]\n");

    let refusal = "HTTP/1.1 404 Not Found\r\ncontent-length: 14\r\n\r\nError: no such";
    let refused = kcli(&["bounce-cancel", "--id", "x", "--endpoint", &server(refusal)]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("no such"));

    assert_eq!(kcli(&["bounce"]).status.code(), Some(2));

    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let absent = kcli(&["--endpoint", &format!("http://{unused}"), "bounce-list"]);
    assert_eq!(absent.status.code(), Some(3));
    assert!(String::from_utf8(absent.stderr).unwrap().contains("can't reach http://"));

    assert_eq!(kcli(&["--help"]).status.code(), Some(0));
}

#[test]
fn the_endpoint_may_come_from_the_environment() {
    let listing = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]";
    let output = Command::new(env!("CARGO_BIN_EXE_kcli"))
        .arg("suspend-list")
        .env("KUMO_KCLI_ENDPOINT", server(listing))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
}
