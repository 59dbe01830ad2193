//! One life of the node under test, on a madsim node of its own, and how the harness talks to it. Invariant: what the node does for the
//! harness it does in its own tasks, so that they die with it; every answer may therefore never come.
use crate::check::bounds::Look;
use kumo_core::engine::{AdminCommand, ReadySuspension};
use kumo_core::id::SpoolId;
use kumo_core::message::Message;
use kumo_core::port::{Family, Host, Spool};
use kumo_core::smtp::server::Submitted;
use kumo_core::time::{Duration, Wall};
use kumo_driver::node::{Handle, Node, NodeConfig};
use kumo_driver::policy::Generated;
use kumo_driver::world::World;
use kumo_io_sim::universe::Universe;
use kumo_io_sim::world::SimWorld;
use madsim::task::NodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeEnd {
    Stopped,
    DidNotStart(String),
    /// Its task was dropped.
    Gone,
}

/// What a look finds.
pub struct Seen {
    pub look: Look,
    /// Of the ids asked about, those that the engine holds.
    pub held: Vec<SpoolId>,
}

/// What became of an injection.
#[derive(Debug)]
pub enum Injected {
    Accepted(SpoolId),
    Refused(u16),
}

/// Makes a message once its id is known.
pub type Make = Box<dyn FnOnce(SpoolId) -> Message + Send>;

pub enum Command {
    Admin(AdminCommand),
    /// The first ready queue there is.
    SuspendReady {
        id: Box<str>,
        expires: Wall,
    },
    Look {
        ids: Vec<SpoolId>,
        compact: bool,
        answer: oneshot::Sender<Seen>,
    },
    /// How many messages the engine holds beside these.
    Count {
        damaged: Vec<SpoolId>,
        answer: oneshot::Sender<usize>,
    },
    /// The first of these that the engine holds, and why.
    Explain {
        ids: Vec<SpoolId>,
        answer: oneshot::Sender<String>,
    },
    Inject {
        make: Make,
        answer: oneshot::Sender<Injected>,
    },
    Stop,
}

/// Where injections go: the life that is, whichever that is then.
pub type Injections = watch::Receiver<Option<mpsc::Sender<Command>>>;

pub struct Running {
    id: NodeId,
    commands: mpsc::Sender<Command>,
    ended: oneshot::Receiver<LifeEnd>,
    paused: AtomicBool,
}

impl Running {
    pub fn start(universe: &Arc<Universe>, config: NodeConfig, life: u64) -> Running {
        let handle = madsim::runtime::Handle::current();
        let node = handle.create_node().name(format!("life {life}")).build();
        let (commands, orders) = mpsc::channel(1024);
        let (end, ended) = oneshot::channel();
        node.spawn(live(universe.clone(), config, orders, end));
        DOORS.with(|doors| doors.open(commands.clone()));
        Running { id: node.id(), commands, ended, paused: AtomicBool::new(false) }
    }

    pub fn kill(self) {
        DOORS.with(Doors::shut);
        madsim::runtime::Handle::current().kill(self.id);
    }

    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
        madsim::runtime::Handle::current().pause(self.id);
    }

    pub fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        madsim::runtime::Handle::current().resume(self.id);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub async fn ended(&mut self) -> LifeEnd {
        (&mut self.ended).await.unwrap_or(LifeEnd::Gone)
    }

    pub async fn stop(&mut self) -> LifeEnd {
        DOORS.with(Doors::shut);
        if self.is_paused() {
            self.resume();
        }
        let _ = self.commands.send(Command::Stop).await;
        self.ended().await
    }

    pub async fn tell(&self, command: Command) {
        // A life that has just ended obeys nobody.
        let _ = self.commands.send(command).await;
    }

    pub async fn look(&self, ids: Vec<SpoolId>, compact: bool) -> Option<Seen> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Look { ids, compact, answer }).await;
        answered.await.ok()
    }

    pub async fn message_count(&self, damaged: Vec<SpoolId>) -> Option<usize> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Count { damaged, answer }).await;
        answered.await.ok()
    }

    pub async fn explain(&self, ids: Vec<SpoolId>) -> Option<String> {
        let (answer, answered) = oneshot::channel();
        self.tell(Command::Explain { ids, answer }).await;
        answered.await.ok()
    }

    pub fn injections(&self) -> Injections {
        DOORS.with(Doors::watch)
    }
}

/// The way into the life that is. One for each run, since each has a thread.
struct Doors(watch::Sender<Option<mpsc::Sender<Command>>>);

impl Doors {
    fn open(&self, commands: mpsc::Sender<Command>) {
        self.0.send_replace(Some(commands));
    }

