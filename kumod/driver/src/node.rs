//! A node's life: start, run, stop. [`Node::start`] opens nothing that it doesn't close again; [`Handle`] is how the rest of the
//! process (HTTP, metrics) talks to it. Invariant: what was answered 250 is in the spool when [`Node::stop`] returns, and no
//! batch is handed over after it was called.
use crate::committer::{CommitterLoop, Control};
use crate::concluder;
use crate::counters::Counters;
use crate::engine_loop::{EngineLoop, Mail};
use crate::enumeration;
use crate::health::{self, Illness};
pub use crate::health::{FolderReport, GuardedFolder, SpoolSettings, StoreReport};
use crate::intake;
use crate::journal::Journal;
pub use crate::journal::JournalLimits;
use crate::phase::Phase;
use crate::policy::{Generated, Policy};
use crate::server::{self, Service};
use crate::shared::{LoadError, Parts, SPOOL_DEADLINE, Shared};
use crate::world::World;
use bytes::Bytes;
use futures_util::future::join;
use kumo_core::commit::{CommitOutcome, Work};
use kumo_core::config::EsmtpListener;
use kumo_core::engine::{AdminCommand, AdminReply, Engine, EngineConfig, Input};
use kumo_core::health::Call;
use kumo_core::id::SpoolId;
use kumo_core::limits;
use kumo_core::marks::{Mark, reached};
use kumo_core::message::Message;
use kumo_core::port::{Family, Listener, NetError, Network, Spool, SpoolError, TlsAccept};
use kumo_core::smtp::server::Submitted;
use kumo_core::source_health::SourceFailure;
use kumo_core::time::{Duration, Now};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

/// Letters waiting for the engine.
const ENGINE_MAIL: usize = 8_192;
/// For policy's `http_message_generated`.
const GENERATION: Duration = Duration::from_secs(60);
/// Together the ten seconds of a stop (D22): sessions and the engine; the spool's last writes; closing it.
const STOP_SESSIONS: Duration = Duration::from_millis(7_500);
const STOP_DRAIN: Duration = Duration::from_millis(1_500);
const STOP_CLOSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct NodeConfig {
    pub hostname: Arc<str>,
    pub listeners: Vec<EsmtpListener>,
    pub spool: SpoolSettings,
    pub body_cache_octets: usize,
    /// `None`: the engine's inputs aren't written down.
    pub journal: Option<JournalLimits>,
    /// Everything random in this life.
    pub seed: u64,
}

/// A running node.
pub struct Node<W: World> {
    shared: Arc<Shared<W>>,
    addresses: Vec<SocketAddr>,
    committer: mpsc::Sender<Control>,
    drained: oneshot::Receiver<Vec<SpoolId>>,
    engine_stopped: oneshot::Receiver<()>,
    /// Ends once the journal is on disk, after the engine has stopped.
    journal_written: oneshot::Receiver<()>,
    /// Closed once the last connection is gone.
    connections: watch::Sender<()>,
}

