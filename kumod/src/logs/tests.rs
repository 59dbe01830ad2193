//! The log from configuration to files, over real directories.
use super::*;
use kumo_core::address::{Mailbox, ReversePath};
use kumo_core::health::Threshold;
use kumo_core::id::SpoolIdGenerator;
use kumo_core::log::{PeerAddress, SourceAddress};
use kumo_core::message::{Envelope, Message, Meta, Schedule};
use kumo_core::port::TlsInfo;
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::reply::Reply;
use kumo_core::time::Wall;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tempfile::TempDir;

const NODE: &str = "7b3e5a52-3b0f-4c5c-9d9e-7b9d8b7c6a51";
const CREATED: Wall = Wall(1_795_540_400_000_000_000);
const WHEN: Wall = Wall(1_795_540_409_000_123_000);
const SEGMENT: &str = "20261124-171329";

fn message(body: &str) -> Message {
    let meta = json!({
        "reception_protocol": "ESMTP", "tenant": "acme", "x_one": 1, "x_two": ["a", null], "y": true
    });
    let Value::Object(meta) = meta else { unreachable!("an object was written above") };
    Message {
        id: SpoolIdGenerator::new(1).next(CREATED),
        envelope: Envelope {
            sender: ReversePath::parse("from@sender.test").unwrap(),
            recipients: vec![Mailbox::parse("to@rcpt.test").unwrap()],
        },
        remaining: RecipientSet::all(1),
        meta,
        schedule: Schedule::default(),
        attempts: 0,
        body: body.to_owned().into(),
    }
}

fn event(kind: RecordKind, message: &Message) -> RecordEvent<'_> {
    RecordEvent {
        kind,
        when: WHEN,
        message,
        size: message.body.len() as u64,
        recipients: message.envelope.recipients.iter().collect(),
        queue: "acme@rcpt.test",
        site: "",
        response: Reply::new(250, "2.0.0 OK"),
        attempts: 0,
        peer_address: None,
        pool: None,
        source: None,
        source_address: None,
        delivery_protocol: None,
        tls: None,
        provider: None,
        session: None,
    }
}

fn config(folder: &TempDir) -> LocalLogs {
    LocalLogs {
        log_dir: folder.path().join("logs").to_str().unwrap().into(),
        max_file_size: 1_000_000_000,
        back_pressure: 1000,
        compression_level: 0,
        max_segment_duration: None,
        meta: Vec::new(),
        headers: Vec::new(),
        per_record: Default::default(),
        min_free_space: Threshold::default(),
        min_free_inodes: Threshold::default(),
    }
}

fn start(config: LocalLogs) -> LocalLogger {
    LocalLogger::start(Some(config), NODE.into()).unwrap()
}

async fn stop(logger: &LocalLogger) {
    logger.stop(Duration::from_secs(20)).await.unwrap();
}

