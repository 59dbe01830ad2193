//! What becomes of a message: delivered, tried again, bounced, expired; each recipient by itself.
use super::*;

#[test]
fn a_message_is_delivered_logged_and_removed() {
    let mut bench = Bench::new(Outside::default());
    let id = bench.admit();
    assert_eq!(bench.removed, [id]);
    assert_eq!(bench.kinds(id), [RecordKind::Delivery]);
    assert_eq!(bench.engine.message_count(), 0);
    assert_eq!(bench.delivered_at[0].1, "unspecified->mx.example.com@smtp_client");
}

#[test]
fn a_session_is_used_again_and_closed_after_its_share() {
    let path = EgressPath { max_deliveries_per_connection: 3, ..EgressPath::default() };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    (0..7).for_each(|_| _ = bench.admit());
    assert_eq!(bench.removed.len(), 7);
    assert_eq!(bench.engine.next_session, 4, "three sessions for seven messages");
}

#[test]
fn a_deferred_message_is_tried_again_on_schedule_and_its_state_written() {
    let mut bench = Bench::new(Outside {
        outcome: Box::new(|_, _| Outcomes::Uniform(LATER)),
        ..Outside::default()
    });
    let id = bench.admit();
    let start = bench.now.mono;
    bench.pass(Duration::from_secs(3 * 3600));
    let gaps: Vec<u64> = bench
        .delivered_at
        .iter()
        .map(|(at, _)| (at.since(start).as_secs() + 150) / 300 * 5)
        .collect();
    assert_eq!(gaps, [0, 20, 60, 140], "minutes: 20, 40, 80 apart");
    let attempts: Vec<u16> = bench.updates.iter().map(|update| update.1).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert!(bench.kinds(id).iter().all(|kind| *kind == RecordKind::TransientFailure));
}

#[test]
fn expiry_holds_while_scheduled() {
    let queue = QueueConfig { max_age: 50 * MINUTE, ..QueueConfig::default() };
    let outcome = Box::new(|_: &str, _: &RecipientSet| Outcomes::Uniform(LATER));
    let mut bench = Bench::new(Outside { queue, outcome, ..Outside::default() });
    let id = bench.admit();
    bench.pass(25 * MINUTE);
    // The third attempt would come after 60 minutes: it expires when that is known.
    assert_eq!(bench.kinds(id).last(), Some(&RecordKind::Expiration));
    assert_eq!(bench.removed, [id]);
}

#[test]
fn expiry_holds_in_a_ready_queue_that_cannot_connect_now() {
    let queue = QueueConfig { max_age: 5 * MINUTE, ..QueueConfig::default() };
    let path = EgressPath { max_connection_rate: rate(1, 60 * MINUTE), ..EgressPath::default() };
    let mut bench = Bench::new(Outside { queue, path, ..Outside::default() });
    bench.hold_deliveries = true;
    bench.admit();
    let waiting = bench.admit();
    bench.pass(5 * MINUTE - SECOND);
    assert_eq!(bench.kinds(waiting), []);
    bench.pass(SECOND);
    assert_eq!(bench.kinds(waiting), [RecordKind::Expiration]);
}

#[test]
fn expiry_holds_while_the_dns_is_silent_and_nothing_bounces() {
    let queue = QueueConfig { max_age: 60 * MINUTE, ..QueueConfig::default() };
    let resolution = |_: &str| Resolution::Failed { why: "SERVFAIL".into() };
    let mut bench = Bench::new(Outside { queue, resolution, ..Outside::default() });
    let id = bench.admit();
    bench.pass(59 * MINUTE);
    assert_eq!(bench.kinds(id), []);
    bench.pass(MINUTE);
    assert_eq!(bench.kinds(id), [RecordKind::Expiration]);
}

