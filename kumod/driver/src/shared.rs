//! What all tasks of the driver share: the world, the ways to the engine and the committer, messages in memory.
//! Invariant: no lock here is held across an await. Decides nothing.
use crate::cache::MessageCache;
use crate::committer::{Submission, Waiter};
use crate::concluder::Job;
use crate::counters::Counters;
use crate::engine_loop::Mail;
use crate::health::{Health, SpoolSettings};
use crate::phase::{Course, Phase};
use crate::quarantine::Quarantine;
use crate::record::{RecordEvent, Recorder};
use crate::source_failures::SourceFailures;
use crate::world::World;
use kumo_core::commit::{CommitOutcome, Work};
use kumo_core::engine::Input;
use kumo_core::health::Call;
use kumo_core::id::{OpId, SessionId, SpoolId, SpoolIdGenerator};
use kumo_core::limits;
use kumo_core::log::{PeerAddress, SourceAddress};
use kumo_core::marks::{Mark, reached};
use kumo_core::message::Message;
use kumo_core::port::{Family, Host, Spool, SpoolErrorKind, TlsInfo};
use kumo_core::random::Random;
use kumo_core::recipients::RecipientSet;
use kumo_core::record::{self, MetaRecord};
use kumo_core::smtp::reply::Reply;
use kumo_core::time::{Duration, Mono, Now};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// One call of the spool outside the committer.
pub(crate) const SPOOL_DEADLINE: Duration = Duration::from_secs(30);

/// For a log that is full to take a record.
const LOG_DEADLINE: Duration = Duration::from_secs(30);
/// What is waited for once the process stops.
const STOP_MOMENT: Duration = Duration::from_secs(2);
/// Messages that policy is being asked about at one time; each is loaded for it.
const ASKED_AT_ONCE: usize = 64;

/// Who delivered, over what: for the records of an attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection {
    pub peer: Option<PeerAddress>,
    pub source_address: Option<SourceAddress>,
    pub tls: Option<TlsInfo>,
    pub protocol: &'static str,
    pub session: String,
    pub provider: Option<Arc<str>>,
}

/// What the engine doesn't hold of an attempt: kept from its completion to its conclusion.
pub(crate) struct Attempt {
    pub message: Arc<Message>,
    pub replies: Vec<(u32, Reply)>,
    pub connection: Arc<Connection>,
}

/// Why a session never came about: for the records of those who waited for it.
#[derive(Clone)]
pub(crate) struct Ending {
    pub reply: Reply,
    pub connection: Arc<Connection>,
}

#[derive(Default)]
pub(crate) struct Endings {
    by_session: HashMap<SessionId, Ending>,
    order: VecDeque<SessionId>,
}

pub(crate) struct Shared<W: World> {
    pub world: W,
    pub hostname: Arc<str>,
    pub counters: Counters,
    pub runtime: tokio::runtime::Handle,
    pub sync: bool,
    pub store_deadline: Duration,
    pub health: Health,
    pub quarantine: Quarantine,
    pub source_failures: SourceFailures,
    pub engine: mpsc::Sender<Mail>,
    pub committer: mpsc::Sender<Submission>,
    /// Never longer than the engine's messages: one conclusion for each at a time.
    pub conclusions: mpsc::UnboundedSender<Job>,
    pub messages: MessageCache,
    pub course: Course,
    pub engine_full: AtomicBool,
    pub asking: Semaphore,
    /// The last record found no room in time: the next ones don't wait until one does.
    log_is_stuck: AtomicBool,
    attempts: Mutex<HashMap<(OpId, SpoolId), Attempt>>,
    /// Recipients that the engine has done with, and whose last record isn't on disk. Only of messages that the engine holds.
    unlogged: Mutex<HashMap<SpoolId, RecipientSet>>,
    endings: Mutex<Endings>,
    broken_tls: Mutex<HashMap<Arc<str>, Mono>>,
    pub ids: SpoolIdGenerator,
    seeds: Mutex<Random>,
}

/// A poisoned lock means that a holder panicked; what it guards is whole after each statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What [`Shared::new`] is made of.
pub(crate) struct Parts<W> {
    pub world: W,
    pub hostname: Arc<str>,
    pub spool: SpoolSettings,
    pub seed: u64,
    pub body_cache_octets: usize,
    pub engine: mpsc::Sender<Mail>,
    pub committer: mpsc::Sender<Submission>,
    pub conclusions: mpsc::UnboundedSender<Job>,
}