/// Segments in order of name.
fn segments(directory: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// What can be read from a segment now. Whatever is there has to be complete lines.
fn readable(path: &Path) -> Vec<Value> {
    let mut text = Vec::new();
    let mut decoder = zstd::Decoder::new(fs::File::open(path).unwrap()).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(octets @ 1..) = decoder.read(&mut buffer) {
        text.extend_from_slice(&buffer[..octets]);
    }
    parse(&text)
}

/// What is in a finished segment.
fn complete(path: &Path) -> Vec<Value> {
    assert!(fs::metadata(path).unwrap().permissions().readonly(), "{path:?} is writable");
    parse(&zstd::decode_all(fs::File::open(path).unwrap()).unwrap())
}

fn parse(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn render(event: &RecordEvent<'_>, meta: &[&str], headers: &[&str]) -> String {
    let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let mut line = Vec::new();
    line::render(event, &Selection::new(&owned(meta), &owned(headers)), NODE, &mut line);
    String::from_utf8(line).unwrap()
}

#[test]
fn a_reception_has_the_fields_that_tools_know_in_their_order() {
    let message = message("Subject: hello\r\n\r\nbody\r\n");
    let line = render(&event(RecordKind::Reception, &message), &[], &[]);
    let expected = format!(
        r#"{{"type":"Reception","id":"{}","sender":"from@sender.test","recipient":"to@rcpt.test","queue":"acme@rcpt.test","site":"","size":24,"response":{{"code":250,"enhanced_code":{{"class":2,"subject":0,"detail":0}},"content":"OK","command":null}},"peer_address":null,"timestamp":1795540409,"event_time":"2026-11-24T17:13:29.000123Z","created":1795540400,"created_time":"2026-11-24T17:13:20.000000Z","num_attempts":0,"bounce_classification":"Uncategorized","egress_pool":null,"egress_source":null,"source_address":null,"feedback_report":null,"meta":{{}},"headers":{{}},"delivery_protocol":null,"reception_protocol":"ESMTP","nodeid":"{NODE}"}}"#,
        message.id
    );
    assert_eq!(line, expected + "\n");
}

#[test]
fn a_delivery_says_who_took_it_over_which_connection() {
    let mut message = message("");
    message.envelope.recipients.push(Mailbox::parse("b@rcpt.test").unwrap());
    message.envelope.sender = ReversePath::Null;
    message.meta = Meta::new();
    let tls = TlsInfo {
        protocol: "TLSv1.3".into(),
        cipher: "TLS_AES_256_GCM_SHA384".into(),
        peer_subject: vec!["CN=mx".into()],
    };
    let mut event = event(RecordKind::Oob, &message);
    event.recipients = message.envelope.recipients.iter().collect();
    event.response = Reply { command: Some("RCPT".into()), ..Reply::new(550, "no\nsuch \"user\"") };
    event.attempts = 3;
    event.peer_address = Some(PeerAddress { name: "mx.test".into(), addr: "192.0.2.1:25".into() });
    event.source_address = Some(SourceAddress {
        address: "192.0.2.2:0".into(),
        server: Some("192.0.2.3:5000".into()),
        protocol: Some("socks5".into()),
    });
    (event.pool, event.source, event.provider) = (Some("pool"), Some("source"), Some("big"));
    (event.delivery_protocol, event.session) = (Some("ESMTP"), Some(NODE.into()));
    event.tls = Some(&tls);
    let record: Value = serde_json::from_str(&render(&event, &[], &[])).unwrap();
    let expected = json!({
        "type": "OOB", "sender": "", "recipient": ["to@rcpt.test", "b@rcpt.test"],
        "response": {
            "code": 550, "enhanced_code": null, "content": "no\nsuch \"user\"", "command": "RCPT"
        },
        "peer_address": {"name": "mx.test", "addr": "192.0.2.1:25"},
        "source_address": {
            "address": "192.0.2.2:0", "server": "192.0.2.3:5000", "protocol": "socks5"
        },
        "num_attempts": 3, "egress_pool": "pool", "egress_source": "source",
        "delivery_protocol": "ESMTP", "reception_protocol": null, "provider_name": "big",
        "session_id": NODE, "tls_cipher": "TLS_AES_256_GCM_SHA384",
        "tls_protocol_version": "TLSv1.3", "tls_peer_subject_name": ["CN=mx"],
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&record[key], value, "{key}");
    }
}

#[test]
fn metadata_is_chosen_by_name_and_by_beginning() {
    let message = message("");
    for (names, expected) in [
        (&[][..], json!({})),
        (&["tenant", "absent"], json!({"tenant": "acme"})),
        (&["x_*", "x_one"], json!({"x_one": 1, "x_two": ["a", null]})),
        (&["X_*", "Tenant"], json!({})),
        (&["*"], Value::Object(message.meta.clone())),
    ] {
        let line = render(&event(RecordKind::Bounce, &message), names, &[]);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["meta"], expected, "{names:?}");
    }
}

#[test]
fn header_fields_are_chosen_without_regard_to_case() {
    let message = message(
        "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-A: 1\r\nx-a: 2\r\nX-Long: one\r\n two\r\n\r\nX-B: 3\r\n",
    );
    for (names, expected) in [
        (&[][..], json!({})),
        (&["subject", "absent"], json!({"subject": "Grüße"})),
        (&["x-A"], json!({"x-A": ["1", "2"]})),
        (&["x-*"], json!({"X-A": ["1", "2"], "X-Long": "one two"})),
        (&["é*"], json!({})),
    ] {
        let line = render(&event(RecordKind::Bounce, &message), &[], names);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["headers"], expected, "{names:?}");
    }
}