#[test]
fn a_message_with_its_own_expiry_ignores_max_age() {
    let mut bench = Bench::new(Outside {
        outcome: Box::new(|_, _| Outcomes::Uniform(LATER)),
        ..Outside::default()
    });
    let id = bench.ids.next(bench.now.wall);
    bench.input(Input::Admit(Admission {
        id,
        queue: "example.com".into(),
        recipients: 1,
        remaining: RecipientSet::all(1),
        size: 1,
        attempts: 0,
        due: Some(bench.now.wall + 10 * MINUTE),
        expires: Some(bench.now.wall + 5 * MINUTE),
        reason: InsertReason::Enumerated,
    }));
    bench.pass(5 * MINUTE);
    assert_eq!(bench.kinds(id), [RecordKind::Expiration]);
    assert!(bench.notes[0].2.contains("configured via set_scheduling"), "{:?}", bench.notes);
}

#[test]
fn a_step_of_the_wall_clock_expires_nothing_and_hurries_nothing() {
    let mut bench = Bench::new(Outside {
        outcome: Box::new(|_, _| Outcomes::Uniform(LATER)),
        ..Outside::default()
    });
    bench.admit();
    for step in [30 * 24 * 3600_i64, -60 * 24 * 3600] {
        bench.now.wall = Wall(bench.now.wall.0 + step * 1_000_000_000);
        bench.input(Input::Tick);
    }
    assert_eq!(bench.delivered_at.len(), 1);
    assert_eq!(bench.removed, []);
}

/// Found by the simulator: a clock that stepped between the making of a message's id and its admission.
#[test]
fn a_step_of_the_wall_clock_while_mail_comes_in_expires_nothing() {
    let mut bench = Bench::new(Outside::default());
    let admission = bench.admission("example.com", 1);
    let id = admission.id;
    bench.now.wall = bench.now.wall + Duration::from_secs(30 * 24 * 3600);
    bench.input(Input::Admit(admission));
    assert_eq!(bench.kinds(id), [RecordKind::Delivery]);
}

/// Found by the simulator: after a restart with a dead clock battery, retries waited for their dates in the far future.
#[test]
fn a_retry_of_an_earlier_life_does_not_wait_for_a_clock_that_went_back() {
    let mut bench = Bench::new(Outside::default());
    let admission = bench.admission("example.com", 1);
    let due = Some(bench.now.wall + 20 * MINUTE);
    bench.now.wall = Wall::from_unix_seconds(100);
    let reason = InsertReason::Enumerated;
    bench.input(Input::Admit(Admission { attempts: 1, due, reason, ..admission }));
    assert_eq!(bench.delivered_at.len(), 0);
    bench.pass(25 * MINUTE);
    assert_eq!(bench.delivered_at.len(), 1);
}

#[test]
fn each_recipient_has_its_own_fate() {
    let mut bench = Bench::new(Outside::default());
    bench.hold_deliveries = true;
    let id = bench.admit_to("example.com", 4);
    let each = vec![(0, OK), (1, NEVER_EVER), (2, LATER), (3, Outcome::Unknown)];
    bench.complete(Outcomes::Each(each), true);
    let kinds = bench.kinds(id);
    use RecordKind::*;
    assert_eq!(kinds, [Delivery, Bounce, TransientFailure, TransientFailure]);
    let left: Vec<u32> = bench.updates[0].3.iter().collect();
    assert_eq!(left, [2, 3]);
    bench.pass(30 * MINUTE);
    assert_eq!(bench.held[0].3.iter().collect::<Vec<_>>(), [2, 3]);
    bench.complete(Outcomes::Uniform(OK), true);
    assert_eq!(bench.removed, [id]);
}

#[test]
fn recipients_beyond_the_batch_or_given_back_go_in_the_next_transaction_at_once() {
    let path = EgressPath { max_recipients_per_batch: 2, ..EgressPath::default() };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    bench.hold_deliveries = true;
    let id = bench.admit_to("example.com", 5);
    assert_eq!(bench.held[0].3.iter().collect::<Vec<_>>(), [0, 1]);
    bench.complete(Outcomes::Each(vec![(0, OK), (1, Outcome::Returned)]), true);
    assert_eq!(bench.held[0].3.iter().collect::<Vec<_>>(), [1, 2]);
    bench.complete(Outcomes::Uniform(OK), true);
    bench.complete(Outcomes::Uniform(OK), true);
    assert_eq!(bench.removed, [id]);
}

