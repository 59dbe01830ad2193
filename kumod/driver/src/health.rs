//! The spool's health in the driver: feeds each store's gate (`core::health`) with what its calls come to, probes and reopens where a gate asks for
//! it, watches the room on its file system, and tells committer and engine of each edge. Invariant: the flags that ingress looks at are set
//! before the call that failed is answered; nothing here waits for the spool without a deadline. When a gate shuts or opens is core's to say.
use crate::committer::Control;
use crate::shared::Shared;
use crate::shared::lock;
use crate::world::World;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kumo_core::config::SpoolDefinition;
use kumo_core::config::service::SpoolKind;
use kumo_core::engine;
use kumo_core::health::{Call, DiskGuard, Edge, Gate, GateConfig, Input, Level, Output};
use kumo_core::id::SpoolId;
use kumo_core::port::{
    Family, FreeSpace, Spool, SpoolError, SpoolErrorKind, SpoolOperation, SpoolProperties, SyncMode,
};
use kumo_core::time::{Duration, Mono};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

/// Between looks at the stores' own counts and at their room.
const SAMPLE: Duration = Duration::from_secs(5);
/// While a gate is shut or room is short.
const SAMPLE_ILL: Duration = Duration::from_secs(1);
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// A little more than a store takes to give up closing.
const REOPEN_DEADLINE: Duration = Duration::from_secs(35);
/// A store that lacked room isn't tried before there is as much.
const ROOM_OCTETS: u64 = 1024 * 1024;

/// The stores as policy defined them, and what of them is found at the start.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    pub data: SpoolDefinition,
    pub meta: SpoolDefinition,
    /// `kumo.suspend_delivery_when_spool_unhealthy`.
    pub suspend_delivery: bool,
    /// What was found damaged when they were opened.
    pub damage: Vec<(Family, String)>,
}

impl SpoolSettings {
    /// Both in one folder, as policy defines them by default.
    pub fn at(path: &str) -> SpoolSettings {
        SpoolSettings {
            data: SpoolDefinition::at("data", path),
            meta: SpoolDefinition::at("meta", path),
            suspend_delivery: true,
            damage: Vec::new(),
        }
    }

    /// Whether 250 waits for a sync.
    pub fn sync(&self) -> bool {
        self.data.flush && self.meta.flush
    }

    pub fn store_deadline(&self) -> Duration {
        let of = |spool: &SpoolDefinition| spool.rocks_params.store_deadline();
        of(&self.data).min(of(&self.meta))
    }
}

/// Why no mail is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illness {
    DiskFull,
    Unhealthy,
}

impl Illness {
    /// As clients are told (seed.md 1.1 and 2.4).
    pub fn text(self) -> &'static str {
        match self {
            Illness::DiskFull => "disk is too full",
            Illness::Unhealthy => "the spool is not accepting writes",
        }
    }
}

/// One store as metrics and `kcli spool-health` show it.
#[derive(Clone, Debug)]
pub struct StoreReport {
    pub path: String,
    /// `data`, `meta`, or both.
    pub holds: &'static [&'static str],
    pub latched: bool,
    /// Why, and what comes next.
    pub why: Option<String>,
    pub properties: SpoolProperties,
    pub free: FreeSpace,
    pub disk_full: bool,
}

struct Store {
    path: String,
    family: Family,
    holds: &'static [&'static str],
    gate: Mutex<Gate>,
    /// The gate wants to hear of synced writes.
    is_troubled: AtomicBool,
    room: Mutex<Room>,
}

struct Room {
    guard: DiskGuard,
    free: FreeSpace,
}

pub(crate) struct Health {
    stores: Vec<Store>,
    suspends_delivery: bool,
    is_shut: AtomicBool,
    is_full: AtomicBool,
    changed: Notify,
}

