//! Sources that are suspended for their health: what fires it, where their mail goes meanwhile, and how it ends.
use super::*;
use crate::config::{SuspendRule, Trigger};
use SourceFailure::{ProxyUnhealthy, Unplumbed};
use proptest::prelude::*;

const WHILE: Duration = Duration::from_secs(600);

fn rule(trigger: Trigger) -> Option<SuspendRule> {
    Some(SuspendRule { trigger, duration: WHILE })
}

fn of_three(failures: u64) -> Option<SuspendRule> {
    rule(Trigger::Threshold { failures, period: MINUTE })
}

/// Two sources that are suspended at once for either failure.
fn bench(pool: &[(&'static str, u64)], broken: &[(&'static str, SourceFailure)]) -> Bench {
    let source = EgressSource {
        suspend_when_unplumbed: rule(Trigger::Immediate),
        suspend_when_proxy_unhealthy: rule(Trigger::Immediate),
        ..EgressSource::named("x")
    };
    let (pool, broken) = (pool.to_vec(), broken.to_vec());
    Bench::new(Outside { pool, broken, source, ..Outside::default() })
}

fn edges(bench: &Bench) -> Vec<SourceEdge> {
    bench.edges.iter().map(|(.., edge)| *edge).collect()
}

#[test]
fn what_was_in_its_ready_queue_leaves_by_another_source_at_once() {
    let mut bench = bench(&[("good", 1), ("bad", 5)], &[("bad", Unplumbed)]);
    let ids: Vec<SpoolId> = (0..10).map(|_| bench.admit()).collect();
    assert_eq!(bench.removed.len(), ids.len(), "{:?}", bench.notes);
    assert!(
        bench
            .delivered_at
            .iter()
            .all(|(at, by)| { by.starts_with("good->") && *at == bench.now.mono })
    );
    assert_eq!(
        (bench.updates.len(), edges(&bench).len()),
        (0, 1),
        "no attempt is counted: {:?}",
        bench.notes
    );
    let expected = SourceEdge::Suspended { reason: Unplumbed, duration: WHILE };
    assert_eq!(edges(&bench), [expected], "once");
}

#[test]
fn a_source_is_suspended_as_its_own_rules_say() {
    for failure in SourceFailure::ALL {
        // Another class's rule doesn't matter.
        let mut bench = bench(&[("only", 1)], &[("only", failure)]);
        let other = &mut bench.outside.source;
        match failure {
            Unplumbed => other.suspend_when_unplumbed = of_three(3),
            ProxyUnhealthy => other.suspend_when_proxy_unhealthy = of_three(3),
        }
        let ids: Vec<SpoolId> = (0..5).map(|_| bench.admit()).collect();
        let tried = |bench: &Bench| bench.updates.len();
        assert_eq!(tried(&bench), 2, "{failure:?}: the third attempt fires it and isn't counted");
        assert_eq!(edges(&bench), [SourceEdge::Suspended { reason: failure, duration: WHILE }]);
        let explained = bench.engine.explain_message(ids[4]).unwrap();
        let why = explained.why.join("; ");
        assert!(why.contains("each source of its pool is suspended or throttled"), "{why}");
        let named = format!("source only is unhealthy and suspended ({}", failure.name());
        assert!(why.contains(&named), "{why}");
        assert_eq!(explained.earliest, Some(bench.now.wall + WHILE));
    }
}

#[test]
fn without_a_rule_messages_fail_as_they_would_without_health() {
    let mut bench = bench(&[("only", 1)], &[("only", Unplumbed)]);
    bench.outside.source = EgressSource::named("x");
    let id = bench.admit();
    assert_eq!(bench.kinds(id), [RecordKind::TransientFailure]);
    assert_eq!((bench.updates.len(), edges(&bench)), (1, vec![]));
    assert_eq!(bench.engine.sources()[0].classes[0].failures, 1);
}

