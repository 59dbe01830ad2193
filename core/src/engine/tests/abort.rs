//! Sessions that are cut off: by the watchdog, or by an operator.
use super::*;

const READY: &str = "unspecified->mx.example.com@smtp_client";
const TEXT: &str = "dispatcher watchdog aborted task; phase=DeliveringMessage";

/// One message in flight over the first session.
fn in_flight(outside: Outside) -> (Bench, SpoolId) {
    let mut bench = Bench::new(outside);
    bench.hold_deliveries = true;
    let id = bench.admit();
    (bench, id)
}

fn stuck(session: u64) -> Input {
    Input::SessionStuck { session: SessionId(session), text: TEXT.into() }
}

fn abort(ready_queue: &str, session: u64) -> Input {
    let command =
        AdminCommand::AbortSession { ready_queue: ready_queue.into(), session: SessionId(session) };
    Input::Admin { op: OpId(1 << 60), command }
}

#[test]
fn a_stuck_delivery_is_put_back_once_with_a_record_and_no_attempt() {
    for began in [false, true] {
        let (mut bench, id) = in_flight(Outside::default());
        bench.body_began = began;
        bench.input(stuck(1));
        assert_eq!(bench.notes, [(id, RecordKind::Delayed, format!("451 {TEXT}"))]);
        let (_, attempts, due, remaining) = &bench.updates[0];
        assert_eq!((*attempts, remaining.len()), (0, 1));
        assert!(*due <= bench.now.wall + MINUTE, "soon, and not all at one moment");
        assert_eq!(bench.engine.session_count(), 0, "its lease is free");
        let listed = &bench.engine.ready_queues()[0];
        assert_eq!((listed.in_flight, listed.stuck), (0, 1));
        bench.hold_deliveries = false;
        bench.pass(MINUTE);
        assert_eq!(bench.removed, [id]);
        assert_eq!(bench.delivered_at.len(), 2);
    }
}

#[test]
fn each_message_of_a_stuck_batch_is_put_back() {
    let mut outside = Outside::default();
    outside.queue.protocol = batches::sender(3, 3, 60);
    let mut bench = Bench::new(outside);
    bench.hold_deliveries = true;
    let ids: Vec<SpoolId> = (0..3).map(|_| bench.admit()).collect();
    assert_eq!(bench.held_batches.len(), 1);
    bench.input(stuck(1));
    let noted: Vec<SpoolId> = bench.notes.iter().map(|(id, ..)| *id).collect();
    assert_eq!(noted, ids);
    assert_eq!(bench.engine.ready_queues()[0].in_flight, 0);
    bench.hold_deliveries = false;
    bench.pass(3 * MINUTE);
    assert_eq!(bench.removed.len(), 3);
}

#[test]
fn what_policy_says_of_an_aborted_message_is_asked_without_counting_an_attempt() {
    let config = EngineConfig { asks_requeue: true, ..EngineConfig::default() };
    let mut bench = Bench::asking(Outside::default(), config);
    bench.hold_deliveries = true;
    bench.admit();
    bench.input(stuck(1));
    let Some(Question::Requeue { reasons, increment_attempts, delay, .. }) = bench.asked.last()
    else {
        panic!("{:?}", bench.asked)
    };
    use InsertReason::{DispatcherDrop, LoggedTransientFailure};
    assert_eq!(reasons, &[DispatcherDrop, LoggedTransientFailure]);
    assert!(!increment_attempts && delay.unwrap() <= MINUTE);
}

#[test]
fn a_message_whose_time_is_up_meanwhile_expires_when_its_session_is_aborted() {
    let mut outside = Outside::default();
    outside.queue.max_age = 10 * MINUTE;
    let (mut bench, id) = in_flight(outside);
    bench.wake_until(bench.now.mono + 10 * MINUTE);
    assert_eq!(bench.engine.message_count(), 1, "it is the session's as long as that stands");
    bench.input(stuck(1));
    assert_eq!(bench.removed, [id]);
    let kinds: Vec<RecordKind> = bench.notes.iter().map(|(_, kind, _)| *kind).collect();
    assert_eq!(kinds, [RecordKind::Delayed, RecordKind::Expiration]);
}

/// One connection at a time, and the first never gets anywhere.
fn stands_still(failures_before_delay: u64, messages: usize) -> (Bench, Vec<SpoolId>) {
    let mut outside = Outside::default();
    outside.path.consecutive_connection_failures_before_delay = failures_before_delay;
    outside.path.connection_limit = LimitSpec { limit: 1, force_local: false };
    let mut bench = Bench::new(outside);
    bench.silent_connections = true;
    let ids = (0..messages).map(|_| bench.admit()).collect();
    (bench, ids)
}