impl Store {
    fn new(definition: &SpoolDefinition, family: Family, holds: &'static [&'static str]) -> Store {
        let path = definition.path.clone();
        let params = &definition.rocks_params;
        let (store, look_at) = match definition.kind {
            SpoolKind::RocksDB => (format!("rocksdb at {path}"), format!("{path}/LOG")),
            SpoolKind::LocalDisk => {
                (format!("files at {path}"), format!("the kernel's log and {path}"))
            }
        };
        let gate = Gate::new(GateConfig {
            store,
            look_at,
            error_latch: params.error_latch(),
            error_unlatch: params.error_unlatch(),
            allow_unlatch: params.allows_error_unlatch(),
        });
        let guard = DiskGuard::new(definition.min_free_space, definition.min_free_inodes);
        Store {
            path,
            family,
            holds,
            gate: Mutex::new(gate),
            is_troubled: AtomicBool::new(false),
            room: Mutex::new(Room { guard, free: FreeSpace::default() }),
        }
    }
}

impl Health {
    /// `atomic`: both families lie in one store.
    pub fn new(settings: &SpoolSettings, atomic: bool) -> Health {
        let stores = match atomic {
            true => vec![Store::new(&settings.data, Family::Meta, &["data", "meta"])],
            false => vec![
                Store::new(&settings.data, Family::Data, &["data"]),
                Store::new(&settings.meta, Family::Meta, &["meta"]),
            ],
        };
        Health {
            stores,
            suspends_delivery: settings.suspend_delivery,
            is_shut: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    fn store(&self, family: Family) -> &Store {
        let own = self.stores.iter().find(|store| store.family == family);
        own.unwrap_or(&self.stores[0])
    }

    pub fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Acquire)
    }

    /// Whether the gate of this family's own store is shut.
    pub fn is_latched(&self, family: Family) -> bool {
        self.is_shut() && lock(&self.store(family).gate).is_latched()
    }

    pub fn illness(&self) -> Option<Illness> {
        if self.is_full.load(Ordering::Acquire) {
            return Some(Illness::DiskFull);
        }
        self.is_shut().then_some(Illness::Unhealthy)
    }

    pub fn suspends_delivery(&self) -> bool {
        self.suspends_delivery && self.is_shut()
    }

    // ---- What calls come to ----------------------------------------------------------------------------

    pub fn failed(&self, now: Mono, family: Family, call: Call, error: &SpoolError) {
        let input = Input::Failed { call, kind: error.kind, text: &error.text };
        self.tell(now, self.store(family), input);
    }

    /// A part of it couldn't be read.
    pub fn damaged(&self, now: Mono, family: Family, text: &str) {
        let kind = SpoolErrorKind::Corruption;
        let input = Input::Failed { call: Call::Read, kind, text };
        self.tell(now, self.store(family), input);
    }

    pub fn damaged_at_open(&self, now: Mono, family: Family, text: &str) {
        self.tell(now, self.store(family), Input::Damaged { text });
    }

    /// Whose fault it was isn't known: each store has to prove that it works.
    pub fn deadline_used_up(&self, now: Mono) {
        self.stores.iter().for_each(|store| self.tell(now, store, Input::DeadlineUsedUp));
    }

    /// A healthy store pays a load of one flag for this.
    pub fn synced(&self, now: Mono, family: Family) {
        let store = self.store(family);
        if store.is_troubled.load(Ordering::Relaxed) {
            self.tell(now, store, Input::Synced);
        }
    }

    fn tell(&self, now: Mono, store: &Store, input: Input<'_>) {
        let mut gate = lock(&store.gate);
        gate.handle(now, input);
        store.is_troubled.store(gate.is_troubled(), Ordering::Relaxed);
        let shut = gate.is_latched();
        drop(gate);
        if shut {
            self.is_shut.store(true, Ordering::Release);
        }
        self.changed.notify_one();
    }

    pub fn report(&self, spool: &impl Spool) -> Vec<StoreReport> {
        let report = |store: &Store| {
            let (latched, why) = {
                let gate = lock(&store.gate);
                (gate.is_latched(), gate.explain())
            };
            let room = lock(&store.room);
            StoreReport {
                path: store.path.clone(),
                holds: store.holds,
                latched,
                why,
                properties: spool.properties(store.family),
                free: room.free,
                disk_full: room.guard.is_over(),
            }
        };
        self.stores.iter().map(report).collect()
    }
}

// ---- The task --------------------------------------------------------------------------------------------

