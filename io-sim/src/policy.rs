//! The driver's `Policy` port over a table instead of a script, with the `policy.*` faults. Invariant: what can be wrong in a table is
//! found when it is read; every answer is a look-up, a draw or a fault. It changes no message but for when a requeued one is due.
use crate::fault::FaultKind;
use crate::ledger::Event;
use crate::sender::{Behaviour, SimSender};
use crate::universe::Universe;
use crate::waits::WaitKind;
use kumo_core::config::options::Constructed;
use kumo_core::config::queue::{DeliveryProtocol, QueueConfig};
use kumo_core::config::{EgressPath, EgressPool, EgressSource, PoolEntry};
use kumo_core::engine::{Answer, Question, RequeueAnswer, ResolvedPool};
use kumo_core::id::SpoolId;
use kumo_core::message::Message;
use kumo_core::queue_name::QueueName;
use kumo_core::random::Random;
use kumo_core::smtp::reply::Reply;
use kumo_core::smtp::server::{self, Asked, Verdict};
use kumo_core::time::{Duration, Wall};
use kumo_driver::policy::{
    EngineAnswer, EngineHandled, EngineQuestion, Generated, Opening, Policy,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::sleep;

/// The pool and source of queues that name none; built in.
const UNSPECIFIED: &str = "unspecified";
/// Of a slow answer without an amount.
const SLOW: Duration = Duration::from_secs(5);
/// One in so many messages is put off by a handler, up to these.
const PUT_OFF: u64 = 10;
const THROTTLE: Duration = Duration::from_secs(30);
/// The longest time by which `requeue_message` puts a message off.
pub const REQUEUE: Duration = Duration::from_secs(600);
pub const FAILED: &str = "policy raised an error";

type Options = Map<String, Value>;

/// As a scenario writes it.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    /// Options for every queue, and those that differ by domain.
    queue: Options,
    queues: BTreeMap<String, Options>,
    /// The same for paths, by site or domain.
    path: Options,
    paths: BTreeMap<String, Options>,
    sources: BTreeMap<String, Options>,
    pools: BTreeMap<String, Vec<Value>>,
    /// What `custom_lua`'s constructors make, by name.
    senders: BTreeMap<String, Behaviour>,
    /// For queues that name none.
    pool: Option<String>,
    asks_throttle_insert: bool,
    asks_requeue: bool,
    /// Every other answer about a queue has it deliver messages one at a time: its operator can't decide.
    edits_batch_size: bool,
    session_hooks: Vec<String>,
}

/// What an operator's policy says, read and checked.
#[derive(Clone, Debug, Default)]
pub struct PolicyTable {
    queue: QueueConfig,
    queues: BTreeMap<String, QueueConfig>,
    path: EgressPath,
    paths: BTreeMap<String, EgressPath>,
    pools: BTreeMap<String, ResolvedPool>,
    senders: BTreeMap<String, Behaviour>,
    edits_batch_size: bool,
    handled: server::Handled,
    engine_handled: EngineHandled,
    warnings: Vec<String>,
}

impl PolicyTable {
    pub fn parse(map: Map<String, Value>) -> Result<PolicyTable, String> {
        let mut written: Written = serde_json::from_value(Value::Object(map))
            .map_err(|error| format!("the policy table: {error}"))?;
        if let Some(pool) = written.pool.take() {
            written.queue.entry("egress_pool").or_insert(pool.into());
        }
        let mut warnings = Vec::new();
        let sources = sources(written.sources, &mut warnings)?;
        Ok(PolicyTable {
            queues: variants("queues", &written.queue, written.queues, &mut warnings)?,
            queue: construct("queue", written.queue, &mut warnings)?,
            paths: variants("paths", &written.path, written.paths, &mut warnings)?,
            path: construct("path", written.path, &mut warnings)?,
            pools: pools(written.pools, &sources, &mut warnings)?,
            senders: written.senders,
            edits_batch_size: written.edits_batch_size,
            handled: session_hooks(&written.session_hooks)?,
            engine_handled: EngineHandled {
                throttle_insert: written.asks_throttle_insert,
                requeue: written.asks_requeue,
            },
            warnings,
        })
    }

