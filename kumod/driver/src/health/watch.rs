//! The task behind the gates: samples stores and rooms, probes and reopens where a gate asks for it, and tells committer and engine of each
//! edge. Invariant: nothing here waits for the spool without a deadline, and a store gets no call while one that was late still runs, so that
//! a disk that hangs isn't left with a queue of probes.
use super::Health;
use super::room::Room;
use crate::committer::Control;
use crate::shared::{Shared, lock};
use crate::world::World;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kumo_core::engine;
use kumo_core::health::{Input, Level, Output};
use kumo_core::id::SpoolId;
use kumo_core::port::{
    Family, Files, FreeSpace, Spool, SpoolError, SpoolErrorKind, SpoolOperation, SyncMode,
};
use kumo_core::time::{Duration, Mono};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// Between looks at the stores' own counts and at their room.
const SAMPLE: Duration = Duration::from_secs(5);
/// While a gate is shut or room is short.
const SAMPLE_ILL: Duration = Duration::from_secs(1);
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// A little more than a store takes to give up closing.
const REOPEN_DEADLINE: Duration = Duration::from_secs(35);
/// For committer and engine to take the news of a gate.
const TELLING: Duration = Duration::from_secs(10);
/// A store that lacked room isn't tried before there is as much.
const ROOM_OCTETS: u64 = 1024 * 1024;

enum Done {
    /// Or what the file system said.
    Looked {
        room: usize,
        look: Result<FreeSpace, String>,
    },
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
type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// What a call that was late will come to.
type Slot<T> = Arc<Mutex<Option<oneshot::Receiver<T>>>>;

struct Watch<W: World> {
    shared: Arc<Shared<W>>,
    committer: mpsc::Sender<Control>,
    errands: FuturesUnordered<Errand>,
    /// One for each store.
    slots: Vec<Slot<Result<(), SpoolError>>>,
    /// One for each room: the stores', then the others.
    looks: Vec<Look>,
    /// What committer and engine were told last.
    told_shut: bool,
}

struct Look {
    slot: Slot<Result<FreeSpace, String>>,
    /// When to look next; `None`: one is under way.
    next: Option<Mono>,
}

/// Runs as long as the process.
pub(crate) async fn run<W: World>(shared: Arc<Shared<W>>, committer: mpsc::Sender<Control>) {
    let mut watch = Watch {
        slots: shared.health.stores.iter().map(|_| Slot::default()).collect(),
        looks: shared
            .health
            .rooms()
            .map(|_| Look { slot: Slot::default(), next: Some(Mono(0)) })
            .collect(),
        shared,
        committer,
        errands: FuturesUnordered::new(),
        told_shut: false,
    };
    loop {
        watch.look();
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
        let looks = self.looks.iter().filter_map(|look| look.next);
        gates.chain(looks).min().map_or(SAMPLE, |wake| wake.since(now))
    }

    // ---- Looks -----------------------------------------------------------------------------------------

    /// What the stores say of themselves, and how much room there is. A folder that hangs holds up no other's look.
    fn look(&mut self) {
        let now = self.shared.now().mono;
        for index in 0..self.looks.len() {
            if self.looks[index].next.is_none_or(|at| now < at) {
                continue;
            }
            self.looks[index].next = None;
            if let Some(store) = self.health().stores.get(index) {
                let properties = self.shared.world.spool().properties(store.family);
                let count = Input::BackgroundErrors(properties.background_errors);
                lock(&store.gate).handle(now, count);
            }
            self.errands.push(self.looking(index));
        }
    }

    fn looking(&self, index: usize) -> Errand {
        let (shared, slot) = (self.shared.clone(), self.looks[index].slot.clone());
        Box::pin(async move {
            let world = shared.clone();
            let call = async move {
                match world.health.stores.get(index) {
                    Some(store) => {
                        let free = world.world.spool().free_space(store.family).await;
                        free.map_err(|error| error.text)
                    }
                    None => {
                        let room = world.health.rooms().nth(index).expect("rooms stay");
                        world.world.files().free_space(&room.path).await
                    }
                }
            };
            let begin = in_background(|call| shared.spawn(call), Box::pin(call));
            let look = in_time(&slot, PROBE_DEADLINE, begin).await;
            let late = || Err(format!("it isn't told within {PROBE_DEADLINE:?}"));
            Done::Looked { room: index, look: look.unwrap_or_else(late) }
        })
    }

    fn looked(&mut self, index: usize, look: Result<FreeSpace, String>) {
        let now = self.shared.now().mono;
        let health = self.health();
        let room = health.rooms().nth(index).expect("rooms stay");
        room.sample(look.as_ref().map_err(String::as_str).copied());
        if let (Some(store), Ok(free)) = (health.stores.get(index), look) {
            let has_room = !room.is_full() && free.octets >= ROOM_OCTETS;
            lock(&store.gate).handle(now, Input::Room(has_room));
        }
        let is_full = health.rooms().any(Room::is_full);
        health.is_full.store(is_full, Ordering::Release);
        let is_ill = is_full || health.is_shut();
        self.looks[index].next = Some(now + if is_ill { SAMPLE_ILL } else { SAMPLE });
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
        let (shared, slot) = (self.shared.clone(), self.slots[store].clone());
        Box::pin(async move {
            if wanted == Output::Reopen {
                let world = shared.clone();
                let reopening = async move { world.world.spool().reopen(family).await };
                let begin = in_background(|call| shared.spawn(call), Box::pin(reopening));
                let result = in_time(&slot, REOPEN_DEADLINE, begin).await;
                let result = result.unwrap_or_else(|| Err(late(REOPEN_DEADLINE)));
                return Done::Reopened { store, result };
            }
            let world = shared.clone();
            let probing = async move { probe(world.world.spool(), family).await };
            let begin = in_background(|call| shared.spawn(call), Box::pin(probing));
            let result = in_time(&slot, PROBE_DEADLINE, begin).await;
            let result = result.unwrap_or_else(|| Err(late(PROBE_DEADLINE)));
            Done::Probed { store, result }
        })
    }

    fn done(&mut self, done: Done) {
        let now = self.shared.now().mono;
        let gate = |store: usize| lock(&self.health().stores[store].gate);
        match done {
            Done::Looked { room, look } => self.looked(room, look),
            Done::Probed { store, result } => {
                gate(store).handle(now, Input::Probed(result.as_ref().copied()));
            }
            Done::Reopened { store, result } => {
                gate(store).handle(now, Input::Reopened(result.as_ref().copied()));
            }
        }
    }

    async fn tell_edge(&mut self) {
        let shut = self.health().look_whether_shut();
        if shut == self.told_shut {
            return;
        }
        let told = tell(self.shared.clone(), self.committer.clone(), shut);
        match timeout(TELLING, told).await {
            Ok(()) => self.told_shut = shut,
            // Told anew, which does no harm; looks and probes don't wait for it.
            Err(_) => tracing::error!("the spool's gate has changed, and the engine takes no news"),
        }
    }
}

async fn tell<W: World>(shared: Arc<Shared<W>>, committer: mpsc::Sender<Control>, shut: bool) {
    let _ = committer.send(Control::Gate { is_open: !shut }).await;
    if shared.health.suspends_delivery {
        shared.tell_engine(engine::Input::SpoolHealth { healthy: !shut }).await;
    }
}

/// Begins a call that goes on to its end though nobody may wait for it any more.
fn in_background<T: Send + 'static>(
    spawn: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>),
    call: Call<T>,
) -> impl FnOnce() -> oneshot::Receiver<T> {
    move || {
        let (done, result) = oneshot::channel();
        // Told to nobody if it was late.
        spawn(Box::pin(async move { drop(done.send(call.await)) }));
        result
    }
}