#[test]
fn header_bombs_make_lines_of_bounded_length() {
    let fields = message(&"X: y\r\n".repeat(100_000));
    let line = render(&event(RecordKind::Bounce, &fields), &[], &["*"]);
    assert!(line.len() < 4096, "{}", line.len());
    let long = message(&format!("X: {}\r\n", "é".repeat(1_000_000)));
    let line = render(&event(RecordKind::Bounce, &long), &[], &["*"]);
    assert!(line.len() < 20_000, "{}", line.len());
}

proptest! {
    #[test]
    fn whatever_the_texts_are_the_line_is_one_line_and_says_them(
        text in any::<String>(), body in "([A-Z:\"\\\\ é\u{1}]|\r\n){0,40}", code in any::<u16>(),
        when in any::<i64>(),
    ) {
        let message = message(&body);
        let mut event = event(RecordKind::Delivery, &message);
        (event.queue, event.site, event.pool) = (&text, &text, Some(text.as_str()));
        event.response = Reply { code, enhanced: None, content: text.clone(), command: None };
        event.when = Wall(when);
        let line = render(&event, &["*"], &["*"]);
        prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
        let record: Value = serde_json::from_str(&line).unwrap();
        for said in [&record["queue"], &record["site"], &record["egress_pool"], &record["response"]["content"]] {
            prop_assert_eq!(said, &text);
        }
        prop_assert_eq!(&record["response"]["code"], code);
        prop_assert_eq!(&record["timestamp"], Wall(when).unix_seconds());
    }
}

#[tokio::test]
async fn a_record_can_be_read_within_a_second_and_all_of_them_after_the_stop() {
    let folder = TempDir::new().unwrap();
    let logger = start(config(&folder));
    let message = message("");
    logger.record(event(RecordKind::Reception, &message)).await;
    let begun = Instant::now();
    let path = folder.path().join("logs").join(SEGMENT);
    while !(path.exists() && readable(&path).len() == 1) {
        assert!(begun.elapsed() < Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!fs::metadata(&path).unwrap().permissions().readonly());
    logger.record(event(RecordKind::Delivery, &message)).await;
    stop(&logger).await;
    let kinds: Vec<Value> = complete(&path).iter().map(|line| line["type"].clone()).collect();
    assert_eq!(kinds, ["Reception", "Delivery"]);
    let counters = logger.counters().unwrap();
    assert_eq!((counters.records.get(), counters.errors.get(), logger.waiting()), (2, 0, 0));
}

#[tokio::test]
async fn segments_turn_over_at_their_size_and_names_within_a_second_differ() {
    let folder = TempDir::new().unwrap();
    let message = message("");
    let line = render(&event(RecordKind::Reception, &message), &[], &[]).len() as u64;
    let logger = start(LocalLogs { max_file_size: 2 * line, ..config(&folder) });
    for _ in 0..5 {
        logger.record(event(RecordKind::Reception, &message)).await;
    }
    stop(&logger).await;
    let paths = segments(folder.path().join("logs"));
    let found: Vec<_> = paths.iter().map(|path| (name(path), complete(path).len())).collect();
    assert_eq!(found, [(SEGMENT, 2), ("20261124-171330", 2), ("20261124-171331", 1)]);
}

#[tokio::test]
async fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let folder = TempDir::new().unwrap();
    let logger = start(LocalLogs { max_file_size: 1, ..config(&folder) });
    let message = message("");
    for _ in 0..2 {
        logger.record(event(RecordKind::Reception, &message)).await;
    }
    stop(&logger).await;
    let lengths: Vec<usize> =
        segments(folder.path().join("logs")).iter().map(|path| complete(path).len()).collect();
    assert_eq!(lengths, [1, 1]);
}