#[test]
fn an_attempt_that_did_not_take_place_is_not_counted() {
    let mut bench = Bench::new(Outside::default());
    bench.hold_deliveries = true;
    bench.admit();
    bench.complete(Outcomes::Uniform(Outcome::Returned), false);
    assert!(bench.updates.is_empty() && bench.notes.is_empty());
    bench.pass(MINUTE);
    assert_eq!(bench.held.len(), 1, "tried again within a minute");
}

/// What was refused and is in the spool all the same may go with the next failed sync.
#[test]
fn a_message_that_is_gone_from_the_spool_is_forgotten() {
    let mut bench = Bench::new(Outside::default());
    bench.hold_deliveries = true;
    let (gone, there) = (bench.admit(), bench.admit());
    bench.complete(Outcomes::Uniform(Outcome::Gone), true);
    assert!(!bench.engine.holds(gone) && bench.engine.holds(there));
    assert!(bench.notes.is_empty() && bench.updates.is_empty() && bench.removed.is_empty());
    bench.complete(Outcomes::Uniform(OK), true);
    assert_eq!(bench.removed, [there]);
}

#[test]
fn what_the_gate_gave_back_is_tried_as_soon_as_it_is_known_to_be_open() {
    for hears_before in [true, false] {
        let mut bench = Bench::new(Outside::default());
        bench.hold_deliveries = true;
        let id = bench.admit();
        let hears = |bench: &mut Bench| bench.input(Input::SpoolHealth { healthy: false });
        if hears_before {
            hears(&mut bench);
        }
        bench.complete(Outcomes::Uniform(Outcome::Paused), true);
        if !hears_before {
            hears(&mut bench);
        }
        bench.pass(MINUTE);
        assert!(bench.held.is_empty() && bench.updates.is_empty());
        bench.input(Input::SpoolHealth { healthy: true });
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.held.len(), 1, "{hears_before}");
        assert_eq!(bench.kinds(id), [RecordKind::Delayed]);
    }
}

#[test]
fn a_connection_that_fails_defers_one_message_and_too_many_defer_all() {
    let path = EgressPath {
        consecutive_connection_failures_before_delay: 2,
        connection_limit: LimitSpec { limit: 1, force_local: false },
        ..EgressPath::default()
    };
    let connect = |_| Some(CloseCause::ConnectFailed);
    let mut bench = Bench::new(Outside { path, connect, ..Outside::default() });
    let ids: Vec<SpoolId> = (0..2).map(|_| bench.admit()).collect();
    assert_eq!(bench.kinds(ids[0]), [RecordKind::TransientFailure]);
    assert_eq!(bench.kinds(ids[1]), [RecordKind::TransientFailure]);
    assert_eq!(bench.updates.len(), 2);
    bench.outside.connect = |_| None;
    bench.pass(30 * MINUTE);
    assert_eq!(bench.removed.len(), 2);
}

#[test]
fn more_failures_in_a_row_than_allowed_delay_the_whole_ready_queue() {
    let path = EgressPath {
        consecutive_connection_failures_before_delay: 1,
        connection_limit: LimitSpec { limit: 1, force_local: false },
        ..EgressPath::default()
    };
    let mut bench = Bench::new(Outside { path, ..Outside::default() });
    bench.hold_deliveries = true;
    (0..5).for_each(|_| _ = bench.admit());
    bench.outside.connect = |_| Some(CloseCause::ConnectFailed);
    bench.complete(Outcomes::Uniform(OK), false);
    let delayed =
        |(.., text): &&(SpoolId, RecordKind, String)| text.starts_with("451 No connection");
    assert_eq!(bench.notes.iter().filter(delayed).count(), 2, "{:?}", bench.notes);
    assert_eq!(bench.updates.len(), 4);
    assert_eq!(bench.engine.next_session, 4, "one session that worked, two that did not");
}