enum Done {
    /// For each store.
    Room(Result<Vec<Result<FreeSpace, SpoolError>>, SpoolError>),
    Probed {
        store: usize,
        result: Result<(), SpoolError>,
    },
    Reopened {
        store: usize,
        result: Result<(), SpoolError>,
    },
}

type Errand = Pin<Box<dyn Future<Output = Done> + Send>>;

struct Watch<W: World> {
    shared: Arc<Shared<W>>,
    committer: mpsc::Sender<Control>,
    errands: FuturesUnordered<Errand>,
    /// What committer and engine were told last.
    told_shut: bool,
    /// `None`: one is under way.
    next_sample: Option<Mono>,
}

/// Runs as long as the process.
pub(crate) async fn run<W: World>(shared: Arc<Shared<W>>, committer: mpsc::Sender<Control>) {
    let mut watch = Watch {
        shared,
        committer,
        errands: FuturesUnordered::new(),
        told_shut: false,
        next_sample: Some(Mono(0)),
    };
    loop {
        watch.sample();
        watch.attend().await;
        let wake = watch.until_wake();
        let Watch { shared, errands, .. } = &mut watch;
        let done = tokio::select! {
            biased;
            () = shared.health.changed.notified() => None,
            Some(done) = errands.next(), if !errands.is_empty() => Some(done),
            () = sleep(wake) => None,
        };
        if let Some(done) = done {
            watch.done(done);
        }
    }
}

impl<W: World> Watch<W> {
    fn health(&self) -> &Health {
        &self.shared.health
    }

    fn until_wake(&self) -> Duration {
        let now = self.shared.now().mono;
        let gates = self.health().stores.iter().filter_map(|store| lock(&store.gate).next_wake());
        gates.chain(self.next_sample).min().map_or(SAMPLE, |wake| wake.since(now))
    }

    // ---- Looks -----------------------------------------------------------------------------------------

    /// What the stores say of themselves, and how much room there is.
    fn sample(&mut self) {
        let now = self.shared.now().mono;
        if self.next_sample.is_none_or(|at| now < at) {
            return;
        }
        self.next_sample = None;
        for store in &self.health().stores {
            let properties = self.shared.world.spool().properties(store.family);
            let count = Input::BackgroundErrors(properties.background_errors);
            lock(&store.gate).handle(now, count);
        }
        let shared = self.shared.clone();
        self.errands.push(Box::pin(async move {
            let spool = shared.world.spool();
            let rooms = shared.health.stores.iter().map(|store| spool.free_space(store.family));
            let rooms = timeout(PROBE_DEADLINE, join_all(rooms)).await;
            Done::Room(rooms.map_err(|_| late(PROBE_DEADLINE)))
        }));
    }

    fn room(&mut self, rooms: Result<Vec<Result<FreeSpace, SpoolError>>, SpoolError>) {
        let now = self.shared.now().mono;
        let health = self.health();
        let rooms = rooms
            .unwrap_or_else(|error| health.stores.iter().map(|_| Err(error.clone())).collect());
        for (store, free) in health.stores.iter().zip(rooms) {
            match free {
                Ok(free) => {
                    let has_room = look_at_room(store, free);
                    lock(&store.gate).handle(now, Input::Room(has_room));
                }
                Err(error) => tracing::error!("the room at {} isn't known: {error}", store.path),
            }
        }
        let is_full = health.stores.iter().any(|store| lock(&store.room).guard.is_over());
        health.is_full.store(is_full, Ordering::Release);
        let is_ill = is_full || health.is_shut();
        self.next_sample = Some(now + if is_ill { SAMPLE_ILL } else { SAMPLE });
    }

    // ---- What gates want -------------------------------------------------------------------------------

    async fn attend(&mut self) {
        let now = self.shared.now().mono;
        let mut wanted = Vec::new();
        for (index, store) in self.health().stores.iter().enumerate() {
            let mut gate = lock(&store.gate);
            gate.handle(now, Input::Tick);
            while let Some(output) = gate.poll() {
                match output {
                    Output::Notice(notice) => match notice.level {
                        Level::Error => tracing::error!("{}", notice.text),
                        Level::Info => tracing::info!("{}", notice.text),
                    },
                    Output::Probe | Output::Reopen => wanted.push((index, store.family, output)),
                }
            }
            store.is_troubled.store(gate.is_troubled(), Ordering::Relaxed);
        }
        for (index, family, output) in wanted {
            self.errands.push(self.errand(index, family, output));
        }
        self.tell_edge().await;
    }

