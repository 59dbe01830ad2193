//! Whole runs against small servers that behave as the test says.
use super::arguments::Arguments;
use super::generate;
use super::report::Report;
use bytes::BytesMut;
use clap::{CommandFactory, Parser};
use kumo_core::port::{Listener, Network, Stream, TlsAccept};
use kumo_io_real::net::{RealListener, RealNetwork, RealStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// How a sink behaves.
#[derive(Clone, Copy, Default)]
struct Manners {
    pipelining: bool,
    starttls: bool,
    /// Refuse every so many recipients.
    refuse_each: usize,
    /// Close instead of answering the final dot, every so many messages.
    lose_each: usize,
    /// Accept the connection and say nothing.
    silent: bool,
}

#[derive(Default)]
struct Seen {
    recipients: usize,
    messages: Vec<String>,
    /// MAIL, RCPT and DATA came in one piece.
    pipelined: usize,
    over_tls: usize,
    connections: usize,
}

struct Sink {
    address: String,
    seen: Arc<Mutex<Seen>>,
}

async fn sink(manners: Manners) -> Sink {
    let network = RealNetwork::from_system().unwrap();
    let listener = network.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_address().to_string();
    let seen = Arc::new(Mutex::new(Seen::default()));
    tokio::spawn(accept(listener, manners, seen.clone()));
    Sink { address, seen }
}

async fn accept(mut listener: RealListener, manners: Manners, seen: Arc<Mutex<Seen>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        seen.lock().unwrap().connections += 1;
        let peer = Peer { stream, unread: BytesMut::new(), manners, seen: seen.clone() };
        tokio::spawn(peer.serve());
    }
}

struct Peer {
    stream: RealStream,
    unread: BytesMut,
    manners: Manners,
    seen: Arc<Mutex<Seen>>,
}

impl Peer {
    async fn serve(mut self) {
        if self.manners.silent {
            return std::future::pending().await;
        }
        self.say("220 sink.test").await;
        while let Some(line) = self.line().await {
            let verb = line.split(' ').next().unwrap_or_default();
            match verb {
                "EHLO" => self.offer().await,
                "STARTTLS" => {
                    self.say("220 go on").await;
                    self = self.upgrade().await;
                }
                "RCPT" => self.recipient().await,
                "DATA" => {
                    if !self.content().await {
                        return;
                    }
                }
                "QUIT" => {
                    self.say("221 bye").await;
                    return;
                }
                "MAIL" => {
                    let whole = String::from_utf8_lossy(&self.unread).into_owned();
                    let in_one_piece = whole.contains("RCPT") && whole.ends_with("DATA\r\n");
                    self.seen.lock().unwrap().pipelined += usize::from(in_one_piece);
                    self.say("250 OK").await;
                }
                _ => self.say("250 OK").await,
            }
        }
    }

    async fn say(&mut self, reply: &str) {
        // A client that left early isn't the sink's problem.
        let _ = Stream::write_all(&mut self.stream, format!("{reply}\r\n").as_bytes()).await;
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end + 1);
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if Stream::read(&mut self.stream, &mut self.unread).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn offer(&mut self) {
        let mut lines = vec!["sink.test"];
        lines.extend(self.manners.pipelining.then_some("PIPELINING"));
        lines.extend(self.manners.starttls.then_some("STARTTLS"));
        let last = lines.pop().unwrap();
        for line in lines {
            self.say(&format!("250-{line}")).await;
        }
        self.say(&format!("250 {last}")).await;
    }

    async fn upgrade(self) -> Peer {
        let accept = Arc::new(TlsAccept { hostname: "sink.test".into(), certificate: None });
        let (stream, _) = self.stream.upgrade_server(accept).await.unwrap();
        self.seen.lock().unwrap().over_tls += 1;
        let manners = Manners { starttls: false, ..self.manners };
        Peer { stream, unread: BytesMut::new(), manners, seen: self.seen }
    }

    async fn recipient(&mut self) {
        let number = {
            let mut seen = self.seen.lock().unwrap();
            seen.recipients += 1;
            seen.recipients
        };
        let each = self.manners.refuse_each;
        let is_refused = each > 0 && number.is_multiple_of(each);
        self.say(if is_refused { "550 5.1.1 nobody" } else { "250 OK" }).await;
    }

