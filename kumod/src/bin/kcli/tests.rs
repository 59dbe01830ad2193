//! kcli against a server that records what it was asked and answers what the test says.
use super::arguments::{Arguments, InspectReadyQArguments};
use super::server::Failure;
use super::{bounce, explain, output, queues, ready, run, sources, suspend};
use clap::{CommandFactory, Parser};
use kumo_core::ceilings::EffectiveConstraints;
use kumo_core::config::EgressPath;
use kumo_core::time::Wall;
use kumod::http::api::{
    BounceEntry, DispatcherState, Explanation, FailureClass, InspectReadyQ, Moment, MxHosts,
    Obstacle, QueueSummary, ReadyQState, ReadyQSuspension, ReadyQueue, ScheduledQueue, Source,
    SourceSuspension, Sources, SuspendEntry, SuspendReadyEntry,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request as it came over the wire.
struct Asked {
    line: String,
    body: Value,
}

async fn read_request(tcp: &mut TcpStream) -> Asked {
    let mut octets = Vec::new();
    let head = loop {
        if let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(tcp.read_buf(&mut octets).await.unwrap() > 0, "the request breaks off");
    };
    let text = String::from_utf8(octets[..head].to_vec()).unwrap();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse::<usize>().unwrap());
    while octets.len() < head + length {
        assert!(tcp.read_buf(&mut octets).await.unwrap() > 0, "the request breaks off");
    }
    let body = match length {
        0 => Value::Null,
        _ => serde_json::from_slice(&octets[head..]).unwrap(),
    };
    Asked { line: text.lines().next().unwrap().to_owned(), body }
}

/// Runs the command line against a server that gives this answer.
async fn answered(line: &[&str], status: &str, body: &str) -> (Asked, Result<String, Failure>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let whole = ["kcli", "--endpoint", &endpoint].into_iter().chain(line.iter().copied());
    let arguments = Arguments::try_parse_from(whole).unwrap();
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let serve = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let asked = read_request(&mut tcp).await;
        tcp.write_all(answer.as_bytes()).await.unwrap();
        (asked, tcp)
    };
    let ((asked, _tcp), result) = tokio::join!(serve, run(arguments));
    (asked, result)
}

#[tokio::test]
async fn each_command_asks_what_its_arguments_say() {
    let id = "4fb2a3c60b7d11f080009d3c1a2b4e5f";
    let rows: Vec<(Vec<&str>, &str, Value)> = vec![
        (vec!["queue-summary"], "GET /api/admin/queue-summary/v1", Value::Null),
        (
            vec!["queue-summary", "--limit", "5", "--by-volume", "--domain", "a b.test"],
            "GET /api/admin/queue-summary/v1?limit=5&by_volume=true&domain=a%20b.test",
            Value::Null,
        ),
        (
            vec![
                "bounce",
                "--domain",
                "d.test",
                "--tenant",
                "t",
                "--reason",
                "r",
                "--duration",
                "1h",
            ],
            "POST /api/admin/bounce/v1",
            json!({"domain": "d.test", "tenant": "t", "reason": "r", "duration": "1h"}),
        ),
        (
            vec!["bounce", "--everything", "--reason", "r", "--suppress-logging"],
            "POST /api/admin/bounce/v1",
            json!({"reason": "r", "suppress_logging": true}),
        ),
        (
            vec!["bounce", "--queue", "c:t@d", "--queue", "e", "--dry-run"],
            "POST /api/admin/bounce-preview/v1",
            json!({"queue_names": ["c:t@d", "e"], "reason": ""}),
        ),
        (vec!["bounce-list"], "GET /api/admin/bounce/v1", Value::Null),
        (vec!["bounce-cancel", "--id", "x"], "DELETE /api/admin/bounce/v1", json!({"id": "x"})),
        (
            vec!["suspend", "--campaign", "c", "--reason", "r"],
            "POST /api/admin/suspend/v1",
            json!({"campaign": "c", "reason": "r"}),
        ),
        (vec!["suspend-list"], "GET /api/admin/suspend/v1", Value::Null),
        (vec!["suspend-cancel", "--id", "x"], "DELETE /api/admin/suspend/v1", json!({"id": "x"})),
        (
            vec![
                "suspend-ready-q",
                "--name",
                "s->d@smtp_client",
                "--reason",
                "r",
                "--duration",
                "90s",
            ],
            "POST /api/admin/suspend-ready-q/v1",
            json!({"name": "s->d@smtp_client", "reason": "r", "duration": "1m 30s"}),
        ),
        (vec!["suspend-ready-q-list"], "GET /api/admin/suspend-ready-q/v1", Value::Null),
        (
            vec!["suspend-ready-q-cancel", "--id", "x"],
            "DELETE /api/admin/suspend-ready-q/v1",
            json!({"id": "x"}),
        ),
        (
            vec!["inspect-message", id, "--want-body"],
            "GET /api/admin/inspect-message/v1?id=4fb2a3c60b7d11f080009d3c1a2b4e5f&want_body=true",
            Value::Null,
        ),
        (
            vec!["set-log-filter", "kumod=trace"],
            "POST /api/admin/set_diagnostic_log_filter/v1",
            json!({"filter": "kumod=trace"}),
        ),
        (
            vec!["explain-message", id],
            "GET /api/admin/explain/v1?message=4fb2a3c60b7d11f080009d3c1a2b4e5f",
            Value::Null,
        ),
        (
            vec!["explain-queue", "s->(a|b)@smtp_client"],
            "GET /api/admin/explain/v1?queue=s-%3E%28a%7Cb%29%40smtp_client",
            Value::Null,
        ),
        (vec!["explain-source", "ip-1"], "GET /api/admin/explain/v1?source=ip-1", Value::Null),
    ];
    for (line, request, body) in rows {
        let (asked, _) = answered(&line, "200 OK", "{}").await;
        assert_eq!(asked.line, format!("{request} HTTP/1.1"), "{line:?}");
        assert_eq!(asked.body, body, "{line:?}");
    }
}