#[test]
fn a_suspension_ends_by_itself_and_what_waited_goes_at_once() {
    let mut bench = bench(&[("one", 1), ("other", 1)], &[("one", Unplumbed), ("other", Unplumbed)]);
    let first = bench.admit();
    let began = bench.now.mono;
    // The other one is tried, and suspended later.
    assert_eq!(bench.edges.len(), 2);
    bench.outside.broken.clear();
    bench.pass(WHILE - SECOND);
    assert!(bench.delivered_at.is_empty());
    let kinds = bench.kinds(first);
    assert_eq!(kinds, [RecordKind::TransientFailure], "that no source is eligible");
    assert!(bench.updates.is_empty(), "no attempt is counted");
    bench.pass(2 * SECOND);
    assert_eq!(bench.removed, [first]);
    assert_eq!(bench.delivered_at[0].0, began + WHILE, "exactly");
    assert!(matches!(edges(&bench)[2..], [SourceEdge::Cleared { .. }, SourceEdge::Cleared { .. }]));
}

#[test]
fn an_operator_ends_a_suspension() {
    let mut bench = bench(&[("only", 1)], &[("only", ProxyUnhealthy)]);
    let id = bench.admit();
    let listed = bench.engine.sources();
    let suspension = listed[0].suspension.unwrap();
    assert_eq!((suspension.reason, suspension.since), (ProxyUnhealthy, bench.now.wall));
    assert_eq!(suspension.until, bench.now.wall + WHILE);
    let resume = |name: &str| {
        let command = AdminCommand::ResumeSource { name: name.into() };
        Input::Admin { op: OpId(1 << 60), command }
    };
    bench.input(resume("unknown"));
    bench.outside.broken.clear();
    bench.input(resume("only"));
    assert_eq!(bench.removed, [id]);
    bench.input(resume("only"));
    assert_eq!(bench.replies, [AdminReply::UnknownId, AdminReply::Done, AdminReply::UnknownId]);
    assert_eq!(bench.engine.sources()[0].suspension, None);
}

#[test]
fn a_delivery_under_way_ends_well_and_its_session_then_closes() {
    let mut bench = bench(&[("only", 1)], &[]);
    bench.hold_deliveries = true;
    let first = bench.admit();
    bench.outside.broken = vec![("only", Unplumbed)];
    (0..100).for_each(|_| _ = bench.admit());
    assert_eq!(bench.edges.len(), 1, "the second connection failed");
    bench.complete(Outcomes::Uniform(OK), true);
    assert_eq!(bench.removed, [first]);
    assert!(bench.held.is_empty() && bench.engine.message_count() == 100);
    bench.outside.broken.clear();
    bench.pass(WHILE + SECOND);
    while !bench.held.is_empty() {
        bench.complete(Outcomes::Uniform(OK), true);
    }
    assert_eq!(bench.removed.len(), 101);
}

#[test]
fn a_failure_of_a_session_that_is_gone_means_nothing() {
    let mut bench = bench(&[("only", 1)], &[]);
    bench.admit();
    bench.close_idle();
    let session = SessionId(1);
    bench.input(Input::SourceFailed { session, failure: Unplumbed });
    assert!(bench.edges.is_empty());
}

#[test]
fn a_pool_that_gets_another_source_is_heard_of_within_its_ttl() {
    for bumped in [false, true] {
        let mut bench = bench(&[("bad", 1)], &[("bad", Unplumbed)]);
        let first = bench.admit();
        bench.outside.pool = vec![("bad", 1), ("good", 1)];
        if bumped {
            bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::BumpEpoch });
        } else {
            bench.pass(bench.outside.pool_ttl);
        }
        assert_eq!(bench.removed, [first], "bumped: {bumped}");
    }
}

#[test]
fn what_is_explained_is_the_end_of_the_suspension_and_not_the_next_look_at_the_pool() {
    let mut bench = bench(&[("only", 1)], &[("only", Unplumbed)]);
    let id = bench.admit();
    let ends = bench.now.wall + WHILE;
    bench.pass(3 * MINUTE);
    assert_eq!(bench.engine.explain_message(id).unwrap().earliest, Some(ends));
    let asked = bench.asked.iter().filter(|asked| matches!(asked, Question::Pool { .. }));
    assert!((3..=5).contains(&asked.count()), "once a minute");
}