impl<W: World> Node<W> {
    /// Binds every listener, then starts. With an error, nothing runs.
    pub async fn start(world: W, config: NodeConfig) -> Result<Node<W>, NetError> {
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let hostname = listener.hostname.as_deref().unwrap_or(&config.hostname);
            let tls = tls_of(listener, hostname);
            world.network().prepare_tls(&tls)?;
            listeners.push((world.network().listen(listener.listen).await?, hostname.into(), tls));
        }
        let (engine_mail, engine_inbox) = mpsc::channel(ENGINE_MAIL);
        let (submissions, submitted) = mpsc::channel(limits::COMMIT_BACKLOG);
        let (conclusions, concluded) = mpsc::unbounded_channel();
        let handled = world.policy().engine_handled();
        let damage = config.spool.damage.clone();
        let shared = Arc::new(Shared::new(Parts {
            world,
            hostname: config.hostname,
            spool: config.spool,
            seed: config.seed,
            body_cache_octets: config.body_cache_octets,
            engine: engine_mail,
            committer: submissions,
            conclusions,
        }));
        let engine_config = EngineConfig {
            asks_throttle_insert: handled.throttle_insert,
            asks_requeue: handled.requeue,
            ..EngineConfig::default()
        };
        let (stopped, engine_stopped) = oneshot::channel();
        let (written, journal_written) = oneshot::channel();
        let journal = config
            .journal
            .map(|limits| Journal::start(&shared, limits, &engine_config, config.seed, written));
        let engine = Engine::new(engine_config, config.seed);
        let engine_loop = EngineLoop::new(shared.clone(), engine, journal, stopped);
        on_its_own_thread(&shared, engine_loop.run(engine_inbox));
        shared.spawn(concluder::run(shared.clone(), concluded));
        let (committer, control) = mpsc::channel(4);
        let now = shared.now().mono;
        for (family, line) in &damage {
            shared.health.damaged_at_open(now, *family, line);
        }
        shared.spawn(health::watch::run(shared.clone(), committer.clone()));
        let (owed, drained) = oneshot::channel();
        let committer_loop = CommitterLoop::new(shared.clone());
        shared.spawn(async move {
            // Nobody waits for it any more if the stop took too long.
            let _ = owed.send(committer_loop.run(submitted, control).await);
        });
        shared.course.go_on_to(Phase::Running);
        shared.spawn(enumeration::run(shared.clone()));
        let connections = watch::Sender::new(());
        let mut addresses = Vec::new();
        for ((listener, hostname, tls), config) in listeners.into_iter().zip(config.listeners) {
            addresses.push(listener.local_address());
            let service = Service {
                shared: shared.clone(),
                listener: Arc::new(config),
                hostname,
                tls: Some(Arc::new(tls)),
                connections: Arc::new(AtomicU64::new(0)),
            };
            shared.spawn(server::accept(service, listener, connections.subscribe()));
        }
        Ok(Node {
            shared,
            addresses,
            committer,
            drained,
            engine_stopped,
            journal_written,
            connections,
        })
    }

    /// Where the listeners listen, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn handle(&self) -> Handle<W> {
        Handle { shared: self.shared.clone() }
    }

    /// Ends within ten seconds, whatever hangs. The world is the caller's to close, logs last.
    pub async fn stop(self) {
        let shared = self.shared;
        shared.course.go_on_to(Phase::Stopping);
        let _ = self.committer.send(Control::Stop).await;
        shared.tell_engine(Input::Stop).await;
        let quiet = async {
            self.connections.closed().await;
            let _ = self.engine_stopped.await;
        };
        if timeout(STOP_SESSIONS, quiet).await.is_err() {
            reached(Mark::StopCutShort);
            tracing::error!(
                "deliveries and their records didn't end within {STOP_SESSIONS:?}; what they were about stays in the spool"
            );
        }
        // Always: what was refused after its store had begun must not be delivered by the next life.
        let drain = async {
            let _ = self.committer.send(Control::Drain).await;
            self.drained.await.unwrap_or_default()
        };
        let journal = timeout(STOP_DRAIN, self.journal_written);
        let (drained, written) = join(timeout(STOP_DRAIN, drain), journal).await;
        if written.is_err() {
            tracing::error!("the journal's end isn't written");
        }
        match drained {
            Ok(owed) if owed.is_empty() => {}
            Ok(owed) => tracing::error!(
                ?owed,
                "these were refused after their store had begun and couldn't be taken back"
            ),
            Err(_) => {
                tracing::error!("the spool didn't take the last writes within {STOP_DRAIN:?}")
            }
        }
        if let Ok(Err(error)) = timeout(STOP_CLOSE, shared.world.spool().close()).await {
            tracing::error!("closing the spool failed: {error}");
        }
    }
}

fn tls_of(listener: &EsmtpListener, hostname: &str) -> TlsAccept {
    let certificate = listener.tls_certificate.clone().zip(listener.tls_private_key.clone());
    TlsAccept { hostname: hostname.into(), certificate }
}

/// The engine's loop shares its core with nobody, so that no Lua, TLS or compression can starve it.
#[cfg(not(madsim))]
fn on_its_own_thread<W: World>(
    _: &Shared<W>,
    engine_loop: impl Future<Output = ()> + Send + 'static,
) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime
            .expect("a runtime without sockets needs nothing that can be missing")
            .block_on(engine_loop);
    };
    let thread = std::thread::Builder::new().name("engine".into()).spawn(run);
    // Without its engine the process is nothing.
    drop(thread.expect("a thread for the engine at start"));
}

/// The simulator has no threads.
#[cfg(madsim)]
fn on_its_own_thread<W: World>(
    shared: &Shared<W>,
    engine_loop: impl Future<Output = ()> + Send + 'static,
) {
    shared.spawn(engine_loop);
}

/// Why a message in quarantine isn't dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropError {
    #[error("it isn't in quarantine; `kcli spool-list-quarantine` lists what is")]
    NotQuarantined,
    #[error("it is still queued: its envelope can be read. Bounce it, or wait until it expires")]
    StillQueued,
    #[error("the spool didn't take the removal: {0}")]
    Spool(String),
}

/// How the rest of the process talks to a node.
pub struct Handle<W: World> {
    shared: Arc<Shared<W>>,
}

impl<W: World> Clone for Handle<W> {
    fn clone(&self) -> Self {
        Handle { shared: self.shared.clone() }
    }
}

impl<W: World> Handle<W> {
    pub fn now(&self) -> Now {
        self.shared.now()
    }

    pub fn hostname(&self) -> &str {
        &self.shared.hostname
    }

    pub fn new_id(&self) -> SpoolId {
        self.shared.new_id()
    }