#[derive(Debug)]
pub(crate) enum LoadError {
    Missing,
    Damaged(String),
    Unavailable(String),
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LoadError::Missing => f.write_str("the message isn't in the spool"),
            LoadError::Damaged(why) | LoadError::Unavailable(why) => f.write_str(why),
        }
    }
}

fn damaged(id: SpoolId, why: &str) -> LoadError {
    LoadError::Damaged(format!("the spool's record of message {id} is damaged: {why}"))
}

impl<W: World> Shared<W> {
    pub fn new(parts: Parts<W>) -> Shared<W> {
        let health = Health::new(&parts.spool, parts.world.spool().is_atomic_across_families());
        Shared {
            world: parts.world,
            hostname: parts.hostname,
            counters: Counters::default(),
            runtime: tokio::runtime::Handle::current(),
            sync: parts.spool.sync(),
            store_deadline: parts.spool.store_deadline(),
            health,
            quarantine: Quarantine::default(),
            source_failures: SourceFailures::default(),
            engine: parts.engine,
            committer: parts.committer,
            conclusions: parts.conclusions,
            messages: MessageCache::new(parts.body_cache_octets),
            course: Course::default(),
            engine_full: AtomicBool::new(false),
            asking: Semaphore::new(ASKED_AT_ONCE),
            log_is_stuck: AtomicBool::new(false),
            attempts: Mutex::default(),
            unlogged: Mutex::default(),
            endings: Mutex::default(),
            broken_tls: Mutex::default(),
            ids: SpoolIdGenerator::new(parts.seed),
            seeds: Mutex::new(Random::new(parts.seed, "sessions")),
        }
    }

    pub fn now(&self) -> Now {
        self.world.host().now()
    }

    pub fn new_id(&self) -> SpoolId {
        self.ids.next(self.now().wall)
    }

    /// Whether the id was made in this life of the process.
    pub fn made(&self, id: SpoolId) -> bool {
        self.ids.made(id)
    }

