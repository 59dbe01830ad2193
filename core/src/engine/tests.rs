//! The engine against a scripted outside: every question answered, every operation completed, as each test says.
use super::*;
use crate::config::queue::{DeliveryProtocol, MxListEntry};
use crate::config::{
    EgressPath, EgressPool, EgressSource, LimitSpec, PoolEntry, QueueConfig, ThrottleSpec,
};
use crate::id::SpoolIdGenerator;
use crate::log::RecordKind;
use crate::recipients::RecipientSet;
use crate::smtp::reply::ReplyCode;
use crate::time::Wall;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const OK: Outcome = Outcome::Delivered(ReplyCode { code: 250, enhanced: None });
const LATER: Outcome = Outcome::Deferred(ReplyCode { code: 451, enhanced: None });
const NEVER_EVER: Outcome = Outcome::Refused(ReplyCode { code: 550, enhanced: None });

/// What a peer makes of the recipients it is given, by ready queue.
type Peer = Box<dyn FnMut(&str, &RecipientSet) -> Outcomes>;

/// What the outside does. Defaults: everything works.
struct Outside {
    queue: QueueConfig,
    path: EgressPath,
    /// Sources with their weights.
    pool: Vec<(&'static str, u64)>,
    /// What the pool says its name is, if not what it was asked for as.
    pool_name: Option<&'static str>,
    pool_ttl: Duration,
    source_ttl: Duration,
    config_fails: bool,
    resolution: fn(&str) -> Resolution,
    connect: fn(u64) -> Option<CloseCause>,
    outcome: Peer,
    store_fails: bool,
    until: Option<Wall>,
    requeue: RequeueAnswer,
}

impl Default for Outside {
    fn default() -> Outside {
        Outside {
            queue: QueueConfig::default(),
            path: EgressPath::default(),
            pool: vec![("unspecified", 1)],
            pool_name: None,
            pool_ttl: MINUTE,
            source_ttl: MINUTE,
            config_fails: false,
            resolution: |domain| {
                let records = vec![(10, format!("mx.{domain}").into())];
                let ttl = Duration::from_secs(300);
                crate::mx::resolution(
                    domain,
                    Ok(crate::port::MxAnswer { records, ttl, secure: false }),
                )
            },
            connect: |_| None,
            outcome: Box::new(|_, _| Outcomes::Uniform(OK)),
            store_fails: false,
            until: None,
            requeue: RequeueAnswer::Keep,
        }
    }
}

struct Bench {
    engine: Engine,
    now: Now,
    outside: Outside,
    ids: SpoolIdGenerator,
    /// Held back by a test that wants to complete them itself.
    hold_deliveries: bool,
    held: Vec<(OpId, SessionId, SpoolId, RecipientSet)>,
    /// Questions that nobody answers until the test does.
    unanswered: fn(&Output) -> bool,
    waiting: Vec<OpId>,
    busy: std::collections::BTreeSet<SessionId>,
    open: std::collections::BTreeMap<SessionId, String>,
    most_open: std::collections::BTreeMap<String, usize>,
    asked: Vec<Question>,
    delivered_at: Vec<(Mono, String)>,
    notes: Vec<(SpoolId, RecordKind, String)>,
    removed: Vec<SpoolId>,
    updates: Vec<(SpoolId, u16, Wall, RecipientSet)>,
    replies: Vec<AdminReply>,
    stopped: bool,
    hash: u64,
}

impl Bench {
    fn new(outside: Outside) -> Bench {
        Bench::asking(outside, EngineConfig::default())
    }

    fn asking(outside: Outside, config: EngineConfig) -> Bench {
        Bench {
            engine: Engine::new(config, 7),
            now: Now { mono: Mono(1_000_000_000), wall: Wall(1_795_000_000_000_000_000) },
            outside,
            ids: SpoolIdGenerator::new(3),
            hold_deliveries: false,
            held: vec![],
            unanswered: |_| false,
            waiting: vec![],
            busy: Default::default(),
            open: Default::default(),
            most_open: Default::default(),
            asked: vec![],
            delivered_at: vec![],
            notes: vec![],
            removed: vec![],
            updates: vec![],
            replies: vec![],
            stopped: false,
            hash: 0,
        }
    }