    pub fn world(&self) -> &W {
        &self.shared.world
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Why no mail is taken now, in the words and the order of seed.md 2.4.
    pub fn unavailable(&self) -> Option<&'static str> {
        let illness = self.shared.health.illness();
        match (self.shared.course.phase(), illness) {
            (Phase::Stopping, _) => Some("shutting down"),
            (_, Some(Illness::DiskFull)) => Some(Illness::DiskFull.text()),
            (Phase::Starting, _) => Some("waiting for spool startup"),
            (Phase::Running, Some(Illness::Unhealthy)) => Some(Illness::Unhealthy.text()),
            (Phase::Running, None) if self.shared.is_full() => Some("too many messages are queued"),
            (Phase::Running, None) => None,
        }
    }

    /// As [`Handle::unavailable`], for whoever asks whether the process lives: the disk comes last, and is called otherwise.
    pub fn not_live(&self) -> Option<&'static str> {
        let health = &self.shared.health;
        match self.unavailable() {
            Some(why) if why == Illness::DiskFull.text() => {
                let shut = health.is_shut().then_some(Illness::Unhealthy.text());
                Some(shut.unwrap_or("storage is too full"))
            }
            other => other,
        }
    }

    /// Frees the room of what was removed. As long as it takes; an error feeds the gate.
    pub async fn compact(&self, family: Family) -> Result<(), SpoolError> {
        let compacted = self.shared.world.spool().compact(family).await;
        if let Err(error) = &compacted {
            self.shared.health.failed(self.shared.now().mono, family, Call::Read, error);
        }
        compacted
    }

    /// Damaged messages that were met in this life, and why; the first of them if there are many.
    /// The last failure of its class that spoke against a source, in words.
    pub fn source_failure(&self, source: &str, failure: SourceFailure) -> Option<String> {
        self.shared.source_failures.last(source, failure)
    }

    pub fn quarantine(&self) -> Vec<(SpoolId, String)> {
        self.shared.quarantine.list()
    }

    /// A record as it lies in the spool.
    pub async fn raw_record(&self, family: Family, id: SpoolId) -> Result<Option<Bytes>, String> {
        match timeout(SPOOL_DEADLINE, self.shared.world.spool().get(family, id)).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the spool didn't answer within {SPOOL_DEADLINE:?}")),
        }
    }

    /// Removes a message in quarantine from the spool, for ever.
    pub async fn drop_quarantined(&self, id: SpoolId) -> Result<(), DropError> {
        if !self.shared.quarantine.holds(id) {
            return Err(DropError::NotQuarantined);
        }
        // What the engine holds would be asked for again.
        if self.query(move |engine, _| engine.holds(id)).await != Some(false) {
            return Err(DropError::StillQueued);
        }
        match self.shared.commit(Work::Remove { id }, None).await {
            Some(CommitOutcome::Written) => {
                self.shared.quarantine.remove(id);
                Ok(())
            }
            outcome => Err(DropError::Spool(format!("{outcome:?}"))),
        }
    }

    /// The spool's stores, and how they are.
    pub fn spool_health(&self) -> Vec<StoreReport> {
        self.shared.health.report(self.shared.world.spool())
    }

    /// The folders beside the spool's without whose room no mail is taken.
    pub fn guarded_folders(&self) -> Vec<FolderReport> {
        self.shared.health.folders()
    }

    /// `http_message_generated`.
    pub async fn generate(&self, message: Message) -> Generated {
        let generated = self.shared.world.policy().message_generated(message);
        timeout(GENERATION, generated).await.unwrap_or_else(|_| {
            Generated::Failed(format!("policy didn't answer within {GENERATION:?}"))
        })
    }

    /// Stores and queues. Runs in a task of its own: whoever asked may go away, the store doesn't.
    pub async fn submit(&self, messages: Vec<Message>) -> Option<Submitted> {
        let (done, submitted) = oneshot::channel();
        let shared = self.shared.clone();
        self.shared.spawn(async move {
            let count = messages.len() as u64;
            let outcome = intake::submit(&shared, messages, None).await;
            if let Submitted::Accepted(_) = outcome {
                shared.counters.http_listener.messages.add(count);
            }
            let _ = done.send(outcome);
        });
        submitted.await.ok()
    }

    /// Looks at the engine. `None`: it is gone.
    pub async fn query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Engine, Now) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let look = Box::new(move |engine: &Engine, now| {
            let _ = answer.send(look(engine, now));
        });
        self.shared.engine.send(Mail::Query(look)).await.ok()?;
        answered.await.ok()
    }

    /// `None`: the engine is gone.
    pub async fn admin(&self, command: AdminCommand) -> Option<AdminReply> {
        let (reply, replied) = oneshot::channel();
        self.shared.engine.send(Mail::Admin { command, reply }).await.ok()?;
        replied.await.ok()
    }

    /// As it stands in memory or in the spool.
    pub async fn read_message(&self, id: SpoolId) -> Result<Option<Arc<Message>>, String> {
        match self.shared.load(id).await {
            Ok(message) => Ok(Some(message)),
            Err(LoadError::Missing) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until the engine holds no message, at most so long.
    pub async fn drained(&self, patience: Duration) -> bool {
        let wait = async {
            while self.query(|engine, _| engine.message_count()).await != Some(0) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(patience, wait).await.is_ok()
    }
}