    /// False: the connection ends here.
    async fn content(&mut self) -> bool {
        self.say("354 go on").await;
        let mut content = String::new();
        loop {
            let Some(line) = self.line().await else { return false };
            if line == "." {
                break;
            }
            content.push_str(line.strip_prefix('.').unwrap_or(&line));
            content.push('\n');
        }
        let count = {
            let mut seen = self.seen.lock().unwrap();
            seen.messages.push(content);
            seen.messages.len()
        };
        let each = self.manners.lose_each;
        let is_lost = each > 0 && count.is_multiple_of(each);
        if !is_lost {
            self.say("250 OK").await;
        }
        !is_lost
    }
}

async fn send(line: &[&str]) -> Report {
    let whole = std::iter::once("traffic-gen").chain(line.iter().copied());
    generate(&Arguments::try_parse_from(whole).unwrap()).await.unwrap()
}

#[tokio::test]
async fn every_message_arrives_once_with_and_without_pipelining_and_tls() {
    for (pipelining, starttls) in [(false, false), (true, false), (true, true)] {
        let sink = sink(Manners { pipelining, starttls, ..Manners::default() }).await;
        let mut line =
            vec!["--target", &sink.address, "--message-count", "50", "--concurrency", "4"];
        line.extend(starttls.then_some("--starttls"));
        let report = send(&line).await;
        assert_eq!((report.accepted, report.not_accepted()), (50, 0));
        assert_eq!(report.exit_code(), 0);
        assert!(report.p99 >= report.p50 && report.p50 > Duration::ZERO);
        let seen = sink.seen.lock().unwrap();
        assert_eq!(seen.messages.len(), 50);
        assert_eq!(seen.pipelined, if pipelining { 50 } else { 0 });
        assert_eq!(seen.over_tls, if starttls { 4 } else { 0 });
        let subjects: std::collections::BTreeSet<_> = seen
            .messages
            .iter()
            .filter_map(|message| message.lines().find(|line| line.starts_with("Subject: ")))
            .collect();
        assert_eq!(subjects.len(), 50, "no number is used twice");
    }
}

#[tokio::test]
async fn the_first_failure_ends_the_run_unless_told_to_keep_going() {
    for pipelining in [false, true] {
        let sink = sink(Manners { pipelining, refuse_each: 5, ..Manners::default() }).await;
        let line = ["--target", &sink.address, "--message-count", "20", "--concurrency", "1"];
        let report = send(&line).await;
        assert_eq!((report.accepted, report.failed), (4, 1));
        assert_eq!(report.exit_code(), 1);
        assert_eq!(report.failures, [("RCPT: 550 5.1.1 nobody".to_owned(), 1)]);
        let report = send(&[&line[..], &["--keep-going"]].concat()).await;
        assert_eq!((report.accepted, report.failed), (16, 4));
        assert_eq!(report.exit_code(), 1);
    }
}

#[tokio::test]
async fn a_lost_final_reply_is_unknown_and_the_next_message_goes_over_a_new_connection() {
    let sink = sink(Manners { lose_each: 3, ..Manners::default() }).await;
    let line = ["--target", &sink.address, "--message-count", "7", "--concurrency", "1"];
    let report = send(&[&line[..], &["--keep-going"]].concat()).await;
    assert_eq!((report.accepted, report.failed, report.unknown), (5, 0, 2));
    assert_eq!(report.exit_code(), 1);
    assert_eq!(sink.seen.lock().unwrap().connections, 3);
}