#[test]
fn prohibited_hosts_bounce_and_skipped_ones_defer() {
    let mut bench =
        Bench::new(Outside { connect: |_| Some(CloseCause::Prohibited), ..Outside::default() });
    let id = bench.admit();
    assert_eq!(bench.kinds(id), [RecordKind::Bounce]);
    let mut bench =
        Bench::new(Outside { connect: |_| Some(CloseCause::Skipped), ..Outside::default() });
    let id = bench.admit();
    assert_eq!(bench.kinds(id), [RecordKind::TransientFailure]);
}

#[test]
fn expiry_holds_where_policy_failed_when_it_was_first_asked() {
    let mut bench = Bench::new(Outside { config_fails: true, ..Outside::default() });
    let month = 30 * 24 * 60 * MINUTE;
    let due = Some(bench.now.wall + month);
    let admission = Admission { due, ..bench.admission("example.com", 1) };
    let id = admission.id;
    bench.input(Input::Admit(admission));
    bench.pass(MINUTE);
    let mut stopping = Bench::new(Outside { config_fails: true, ..Outside::default() });
    let due = Some(stopping.now.wall + month);
    stopping.input(Input::Admit(Admission { due, ..stopping.admission("example.com", 1) }));
    stopping.input(Input::Stop);
    stopping.pass(MINUTE);
    assert!(stopping.engine.next_wake().is_none_or(|(at, _)| at > stopping.now.mono));
    bench.outside.config_fails = false;
    bench.pass(QueueConfig::default().max_age);
    assert_eq!(bench.kinds(id), [RecordKind::Expiration]);
}

#[test]
fn a_removal_that_fails_is_tried_again_and_the_message_never_sent_twice() {
    let mut bench = Bench::new(Outside { store_fails: true, ..Outside::default() });
    let id = bench.admit();
    bench.pass(MINUTE);
    assert_eq!(bench.delivered_at.len(), 1);
    bench.outside.store_fails = false;
    bench.pass(MINUTE);
    assert_eq!(bench.removed, [id]);
    assert_eq!(bench.delivered_at.len(), 1);
}

#[test]
fn messages_already_held_are_not_admitted_twice() {
    let mut bench = Bench::new(Outside {
        outcome: Box::new(|_, _| Outcomes::Uniform(LATER)),
        ..Outside::default()
    });
    let id = bench.admit();
    let again = Admission {
        id,
        queue: "example.com".into(),
        recipients: 1,
        remaining: RecipientSet::all(1),
        size: 1,
        attempts: 0,
        due: None,
        expires: None,
        reason: InsertReason::Enumerated,
    };
    bench.input(Input::Admit(again));
    assert_eq!(bench.engine.message_count(), 1);
    assert_eq!(bench.delivered_at.len(), 1);
}

#[test]
#[should_panic = "isn't outstanding"]
fn a_second_completion_is_a_bug() {
    let mut bench = Bench::new(Outside::default());
    bench.hold_deliveries = true;
    bench.admit();
    let op = bench.held[0].0;
    bench.complete(Outcomes::Uniform(OK), true);
    bench.engine.handle(
        bench.now,
        Input::Attempted { op, outcomes: Outcomes::Uniform(OK), reusable: true },
    );
}

#[test]
fn what_a_kept_connection_gets_just_when_it_goes_is_sent_over_another_at_once() {
    let mut bench = Bench::new(Outside::default());
    let first = bench.admit();
    bench.hold_deliveries = true;
    let second = bench.admit();
    bench.hold_deliveries = false;
    let began = bench.now.mono;
    bench.complete(Outcomes::Uniform(Outcome::Returned), false);
    assert_eq!((bench.removed.as_slice(), bench.now.mono), (&[first, second][..], began));
    assert_eq!(bench.delivered_at.len(), 3);
}