/// `None`: it is late. One that was late before is waited for first, as long.
async fn in_time<T>(
    slot: &Slot<T>,
    deadline: Duration,
    begin: impl FnOnce() -> oneshot::Receiver<T>,
) -> Option<T> {
    let mut slot = slot.lock().await;
    if let Some(late) = slot.as_mut() {
        // What it came to has no meaning any more.
        let _ = timeout(deadline, late).await.ok()?;
    }
    let result = timeout(deadline, slot.insert(begin())).await.ok()?;
    *slot = None;
    result.ok()
}

/// It may still answer, and is asked again.
fn late(patience: Duration) -> SpoolError {
    let text = format!("the spool didn't answer within {patience:?}");
    SpoolError { kind: SpoolErrorKind::Other, text }
}

/// A record that is no message is written, synced, read and removed: of this family, or of both if they are one store.
async fn probe(spool: &impl Spool, family: Family) -> Result<(), SpoolError> {
    let families = match spool.is_atomic_across_families() {
        true => &[Family::Data, Family::Meta][..],
        false => std::slice::from_ref(&family),
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn a_store_that_hangs_is_asked_nothing_more_until_it_has_answered() {
        let (slot, begun, answer) =
            (Slot::default(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let call = |waits: bool| {
            let (begun, answer) = (begun.clone(), answer.clone());
            let call = async move {
                begun.fetch_add(1, Ordering::Relaxed);
                if waits {
                    answer.notified().await;
                }
            };
            in_background::<()>(|call| drop(tokio::spawn(call)), Box::pin(call))
        };
        let deadline = Duration::from_millis(10);
        for _ in 0..3 {
            assert_eq!(in_time(&slot, deadline, call(true)).await, None);
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        answer.notify_one();
        let patience = Duration::from_secs(10);
        assert_eq!(in_time(&slot, patience, call(false)).await, Some(()));
        assert_eq!(in_time(&slot, patience, call(false)).await, Some(()));
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