    /// Options that are accepted without effect, and the like.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// For every queue of that domain.
    pub fn queue_config(&self, domain: &str) -> &QueueConfig {
        self.queues.get(domain).unwrap_or(&self.queue)
    }

    /// What is said of a site goes before what is said of a domain.
    pub fn path_config(&self, domain: &str, site: &str) -> &EgressPath {
        self.paths.get(site).or_else(|| self.paths.get(domain)).unwrap_or(&self.path)
    }

    /// `None`: it isn't defined.
    pub fn pool(&self, name: &str) -> Option<ResolvedPool> {
        let found = self.pools.get(name).cloned();
        found.or_else(|| (name == UNSPECIFIED).then(unspecified))
    }

    /// What a constructor makes; `None`: it isn't defined.
    pub fn sender(&self, constructor: &str) -> Option<&Behaviour> {
        self.senders.get(constructor)
    }
}

fn construct<T: Constructed>(
    place: &str,
    options: Options,
    warnings: &mut Vec<String>,
) -> Result<T, String> {
    let parsed = T::parse(options).map_err(|error| format!("{place}: {error}"))?;
    warnings.extend(parsed.warnings.into_iter().map(|warning| format!("{place}: {warning}")));
    Ok(parsed.value)
}

/// Each with the options of all, where it has none of its own.
fn variants<T: Constructed>(
    place: &str,
    common: &Options,
    own: BTreeMap<String, Options>,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, T>, String> {
    let variant = |(name, own): (String, Options)| {
        let mut options = common.clone();
        options.extend(own);
        let value = construct(&format!("{place}.{name}"), options, warnings)?;
        Ok((name, value))
    };
    own.into_iter().map(variant).collect()
}

type Sources = BTreeMap<String, Arc<EgressSource>>;

fn sources(
    written: BTreeMap<String, Options>,
    warnings: &mut Vec<String>,
) -> Result<Sources, String> {
    let source = |(name, mut options): (String, Options)| {
        options.insert("name".into(), name.clone().into());
        let source = construct(&format!("sources.{name}"), options, warnings)?;
        Ok((name, Arc::new(source)))
    };
    written.into_iter().map(source).collect()
}

fn pools(
    written: BTreeMap<String, Vec<Value>>,
    sources: &Sources,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, ResolvedPool>, String> {
    let pool = |(name, entries): (String, Vec<Value>)| {
        let place = format!("pools.{name}");
        if name == UNSPECIFIED {
            return Err(format!("{place}: that pool is built in"));
        }
        let mut options = Options::new();
        options.insert("name".into(), name.clone().into());
        options.insert("entries".into(), entries.into());
        let pool: EgressPool = construct(&place, options, warnings)?;
        let found = pool.entries.iter().map(|entry| source_named(&entry.name, sources));
        let sources = found.collect::<Result<_, _>>().map_err(|why| format!("{place}: {why}"))?;
        Ok((name, ResolvedPool { pool, sources }))
    };
    written.into_iter().map(pool).collect()
}

fn source_named(name: &str, sources: &Sources) -> Result<Arc<EgressSource>, String> {
    match sources.get(name) {
        Some(source) => Ok(source.clone()),
        None if name == UNSPECIFIED => Ok(Arc::new(EgressSource::named(UNSPECIFIED))),
        None => Err(format!("there is no source {name:?}")),
    }
}

fn unspecified() -> ResolvedPool {
    let source = EgressSource::named(UNSPECIFIED);
    let entries = vec![PoolEntry { name: UNSPECIFIED.into(), weight: 1 }];
    let pool = EgressPool { name: UNSPECIFIED.into(), entries, ttl: source.ttl };
    ResolvedPool { pool, sources: vec![Arc::new(source)] }
}

/// `session_hooks` names fields of `Handled`.
fn session_hooks(names: &[String]) -> Result<server::Handled, String> {
    let mut handled = server::Handled::default();
    for name in names {
        let hook = match name.as_str() {
            "connection_accepted" => &mut handled.connection_accepted,
            "ehlo" => &mut handled.ehlo,
            "auth_plain" => &mut handled.auth_plain,
            "mail_from" => &mut handled.mail_from,
            "rcpt_to" => &mut handled.rcpt_to,
            "listener_domain" => &mut handled.listener_domain,
            "data" => &mut handled.data,
            "message_received" => &mut handled.message_received,
            _ => return Err(format!("session_hooks: there is no hook {name:?}")),
        };
        *hook = true;
    }
    Ok(handled)
}

/// How a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    Answers,
    Fails,
    Rejects,
}

/// `what` is the kind of question, which faults are aimed at.
pub async fn course(universe: &Universe, life: u64, what: &str, is_on_message: bool) -> Course {
    let Universe { faults, lives, .. } = universe;
    lives.alive(life).await;
    if faults.strikes(FaultKind::PolicyHang, what).is_some() {
        // Not even when the fault is over: a deadline has to cut it.
        std::future::pending::<()>().await;
    }
    if let Some(strike) = faults.strikes(FaultKind::PolicySlow, what) {
        sleep(strike.amount.unwrap_or(SLOW)).await;
        lives.alive(life).await;
    }
    if faults.strikes(FaultKind::PolicyError, what).is_some() {
        Course::Fails
    } else if is_on_message && faults.strikes(FaultKind::PolicyReject, what).is_some() {
        Course::Rejects
    } else {
        Course::Answers
    }
}

pub struct SimPolicy {
    universe: Arc<Universe>,
    life: u64,
    random: Mutex<Random>,
}

impl SimPolicy {
    pub fn new(universe: &Arc<Universe>, life: u64) -> SimPolicy {
        let random = Random::new(universe.seed ^ life.rotate_left(32), "policy");
        SimPolicy { universe: universe.clone(), life, random: Mutex::new(random) }
    }

    fn table(&self) -> &PolicyTable {
        &self.universe.settings.policy
    }

    async fn course(&self, what: &str, is_on_message: bool) -> Course {
        self.universe.lives.alive(self.life).await;
        let _waiting = self.universe.waits.begin(WaitKind::Policy, self.universe.now().mono);
        course(&self.universe, self.life, what, is_on_message).await
    }

    fn draw(&self) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// When a message that is put off is due; most aren't.
    fn put_off(&self, most: Duration) -> Option<Wall> {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let is_put_off = random.below(PUT_OFF) == 0;
        is_put_off.then(|| self.universe.now().wall + random.duration_up_to(most))
    }

    fn requeue(&self, message: Option<Message>) -> EngineAnswer {
        let Some(due) = self.put_off(REQUEUE) else {
            return answered(Answer::Requeue(RequeueAnswer::Keep));
        };
        // As `msg:set_due` does it.
        let message = message.map(|mut message| {
            message.schedule.due = Some(due);
            message
        });
        EngineAnswer { answer: Answer::Requeue(RequeueAnswer::Due(due)), message }
    }

    fn rejects(&self, id: SpoolId) -> EngineAnswer {
        self.universe.write(Event::PolicyRejected { id });
        answered(Answer::Requeue(RequeueAnswer::Reject(rejection().reply_code())))
    }

    fn pool(&self, name: &str) -> Answer {
        let is_empty = self.universe.faults.strikes(FaultKind::PolicyNoSources, "pool").is_some();
        match self.table().pool(name) {
            Some(pool) if is_empty => {
                let pool = EgressPool { entries: Vec::new(), ..pool.pool };
                Answer::Pool(Box::new(ResolvedPool { pool, sources: Vec::new() }))
            }
            Some(pool) => Answer::Pool(Box::new(pool)),
            None => Answer::Failed { why: format!("there is no pool {name:?}").into() },
        }
    }

    fn answer(&self, question: Question, message: Option<Message>) -> EngineAnswer {
        let table = self.table();
        answered(match question {
            Question::QueueConfig { queue } => {
                let mut config = table.queue_config(QueueName::parse(&queue).domain).clone();
                if let DeliveryProtocol::CustomLua(lua) = &mut config.protocol
                    && table.edits_batch_size
                    && self.draw().is_multiple_of(2)
                {
                    (lua.batch_size, lua.min_batch_size) = (1, 1);
                }
                Answer::QueueConfig(Box::new(config))
            }
            Question::Pool { name } => self.pool(&name),
            Question::EgressPath { domain, site, .. } => {
                Answer::EgressPath(Box::new(table.path_config(&domain, &site).clone()))
            }
            Question::ThrottleInsert { .. } => {
                Answer::ThrottleInsert { until: self.put_off(THROTTLE) }
            }
            Question::Requeue { .. } => return self.requeue(message),
        })
    }
}

fn answered(answer: Answer) -> EngineAnswer {
    EngineAnswer { answer, message: None }
}

pub fn rejection() -> Reply {
    Reply::new(550, "5.7.1 rejected by policy")
}

/// As faults are aimed.
fn kind_of(question: &Question) -> &'static str {
    match question {
        Question::QueueConfig { .. } => "queue",
        Question::Pool { .. } => "pool",
        Question::EgressPath { .. } => "path",
        Question::ThrottleInsert { .. } => "throttle-insert",
        Question::Requeue { .. } => "requeue",
    }
}