#[tokio::test]
async fn json_is_passed_on_as_the_server_gave_it() {
    let body = r#"{"scheduled":[],"later":{"than":"us"}}"#;
    for line in [
        vec!["queue-summary", "--json"],
        vec!["bounce-list", "--json"],
        vec!["suspend-list", "--json"],
        vec!["suspend-ready-q-list", "--json"],
        vec!["inspect-message", "x"],
        vec!["explain-source", "x", "--json"],
        vec!["bounce", "--everything", "--dry-run", "--json"],
        vec!["bounce", "--everything", "--reason", "r"],
        vec!["suspend", "--everything", "--reason", "r"],
    ] {
        let (_, printed) = answered(&line, "200 OK", body).await;
        let printed: Value = serde_json::from_str(&printed.unwrap()).unwrap();
        assert_eq!(printed, serde_json::from_str::<Value>(body).unwrap(), "{line:?}");
    }
}

#[tokio::test]
async fn orders_without_a_document_say_what_was_done() {
    let (_, printed) = answered(&["bounce-cancel", "--id", "x"], "200 OK", "").await;
    assert_eq!(printed.unwrap(), "removed x\n");
    let (_, printed) = answered(&["set-log-filter", "info"], "200 OK", "").await;
    assert_eq!(printed.unwrap(), "OK\n");
    let preview = r#"{"bounced":{"a.test":1200,"b.test":1},"total_bounced":1201}"#;
    let (_, printed) = answered(&["bounce", "--everything", "--dry-run"], "200 OK", preview).await;
    assert_eq!(
        printed.unwrap(),
        "nothing is bounced; 1,201 messages of 2 scheduled queues would be\n\
         SCHEDULED QUEUE  MESSAGES\n\
         a.test              1,200\n\
         b.test                  1\n"
    );
}

#[tokio::test]
async fn a_refusal_gives_the_servers_words() {
    let rows = [
        ("404 Not Found", "Error: no such ready queue x\n", "404 Not Found: no such ready queue x"),
        ("403 Forbidden", "", "403 Forbidden: it didn't say why"),
        ("503 Service Unavailable", "shutting down", "shutting down"),
    ];
    for (status, body, expected) in rows {
        let (_, result) = answered(&["bounce-list"], status, body).await;
        let failure = result.unwrap_err();
        assert!(failure.to_string().ends_with(expected), "{failure}");
        assert_eq!(failure.exit_code(), 1);
    }
    let (_, result) = answered(&["bounce-list"], "200 OK", "<html>").await;
    assert_eq!(result.unwrap_err().exit_code(), 1);
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let line = ["kcli", "--endpoint", &endpoint, "--timeout", "50ms", "bounce-list"];
    let failure = run(Arguments::try_parse_from(line).unwrap()).await.unwrap_err();
    assert_eq!(failure.exit_code(), 3);
    assert!(failure.to_string().contains("50ms"), "{failure}");
}