#[tokio::test]
async fn a_target_that_isnt_there_or_says_nothing_is_told_apart_by_the_exit_code() {
    let unused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let report = send(&["--target", &unused, "--message-count", "1"]).await;
    assert_eq!(report.exit_code(), 3);
    let report = send(&["--http", "--target", &unused, "--message-count", "1"]).await;
    assert_eq!(report.exit_code(), 3);
    let silent = sink(Manners { silent: true, ..Manners::default() }).await;
    let line = ["--target", &silent.address, "--message-count", "1", "--timeout", "50ms"];
    let report = send(&line).await;
    assert!(report.failures[0].0.contains("no reply within 50ms"), "{:?}", report.failures);
    let plain = sink(Manners::default()).await;
    let report = send(&["--target", &plain.address, "--message-count", "1", "--starttls"]).await;
    assert!(report.failures[0].0.contains("doesn't offer STARTTLS"), "{:?}", report.failures);
}

#[tokio::test]
async fn the_duration_and_the_throttle_hold() {
    let sink = sink(Manners::default()).await;
    let started = Instant::now();
    let report =
        send(&["--target", &sink.address, "--duration", "500ms", "--throttle", "40/s"]).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(report.exit_code(), 0);
    assert!((2..=21).contains(&report.accepted), "{}", report.accepted);
}

/// Answers every request with what `answer` makes of the number of recipients in it.
async fn http_sink(answer: fn(usize) -> (&'static str, String)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut octets = Vec::new();
                while let Some(request) = next_body(&mut tcp, &mut octets).await {
                    let request: serde_json::Value = serde_json::from_slice(&request).unwrap();
                    let (status, body) = answer(request["recipients"].as_array().unwrap().len());
                    let length = body.len();
                    let text =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                    tcp.write_all(text.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

async fn next_body(tcp: &mut tokio::net::TcpStream, octets: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        let head = octets.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&octets[..head]).into_owned();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "))?;
            let end = head + length.parse::<usize>().ok()?;
            if octets.len() >= end {
                let body = octets[head..end].to_vec();
                octets.drain(..end);
                return Some(body);
            }
        }
        if tcp.read_buf(octets).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn http_batches_count_every_recipient() {
    let all = |count| {
        let body = format!(
            r#"{{"success_count":{count},"fail_count":0,"failed_recipients":[],"errors":[]}}"#
        );
        ("200 OK", body)
    };
    let address = http_sink(all).await;
    let line = ["--http", "--target", &address, "--message-count", "25", "--http-batch-size", "10"];
    let report = send(&line).await;
    assert_eq!((report.accepted, report.not_accepted()), (25, 0));
    assert_eq!(report.exit_code(), 0);

    let some = |count: usize| {
        let body = format!(
            r#"{{"success_count":{},"fail_count":1,"failed_recipients":["x"],"errors":["x: no"]}}"#,
            count - 1
        );
        ("200 OK", body)
    };
    let address = http_sink(some).await;
    let line = ["--http", "--target", &address, "--message-count", "20", "--http-batch-size", "10"];
    let report = send(&[&line[..], &["--keep-going"]].concat()).await;
    assert_eq!((report.accepted, report.failed), (18, 2));
    assert_eq!(report.failures, [("200 OK: x: no".to_owned(), 2)]);

    let address = http_sink(|_| ("503 Service Unavailable", "Error: shutting down".into())).await;
    let report = send(&["--http", "--target", &address, "--message-count", "3"]).await;
    assert_eq!(report.accepted, 0);
    assert_eq!(report.exit_code(), 1);
    assert!(report.failures[0].0.contains("shutting down"), "{:?}", report.failures);
}

#[test]
fn the_command_line_holds_together_and_refuses_nonsense() {
    Arguments::command().debug_assert();
    for line in [
        vec!["--concurrency", "0"],
        vec!["--duration", "0"],
        vec!["--duration", "soon"],
        vec!["--body-size", "-1"],
        vec!["--body-size", "1g"],
        vec!["--domain", "a.test:0"],
        vec!["--domain", "a b"],
        vec!["--domain-suffix", "-"],
        vec!["--throttle", "10"],
        vec!["--header", "no colon"],
        vec!["--header", "a b: c"],
        vec!["--http-batch-size", "2"],
        vec!["--http", "--starttls"],
        vec!["--body-file", "x", "--body-size", "1"],
    ] {
        let whole = std::iter::once("traffic-gen").chain(line.iter().copied());
        let error = Arguments::try_parse_from(whole).expect_err("a refusal");
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
}
