//! The engine against a scripted outside: every question answered, every operation completed, as each test says. Here is the
//! outside; the tests stand in the files of this folder.
mod abort;
mod batches;
mod explain;
mod life;
mod limits;
mod operators;
mod routes;
mod suspension;
mod swarm;

use super::*;
use crate::config::queue::{CustomLua, DeliveryProtocol, MxListEntry};
use crate::config::{
    EgressPath, EgressPool, EgressSource, LimitSpec, PoolEntry, QueueConfig, ThrottleSpec,
};
use crate::id::SpoolIdGenerator;
use crate::log::RecordKind;
use crate::recipients::RecipientSet;
use crate::smtp::reply::ReplyCode;
use crate::source_health::{SourceEdge, SourceFailure};
use crate::time::Wall;

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
    /// What the sources of the pool are, but for their names.
    source: EgressSource,
    /// Sources by which nothing can be reached.
    broken: Vec<(&'static str, SourceFailure)>,
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
            source: EgressSource::named("x"),
            broken: vec![],
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
    /// Of what is held when its session is aborted.
    body_began: bool,
    /// Nothing comes of a connection, not even a failure.
    silent_connections: bool,
    ignores_aborts: bool,
    held_batches: Vec<(OpId, SessionId)>,
    /// When each batch left, and what was in it.
    batches: Vec<(Mono, Vec<SpoolId>)>,
    /// Questions that nobody answers until the test does.
    unanswered: fn(&Output) -> bool,
    holds_conclusions: bool,
    waiting: Vec<OpId>,
    busy: std::collections::BTreeSet<SessionId>,
    open: std::collections::BTreeMap<SessionId, String>,
    opened_from: Vec<Option<core::net::IpAddr>>,
    most_open: std::collections::BTreeMap<String, usize>,
    asked: Vec<Question>,
    delivered_at: Vec<(Mono, String)>,
    notes: Vec<(SpoolId, RecordKind, String)>,
    removed: Vec<SpoolId>,
    updates: Vec<(SpoolId, u16, Wall, RecipientSet)>,
    replies: Vec<AdminReply>,
    stopped: bool,
    ended: std::collections::BTreeSet<SessionId>,
    edges: Vec<(Mono, String, SourceEdge)>,
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
            body_began: false,
            silent_connections: false,
            ignores_aborts: false,
            held_batches: vec![],
            batches: vec![],
            unanswered: |_| false,
            holds_conclusions: false,
            waiting: vec![],
            busy: Default::default(),
            open: Default::default(),
            opened_from: vec![],
            most_open: Default::default(),
            asked: vec![],
            delivered_at: vec![],
            notes: vec![],
            removed: vec![],
            updates: vec![],
            replies: vec![],
            stopped: false,
            ended: Default::default(),
            edges: vec![],
            hash: 0,
        }
    }

    fn input(&mut self, input: Input) {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            if let Input::SessionClosed { session, .. } = input {
                // As a fenced session's last words.
                if !self.ended.insert(session) {
                    continue;
                }
                self.open.remove(&session);
            }
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
                self.opened_from.push(target.source.source_address);
                let open = self.open.values().filter(|name| **name == *target.ready_queue).count();
                let most = self.most_open.entry(target.ready_queue.to_string()).or_default();
                *most = open.max(*most);
                let is_of = |(name, _): &&(&str, _)| *name == &*target.source.name;
                if let Some((_, failure)) = self.outside.broken.iter().find(is_of) {
                    inputs.push_back(Input::SourceFailed { session, failure: *failure });
                    let cause = CloseCause::ConnectFailed;
                    inputs.push_back(Input::SessionClosed { session, cause });
                    return;
                }
                if self.silent_connections {
                    return;
                }
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
            Output::Abort { .. } if self.ignores_aborts => {}
            Output::Abort { session, .. } if self.busy.remove(&session) => {
                let single = self.held.iter().position(|(_, of, ..)| *of == session);
                let op = match single {
                    Some(index) => self.held.remove(index).0,
                    None => {
                        let batch = self.held_batches.iter().position(|(_, of)| *of == session);
                        self.held_batches.remove(batch.expect("what is busy is held")).0
                    }
                };
                self.open.remove(&session);
                let outcomes = Outcomes::Uniform(Outcome::Aborted { began: self.body_began });
                inputs.push_back(Input::Attempted { op, outcomes, reusable: false });
                inputs.push_back(Input::SessionClosed { session, cause: CloseCause::Aborted });
            }
            Output::DeliverBatch { op, session, messages, .. } => {
                assert!(self.busy.insert(session), "one delivery at a time");
                let ids = messages.iter().map(|(id, _)| *id).collect();
                self.batches.push((self.now.mono, ids));
                if self.hold_deliveries {
                    self.held_batches.push((op, session));
                    return;
                }
                self.busy.remove(&session);
                let outcome = &mut self.outside.outcome;
                let of = |(_, set): &(SpoolId, RecipientSet)| outcome(&self.open[&session], set);
                let outcomes = messages.iter().map(of).collect();
                inputs.push_back(Input::BatchAttempted { op, outcomes, reusable: true });
                inputs.push_back(Input::SessionReady { session });
            }
            Output::Close { session } | Output::Abort { session, .. } => {
                if !self.busy.contains(&session) && self.open.remove(&session).is_some() {
                    inputs.push_back(Input::SessionClosed { session, cause: CloseCause::Done });
                }
            }
            Output::Conclude { op, .. } if self.holds_conclusions => self.waiting.push(op),
            Output::Conclude { op, conclusion } => {
                self.conclude(&conclusion);
                let stored = !self.outside.store_fails;
                inputs.push_back(Input::Concluded { op, stored });
            }
            Output::AdminDone { reply, .. } => self.replies.push(reply),
            Output::SourceChanged { source, edge } => {
                self.edges.push((self.now.mono, source.as_ref().into(), edge));
            }
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
                    Arc::new(EgressSource {
                        name: (*name).into(),
                        ttl,
                        ..self.outside.source.clone()
                    })
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

fn entry(id: &str, domain: &str, expires: Wall) -> AdminEntry {
    let selector = QueueSelector { domain: Some(domain.into()), ..QueueSelector::default() };
    AdminEntry { id: id.into(), selector, reason: "tests".into(), expires, suppress_logging: false }
}