#[test]
fn the_command_line_holds_together_and_refuses_what_is_ambiguous() {
    Arguments::command().debug_assert();
    for line in [
        vec!["bounce", "--reason", "r"],
        vec!["bounce", "--domain", "d"],
        vec!["bounce", "--everything", "--domain", "d", "--reason", "r"],
        vec!["bounce", "--queue", "q", "--domain", "d", "--reason", "r"],
        vec!["bounce", "--domain", "d", "--reason", "r", "--duration", "soon"],
        vec!["bounce", "--domain", "d", "--reason", "r", "--duration", "0s"],
        vec!["suspend", "--reason", "r"],
        vec!["explain"],
        vec!["explain-queue"],
        vec!["--endpoint", "127.0.0.1:8000", "bounce-list"],
        vec!["unknown"],
        vec![],
    ] {
        let whole = std::iter::once("kcli").chain(line.iter().copied());
        let error = Arguments::try_parse_from(whole).expect_err("a refusal");
        assert_eq!(error.exit_code(), 2, "{line:?}");
    }
}

#[test]
fn every_command_and_argument_has_help() {
    for command in Arguments::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}

#[test]
fn the_queue_summary_is_two_tables_with_their_totals() {
    let summary = QueueSummary {
        scheduled: vec![ScheduledQueue {
            name: "t@d.test".into(),
            messages: 12_345,
            waiting: 7,
            blocked: Some("its max_message_rate is used up".into()),
        }],
        scheduled_queues: 3,
        scheduled_messages: 12_399,
        ready: vec![
            ReadyQueue {
                name: "ip-1->d.test@smtp_client".into(),
                site: "d.test".into(),
                source: "ip-1".into(),
                pool: "pool".into(),
                ready: 5,
                in_flight: 1,
                connections: 1,
                connection_limit: Some(32),
                held: None,
                suspended: Some("blocked\x1b[2J".into()),
            },
            ReadyQueue {
                name: "b".into(),
                site: "b".into(),
                source: "s".into(),
                pool: "p".into(),
                ready: 0,
                in_flight: 0,
                connections: 0,
                connection_limit: None,
                held: None,
                suspended: None,
            },
        ],
        ready_queues: 2,
        ready_messages: 5,
    };
    assert_eq!(
        queues::render(&summary),
        "2 ready queues, 5 messages\n\
         READY QUEUE               READY  FLIGHT  CONN  HELD UP BY\n\
         ip-1->d.test@smtp_client      5       1  1/32  suspended: blocked\u{fffd}[2J\n\
         b                             0       0     0  -\n\
         \n\
         3 scheduled queues, 12,399 messages\n\
         SCHEDULED QUEUE  QUEUED  DUE  HELD UP BY\n\
         t@d.test         12,345    7  its max_message_rate is used up\n"
    );
    let empty = queues::render(&QueueSummary::default());
    assert_eq!(empty, "0 ready queues, 0 messages\n\n0 scheduled queues, 0 messages\n");
}

