//! Where messages go: pools, sources, DNS, and what policy says when it is asked.
use super::*;

#[test]
fn weighted_sources_get_their_shares_and_weight_zero_none() {
    let pool = vec![("heavy", 3), ("light", 1), ("off", 0)];
    let mut bench = Bench::new(Outside { pool, ..Outside::default() });
    (0..400).for_each(|_| _ = bench.admit());
    let of = |source: &str| {
        bench.delivered_at.iter().filter(|(_, name)| name.starts_with(source)).count()
    };
    assert_eq!((of("heavy->"), of("light->"), of("off->")), (300, 100, 0));
}

#[test]
fn a_pool_without_sources_defers() {
    let mut bench = Bench::new(Outside { pool: vec![("off", 0)], ..Outside::default() });
    let id = bench.admit();
    assert_eq!(bench.kinds(id), [RecordKind::TransientFailure]);
    assert!(bench.notes[0].2.contains("no sources available for example.com pool=`unspecified`"));
    bench.outside.pool = vec![("on", 1)];
    bench.pass(3 * MINUTE);
    assert_eq!(bench.removed, [id]);
}

#[test]
fn null_mx_bounces_and_missing_hosts_defer() {
    let mut bench =
        Bench::new(Outside { resolution: |_| Resolution::NullMx, ..Outside::default() });
    let id = bench.admit();
    assert_eq!(
        bench.notes,
        [(id, RecordKind::Bounce, "556 Recipient address has a null MX".into())]
    );
    let mut bench =
        Bench::new(Outside { resolution: |_| Resolution::NoHosts, ..Outside::default() });
    let id = bench.admit();
    assert_eq!(bench.kinds(id), [RecordKind::TransientFailure]);
    assert_eq!(bench.updates.len(), 1);
}

#[test]
fn what_the_dns_said_long_ago_fails_nobodys_mail() {
    let mut bench =
        Bench::new(Outside { resolution: |_| Resolution::NoHosts, ..Outside::default() });
    let early = bench.admit();
    assert_eq!(bench.kinds(early), [RecordKind::TransientFailure]);
    bench.pass(2 * MINUTE);
    bench.outside.resolution = Outside::default().resolution;
    let late = bench.admit();
    assert_eq!(bench.kinds(late), [RecordKind::Delivery]);
}

#[test]
fn mx_list_and_literals_ask_no_dns() {
    let entry = MxListEntry { name: "[127.0.0.1]".into(), address: None, port: Some(2525) };
    let protocol = DeliveryProtocol::Smtp { mx_list: vec![entry] };
    let queue = QueueConfig { protocol, ..QueueConfig::default() };
    let resolution: fn(&str) -> Resolution = |_| panic!("the DNS was asked");
    let mut bench = Bench::new(Outside { queue, resolution, ..Outside::default() });
    bench.admit();
    assert_eq!(bench.delivered_at[0].1, "unspecified->mx_list:[127.0.0.1]:2525@smtp_client");
    let mut bench = Bench::new(Outside { resolution, ..Outside::default() });
    bench.admit_to("[192.0.2.1]", 1);
    assert_eq!(bench.removed.len(), 1);
}

#[test]
fn policy_that_fails_is_asked_again_and_its_error_shown() {
    let mut bench = Bench::new(Outside { config_fails: true, ..Outside::default() });
    let id = bench.admit();
    let explained = bench.engine.explain_message(id).unwrap();
    assert!(explained.why[1].contains("policy is broken"), "{explained:?}");
    assert_eq!(explained.earliest, Some(bench.now.wall + SECOND));
    bench.pass(10 * SECOND);
    bench.outside.config_fails = false;
    bench.pass(MINUTE);
    assert_eq!(bench.removed, [id]);
}

#[test]
fn throttle_insert_ready_queue_may_put_a_message_off() {
    let config = EngineConfig { asks_throttle_insert: true, ..EngineConfig::default() };
    let mut bench = Bench::asking(Outside::default(), config);
    bench.outside.until = Some(bench.now.wall + 30 * SECOND);
    let id = bench.admit();
    assert!(bench.delivered_at.is_empty());
    bench.pass(31 * SECOND);
    assert_eq!(bench.removed, [id]);
}

#[test]
fn throttle_insert_is_asked_about_few_at_a_time_and_the_queues_rate_still_holds() {
    let config = EngineConfig { asks_throttle_insert: true, ..EngineConfig::default() };
    let queue = QueueConfig { max_message_rate: rate(1, SECOND), ..QueueConfig::default() };
    let mut bench = Bench::asking(Outside { queue, ..Outside::default() }, config);
    let start = bench.now.mono;
    (0..5).for_each(|_| _ = bench.admit());
    bench.pass(MINUTE);
    let seconds: Vec<Duration> = bench.delivered_at.iter().map(|(at, _)| at.since(start)).collect();
    assert_eq!(seconds, (0..5).map(|n| n * SECOND).collect::<Vec<_>>());
}

#[test]
fn a_queue_that_turns_to_an_mx_list_leaves_its_old_site_alone() {
    let mut bench = Bench::new(Outside::default());
    bench.admit();
    let entry = MxListEntry { name: "relay.example".into(), address: None, port: None };
    let protocol = DeliveryProtocol::Smtp { mx_list: vec![entry] };
    bench.outside.queue = QueueConfig { protocol, ..QueueConfig::default() };
    bench.pass(2 * MINUTE);
    bench.admit();
    bench.pass(SECOND);
    bench.admit();
    let names: Vec<&str> = bench.delivered_at.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names.first(), Some(&"unspecified->mx.example.com@smtp_client"));
    assert_eq!(names.last(), Some(&"unspecified->mx_list:relay.example@smtp_client"));
    for ready in bench.engine.ready.iter().map(|(_, ready)| ready) {
        let listed =
            matches!(&*ready.protocol, DeliveryProtocol::Smtp { mx_list } if !mx_list.is_empty());
        assert_eq!(listed, ready.site.starts_with("mx_list:"), "{}", ready.name);
    }
}