#[tokio::test]
async fn a_segment_ends_after_its_time_without_another_record() {
    let folder = TempDir::new().unwrap();
    let duration = Some(Duration::from_millis(600));
    let logger = start(LocalLogs { max_segment_duration: duration, ..config(&folder) });
    let message = message("");
    logger.record(event(RecordKind::Reception, &message)).await;
    let path = folder.path().join("logs").join(SEGMENT);
    let begun = Instant::now();
    while !fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().readonly()) {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(complete(&path).len(), 1);
    logger.record(event(RecordKind::Reception, &message)).await;
    stop(&logger).await;
    assert_eq!(segments(folder.path().join("logs")).len(), 2);
}

#[tokio::test]
async fn kinds_go_where_per_record_says() {
    let folder = TempDir::new().unwrap();
    let elsewhere = folder.path().join("elsewhere");
    let per_record = |enable, suffix: Option<&str>, log_dir: Option<&Path>| PerRecord {
        enable,
        suffix: suffix.map(Into::into),
        log_dir: log_dir.map(|path| path.to_str().unwrap().into()),
    };
    let routes = [
        ("Reception", per_record(true, Some("_recv"), None)),
        ("OOB", per_record(true, None, Some(&elsewhere))),
        ("Delivery", per_record(false, None, None)),
        ("Any", per_record(true, Some("_other"), None)),
    ];
    let per_record = routes.map(|(kind, to)| (kind.to_owned(), to)).into_iter().collect();
    let headers = vec!["Subject".to_owned()];
    let logger = start(LocalLogs { per_record, headers, ..config(&folder) });
    assert!(logger.quotes_header(RecordKind::Bounce));
    assert!(!logger.quotes_header(RecordKind::Delivery), "it isn't logged");
    let message = message("");
    for kind in RecordKind::ALL {
        logger.record(event(kind, &message)).await;
    }
    stop(&logger).await;
    let paths = segments(folder.path().join("logs"));
    let found: Vec<_> = paths.iter().map(|path| (name(path), complete(path).len())).collect();
    assert_eq!(found, [("20261124-171329_other", 11), ("20261124-171329_recv", 1)]);
    assert_eq!(complete(&elsewhere.join(SEGMENT))[0]["type"], "OOB");
}

#[tokio::test]
async fn records_hold_the_metadata_and_fields_that_the_configuration_names() {
    let folder = TempDir::new().unwrap();
    let (meta, headers) = (vec!["tenant".to_owned()], vec!["Subject".to_owned()]);
    let logger = start(LocalLogs { meta, headers, ..config(&folder) });
    let message = message("Subject: hello\r\nX-Other: 1\r\n\r\n");
    logger.record(event(RecordKind::Reception, &message)).await;
    stop(&logger).await;
    let record = &complete(&folder.path().join("logs").join(SEGMENT))[0];
    assert_eq!(record["meta"], json!({"tenant": "acme"}));
    assert_eq!(record["headers"], json!({"Subject": "hello"}));
}

#[tokio::test]
async fn a_higher_compression_level_makes_smaller_segments() {
    let message = message("");
    let octets = async |compression_level| {
        let folder = TempDir::new().unwrap();
        let logger = start(LocalLogs { compression_level, ..config(&folder) });
        for attempts in 0..500 {
            let event = event(RecordKind::Reception, &message);
            logger.record(RecordEvent { attempts, ..event }).await;
        }
        stop(&logger).await;
        fs::metadata(folder.path().join("logs").join(SEGMENT)).unwrap().len()
    };
    let (quick, thorough) = (octets(-7).await, octets(19).await);
    assert!(thorough < quick, "{thorough} octets at level 19, {quick} at level -7");
}