#[test]
fn a_connection_that_is_stuck_while_it_opens_has_failed_and_who_else_waits_gets_another() {
    let (mut bench, ids) = stands_still(100, 2);
    bench.silent_connections = false;
    bench.input(stuck(1));
    assert_eq!(bench.notes[0], (ids[0], RecordKind::TransientFailure, format!("451 {TEXT}")));
    let (id, attempts, due, _) = &bench.updates[0];
    assert_eq!((*id, *attempts), (ids[0], 1));
    assert!(*due >= bench.now.wall + 10 * MINUTE, "as after any failed connection");
    assert_eq!(bench.removed, [ids[1]]);
}

#[test]
fn after_too_many_stuck_connections_all_mail_of_the_ready_queue_waits() {
    let (mut bench, ids) = stands_still(2, 6);
    (1..=2).for_each(|session| bench.input(stuck(session)));
    let why = bench.engine.explain_message(ids[5]).unwrap().why;
    assert!(why.contains(&"the last 2 connections failed".to_string()), "{why:?}");
    assert_eq!(bench.updates.len(), 2);
    bench.input(stuck(3));
    assert_eq!(bench.updates.len(), 6);
    assert!(bench.updates.iter().all(|update| update.1 == 1));
}

#[test]
fn an_idle_session_can_be_stuck_too_and_one_that_is_gone_cannot() {
    let mut bench = Bench::new(Outside::default());
    let first = bench.admit();
    bench.input(stuck(1));
    assert_eq!((bench.engine.session_count(), bench.removed.as_slice()), (0, &[first][..]));
    bench.input(stuck(1));
    assert_eq!(bench.engine.ready_queues()[0].stuck, 1);
}

#[test]
fn a_completion_that_was_on_its_way_counts_and_the_abort_does_not() {
    let (mut bench, id) = in_flight(Outside::default());
    // The driver finds that there is nothing to abort.
    bench.ignores_aborts = true;
    bench.input(stuck(1));
    let (op, session, ..) = bench.held.remove(0);
    bench.busy.remove(&session);
    bench.input(Input::Attempted { op, outcomes: Outcomes::Uniform(OK), reusable: true });
    assert_eq!(bench.removed, [id]);
    assert_eq!(bench.notes.len(), 1);
    assert!(bench.open.is_empty(), "politely, but it is closed as was ordered");
    bench.hold_deliveries = false;
    let second = bench.admit();
    assert_eq!(bench.removed, [id, second]);
}

#[test]
fn an_operator_aborts_a_session_of_the_queue_that_is_named_and_no_other() {
    let (mut bench, id) = in_flight(Outside::default());
    for (queue, session) in [("nonsense", 1), (READY, 2), (READY, 1), (READY, 1)] {
        bench.input(abort(queue, session));
    }
    use AdminReply::{Done, UnknownId};
    assert_eq!(bench.replies, [UnknownId, UnknownId, Done, UnknownId]);
    let text = "451 returning message to scheduled queue".to_string();
    assert_eq!(bench.notes, [(id, RecordKind::Delayed, text)]);
    assert_eq!(bench.engine.ready_queues()[0].stuck, 0, "the watchdog had no part in it");
}

#[test]
fn a_session_tells_what_became_of_its_messages() {
    let outcomes = [OK, LATER, NEVER_EVER, OK, Outcome::Returned];
    let mut bench = Bench::new(Outside::default());
    bench.hold_deliveries = true;
    for outcome in outcomes {
        bench.admit();
        bench.complete(Outcomes::Uniform(outcome), true);
    }
    let inspected = bench.engine.inspect_ready(READY).unwrap();
    assert_eq!(bench.engine.queues_of_ready(READY), ["example.com"]);
    assert_eq!(inspected.in_flight, 0);
    let session = inspected.sessions[0];
    assert!(session.is_idle);
    let Tally { delivered, transfailed, failed } = session.tally;
    assert_eq!((delivered, transfailed, failed), (2, 1, 1));
    assert_eq!(bench.engine.inspect_ready("nonsense"), None);
}

#[test]
fn what_holds_a_queue_back_is_told_with_its_beginning() {
    let mut outside = Outside::default();
    outside.path.max_connection_rate = rate(1, 10 * MINUTE);
    outside.connect = |_| Some(CloseCause::ConnectFailed);
    let mut bench = Bench::new(outside);
    let began = bench.now.wall;
    (0..2).for_each(|_| _ = bench.admit());
    bench.pass(MINUTE);
    bench.admit();
    let held = bench.engine.inspect_ready(READY).unwrap().held;
    assert!(
        matches!(held, Some((Held::ConnectionRate { .. }, since)) if since == began),
        "{held:?}"
    );
}
