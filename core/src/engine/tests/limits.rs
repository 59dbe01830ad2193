//! Rates, tokens, connection limits, and full ready queues: who waits, and what wakes them.
use super::*;

#[test]
fn message_rates_wake_exactly_when_the_token_comes() {
    let path = EgressPath { max_message_rate: rate(60, MINUTE), ..EgressPath::default() };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    let start = bench.now.mono;
    (0..4).for_each(|_| _ = bench.admit());
    bench.pass(MINUTE);
    let seconds: Vec<Duration> = bench.delivered_at.iter().map(|(at, _)| at.since(start)).collect();
    assert_eq!(seconds, [Duration::ZERO, SECOND, 2 * SECOND, 3 * SECOND]);
}

#[test]
fn a_scheduled_queue_has_a_message_rate_of_its_own() {
    let queue = QueueConfig { max_message_rate: rate(1, SECOND), ..QueueConfig::default() };
    let mut bench = Bench::new(Outside { queue, ..Outside::default() });
    let start = bench.now.mono;
    (0..3).for_each(|_| _ = bench.admit());
    bench.pass(MINUTE);
    let seconds: Vec<Duration> = bench.delivered_at.iter().map(|(at, _)| at.since(start)).collect();
    assert_eq!(seconds, [Duration::ZERO, SECOND, 2 * SECOND]);
}

