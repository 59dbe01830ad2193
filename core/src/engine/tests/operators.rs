//! What operators and the process do to messages: bounces, suspensions, an ill spool, a stop.
use super::*;

#[test]
fn a_stop_writes_down_what_an_attempt_came_to_while_policy_still_thinks() {
    let config = EngineConfig { asks_requeue: true, ..EngineConfig::default() };
    let outcome = Box::new(|_: &str, _: &RecipientSet| Outcomes::Uniform(LATER));
    let mut bench = Bench::asking(Outside { outcome, ..Outside::default() }, config);
    bench.unanswered =
        |output| matches!(output, Output::Ask { question: Question::Requeue { .. }, .. });
    let id = bench.admit();
    assert!(bench.updates.is_empty());
    bench.input(Input::Stop);
    assert!(bench.stopped);
    let [(updated, attempts, ..)] = &bench.updates[..] else { panic!("{:?}", bench.updates) };
    assert_eq!((*updated, *attempts), (id, 1));
    let answer = Answer::Requeue(RequeueAnswer::Move { queue: "late.example".into() });
    let op = bench.waiting[0];
    bench.input(Input::Answer { op, answer });
    assert_eq!(bench.updates.len(), 1);
}

#[test]
fn an_operators_bounce_takes_what_is_there_and_what_comes() {
    let mut bench = Bench::new(Outside {
        outcome: Box::new(|_, _| Outcomes::Uniform(LATER)),
        ..Outside::default()
    });
    let first: Vec<SpoolId> = (0..1000).map(|_| bench.admit()).collect();
    let other = bench.admit_to("other.example", 1);
    let entry = entry("b", "example.com", bench.now.wall + 5 * MINUTE);
    bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::Bounce(entry) });
    assert_eq!(bench.replies, [AdminReply::Bounced(vec![("example.com".into(), 1000)])]);
    let late = bench.admit();
    for id in first.into_iter().chain([late]) {
        assert_eq!(bench.kinds(id).last(), Some(&RecordKind::AdminBounce));
    }
    assert_eq!(bench.kinds(other), [RecordKind::TransientFailure]);
    bench.pass(6 * MINUTE);
    let after = bench.admit();
    assert_eq!(bench.kinds(after), [RecordKind::TransientFailure]);
}

#[test]
fn a_suspended_queue_waits_until_the_end_or_the_cancel() {
    let mut bench = Bench::new(Outside::default());
    let suspend = |bench: &mut Bench, id: &str| {
        let entry = entry(id, "example.com", bench.now.wall + 5 * MINUTE);
        bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::Suspend(entry) });
    };
    suspend(&mut bench, "one");
    let id = bench.admit();
    assert!(bench.notes[0].2.contains("scheduled queue is suspended: tests"));
    bench.pass(5 * MINUTE);
    assert_eq!(bench.removed, [id]);
    suspend(&mut bench, "two");
    let id = bench.admit();
    let cancel = AdminCommand::CancelSuspend { id: "two".into() };
    bench.input(Input::Admin { op: OpId(1 << 60), command: cancel });
    assert_eq!(bench.removed.last(), Some(&id));
    let cancel = AdminCommand::CancelSuspend { id: "two".into() };
    bench.input(Input::Admin { op: OpId(1 << 60), command: cancel });
    assert_eq!(bench.replies.last(), Some(&AdminReply::UnknownId));
}

#[test]
fn a_suspended_ready_queue_gives_its_messages_back_and_others_take_them() {
    let pool = vec![("one", 1), ("two", 1)];
    let mut bench = Bench::new(Outside { pool, ..Outside::default() });
    bench.hold_deliveries = true;
    (0..20).for_each(|_| _ = bench.admit());
    let suspension = ReadySuspension {
        id: "r".into(),
        name: "one->mx.example.com@smtp_client".into(),
        reason: "tests".into(),
        expires: bench.now.wall + 5 * MINUTE,
    };
    bench
        .input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::SuspendReady(suspension) });
    let from = bench.delivered_at.len();
    while !bench.held.is_empty() {
        bench.complete(Outcomes::Uniform(OK), true);
    }
    assert_eq!(bench.removed.len(), 20);
    assert!(bench.delivered_at[from..].iter().all(|(_, name)| name.starts_with("two->")));
}

#[test]
fn a_queue_says_what_its_messages_wait_for_before_they_are_due() {
    let outcome = Box::new(|_: &str, _: &RecipientSet| Outcomes::Uniform(LATER));
    let mut bench = Bench::new(Outside { outcome, ..Outside::default() });
    let id = bench.admit();
    let explained = bench.engine.explain_queue("example.com").unwrap();
    let (_, _, due, _) = bench.updates[0].clone();
    assert_eq!(explained.earliest, Some(due));
    let why = explained.why.join("; ");
    assert!(why.starts_with("for a later attempt: 1 message, the first for attempt 2"), "{why}");
    assert!(why.ends_with("attempt 1 ended with 451; its record has the text"), "{why}");
    let entry = entry("s", "example.com", bench.now.wall + 5 * MINUTE);
    bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::Suspend(entry) });
    let summary = &bench.engine.scheduled_queues()[0];
    assert_eq!(summary.blocked, Some(Block::Suspended { reason: "tests".into() }));
    for explained in [bench.engine.explain_queue("example.com"), bench.engine.explain_message(id)] {
        let why = explained.unwrap().why.join("; ");
        assert!(why.contains("an administrator suspended"), "{why}");
    }
}

#[test]
fn a_stop_leaves_what_an_operators_bounce_has_not_reached() {
    let outcome = Box::new(|_: &str, _: &RecipientSet| Outcomes::Uniform(LATER));
    let mut bench = Bench::new(Outside { outcome, ..Outside::default() });
    let all = 2 * crate::limits::CONCLUDING_BOUNCES;
    for _ in 0..all {
        bench.admit();
    }
    bench.holds_conclusions = true;
    let entry = entry("b", "example.com", bench.now.wall + 5 * MINUTE);
    bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::Bounce(entry) });
    bench.input(Input::Stop);
    bench.holds_conclusions = false;
    for op in core::mem::take(&mut bench.waiting) {
        bench.input(Input::Concluded { op, stored: true });
    }
    assert!(bench.stopped);
    assert_eq!(bench.engine.message_count(), all - crate::limits::CONCLUDING_BOUNCES);
}

#[test]
fn delivery_pauses_while_the_spool_is_unhealthy() {
    let mut bench = Bench::new(Outside::default());
    bench.input(Input::SpoolHealth { healthy: false });
    let id = bench.admit();
    bench.pass(10 * MINUTE);
    assert!(bench.delivered_at.is_empty());
    bench.input(Input::SpoolHealth { healthy: true });
    assert_eq!(bench.removed, [id]);
}

#[test]
fn stop_ends_sessions_and_is_said_once_nothing_is_outstanding() {
    let mut bench = Bench::new(Outside::default());
    bench.hold_deliveries = true;
    bench.admit();
    let left = bench.admit();
    bench.input(Input::Stop);
    assert!(!bench.stopped);
    while !bench.held.is_empty() {
        bench.complete(Outcomes::Uniform(OK), false);
    }
    assert!(bench.stopped);
    assert!(bench.engine.holds(left) || bench.removed.len() == 2);
    let late = bench.admit();
    assert!(bench.engine.holds(late), "what is admitted after the stop waits for the next life");
}