    fn shut(&self) {
        self.0.send_replace(None);
    }

    fn watch(&self) -> Injections {
        self.0.subscribe()
    }
}

thread_local! {
    static DOORS: Doors = Doors(watch::Sender::new(None));
}

async fn live(
    universe: Arc<Universe>,
    config: NodeConfig,
    mut orders: mpsc::Receiver<Command>,
    end: oneshot::Sender<LifeEnd>,
) {
    let world = SimWorld::begin(&universe);
    let node = match Node::start(world, config).await {
        Ok(node) => node,
        Err(error) => return drop(end.send(LifeEnd::DidNotStart(error.to_string()))),
    };
    let handle = node.handle();
    while let Some(command) = orders.recv().await {
        if let Command::Stop = command {
            node.stop().await;
            let _ = end.send(LifeEnd::Stopped);
            return;
        }
        let handle = handle.clone();
        drop(tokio::spawn(obey(handle, command)));
    }
}

async fn obey(handle: Handle<SimWorld>, command: Command) {
    match command {
        Command::Admin(order) => drop(handle.admin(order).await),
        Command::SuspendReady { id, expires } => {
            let first = handle.query(|engine, _| {
                engine.ready_queues().into_iter().next().map(|queue| queue.name)
            });
            if let Some(Some(name)) = first.await {
                let reason = "the scenario says so".into();
                let entry = ReadySuspension { id, name: name.into(), reason, expires };
                let _ = handle.admin(AdminCommand::SuspendReady(entry)).await;
            }
        }
        Command::Look { ids, compact, answer } => {
            if let Some(seen) = look(&handle, ids).await {
                let _ = answer.send(seen);
            }
            if compact {
                let compaction = handle.world().spool().compact(Family::Data);
                let _ = timeout(Duration::from_secs(3600), compaction).await;
            }
        }
        Command::Count { damaged, answer } => {
            let count = handle.query(move |engine, _| {
                let held = damaged.into_iter().filter(|id| engine.holds(*id)).count();
                engine.message_count() - held
            });
            if let Some(count) = count.await {
                let _ = answer.send(count);
            }
        }
        Command::Explain { ids, answer } => {
            let _ = answer.send(explain(&handle, ids).await);
        }
        Command::Inject { make, answer } => {
            let _ = answer.send(inject(&handle, make).await);
        }
        Command::Stop => unreachable!("a stop is the life's own to obey"),
    }
}

async fn look(handle: &Handle<SimWorld>, ids: Vec<SpoolId>) -> Option<Seen> {
    let looked = handle.inspect(move |engine, dispatchers, now| {
        let held = ids.into_iter().filter(|id| engine.holds(*id)).collect();
        let dispatchers = dispatchers.iter().map(|(_, dispatcher)| dispatcher).collect();
        (now, held, engine.ready_queues(), dispatchers)
    });
    let (now, held, ready, dispatchers) = looked.await?;
    // As a scrape of the metrics does.
    let _ = handle.world().host().memory();
    let counters = handle.counters();
    let body_cache_octets = counters.body_cache_octets.get();
    let is_shut = handle.spool_health().iter().any(|store| store.latched);
    let look = Look { at: now.mono, body_cache_octets, ready, is_shut, dispatchers };
    Some(Seen { look, held })
}

/// Why a message that should be gone is still there.
async fn explain(handle: &Handle<SimWorld>, ids: Vec<SpoolId>) -> String {
    let explained = handle.query(|engine, _| {
        let held = ids.into_iter().find(|id| engine.holds(*id));
        let message = held.and_then(|id| engine.explain_message(id));
        let queue = engine.scheduled_queues().into_iter().find(|queue| queue.messages > 0);
        format!("{held:?}: {message:?}; {queue:?}; {} sessions", engine.session_count())
    });
    explained.await.unwrap_or_default()
}

async fn inject(handle: &Handle<SimWorld>, make: Make) -> Injected {
    if handle.unavailable().is_some() {
        return Injected::Refused(503);
    }
    let message = make(handle.new_id());
    let id = message.id;
    let message = match handle.generate(message).await {
        Generated::Proceed(message) => message,
        Generated::Reject(reply) => return Injected::Refused(reply.code),
        Generated::Failed(_) => return Injected::Refused(500),
    };
    match handle.submit(vec![message]).await {
        Some(Submitted::Accepted(_)) => Injected::Accepted(id),
        Some(Submitted::Refused(reply)) => Injected::Refused(reply.code),
        // The task that submits is gone: with the process.
        None => {
            sleep(Duration::from_secs(3600)).await;
            Injected::Refused(500)
        }
    }
}