#[test]
fn a_source_that_was_corrected_is_used_as_it_is_now() {
    let corrected: core::net::IpAddr = [192, 0, 2, 9].into();
    for resumed in [false, true] {
        let mut bench = bench(&[("s", 1)], &[("s", Unplumbed)]);
        let id = bench.admit();
        bench.outside.source.source_address = Some(corrected);
        bench.outside.broken.clear();
        // Nothing is waiting that would have the pool asked for meanwhile.
        bench.input(bounce_all());
        assert_eq!(bench.removed, [id]);
        bench.pass(5 * MINUTE);
        if resumed {
            let command = AdminCommand::ResumeSource { name: "s".into() };
            bench.input(Input::Admin { op: OpId(1 << 60), command });
        } else {
            bench.pass(WHILE);
        }
        bench.admit();
        assert_eq!(bench.opened_from.last(), Some(&Some(corrected)), "resumed: {resumed}");
    }
}

/// Once, and not what comes later.
fn bounce_all() -> Input {
    let entry = entry("b", "example.com", Wall(0));
    Input::Admin { op: OpId(1 << 60), command: AdminCommand::Bounce(entry) }
}

#[test]
fn who_waited_for_room_is_told_that_the_source_is_suspended() {
    let mut bench = bench(&[("only", 1)], &[]);
    bench.outside.path.max_ready = 2;
    bench.outside.path.connection_limit = LimitSpec { limit: 1, force_local: false };
    bench.hold_deliveries = true;
    let ids: Vec<SpoolId> = (0..10).map(|_| bench.admit()).collect();
    assert_eq!(bench.engine.scheduled_queues()[0].blocked, Some(Block::ReadyQueuesFull));
    bench.outside.broken = vec![("only", Unplumbed)];
    bench.complete(Outcomes::Uniform(OK), false);
    let queue = &bench.engine.scheduled_queues()[0];
    assert_eq!((queue.blocked.clone(), queue.messages), (Some(Block::NoEligibleSource), 9));
    let explained = bench.engine.explain_message(ids[9]).unwrap();
    assert_eq!(explained.earliest, Some(bench.now.wall + WHILE));
    assert!(bench.notes.iter().any(|(.., text)| text.contains("are eligible for selection")));
}

#[test]
fn what_a_suspension_gives_back_pays_its_queue_s_rate_once() {
    let mut bench = bench(&[("bad", 1), ("good", 1)], &[("bad", Unplumbed)]);
    bench.outside.queue.max_message_rate = rate(4, 24 * 60 * MINUTE);
    bench.outside.queue.max_message_rate.as_mut().unwrap().max_burst = None;
    (0..4).for_each(|_| _ = bench.admit());
    bench.pass(SECOND);
    assert_eq!(bench.removed.len(), 4);
    bench.admit();
    bench.pass(SECOND);
    assert_eq!(bench.removed.len(), 4, "the fifth is one too many");
}

#[test]
fn a_changed_password_moves_nobody_s_turn() {
    let weights = [("a", 1), ("b", 1), ("c", 1)];
    let order = |password: Option<&str>| {
        let mut bench = bench(&weights, &[]);
        (0..4).for_each(|_| _ = bench.admit());
        bench.outside.source.socks5_proxy_password = password.map(crate::config::Secret::new);
        bench.pass(2 * MINUTE);
        // The first has the pool asked for.
        (0..8).for_each(|_| _ = bench.admit());
        bench.delivered_at.into_iter().map(|(_, by)| by).collect::<Vec<String>>()
    };
    assert_eq!(order(None), order(Some("sesame")));
}