    pub fn seed(&self) -> u64 {
        lock(&self.seeds).next_u64()
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(future));
    }

    pub fn is_stopping(&self) -> bool {
        self.course.phase() == Phase::Stopping
    }

    pub fn is_full(&self) -> bool {
        self.engine_full.load(Ordering::Relaxed)
    }

    /// The engine takes its mail as long as the process lives; once it is gone, nobody is left to tell.
    pub async fn tell_engine(&self, input: Input) {
        let _ = self.engine.send(Mail::Input(input)).await;
    }

    /// Waits for its end however long that takes: the committer has the deadline.
    pub async fn commit(&self, work: Work, deadline: Option<Mono>) -> Option<CommitOutcome> {
        let (done, outcome) = oneshot::channel();
        let submission = Submission { work, waiter: Waiter::Session(done), deadline };
        self.committer.send(submission).await.ok()?;
        outcome.await.ok()
    }

    /// False if the log has been full for too long.
    async fn record(&self, event: RecordEvent<'_>) -> bool {
        let is_stuck = self.log_is_stuck.load(Ordering::Relaxed);
        let patience = if is_stuck { Duration::ZERO } else { LOG_DEADLINE };
        let taken = timeout(patience, self.world.recorder().record(event)).await.is_ok();
        self.log_is_stuck.store(!taken, Ordering::Relaxed);
        taken
    }

    /// What `wait` comes to, unless the process stops and it doesn't come within a moment.
    pub async fn unless_stopping<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let stops = async {
            self.course.stopping().await;
            sleep(STOP_MOMENT).await;
        };
        tokio::select! {
            biased;
            result = wait => Some(result),
            () = stops => None,
        }
    }

    /// A record that is done without rather than hold up what it tells of.
    pub async fn record_or_count(&self, event: RecordEvent<'_>) {
        let (kind, id) = (event.kind, event.message.id);
        if !self.record(event).await {
            reached(Mark::LogFull);
            self.counters.records_lost.add(1);
            tracing::error!(%id, "the log has been full for {LOG_DEADLINE:?}: a {} record is lost", kind.name());
        }
    }

    // ---- Messages --------------------------------------------------------------------------------------

    pub async fn load(&self, id: SpoolId) -> Result<Arc<Message>, LoadError> {
        if let Some(message) = self.messages.get(id) {
            return Ok(message);
        }
        // To meet the damage anew at each attempt would shut the gate each time.
        if let Some(why) = self.quarantine.why(id) {
            return Err(damaged(id, &why));
        }
        let meta = self.load_envelope(id).await?;
        let data = match self.get(Family::Data, id).await {
            Err(LoadError::Missing) => Err(self.damaged(id, "its content isn't in the spool")),
            result => result,
        }?;
        let body = record::decode_data(id, &data).map_err(|e| self.damaged(id, &e.to_string()))?;
        Ok(Arc::new(meta.into_message(body)))
    }

    /// From the spool, without the body.
    pub async fn load_envelope(&self, id: SpoolId) -> Result<MetaRecord, LoadError> {
        let meta = self.get(Family::Meta, id).await?;
        record::decode_meta(id, &meta).map_err(|error| self.damaged(id, &error.to_string()))
    }

    async fn get(&self, family: Family, id: SpoolId) -> Result<bytes::Bytes, LoadError> {
        match timeout(SPOOL_DEADLINE, self.world.spool().get(family, id)).await {
            Ok(Ok(Some(value))) => Ok(value),
            Ok(Ok(None)) => Err(LoadError::Missing),
            Ok(Err(error)) => {
                self.health.failed(self.now().mono, family, Call::Read, &error);
                match error.kind {
                    SpoolErrorKind::Corruption => Err(self.damaged(id, &error.to_string())),
                    _ => Err(LoadError::Unavailable(error.to_string())),
                }
            }
            Err(_) => Err(LoadError::Unavailable("the spool didn't answer within 30s".into())),
        }
    }

    /// Says so once; the record stays where it is, for an operator to see to.
    pub fn damaged(&self, id: SpoolId, why: &str) -> LoadError {
        reached(Mark::RecordQuarantined);
        if self.quarantine.add(id, why) {
            self.counters.quarantined.add(1);
            tracing::error!(%id, "the spool's record of message {id} is damaged and left alone: {why}");
        }
        damaged(id, why)
    }

    // ---- What the engine doesn't hold ------------------------------------------------------------------

    pub fn keep_attempt(&self, op: OpId, attempt: Attempt) {
        lock(&self.attempts).insert((op, attempt.message.id), attempt);
    }

    pub fn take_attempt(&self, op: OpId, id: SpoolId) -> Option<Attempt> {
        lock(&self.attempts).remove(&(op, id))
    }

    /// The message and the first reply of an attempt that isn't concluded yet.
    pub fn peek_attempt(&self, op: OpId, id: SpoolId) -> Option<(Arc<Message>, Option<Reply>)> {
        let attempts = lock(&self.attempts);
        let attempt = attempts.get(&(op, id))?;
        let reply = attempt.replies.first().map(|(_, reply)| reply.clone());
        Some((attempt.message.clone(), reply))
    }

    pub fn remember_unlogged(&self, id: SpoolId, recipients: &RecipientSet) {
        let mut unlogged = lock(&self.unlogged);
        let known = unlogged.entry(id).or_insert_with(|| recipients.clone());
        recipients.iter().for_each(|index| known.insert(index));
    }

    pub fn unlogged(&self, id: SpoolId) -> Option<RecipientSet> {
        lock(&self.unlogged).get(&id).cloned()
    }

    pub fn forget_unlogged(&self, id: SpoolId) {
        lock(&self.unlogged).remove(&id);
    }

    pub fn keep_ending(&self, session: SessionId, ending: Ending) {
        let mut endings = lock(&self.endings);
        if endings.order.len() >= limits::SESSIONS
            && let Some(oldest) = endings.order.pop_front()
        {
            endings.by_session.remove(&oldest);
        }
        endings.order.push_back(session);
        endings.by_session.insert(session, ending);
    }

    pub fn ending(&self, session: SessionId) -> Option<Ending> {
        lock(&self.endings).by_session.get(&session).cloned()
    }

    // ---- Broken TLS ------------------------------------------------------------------------------------

    pub fn has_broken_tls(&self, site: &Arc<str>, now: Mono) -> bool {
        lock(&self.broken_tls).get(site).is_some_and(|until| *until > now)
    }

    pub fn remember_broken_tls(&self, site: &Arc<str>, until: Mono, now: Mono) {
        let mut broken = lock(&self.broken_tls);
        if broken.len() >= limits::BROKEN_TLS_SITES {
            broken.retain(|_, until| *until > now);
        }
        if broken.len() < limits::BROKEN_TLS_SITES {
            broken.insert(site.clone(), until);
        }
    }
}
