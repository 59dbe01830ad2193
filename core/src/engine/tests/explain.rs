//! What operators are told. That it is true, the simulator's checker shows; here, that it names what they need.
use super::*;
use crate::engine::explain::Explanation;

const READY: &str = "unspecified->mx.example.com@smtp_client";

fn why(explained: Option<Explanation>) -> String {
    explained.expect("it exists").why.join("; ")
}

/// One delivery under way, over the only connection there may be.
fn busy(messages: usize) -> (Bench, Vec<SpoolId>) {
    let limit = LimitSpec { limit: 1, force_local: false };
    let path = EgressPath { connection_limit: limit, ..EgressPath::default() };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    bench.hold_deliveries = true;
    let ids = (0..messages).map(|_| bench.admit()).collect();
    (bench, ids)
}

/// For five minutes, by an order.
fn suspend_ready(bench: &mut Bench) {
    let entry = ReadySuspension {
        id: "r".into(),
        name: READY.into(),
        reason: "the peer is ill".into(),
        expires: bench.now.wall + 5 * MINUTE,
    };
    bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::SuspendReady(entry) });
}

#[test]
fn an_empty_ready_queue_waits_for_nothing_and_promises_no_time() {
    let mut bench = Bench::new(Outside::default());
    bench.admit();
    let explained = bench.engine.explain_queue(READY).unwrap();
    assert_eq!(explained.next_action, "deliver what comes next");
    assert_eq!((explained.waits_for, explained.earliest), (None, None));
}

#[test]
fn a_scheduled_queue_names_the_ready_queues_that_have_its_mail() {
    let (bench, _) = busy(3);
    let why = why(bench.engine.explain_queue("example.com"));
    let expected = "has 2 messages, 1 connection, 1 delivery under way";
    assert!(why.contains(&format!("ready queue {READY} {expected}")), "{why}");
}

#[test]
fn a_limit_of_its_own_and_the_place_in_line_are_named() {
    let (bench, ids) = busy(4);
    let explained = bench.engine.explain_message(ids[3]).unwrap();
    assert_eq!(explained.waits_for, Some("busy-connection"));
    let why = explained.why.join("; ");
    assert!(why.contains("2 messages before it in line"), "{why}");
    assert!(why.contains("its limit of 1 connection is used up"), "{why}");
}

#[test]
fn a_suspended_ready_queue_is_named_with_its_reason_to_who_waits_for_it() {
    let (mut bench, ids) = busy(2);
    suspend_ready(&mut bench);
    let why = why(bench.engine.explain_message(ids[1]));
    let expected = format!("an administrator suspended ready queue {READY} until ");
    assert!(why.contains(&expected) && why.contains(": the peer is ill"), "{why}");
}

#[test]
fn a_used_up_selection_rate_is_named() {
    let path = EgressPath { source_selection_rate: rate(1, MINUTE), ..EgressPath::default() };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    bench.admit();
    let id = bench.admit();
    let why = why(bench.engine.explain_message(id));
    assert!(why.contains("the selection rate of source unspecified allows the next at"), "{why}");
}

#[test]
fn who_waits_for_room_hears_of_a_suspension() {
    let limit = LimitSpec { limit: 1, force_local: false };
    let path = EgressPath { connection_limit: limit, max_ready: 1, ..EgressPath::default() };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    bench.hold_deliveries = true;
    let ids: Vec<SpoolId> = (0..3).map(|_| bench.admit()).collect();
    let explained = bench.engine.explain_message(ids[2]).unwrap();
    assert_eq!(explained.waits_for, Some("ready-queue-room"));
    let full = format!("ready queue {READY} is full: it takes 1 message at most");
    assert!(explained.why.contains(&full), "{explained:?}");
    suspend_ready(&mut bench);
    let explained = bench.engine.explain_message(ids[2]).unwrap();
    assert_eq!(explained.waits_for, Some("eligible-source"));
}

#[test]
fn of_what_holds_a_line_the_last_to_end_is_told() {
    let queue = QueueConfig { max_message_rate: rate(1, 60 * MINUTE), ..QueueConfig::default() };
    let mut bench = Bench::new(Outside { queue, ..Outside::default() });
    bench.admit();
    let id = bench.admit();
    let waits_for = |bench: &Bench| bench.engine.explain_message(id).unwrap().waits_for;
    let suspend = |bench: &mut Bench, op, minutes: u32| {
        let entry = entry("s", "example.com", bench.now.wall + minutes * MINUTE);
        bench.input(Input::Admin { op: OpId(op), command: AdminCommand::Suspend(entry) });
    };
    suspend(&mut bench, 1 << 60, 10);
    assert_eq!(waits_for(&bench), Some("queue-message-rate"));
    bench.pass(11 * MINUTE);
    suspend(&mut bench, (1 << 60) + 1, 90);
    assert_eq!(waits_for(&bench), Some("suspension"));
}

#[test]
fn a_ready_queue_without_a_line_says_what_it_has_in_hand_or_why_it_rests() {
    let (mut bench, _) = busy(1);
    let explained = bench.engine.explain_queue(READY).unwrap();
    assert_eq!(
        (&*explained.next_action, explained.waits_for),
        ("hear from the peer", Some("peer"))
    );
    assert_eq!(bench.engine.explain_queue("example.com").unwrap().waits_for, Some("peer"));
    let mut bench_at_rest = Bench::new(Outside::default());
    bench_at_rest.admit();
    for bench in [&mut bench, &mut bench_at_rest] {
        suspend_ready(bench);
    }
    let explained = bench_at_rest.engine.explain_queue(READY).unwrap();
    assert_eq!(explained.waits_for, Some("suspension"));
    assert_eq!(explained.earliest, Some(bench_at_rest.now.wall + 5 * MINUTE));
    assert_eq!(bench.engine.explain_queue(READY).unwrap().waits_for, Some("peer"));
}

#[test]
fn what_is_said_of_a_source_names_few_of_its_ready_queues_and_counts_the_rest() {
    let mut bench = Bench::new(Outside::default());
    bench.silent_connections = true;
    (0..20).for_each(|n| _ = bench.admit_to(&format!("d{n}.example"), 1));
    let why = bench.engine.explain_source("unspecified").unwrap().why;
    assert_eq!(why.len(), 9, "{why:#?}");
    assert!(why[0].starts_with("ready queue unspecified->mx.d"), "{why:#?}");
    assert_eq!(why[8], "12 more ready queues");
    let mut bench = Bench::new(Outside::default());
    bench.admit_to("idle.example", 1);
    bench.hold_deliveries = true;
    bench.admit_to("busy.example", 1);
    let why = bench.engine.explain_source("unspecified").unwrap().why;
    assert!(why[0].contains("busy.example@smtp_client has 0 messages, 1 connection"), "{why:#?}");
    assert_eq!(why[1..], ["1 ready queue without mail"]);
}