#[test]
fn shares_are_exact_from_the_first_message_on() {
    let mut bench = bench(&[("a", 3), ("b", 1)], &[]);
    bench.unanswered =
        |output| matches!(output, Output::Ask { question: Question::EgressPath { .. }, .. });
    (0..400).for_each(|_| _ = bench.admit());
    let asked = core::mem::take(&mut bench.waiting);
    assert_eq!(asked.len(), 2);
    // One path comes long before the other.
    for op in asked {
        assert!(bench.removed.len() <= 3, "nobody takes another's turn");
        let answer = Answer::EgressPath(Box::new(bench.outside.path.clone()));
        bench.input(Input::Answer { op, answer });
    }
    let of =
        |source: &str| bench.delivered_at.iter().filter(|(_, by)| by.starts_with(source)).count();
    assert_eq!((of("a->"), of("b->")), (300, 100));
}

#[test]
fn a_source_whose_path_policy_fails_to_make_holds_nobody_up() {
    let mut bench = bench(&[("a", 1), ("b", 3)], &[]);
    bench.unanswered = |output| match output {
        Output::Ask { question: Question::EgressPath { source, .. }, .. } => **source == *"b",
        _ => false,
    };
    let ids: Vec<SpoolId> = (0..10).map(|_| bench.admit()).collect();
    assert!(bench.removed.len() < 10);
    let op = bench.waiting.remove(0);
    bench.input(Input::Answer { op, answer: Answer::Failed { why: "tests".into() } });
    assert_eq!(bench.removed, ids);
    bench.pass(2 * SECOND);
    let next = bench.admit();
    assert_eq!(bench.waiting.len(), 1, "it is asked again");
    assert_eq!(bench.removed.last(), Some(&next), "which nobody waits for any more");
}

#[test]
fn five_to_two_to_three_is_exact() {
    let mut bench = bench(&[("a", 5), ("b", 2), ("c", 3)], &[]);
    (0..100).for_each(|_| _ = bench.admit());
    let of = |bench: &Bench, source: &str| {
        bench.delivered_at.iter().filter(|(_, by)| by.starts_with(source)).count()
    };
    assert_eq!(["a->", "b->", "c->"].map(|source| of(&bench, source)), [50, 20, 30]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Under any weights and suspensions, what is eligible gets its share of what goes meanwhile, to a message; nothing goes by a source that is
    /// suspended; and nothing is left without a timer: all is delivered in the end.
    #[test]
    fn shares_are_fair_among_those_that_are_well(
        weights in prop::collection::vec(1..20u64, 1..6),
        ill in prop::collection::vec((0..6usize, 1..40u64), 0..8),
        messages in 1..120usize,
    ) {
        const NAMES: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];
        let pool: Vec<(&str, u64)> = NAMES.into_iter().zip(weights.iter().copied()).collect();
        let mut bench = bench(&pool, &[]);
        let mut sent = 0;
        for (which, pause) in ill {
            let name = NAMES[which % pool.len()];
            bench.outside.broken = vec![(name, Unplumbed)];
            for _ in 0..messages / 4 {
                bench.admit();
                sent += 1;
            }
            bench.outside.broken.clear();
            bench.pass(Duration::from_secs(pause * 30));
            let suspended: Vec<String> = bench.engine.sources().into_iter()
                .filter(|source| source.suspension.is_some()).map(|source| source.name).collect();
            let before = bench.delivered_at.len();
            let total: u64 = pool.iter().filter(|(name, _)| !suspended.contains(&(*name).into())).map(|(_, weight)| weight).sum();
            // As many as bring the round to its beginning, whatever was carried over before.
            let rounds = 3;
            for _ in 0..rounds * total {
                bench.admit();
                sent += 1;
            }
            let now = &bench.delivered_at[before..];
            for (name, weight) in &pool {
                let count = now.iter().filter(|(_, by)| by.starts_with(&format!("{name}->"))).count() as u64;
                if suspended.contains(&(*name).into()) {
                    prop_assert_eq!(count, 0, "{} is suspended", name);
                } else {
                    prop_assert!(count.abs_diff(rounds * weight) <= 1 + total / weight.max(&1), "{} had {} of {}", name, count, rounds * weight);
                }
            }
        }
        bench.pass(2 * WHILE);
        prop_assert_eq!(bench.removed.len() as u64, sent as u64);
    }
}