/// Puts a file where the directory was, which fails for root too.
fn block(directory: &Path) {
    fs::remove_dir_all(directory).unwrap();
    fs::write(directory, "").unwrap();
}

fn unblock(directory: &Path) {
    fs::remove_file(directory).unwrap();
}

async fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn when_the_disk_refuses_records_wait_and_none_is_lost() {
    let folder = TempDir::new().unwrap();
    let directory = folder.path().join("logs");
    let logger = Arc::new(start(LocalLogs { back_pressure: 3, ..config(&folder) }));
    block(&directory);
    let task = tokio::spawn({
        let logger = logger.clone();
        async move {
            let message = message("");
            for attempts in 0..10 {
                let event = event(RecordKind::Reception, &message);
                logger.record(RecordEvent { attempts, ..event }).await;
            }
        }
    });
    let counters = logger.counters().unwrap();
    until(|| counters.errors.get() > 0 && counters.full.get() > 0).await;
    assert!(!task.is_finished());
    assert_eq!((logger.waiting(), counters.records.get()), (3, 0));
    unblock(&directory);
    task.await.unwrap();
    stop(&logger).await;
    let records: Vec<Value> = segments(&directory).iter().flat_map(|path| complete(path)).collect();
    let attempts: Vec<u64> =
        records.iter().map(|record| record["num_attempts"].as_u64().unwrap()).collect();
    assert_eq!(attempts, Vec::from_iter(0..10));
}

#[tokio::test]
async fn a_stop_that_runs_out_of_time_says_what_is_lost() {
    let folder = TempDir::new().unwrap();
    let logger = start(config(&folder));
    block(&folder.path().join("logs"));
    let message = message("");
    logger.record(event(RecordKind::Reception, &message)).await;
    let error = logger.stop(Duration::from_millis(50)).await.unwrap_err();
    assert!(error.contains("up to 1 log records are lost"), "{error}");
    assert!(error.contains("can't write to"), "{error}");
    logger.record(event(RecordKind::Reception, &message)).await;
    assert_eq!(logger.counters().unwrap().late.get(), 1);
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_at_start() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("logs"), "").unwrap();
    let error = LocalLogger::start(Some(config(&folder)), NODE.into()).unwrap_err();
    assert!(error.starts_with("log_dir /") && error.contains("kumod's user can write"), "{error}");
}

#[tokio::test]
async fn what_a_crash_left_open_is_closed_at_the_next_start_but_not_what_is_in_use() {
    let folder = TempDir::new().unwrap();
    let directory = folder.path().join("logs");
    let other = start(config(&folder));
    let message = message("");
    other.record(event(RecordKind::Reception, &message)).await;
    until(|| directory.join(SEGMENT).exists()).await;
    for left in ["20261124-000000", "20261124-0000000", "notes"] {
        fs::write(directory.join(left), "").unwrap();
    }
    let logger = start(config(&folder));
    let read_only =
        |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().readonly();
    assert!(read_only("20261124-000000"));
    assert!(!read_only("20261124-0000000") && !read_only("notes") && !read_only(SEGMENT));
    stop(&logger).await;
    stop(&other).await;
    assert!(read_only(SEGMENT));
}

#[tokio::test]
async fn without_configuration_records_are_dropped() {
    let logger = LocalLogger::start(None, NODE.into()).unwrap();
    let message = message("");
    logger.record(event(RecordKind::Reception, &message)).await;
    assert!(!logger.quotes_header(RecordKind::Reception));
    assert!(logger.counters().is_none());
    stop(&logger).await;
}
