//! Anything in any order, from a seed; and what a snapshot keeps.
use super::*;
use proptest::prelude::*;

#[test]
fn a_snapshot_goes_on_like_the_original() {
    let mut bench = Bench::new(Outside {
        outcome: Box::new(|_, _| Outcomes::Uniform(LATER)),
        ..Outside::default()
    });
    (0..5).for_each(|n| _ = bench.admit_to(&format!("{n}.example"), 1));
    let bytes = postcard::to_allocvec(&bench.engine).unwrap();
    let mut copy: Engine = postcard::from_bytes(&bytes).unwrap();
    let at = bench.engine.next_wake().unwrap().0;
    let now = Now { mono: at, wall: bench.now.wall };
    bench.engine.handle(now, Input::Tick);
    copy.handle(now, Input::Tick);
    loop {
        let (ours, theirs) = (bench.engine.poll(), copy.poll());
        assert_eq!(ours, theirs);
        if ours.is_none() {
            break;
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Admit {
        queue: u8,
        recipients: u32,
    },
    Pass(u64),
    Refuse(bool),
    Connect(bool),
    Dns(bool),
    Policy(bool),
    Spool(bool),
    Suspend,
    SuspendReady,
    CloseIdle,
    /// From here on deliveries hang, or end at once.
    Wedge(bool),
    Stuck(usize),
    Batches {
        size: u64,
        min: u64,
        latency: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..4, 1u32..5).prop_map(|(queue, recipients)| Step::Admit { queue, recipients }),
        3 => (1u64..4000).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Refuse),
        1 => any::<bool>().prop_map(Step::Connect),
        1 => any::<bool>().prop_map(Step::Dns),
        1 => any::<bool>().prop_map(Step::Policy),
        1 => any::<bool>().prop_map(Step::Spool),
        1 => Just(Step::Suspend),
        1 => Just(Step::SuspendReady),
        1 => Just(Step::CloseIdle),
        1 => any::<bool>().prop_map(Step::Wedge),
        2 => (0usize..8).prop_map(Step::Stuck),
        1 => (1u64..6, 1u64..6, 0u64..400).prop_map(|(size, min, latency)| {
            Step::Batches { size, min: min.min(size), latency }
        }),
    ]
}

fn take(bench: &mut Bench, step: Step) {
    match step {
        Step::Admit { queue, recipients } => {
            _ = bench.admit_to(&format!("{queue}.example"), recipients)
        }
        Step::Pass(seconds) => bench.pass(Duration::from_secs(seconds)),
        Step::Refuse(on) => {
            let mut turn = 0;
            bench.outside.outcome = Box::new(move |_, set| {
                turn += 1;
                let each = set.iter().map(|i| match (on, (turn + i) % 5) {
                    (true, 0) => (i, LATER),
                    (true, 1) => (i, Outcome::Unknown),
                    (true, 2) if turn % 2 == 0 => (i, Outcome::Paused),
                    (true, 2) => (i, Outcome::Returned),
                    (true, 3) => (i, NEVER_EVER),
                    _ => (i, OK),
                });
                Outcomes::Each(each.collect())
            });
        }
        Step::Connect(works) => {
            bench.outside.connect = if works {
                |_| None
            } else {
                |n| (n % 3 != 0).then_some(CloseCause::ConnectFailed)
            };
        }
        Step::Dns(works) => {
            bench.outside.resolution = if works {
                Outside::default().resolution
            } else {
                |_| Resolution::Failed { why: "x".into() }
            };
        }
        Step::Policy(works) => bench.outside.config_fails = !works,
        Step::Spool(works) => bench.input(Input::SpoolHealth { healthy: works }),
        Step::Suspend => {
            let entry = entry("s", "1.example", bench.now.wall + 20 * MINUTE);
            bench.input(Input::Admin { op: OpId(1 << 60), command: AdminCommand::Suspend(entry) });
        }
        Step::SuspendReady => {
            let suspension = ReadySuspension {
                id: "r".into(),
                name: "a->mx.2.example@smtp_client".into(),
                reason: "tests".into(),
                expires: bench.now.wall + 20 * MINUTE,
            };
            bench.input(Input::Admin {
                op: OpId(1 << 60),
                command: AdminCommand::SuspendReady(suspension),
            });
        }
        Step::CloseIdle => bench.close_idle(),
        Step::Wedge(on) => bench.hold_deliveries = on,
        Step::Stuck(nth) => {
            let session = bench.open.keys().nth(nth).copied();
            bench.body_began = nth % 2 == 0;
            session.into_iter().for_each(|session| stuck(bench, session));
        }
        Step::Batches { size, min, latency } => {
            bench.outside.queue.protocol = batches::sender(size, min, latency);
        }
    }
}

fn stuck(bench: &mut Bench, session: SessionId) {
    bench.input(Input::SessionStuck { session, text: "tests".into() });
}

fn swarm(steps: &[Step]) -> Bench {
    let path = EgressPath {
        connection_limit: LimitSpec { limit: 3, force_local: false },
        additional_connection_limits: [("all".into(), LimitSpec { limit: 5, force_local: false })]
            .into(),
        max_message_rate: rate(10, MINUTE),
        max_connection_rate: rate(20, MINUTE),
        source_selection_rate: rate(30, MINUTE),
        max_ready: 4,
        max_recipients_per_batch: 3,
        ..EgressPath::default()
    };
    let queue = QueueConfig {
        max_message_rate: rate(40, MINUTE),
        max_retry_interval: Some(60 * MINUTE),
        ..QueueConfig::default()
    };
    let pool = vec![("a", 2), ("b", 1)];
    let mut bench = Bench::new(Outside { path, queue, pool, ..Outside::default() });
    steps.iter().cloned().for_each(|step| take(&mut bench, step));
    bench
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever happened: once everything works again, each message settles, exactly once, and nothing is left over.
    #[test]
    fn everything_settles_after_healing(steps in proptest::collection::vec(step(), 1..60)) {
        let mut bench = swarm(&steps);
        bench.outside = Outside { path: bench.outside.path.clone(), queue: bench.outside.queue.clone(), pool: bench.outside.pool.clone(), ..Outside::default() };
        bench.input(Input::SpoolHealth { healthy: true });
        bench.hold_deliveries = false;
        while let Some(session) = bench.busy.first().copied() {
            stuck(&mut bench, session);
        }
        bench.pass(Duration::from_secs(3 * 3600));
        prop_assert_eq!(bench.engine.message_count(), 0, "{:?}", bench.engine.scheduled_queues());
        let mut once = bench.removed.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), bench.removed.len());
        prop_assert!(bench.most_open.values().all(|most| *most <= 3));
        prop_assert!(bench.engine.pending.is_empty());
        let held: u64 = bench.engine.leases.values().map(|lease| lease.held).sum();
        prop_assert_eq!(held, bench.open.len() as u64 * 3);
    }

    #[test]
    fn the_same_inputs_give_the_same_outputs(steps in proptest::collection::vec(step(), 1..40)) {
        prop_assert_eq!(swarm(&steps).hash, swarm(&steps).hash);
    }
}