    fn input(&mut self, input: Input) {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.engine.handle(self.now, input);
            while let Some(output) = self.engine.poll() {
                let text = format!("{output:?}");
                self.hash = text.bytes().fold(self.hash, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                });
                self.perform(output, &mut inputs);
            }
        }
    }

    fn perform(&mut self, output: Output, inputs: &mut std::collections::VecDeque<Input>) {
        match output {
            Output::Ask { op, .. } | Output::Resolve { op, .. } if (self.unanswered)(&output) => {
                self.waiting.push(op);
            }
            Output::Ask { op, question, .. } => {
                self.asked.push(question.clone());
                let answer = self.answer(question);
                inputs.push_back(Input::Answer { op, answer });
            }
            Output::Resolve { op, domain, .. } => {
                let resolution = (self.outside.resolution)(&domain);
                inputs.push_back(Input::Resolved { op, resolution });
            }
            Output::Open { session, target } => {
                self.open.insert(session, target.ready_queue.to_string());
                let open = self.open.values().filter(|name| **name == *target.ready_queue).count();
                let most = self.most_open.entry(target.ready_queue.to_string()).or_default();
                *most = open.max(*most);
                match (self.outside.connect)(session.0) {
                    None => inputs.push_back(Input::SessionReady { session }),
                    Some(cause) => {
                        self.open.remove(&session);
                        inputs.push_back(Input::SessionClosed { session, cause });
                    }
                }
            }
            Output::Deliver { op, session, message, recipients, .. } => {
                assert!(self.busy.insert(session), "one delivery at a time");
                self.delivered_at.push((self.now.mono, self.open[&session].clone()));
                if self.hold_deliveries {
                    self.held.push((op, session, message, recipients));
                    return;
                }
                self.busy.remove(&session);
                let outcomes = (self.outside.outcome)(&self.open[&session], &recipients);
                inputs.push_back(Input::Attempted { op, outcomes, reusable: true });
                inputs.push_back(Input::SessionReady { session });
            }
            Output::Close { session } | Output::Abort { session, .. } => {
                if !self.busy.contains(&session) && self.open.remove(&session).is_some() {
                    inputs.push_back(Input::SessionClosed { session, cause: CloseCause::Done });
                }
            }
            Output::Conclude { op, conclusion } => {
                self.conclude(&conclusion);
                let stored = !self.outside.store_fails;
                inputs.push_back(Input::Concluded { op, stored });
            }
            Output::AdminDone { reply, .. } => self.replies.push(reply),
            Output::Stopped => self.stopped = true,
        }
    }

    fn conclude(&mut self, conclusion: &Conclusion) {
        for note in &conclusion.notes {
            let text = match &note.reason {
                Reason::Generated { code, text, .. } => format!("{} {text}", code.code),
                other => format!("{other:?}"),
            };
            self.notes.push((conclusion.message, note.kind, text));
        }
        match &conclusion.then {
            Then::Remove if !self.outside.store_fails => self.removed.push(conclusion.message),
            Then::Update { attempts, due, remaining } => {
                self.updates.push((conclusion.message, *attempts, *due, remaining.clone()));
            }
            _ => {}
        }
    }

    fn answer(&self, question: Question) -> Answer {
        if self.outside.config_fails {
            return Answer::Failed { why: "policy is broken".into() };
        }
        match question {
            Question::QueueConfig { .. } => {
                Answer::QueueConfig(Box::new(self.outside.queue.clone()))
            }
            Question::Pool { name } => {
                let entry = |(name, weight): &(&str, u64)| PoolEntry {
                    name: (*name).into(),
                    weight: *weight,
                };
                let pool = EgressPool {
                    name: self.outside.pool_name.unwrap_or(&name).into(),
                    entries: self.outside.pool.iter().map(entry).collect(),
                    ttl: self.outside.pool_ttl,
                };
                let ttl = self.outside.source_ttl;
                let source = |(name, _): &(&str, u64)| {
                    Arc::new(EgressSource { ttl, ..EgressSource::named(name) })
                };
                let sources = self.outside.pool.iter().map(source).collect();
                Answer::Pool(Box::new(ResolvedPool { pool, sources }))
            }
            Question::EgressPath { .. } => Answer::EgressPath(Box::new(self.outside.path.clone())),
            Question::ThrottleInsert { .. } => Answer::ThrottleInsert { until: self.outside.until },
            Question::Requeue { .. } => Answer::Requeue(self.outside.requeue.clone()),
        }
    }

    fn admission(&self, queue: &str, recipients: u32) -> Admission {
        Admission {
            id: self.ids.next(self.now.wall),
            queue: queue.into(),
            recipients,
            remaining: RecipientSet::all(recipients),
            size: 1000,
            attempts: 0,
            due: None,
            expires: None,
            reason: InsertReason::Received,
        }
    }

    fn admit_to(&mut self, queue: &str, recipients: u32) -> SpoolId {
        let admission = self.admission(queue, recipients);
        let id = admission.id;
        self.input(Input::Admit(admission));
        id
    }

    fn admit(&mut self) -> SpoolId {
        self.admit_to("example.com", 1)
    }

    /// Lets time pass, waking the engine exactly when it asked for it. Idle sessions end every five seconds.
    fn pass(&mut self, duration: Duration) {
        let end = self.now.mono + duration;
        while self.now.mono < end {
            self.wake_until(end.min(self.now.mono + 5 * SECOND));
            self.close_idle();
        }
    }

    fn wake_until(&mut self, end: Mono) {
        while let Some((at, _)) = self.engine.next_wake() {
            if at > end {
                break;
            }
            self.advance_to(at.max(self.now.mono));
            self.input(Input::Tick);
        }
        self.advance_to(end);
    }

    fn close_idle(&mut self) {
        let sessions: Vec<SessionId> = self.open.keys().copied().collect();
        for session in sessions {
            if !self.busy.contains(&session) && self.open.remove(&session).is_some() {
                self.input(Input::SessionClosed { session, cause: CloseCause::Done });
            }
        }
    }

    fn advance_to(&mut self, at: Mono) {
        self.now.wall = self.now.wall + at.since(self.now.mono);
        self.now.mono = at;
    }

    fn complete(&mut self, outcomes: Outcomes, reusable: bool) -> SessionId {
        let (op, session, ..) = self.held.remove(0);
        self.busy.remove(&session);
        self.input(Input::Attempted { op, outcomes, reusable });
        if reusable {
            self.input(Input::SessionReady { session });
        } else {
            self.open.remove(&session);
            self.input(Input::SessionClosed { session, cause: CloseCause::Done });
        }
        session
    }

    fn kinds(&self, id: SpoolId) -> Vec<RecordKind> {
        self.notes.iter().filter(|(of, ..)| *of == id).map(|(_, kind, _)| *kind).collect()
    }
}

fn rate(limit: u64, period: Duration) -> Option<ThrottleSpec> {
    Some(ThrottleSpec { limit, period, max_burst: Some(1), local: false })
}

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

fn entry(id: &str, domain: &str, expires: Wall) -> AdminEntry {
    let selector = QueueSelector { domain: Some(domain.into()), ..QueueSelector::default() };
    AdminEntry { id: id.into(), selector, reason: "tests".into(), expires, suppress_logging: false }
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
    Admit { queue: u8, recipients: u32 },
    Pass(u64),
    Refuse(bool),
    Connect(bool),
    Dns(bool),
    Policy(bool),
    Spool(bool),
    Suspend,
    SuspendReady,
    CloseIdle,
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
    }
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