#[test]
fn requeue_message_may_move_reject_or_time_a_message() {
    let config = EngineConfig { asks_requeue: true, ..EngineConfig::default() };
    let asked = |requeue| {
        let outcome = Box::new(|ready: &str, _: &RecipientSet| {
            Outcomes::Uniform(if ready.contains("spare") { OK } else { LATER })
        });
        let mut bench =
            Bench::asking(Outside { outcome, requeue, ..Outside::default() }, config.clone());
        let id = bench.admit();
        (bench, id)
    };
    let (bench, id) = asked(RequeueAnswer::Move { queue: "spare.example".into() });
    assert_eq!(bench.removed, [id]);
    let (bench, id) = asked(RequeueAnswer::Reject(ReplyCode { code: 550, enhanced: None }));
    assert_eq!(bench.kinds(id), [RecordKind::TransientFailure, RecordKind::Bounce]);
    let (mut bench, _) = asked(RequeueAnswer::Keep);
    bench.pass(25 * MINUTE);
    assert_eq!(bench.delivered_at.len(), 2);
}

#[test]
fn the_dns_may_answer_about_a_queue_that_is_gone() {
    let mut bench = Bench::new(Outside::default());
    bench.outside.queue.refresh_interval = SECOND;
    bench.outside.queue.reap_interval = SECOND;
    bench.unanswered = |output| matches!(output, Output::Resolve { .. });
    let first = bench.admit();
    let entry = MxListEntry { name: "mx.other.example".into(), address: None, port: None };
    bench.outside.queue.protocol = DeliveryProtocol::Smtp { mx_list: vec![entry] };
    bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::BumpEpoch });
    bench.pass(MINUTE);
    assert_eq!(bench.removed, [first]);
    assert!(bench.engine.scheduled_queues().is_empty());
    let op = bench.waiting[0];
    bench.input(Input::Resolved { op, resolution: Resolution::NoHosts });
}

#[test]
fn idle_queues_are_reaped() {
    let mut bench = Bench::new(Outside::default());
    bench.admit();
    bench.pass(30 * MINUTE);
    assert!(bench.engine.scheduled_queues().is_empty());
    assert!(bench.engine.ready_queues().is_empty());
    assert_eq!(bench.engine.next_wake(), None);
}

/// Admits a message every second and says how often something was asked.
fn asked_in(bench: &mut Bench, seconds: u64, what: fn(&Question) -> bool) -> usize {
    for _ in 0..seconds {
        bench.admit();
        bench.pass(SECOND);
    }
    bench.asked.iter().filter(|question| what(question)).count()
}

#[test]
fn policy_is_asked_again_after_each_refresh_interval() {
    for (seconds, expected) in [(60, 1), (10, 6)] {
        let refresh_interval = seconds * SECOND;
        let queue = QueueConfig { refresh_interval, ..QueueConfig::default() };
        let mut bench = Bench::new(Outside { queue, ..Outside::default() });
        let about_queues = |question: &Question| matches!(question, Question::QueueConfig { .. });
        assert_eq!(asked_in(&mut bench, 55, about_queues), expected);

        let path = EgressPath { refresh_interval, ..EgressPath::default() };
        let mut bench = Bench::new(Outside { path, ..Outside::default() });
        let about_paths = |question: &Question| matches!(question, Question::EgressPath { .. });
        assert_eq!(asked_in(&mut bench, 55, about_paths), expected);
    }
}

#[test]
fn a_pool_is_as_fresh_as_the_shortest_ttl_of_it_and_its_sources() {
    for (pool_ttl, source_ttl, expected) in
        [(MINUTE, MINUTE, 1), (10 * SECOND, MINUTE, 6), (MINUTE, 20 * SECOND, 3)]
    {
        let mut bench = Bench::new(Outside { pool_ttl, source_ttl, ..Outside::default() });
        let about_pools = |question: &Question| matches!(question, Question::Pool { .. });
        assert_eq!(asked_in(&mut bench, 55, about_pools), expected);
    }
}

#[test]
fn a_queue_leaves_through_the_pool_it_names_which_bears_the_name_it_gives_itself() {
    let queue = QueueConfig { egress_pool: Some("asked".into()), ..QueueConfig::default() };
    let mut bench = Bench::new(Outside { queue, pool_name: Some("given"), ..Outside::default() });
    bench.admit();
    assert!(bench.asked.contains(&Question::Pool { name: "asked".into() }), "{:?}", bench.asked);
    assert_eq!(&*bench.engine.ready_queues()[0].pool, "given");
}

#[test]
fn an_empty_queue_is_reaped_after_its_own_interval() {
    let queue = QueueConfig { reap_interval: 30 * SECOND, ..QueueConfig::default() };
    let mut bench = Bench::new(Outside { queue, ..Outside::default() });
    bench.admit();
    bench.pass(29 * SECOND);
    assert_eq!(bench.engine.scheduled_queues().len(), 1);
    bench.pass(2 * SECOND);
    assert!(bench.engine.scheduled_queues().is_empty());
}