#[test]
fn orders_in_force_are_listed_with_what_they_select() {
    let entry = BounceEntry {
        id: "i".into(),
        campaign: Some("c".into()),
        tenant: None,
        domain: Some("d".into()),
        routing_domain: None,
        queue_names: Vec::new(),
        reason: "purge".into(),
        duration: Duration::from_millis(290_500),
        bounced: [("c:@d".to_owned(), 1)].into(),
        total_bounced: 1,
    };
    assert_eq!(
        bounce::render_list(&[entry]),
        "ID  WHICH                 BOUNCED  ENDS IN  REASON\n\
         i   campaign c, domain d        1   4m 50s  purge\n"
    );
    let entry = SuspendEntry {
        id: "i".into(),
        campaign: None,
        tenant: None,
        domain: None,
        queue_names: Vec::new(),
        reason: "r".into(),
        duration: Duration::from_secs(60),
    };
    let named = SuspendEntry { queue_names: vec!["a".into(), "b".into()], ..entry.clone() };
    assert_eq!(
        suspend::render_list(&[entry, named]),
        "ID  WHICH       ENDS IN  REASON\n\
         i   everything       1m  r\n\
         i   a, b             1m  r\n"
    );
    let entry = SuspendReadyEntry {
        id: "i".into(),
        name: "s->d".into(),
        reason: "r".into(),
        duration: Duration::from_secs(1),
        expires: Moment(Wall(0)),
    };
    assert_eq!(
        suspend::render_ready_list(&[entry]),
        "ID  READY QUEUE  ENDS IN  REASON\n\
         i   s->d              1s  r\n"
    );
}

#[test]
fn an_explanation_says_what_when_and_why() {
    let mut explanation = Explanation {
        subject: "message x in d.test".into(),
        next_action: "move to a ready queue".into(),
        waits_for: Some("due-time".into()),
        earliest: Some(Moment(Wall::from_unix_seconds(90))),
        why: vec!["attempt 2 is due".into(), "it expires".into()],
        now: Moment(Wall::from_unix_seconds(0)),
    };
    assert_eq!(
        explain::render(&explanation),
        "message x in d.test\n\
         \x20 next: move to a ready queue\n\
         \x20 waits for: due-time\n\
         \x20 earliest: 1970-01-01T00:01:30.000000Z (in 1m 30s)\n\
         \x20 why:\n\
         \x20 - attempt 2 is due\n\
         \x20 - it expires\n"
    );
    explanation.now = Moment(Wall::from_unix_seconds(90));
    assert!(explain::render(&explanation).contains("earliest: now\n"));
    explanation.earliest = None;
    assert!(explain::render(&explanation).contains("earliest: as soon as that has happened\n"));
    explanation.waits_for = None;
    assert!(!explain::render(&explanation).contains("earliest"));
}

#[test]
fn numbers_are_grouped() {
    for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(output::grouped(number), text);
    }
}

#[test]
fn sources_are_listed_with_what_speaks_against_them() {
    let moment = |seconds| Moment(Wall::from_unix_seconds(seconds));
    let class = |class: &str, failures, why: Option<&str>| FailureClass {
        class: class.into(),
        failures,
        last: None,
        why: why.map(Into::into),
    };
    let well = Source {
        name: "ip-1".into(),
        address: Some("10.0.0.1".into()),
        proxy: None,
        suspension: None,
        failures: vec![class("Unplumbed", 0, None), class("ProxyUnhealthy", 1, Some("old"))],
    };
    let suspension =
        SourceSuspension { reason: "Unplumbed".into(), since: moment(30), until: moment(90) };
    let ill = Source {
        name: "ip-2".into(),
        address: None,
        proxy: Some("socks5 p.test:1080".into()),
        suspension: Some(suspension),
        failures: vec![class("Unplumbed", 1_234, Some("gone")), class("ProxyUnhealthy", 0, None)],
    };
    let mut sources = Sources { sources: vec![well, ill], now: moment(60) };
    assert_eq!(
        sources::render(&sources),
        "SOURCE  ADDRESS   PROXY               STATE                 SINCE                        ENDS IN  UNPLUMBED  PROXY UNHEALTHY\n\
         ip-1    10.0.0.1  -                   well                  -                                  -          0                1\n\
         ip-2    -         socks5 p.test:1080  SUSPENDED: Unplumbed  1970-01-01T00:00:30.000000Z      30s      1,234                0\n\
         ip-2: gone\n"
    );
    sources.sources.clear();
    assert_eq!(
        sources::render(&sources),
        "no message has needed an egress source since the start\n"
    );
}

