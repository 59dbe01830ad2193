//! Senders of policy's own: how many messages they are given at a time, and what becomes of those.
use super::*;

/// `latency` in seconds.
pub fn sender(batch_size: u64, min_batch_size: u64, latency: u64) -> DeliveryProtocol {
    DeliveryProtocol::CustomLua(CustomLua {
        constructor: "make.x".into(),
        batch_size,
        min_batch_size,
        max_batch_latency: Duration::from_secs(latency),
    })
}

fn outside(protocol: DeliveryProtocol) -> Outside {
    Outside { queue: QueueConfig { protocol, ..QueueConfig::default() }, ..Outside::default() }
}

/// Seconds from the beginning, and sizes.
fn sizes(bench: &Bench, start: Mono) -> Vec<(u64, usize)> {
    let size = |(at, ids): &(Mono, Vec<SpoolId>)| (at.since(start).as_secs(), ids.len());
    bench.batches.iter().map(size).collect()
}

#[test]
fn a_message_goes_to_its_sender_without_dns_and_its_ready_queue_is_named_after_it() {
    let mut bench = Bench::new(outside(sender(1, 1, 0)));
    bench.outside.resolution = |_| Resolution::NullMx;
    let id = bench.admit_to("campaign:tenant@example.com", 1);
    assert_eq!(bench.removed, [id]);
    assert_eq!(bench.open.values().next().unwrap(), "unspecified->example.com@lua:make.x");
    assert_eq!(bench.kinds(id), [RecordKind::Delivery]);
}

#[test]
fn a_full_batch_goes_at_once_and_the_rest_when_it_has_waited() {
    let mut bench = Bench::new(outside(sender(3, 3, 10)));
    let start = bench.now.mono;
    let ids: Vec<SpoolId> = (0..7).map(|_| bench.admit()).collect();
    bench.pass(MINUTE);
    assert_eq!(sizes(&bench, start), [(0, 3), (0, 3), (10, 1)]);
    assert_eq!(bench.batches[0].1, ids[..3], "in the order they became due");
    assert_eq!(bench.removed, ids);
}

#[test]
fn a_small_batch_waits_for_enough_messages_or_for_its_time() {
    let mut bench = Bench::new(outside(sender(10, 3, 20)));
    let start = bench.now.mono;
    bench.admit();
    bench.pass(15 * SECOND);
    let ready = &bench.engine.ready_queues()[0];
    assert!(matches!(ready.held, Some(Held::Batch { .. })), "{:?}", ready.held);
    let why = bench.engine.explain_queue(&ready.name).unwrap().why.join("; ");
    assert!(why.contains("it gathers messages for a batch until"), "{why}");
    assert_eq!(bench.engine.session_count(), 0, "no connection waits with it");
    bench.pass(5 * SECOND);
    assert_eq!(sizes(&bench, start), [(20, 1)]);
    bench.admit();
    bench.pass(5 * SECOND);
    bench.admit();
    bench.admit();
    assert_eq!(sizes(&bench, start), [(20, 1), (25, 3)]);
}

#[test]
fn what_waits_for_others_still_expires_and_can_be_bounced() {
    let mut outside = outside(sender(10, 10, 600));
    outside.queue.max_age = MINUTE;
    let mut bench = Bench::new(outside);
    let id = bench.admit();
    bench.pass(MINUTE);
    assert_eq!(bench.kinds(id), [RecordKind::Expiration]);
    let second = bench.admit();
    let bounce = entry("b", "example.com", bench.now.wall + MINUTE);
    bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::Bounce(bounce) });
    bench.pass(SECOND);
    assert_eq!(bench.kinds(second), [RecordKind::AdminBounce]);
    assert!(bench.batches.is_empty());
}

#[test]
fn each_message_of_a_batch_has_its_own_outcome() {
    let mut bench = Bench::new(outside(sender(3, 3, 10)));
    let mut outcomes = [OK, LATER, NEVER_EVER].into_iter();
    bench.outside.outcome = Box::new(move |_, _| Outcomes::Uniform(outcomes.next().unwrap_or(OK)));
    let ids: Vec<SpoolId> = (0..3).map(|_| bench.admit()).collect();
    use RecordKind::{Bounce, Delivery, TransientFailure};
    let kinds = [Delivery, TransientFailure, Bounce];
    ids.iter().zip(kinds).for_each(|(id, kind)| assert_eq!(bench.kinds(*id), [kind]));
    assert_eq!(bench.removed, [ids[0], ids[2]]);
    assert_eq!(bench.updates[0].1, 1, "the attempt was counted");
}