/// What a handler without objections makes of it.
fn approval(asked: Asked) -> Verdict {
    match asked {
        Asked::Data { message } | Asked::MessageReceived { message } => Verdict::Message(message),
        Asked::AuthPlain { .. } => Verdict::Authenticated(true),
        _ => Verdict::Proceed,
    }
}

impl Policy for SimPolicy {
    type Sender = SimSender;

    fn handled(&self) -> server::Handled {
        self.table().handled
    }

    fn engine_handled(&self) -> EngineHandled {
        self.table().engine_handled
    }

    async fn session(&self, question: server::Question) -> server::Answer {
        let server::Question { meta, what } = question;
        let is_on_message = matches!(what, Asked::Data { .. } | Asked::MessageReceived { .. });
        let verdict = match self.course("session", is_on_message).await {
            Course::Answers => approval(what),
            Course::Fails => Verdict::Failed(FAILED.into()),
            Course::Rejects => Verdict::Reject(rejection()),
        };
        server::Answer { meta, verdict }
    }

    async fn engine(&self, question: EngineQuestion) -> EngineAnswer {
        let EngineQuestion { question, message, .. } = question;
        let rejectable = match question {
            Question::Requeue { message, .. } => Some(message),
            _ => None,
        };
        match (self.course(kind_of(&question), rejectable.is_some()).await, rejectable) {
            (Course::Fails, _) => answered(Answer::Failed { why: FAILED.into() }),
            (Course::Rejects, Some(id)) => self.rejects(id),
            _ => self.answer(question, message),
        }
    }