fn stuck_ready_queue() -> InspectReadyQ {
    let moment = |seconds| Moment(Wall::from_unix_seconds(seconds));
    let dispatcher = |id: &str, idle: u64, phase, detail: Option<&str>| DispatcherState {
        session_id: id.into(),
        started_at: moment(0),
        age: Duration::from_millis(725_900),
        phase,
        detail: detail.map(Into::into),
        time_in_current_phase: Duration::from_secs(idle),
        messages_delivered: 1_234,
        messages_transfailed: 5,
        messages_failed: 0,
        delivered_this_connection: 0,
        overall_rate_per_sec: 1.7,
    };
    let path = EgressPath {
        max_connection_rate: "3/s".parse().ok(),
        max_deliveries_per_connection: 20,
        ..EgressPath::default()
    };
    InspectReadyQ {
        queue_name: "ip-1->(mx1|mx2).example.com@smtp_client".into(),
        mx: Some(MxHosts {
            site_name: "(mx1|mx2).example.com".into(),
            by_preference: [
                ("10".to_string(), vec!["mx1.example.com".to_string()]),
                ("5".to_string(), vec!["mx2.example.com".to_string()]),
            ]
            .into(),
            is_mx: false,
            is_domain_literal: false,
            is_secure: true,
        }),
        egress_source: "ip-1".into(),
        egress_pool: "main".into(),
        protocol: "smtp_client".into(),
        state: ReadyQState {
            ready_count: 1_142,
            connection_count: 2,
            connection_rate_throttled: None,
            connection_limited: Some(Obstacle {
                context: "TooManyLeases for shared".into(),
                since: moment(30),
            }),
            message_rate_throttled: None,
            suspended: Some(ReadyQSuspension {
                id: "x".into(),
                name: "y".into(),
                reason: "maintenance".into(),
                duration: Duration::from_millis(61_500),
                expires: moment(90),
            }),
            watchdog_threshold: Some(Duration::from_secs(600)),
        },
        path_config: serde_json::json!({ "smtp_port": 25, "additional_connection_limits": {} })
            .as_object()
            .cloned(),
        constraints: Some(EffectiveConstraints::of_path(&path)),
        scheduled_queue_names: Some(vec!["a.example".into(), "b.example".into()]),
        dispatchers: vec![
            dispatcher(
                "5f0b7d11",
                600,
                "DeliveringMessage".into(),
                Some("send msg with 2 recip(s)"),
            ),
            dispatcher(
                "7d115f0b",
                450,
                serde_json::json!({"AccumulatingBatch": {"have": 1, "want": 5}}),
                None,
            ),
        ],
        now: moment(60),
    }
}

#[test]
fn a_ready_queue_is_shown_from_inside() {
    let all = InspectReadyQArguments {
        connections: true,
        config: true,
        sched_q: true,
        ..InspectReadyQArguments::default()
    };
    let expected = "queue: ip-1->(mx1|mx2).example.com@smtp_client

egress pool:        main
egress source:      ip-1
protocol:           smtp_client
watchdog threshold: 10m

mx (site: (mx1|mx2).example.com, synthesised, dnssec verified):
     5  mx2.example.com
    10  mx1.example.com

ready: 1,142

connection limited: TooManyLeases for shared
  since: 1970-01-01T00:00:30.000000Z
suspended: maintenance
  expires in: 1m 1s

ceilings:
  concurrent dispatchers: 32
    source: connection_limit
  message rate:           20 × 3/s = 60/s
    source: max_deliveries_per_connection × max_connection_rate
  connection rate:        3/s
    source: max_connection_rate

scheduled queues: 2
  a.example
  b.example

connections: 2

  SESSION                             DELIV TRANS FAIL    AGE  RATE
  5f0b7d11                            1,234     5    0 12m 5s 1.7/s ⚠ STUCK
    DeliveringMessage for 10m
    send msg with 2 recip(s)

  7d115f0b                            1,234     5    0 12m 5s 1.7/s ⚠ STALL?
    AccumulatingBatch(1/5) for 7m 30s

config:
";
    let text = ready::render(&stuck_ready_queue(), &all);
    let (shown, config) = text.split_at(expected.len().min(text.len()));
    assert_eq!(shown, expected);
    assert!(config.starts_with("  additional_connection_limits = {}\n"), "{config}");
    assert!(config.contains("\n  smtp_port = 25\n"), "{config}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let short = ready::render(&stuck_ready_queue(), &InspectReadyQArguments::default());
    assert!(
        short.ends_with("\nconnections: 2\n") && !short.contains("scheduled queues"),
        "{short}"
    );
}