/// A batch of three whose session is fenced.
fn fenced(outcome: Outcome) -> (Bench, Vec<SpoolId>) {
    let mut bench = Bench::new(outside(sender(3, 3, 10)));
    bench.hold_deliveries = true;
    let ids = (0..3).map(|_| bench.admit()).collect();
    let (op, session) = bench.held_batches.remove(0);
    bench.busy.remove(&session);
    bench.open.remove(&session);
    let outcomes = Outcomes::Uniform(outcome);
    bench.input(Input::Attempted { op, outcomes, reusable: false });
    bench.input(Input::SessionClosed { session, cause: CloseCause::Aborted });
    assert!(bench.engine.leases.is_empty(), "its leases are free");
    (bench, ids)
}

#[test]
fn a_batch_whose_sender_was_given_up_is_tried_again_each_message_once() {
    let (bench, ids) = fenced(Outcome::Unknown);
    let note = (ids[0], RecordKind::TransientFailure);
    let (id, kind, text) = &bench.notes[0];
    assert_eq!((*id, *kind), note);
    assert!(text.contains("policy's sender was given up before it said"), "{text}");
    assert_eq!(bench.updates.iter().map(|update| update.0).collect::<Vec<_>>(), ids);
    assert!(bench.updates.iter().all(|update| update.1 == 1));
}

#[test]
fn a_batch_that_never_began_goes_again_without_an_attempt() {
    let (mut bench, ids) = fenced(Outcome::Returned);
    assert!(bench.notes.is_empty() && bench.updates.is_empty());
    bench.hold_deliveries = false;
    bench.pass(2 * MINUTE);
    let mut removed = bench.removed.clone();
    removed.sort();
    assert_eq!(removed, ids);
}

#[test]
fn a_batch_is_paid_for_as_a_whole() {
    let mut outside = outside(sender(5, 5, 1));
    outside.path.max_message_rate = rate(60, MINUTE);
    let mut bench = Bench::new(outside);
    let start = bench.now.mono;
    (0..10).for_each(|_| _ = bench.admit());
    bench.pass(MINUTE);
    assert_eq!(sizes(&bench, start), [(0, 5), (5, 5)]);
}

#[test]
fn a_senders_deliveries_are_counted_between_batches() {
    let mut outside = outside(sender(3, 3, 1));
    outside.path.max_deliveries_per_connection = 4;
    let mut bench = Bench::new(outside);
    (0..9).for_each(|_| _ = bench.admit());
    assert_eq!(bench.removed.len(), 9);
    assert_eq!(bench.engine.next_session, 3, "six messages, then three");
}

#[test]
fn as_many_senders_stand_as_there_are_batches() {
    let mut bench = Bench::new(outside(sender(10, 10, 60)));
    bench.hold_deliveries = true;
    (0..25).for_each(|_| _ = bench.admit());
    assert_eq!(bench.open.len(), 2);
    assert_eq!(bench.engine.ready_queues()[0].in_flight, 20);
    bench.pass(MINUTE);
    assert_eq!(bench.open.len(), 3, "the rest has waited for long enough");
    let most = LimitSpec { limit: 1, force_local: false };
    let mut outside = outside(sender(10, 10, 60));
    outside.path.connection_limit = most;
    let mut bench = Bench::new(outside);
    bench.hold_deliveries = true;
    (0..25).for_each(|_| _ = bench.admit());
    assert_eq!(bench.open.len(), 1);
}

#[test]
fn a_sender_made_for_one_message_is_given_one_though_another_queue_asks_for_batches() {
    let mut outside = outside(sender(1, 1, 0));
    outside.path.connection_limit = LimitSpec { limit: 1, force_local: false };
    let mut bench = Bench::new(outside);
    bench.hold_deliveries = true;
    bench.admit_to("a@example.com", 1);
    bench.outside.queue.protocol = sender(10, 1, 0);
    (0..3).for_each(|_| _ = bench.admit_to("b@example.com", 1));
    assert_eq!(bench.engine.ready_queues().len(), 1, "they share a ready queue");
    bench.hold_deliveries = false;
    let (op, session) = bench.held_batches.remove(0);
    bench.busy.remove(&session);
    let outcomes = vec![Outcomes::Uniform(OK)];
    bench.input(Input::BatchAttempted { op, outcomes, reusable: true });
    bench.input(Input::SessionReady { session });
    let sizes: Vec<usize> = bench.batches.iter().map(|(_, ids)| ids.len()).collect();
    assert_eq!(sizes, [1; 4]);
}

#[test]
fn what_a_sender_leaves_of_a_batch_that_is_too_large_for_it_does_not_gather_anew() {
    let mut bench = Bench::new(outside(sender(1, 1, 0)));
    bench.admit_to("a@example.com", 1);
    bench.outside.queue.protocol = sender(4, 4, 3);
    let start = bench.now.mono;
    (0..4).for_each(|_| _ = bench.admit_to("b@example.com", 1));
    bench.wake_until(start + 3 * SECOND);
    assert_eq!(sizes(&bench, start), [(0, 1), (0, 1), (3, 1), (3, 1), (3, 1)]);
}