#[test]
fn a_shared_message_throttle_holds_over_ready_queues() {
    let path = EgressPath {
        additional_message_rate_throttles: [("all".into(), rate(1, SECOND).unwrap())].into(),
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    let start = bench.now.mono;
    (0..3).for_each(|_| _ = bench.admit_to("a.example", 1));
    (0..3).for_each(|_| _ = bench.admit_to("b.example", 1));
    bench.pass(MINUTE);
    let mut seconds: Vec<Duration> =
        bench.delivered_at.iter().map(|(at, _)| at.since(start)).collect();
    seconds.sort();
    assert_eq!(seconds, (0..6).map(|n| n * SECOND).collect::<Vec<_>>());
}

#[test]
fn source_selection_rates_hold_the_line_and_let_it_go_on_time() {
    let path = EgressPath { source_selection_rate: rate(1, 10 * SECOND), ..EgressPath::default() };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    let start = bench.now.mono;
    let ids: Vec<SpoolId> = (0..3).map(|_| bench.admit()).collect();
    assert_eq!(bench.kinds(ids[1]), [RecordKind::TransientFailure]);
    bench.pass(MINUTE);
    let seconds: Vec<Duration> = bench.delivered_at.iter().map(|(at, _)| at.since(start)).collect();
    assert_eq!(seconds, [Duration::ZERO, 10 * SECOND, 20 * SECOND]);
    assert!(bench.updates.is_empty(), "no attempt was counted");
}

#[test]
fn a_connection_rate_holds_the_next_connection_back() {
    let path = EgressPath {
        max_connection_rate: rate(1, 10 * SECOND),
        max_deliveries_per_connection: 1,
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    let start = bench.now.mono;
    (0..3).for_each(|_| _ = bench.admit());
    bench.pass(MINUTE);
    let seconds: Vec<Duration> = bench.delivered_at.iter().map(|(at, _)| at.since(start)).collect();
    assert_eq!(seconds, [Duration::ZERO, 10 * SECOND, 20 * SECOND]);
}

#[test]
fn a_shared_selection_rate_holds_over_ready_queues() {
    let path = EgressPath {
        additional_source_selection_rates: [("all".into(), rate(1, 10 * SECOND).unwrap())].into(),
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    let start = bench.now.mono;
    bench.admit_to("a.example", 1);
    bench.admit_to("b.example", 1);
    bench.pass(MINUTE);
    let seconds: Vec<Duration> = bench.delivered_at.iter().map(|(at, _)| at.since(start)).collect();
    assert_eq!(seconds, [Duration::ZERO, 10 * SECOND]);
}

#[test]
fn connections_stay_within_the_limit_and_grow_with_the_queue() {
    let path = EgressPath {
        connection_limit: LimitSpec { limit: 4, force_local: false },
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    bench.hold_deliveries = true;
    bench.admit();
    assert_eq!(bench.open.len(), 1, "one message needs one connection");
    (0..200).for_each(|_| _ = bench.admit());
    assert_eq!(bench.open.len(), 4);
    while !bench.held.is_empty() {
        bench.complete(Outcomes::Uniform(OK), true);
    }
    assert_eq!(bench.removed.len(), 201);
    assert_eq!(bench.most_open.values().max(), Some(&4));
}

#[test]
fn a_shared_connection_limit_passes_from_queue_to_queue() {
    let path = EgressPath {
        additional_connection_limits: [(
            "shared".into(),
            LimitSpec { limit: 1, force_local: false },
        )]
        .into(),
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    bench.hold_deliveries = true;
    bench.admit_to("a.example", 1);
    bench.admit_to("b.example", 1);
    assert_eq!(bench.open.len(), 1);
    let explained = bench.engine.explain_queue("unspecified->mx.b.example@smtp_client").unwrap();
    assert!(explained.why[1].contains("the connection limit shared is used up"), "{explained:?}");
    bench.complete(Outcomes::Uniform(OK), false);
    assert_eq!(bench.open.len(), 1);
    bench.complete(Outcomes::Uniform(OK), false);
    assert_eq!(bench.removed.len(), 2);
}

#[test]
fn a_full_ready_queue_takes_the_next_as_soon_as_there_is_room() {
    let path = EgressPath {
        max_ready: 2,
        connection_limit: LimitSpec { limit: 1, force_local: false },
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    bench.hold_deliveries = true;
    (0..10).for_each(|n| {
        _ = bench.admit_to(if n % 2 == 0 { "example.com" } else { "t@example.com" }, 1)
    });
    let ready = &bench.engine.ready_queues()[0];
    assert_eq!((ready.ready, ready.in_flight), (2, 1));
    while !bench.held.is_empty() {
        bench.complete(Outcomes::Uniform(OK), true);
    }
    assert_eq!(bench.removed.len(), 10);
}

#[test]
fn a_full_source_beside_a_throttled_one_waits_without_spinning() {
    let pool = vec![("a", 1), ("b", 1)];
    let path = EgressPath {
        max_ready: 1,
        source_selection_rate: rate(1, MINUTE),
        connection_limit: LimitSpec { limit: 1, force_local: false },
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { pool, path, ..Outside::default() });
    bench.hold_deliveries = true;
    (0..8).for_each(|_| _ = bench.admit());
    for _ in 0..20 {
        bench.pass(MINUTE);
        while !bench.held.is_empty() {
            bench.complete(Outcomes::Uniform(OK), true);
        }
    }
    assert_eq!(bench.removed.len(), 8);
}

#[test]
fn a_message_token_is_not_kept_waiting_by_a_later_connection_token() {
    let path = EgressPath {
        max_message_rate: rate(1, SECOND),
        max_connection_rate: rate(1, 60 * MINUTE),
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    let start = bench.now.mono;
    (0..4).for_each(|_| _ = bench.admit());
    bench.pass(4 * SECOND);
    let seconds: Vec<Duration> = bench.delivered_at.iter().map(|(at, _)| at.since(start)).collect();
    assert_eq!(seconds, (0..4).map(|n| n * SECOND).collect::<Vec<_>>());
}

#[test]
fn a_queue_that_emptied_while_it_was_held_up_looks_anew() {
    let queue = QueueConfig { max_age: 5 * SECOND, ..QueueConfig::default() };
    let resolution = |_: &str| Resolution::Failed { why: "SERVFAIL".into() };
    let mut bench = Bench::new(Outside { queue, resolution, ..Outside::default() });
    let lost = bench.admit();
    bench.pass(6 * SECOND);
    assert_eq!(bench.kinds(lost), [RecordKind::Expiration]);
    bench.outside.resolution = Outside::default().resolution;
    let next = bench.admit();
    bench.pass(4 * SECOND);
    assert_eq!(bench.removed, [lost, next]);
}

#[test]
fn a_free_connection_is_passed_on_by_those_who_no_longer_need_it() {
    let path = EgressPath {
        additional_connection_limits: [(
            "shared".into(),
            LimitSpec { limit: 1, force_local: false },
        )]
        .into(),
        ..EgressPath::default()
    };
    let queue = QueueConfig { max_age: 2 * SECOND, ..QueueConfig::default() };
    let mut bench = Bench::new(Outside { path, queue, ..Outside::default() });
    bench.hold_deliveries = true;
    bench.admit_to("a.example", 1);
    bench.admit_to("b.example", 1);
    bench.wake_until(bench.now.mono + 3 * SECOND);
    let waiting = bench.admit_to("c.example", 1);
    bench.complete(Outcomes::Uniform(OK), false);
    assert_eq!(bench.held.len(), 1, "b's message has expired; its turn goes to c");
    bench.complete(Outcomes::Uniform(OK), false);
    assert_eq!(bench.removed.last(), Some(&waiting));
}