    fn errand(&self, store: usize, family: Family, wanted: Output) -> Errand {
        let shared = self.shared.clone();
        Box::pin(async move {
            let spool = shared.world.spool();
            if wanted == Output::Reopen {
                let reopened = timeout(REOPEN_DEADLINE, spool.reopen(family)).await;
                let result = reopened.unwrap_or_else(|_| Err(late(REOPEN_DEADLINE)));
                return Done::Reopened { store, result };
            }
            let families = match spool.is_atomic_across_families() {
                true => &[Family::Data, Family::Meta][..],
                false => std::slice::from_ref(&family),
            };
            let probed = timeout(PROBE_DEADLINE, probe(spool, families)).await;
            let result = probed.unwrap_or_else(|_| Err(late(PROBE_DEADLINE)));
            Done::Probed { store, result }
        })
    }

    fn done(&mut self, done: Done) {
        let now = self.shared.now().mono;
        let gate = |store: usize| lock(&self.health().stores[store].gate);
        match done {
            Done::Room(rooms) => self.room(rooms),
            Done::Probed { store, result } => {
                gate(store).handle(now, Input::Probed(result.as_ref().copied()));
            }
            Done::Reopened { store, result } => {
                gate(store).handle(now, Input::Reopened(result.as_ref().copied()));
            }
        }
    }

    async fn tell_edge(&mut self) {
        let health = self.health();
        let shut = health.stores.iter().any(|store| lock(&store.gate).is_latched());
        if shut == self.told_shut {
            return;
        }
        let suspends = health.suspends_delivery;
        self.told_shut = shut;
        // Before the committer hands over again, which would take it for shut.
        self.health().is_shut.store(shut, Ordering::Release);
        let _ = self.committer.send(Control::Gate { is_open: !shut }).await;
        if suspends {
            self.shared.tell_engine(engine::Input::SpoolHealth { healthy: !shut }).await;
        }
    }
}

/// Whether a store that lacked room may be tried.
fn look_at_room(store: &Store, free: FreeSpace) -> bool {
    let mut room = lock(&store.room);
    room.free = free;
    let path = &store.path;
    let (octets, inodes) = (free.octets, free.inodes);
    match room.guard.sample(free) {
        Some(Edge::Entered) => tracing::error!(
            "{path}: {octets} octets and {inodes} inodes are free, which is below min_free_space or min_free_inodes: no mail is \
             taken until there is more room"
        ),
        Some(Edge::Left) => {
            tracing::info!("{path}: has recovered: {octets} octets and {inodes} inodes are free");
        }
        None => {}
    }
    !room.guard.is_over() && octets >= ROOM_OCTETS
}

/// It may still answer, and is asked again.
fn late(patience: Duration) -> SpoolError {
    let text = format!("the spool didn't answer within {patience:?}");
    SpoolError { kind: SpoolErrorKind::Other, text }
}

/// A record that is no message is written, synced, read and removed.
async fn probe(spool: &impl Spool, families: &[Family]) -> Result<(), SpoolError> {
    let key = SpoolId::PROBE;
    let value = bytes::Bytes::from_static(b"kumod's probe of the spool: no message");
    let put = |family: &Family| SpoolOperation::Put { family: *family, key, value: value.clone() };
    spool.apply(families.iter().map(put).collect(), SyncMode::Synced).await?;
    for family in families {
        let read = spool.get(*family, key).await?;
        if read.as_ref() != Some(&value) {
            let text = format!("the probe reads back as {read:?}");
            return Err(SpoolError { kind: SpoolErrorKind::Corruption, text });
        }
    }
    let delete = |family: &Family| SpoolOperation::Delete { family: *family, key };
    spool.apply(families.iter().map(delete).collect(), SyncMode::Unsynced).await
}