    async fn message_generated(&self, message: Message) -> Generated {
        match self.course("generated", true).await {
            Course::Answers => Generated::Proceed(message),
            Course::Fails => Generated::Failed(FAILED.into()),
            Course::Rejects => Generated::Reject(rejection()),
        }
    }

    async fn open_sender(&self, opening: Opening) -> Result<SimSender, String> {
        let constructor = &*opening.constructor;
        let Some(behaviour) = self.table().sender(constructor).cloned() else {
            return Err(format!("event {constructor}: it has no handler"));
        };
        match self.course("sender", false).await {
            Course::Answers => {}
            Course::Fails | Course::Rejects => {
                return Err(format!("event {constructor}: {FAILED}"));
            }
        }
        SimSender::make(&self.universe, self.life, behaviour, self.draw(), opening)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Zones;
    use crate::dns::tests::{fault, universe};
    use kumo_core::address::{Mailbox, ReversePath};
    use kumo_core::id::SpoolIdGenerator;
    use kumo_core::message::Envelope;
    use kumo_core::recipients::RecipientSet;
    use serde_json::json;
    use tokio::time::timeout;

    fn parse(value: Value) -> Result<PolicyTable, String> {
        let Value::Object(map) = value else { panic!("{value}") };
        PolicyTable::parse(map)
    }

    fn world(table: Value) -> (Arc<Universe>, SimPolicy) {
        let universe = universe(Zones::default(), parse(table).unwrap());
        let policy = SimPolicy::new(&universe, 1);
        (universe, policy)
    }

    fn message() -> Message {
        Message {
            id: SpoolIdGenerator::new(1).next(Wall(0)),
            envelope: Envelope {
                sender: ReversePath::Null,
                recipients: vec![Mailbox::parse("joe@a.test").unwrap()],
            },
            remaining: RecipientSet::all(1),
            meta: Default::default(),
            schedule: Default::default(),
            attempts: 0,
            body: "\r\n".into(),
        }
    }

    async fn ask(policy: &SimPolicy, question: Question) -> EngineAnswer {
        policy.engine(EngineQuestion { question, message: Some(message()), response: None }).await
    }

    async fn ask_session(policy: &SimPolicy, what: Asked) -> Verdict {
        policy.session(server::Question { meta: Default::default(), what }).await.verdict
    }

    fn requeue() -> Question {
        Question::Requeue {
            message: message().id,
            attempt: None,
            reasons: Vec::new(),
            increment_attempts: true,
            delay: None,
        }
    }

    #[madsim::test]
    async fn answers_come_from_the_table_the_nearest_first() {
        let (_universe, policy) = world(json!({
            "queue": { "retry_interval": "10s", "max_age": "1h" },
            "queues": { "a.test": { "retry_interval": "5s" } },
            "path": { "enable_tls": "Disabled", "connection_limit": 3 },
            "paths": { "a.test": { "connection_limit": 2 }, "mx.a.test": { "connection_limit": 1 } },
            "pool": "main",
            "sources": { "one": { "source_address": "192.0.2.7" } },
            "pools": { "main": [{ "name": "one", "weight": 2 }, { "name": "unspecified" }] },
        }));
        let answer = ask(&policy, Question::QueueConfig { queue: "c:t@a.test".into() }).await;
        let Answer::QueueConfig(config) = answer.answer else { panic!("{:?}", answer.answer) };
        let seconds = Duration::from_secs;
        assert_eq!((config.retry_interval, config.max_age), (seconds(5), seconds(3600)));
        assert_eq!(config.egress_pool.as_deref(), Some("main"));
        assert_eq!(policy.table().queue_config("b.test").retry_interval, seconds(10));
        for (domain, site, limit) in
            [("a.test", "mx.a.test", 1), ("a.test", "mx", 2), ("b.test", "mx", 3)]
        {
            let (domain, site, source) = (domain.into(), site.into(), "one".into());
            let answer = ask(&policy, Question::EgressPath { domain, source, site }).await;
            let Answer::EgressPath(path) = answer.answer else { panic!("{:?}", answer.answer) };
            assert_eq!(path.connection_limit.limit, limit);
            assert_eq!(path.enable_tls, kumo_core::config::egress::EnableTls::Disabled);
        }
        let answer = ask(&policy, Question::Pool { name: "main".into() }).await;
        let Answer::Pool(pool) = answer.answer else { panic!("{:?}", answer.answer) };
        assert_eq!(pool.pool.entries[0].weight, 2);
        assert_eq!(pool.sources[0].source_address, Some([192, 0, 2, 7].into()));
        assert_eq!(&*pool.sources[1].name, "unspecified");
        let answer = ask(&policy, Question::Pool { name: "unspecified".into() }).await.answer;
        assert!(matches!(answer, Answer::Pool(_)));
        let answer = ask(&policy, Question::Pool { name: "other".into() }).await.answer;
        assert!(matches!(answer, Answer::Failed { .. }));
    }

    #[test]
    fn what_is_wrong_in_a_table_is_named() {
        for (table, named) in [
            (json!({ "quue": {} }), "quue"),
            (json!({ "queue": { "retry_intervall": "1s" } }), "queue: kumo.make_queue_config"),
            (json!({ "queues": { "a.test": { "max_age": "x" } } }), "queues.a.test"),
            (json!({ "paths": { "b.test": { "nonsense": 1 } } }), "nonsense"),
            (json!({ "sources": { "one": { "source_address": "x" } } }), "sources.one"),
            (json!({ "pools": { "main": [{ "name": "one" }] } }), "pools.main: there is no source"),
            (json!({ "pools": { "unspecified": [] } }), "built in"),
            (json!({ "session_hooks": ["datta"] }), "datta"),
            (json!({ "senders": { "make.x": { "takes_in": "soon" } } }), "the policy table"),
            (json!({ "senders": { "make.x": { "hangs": 5 } } }), "hangs"),
        ] {
            let error = parse(table).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        let table = json!({ "path": { "tls_prefer_openssl": true } });
        let warnings = parse(table).unwrap().warnings;
        assert!(warnings[0].contains("path: "), "{warnings:?}");
    }

    #[test]
    fn hooks_are_on_where_the_table_says_so() {
        let table = json!({ "session_hooks": ["data", "ehlo"], "asks_requeue": true });
        let table = parse(table).unwrap();
        let expected = server::Handled { data: true, ehlo: true, ..Default::default() };
        assert_eq!(table.handled, expected);
        assert_eq!(table.engine_handled, EngineHandled { throttle_insert: false, requeue: true });
    }

    #[madsim::test]
    async fn some_messages_are_put_off() {
        let (universe, policy) = world(json!({}));
        let wall = universe.now().wall;
        let (mut throttled, mut due) = (0, 0);
        for _ in 0..1000 {
            let question = Question::ThrottleInsert { message: message().id };
            match ask(&policy, question).await.answer {
                Answer::ThrottleInsert { until: Some(until) } => {
                    assert!(until >= wall && until <= universe.now().wall + THROTTLE);
                    throttled += 1;
                }
                answer => assert_eq!(answer, Answer::ThrottleInsert { until: None }),
            }
            let EngineAnswer { answer, message } = ask(&policy, requeue()).await;
            match answer {
                Answer::Requeue(RequeueAnswer::Due(until)) => {
                    assert_eq!(message.unwrap().schedule.due, Some(until));
                    due += 1;
                }
                answer => assert_eq!(answer, Answer::Requeue(RequeueAnswer::Keep)),
            }
        }
        assert!((60..140).contains(&throttled) && (60..140).contains(&due), "{throttled} {due}");
        assert!(universe.waits.standing().is_empty());
    }

    #[madsim::test]
    async fn faults_strike_the_kind_of_question_they_are_aimed_at() {
        let (universe, policy) = world(json!({}));
        let begin = |what, target| universe.faults.begin(fault(what, None, Some(target)));
        let id = begin(FaultKind::PolicyError, "queue");
        let question = || Question::QueueConfig { queue: "a.test".into() };
        assert!(matches!(ask(&policy, question()).await.answer, Answer::Failed { .. }));
        let verdict = ask_session(&policy, Asked::ConnectionAccepted).await;
        assert!(matches!(verdict, Verdict::Proceed));
        universe.faults.end(id);
        begin(FaultKind::PolicySlow, "queue");
        let began = universe.now().mono;
        assert!(matches!(ask(&policy, question()).await.answer, Answer::QueueConfig(_)));
        assert!(universe.now().mono.since(began) >= SLOW);
        begin(FaultKind::PolicyHang, "pool");
        let hanging = ask(&policy, Question::Pool { name: "unspecified".into() });
        let mut hanging = Box::pin(hanging);
        assert!(timeout(Duration::from_secs(60), &mut hanging).await.is_err());
        assert_eq!(universe.waits.standing()[0].0, WaitKind::Policy);
        universe.faults.heal();
        assert!(timeout(Duration::from_secs(60), hanging).await.is_err());
        assert!(matches!(ask(&policy, question()).await.answer, Answer::QueueConfig(_)));
    }

    #[madsim::test]
    async fn a_rejection_strikes_questions_about_messages_only() {
        let (universe, policy) = world(json!({}));
        universe.faults.begin(fault(FaultKind::PolicyReject, None, None));
        let reject = Answer::Requeue(RequeueAnswer::Reject(rejection().reply_code()));
        assert_eq!(ask(&policy, requeue()).await.answer, reject);
        let expected = Event::PolicyRejected { id: message().id };
        universe.ledger.read(|entries| assert_eq!(entries[0].event, expected));
        let verdict = ask_session(&policy, Asked::Data { message: message() }).await;
        assert!(matches!(verdict, Verdict::Reject(Reply { code: 550, .. })));
        assert!(matches!(policy.message_generated(message()).await, Generated::Reject(_)));
        let verdict = ask_session(&policy, Asked::ConnectionAccepted).await;
        assert!(matches!(verdict, Verdict::Proceed));
        assert_eq!(universe.faults.fired()[FaultKind::PolicyReject as usize], 3);
    }
}
