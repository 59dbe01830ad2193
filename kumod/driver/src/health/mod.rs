//! The spool's health in the driver: feeds each store's gate (`core::health`) with what its calls come to, and answers what ingress, metrics and
//! operators ask. Invariant: the flags that ingress looks at are set before the call that failed is answered. What the gates want is done in
//! [`watch`]; when one shuts or opens is core's to say.
mod room;
pub(crate) mod watch;

use crate::shared::lock;
use kumo_core::config::SpoolDefinition;
use kumo_core::config::service::SpoolKind;
use kumo_core::health::{Call, Gate, GateConfig, Input};
use kumo_core::port::{Family, FreeSpace, Spool, SpoolError, SpoolErrorKind, SpoolProperties};
use kumo_core::time::{Duration, Mono};
use room::Room;
pub use room::{FolderReport, GuardedFolder};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// The stores as policy defined them, and what of them is found at the start.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    pub data: SpoolDefinition,
    pub meta: SpoolDefinition,
    /// `kumo.suspend_delivery_when_spool_unhealthy`.
    pub suspend_delivery: bool,
    /// What was found damaged when they were opened.
    pub damage: Vec<(Family, String)>,
    /// Other folders without whose room no mail is taken, such as those of logs.
    pub guarded: Vec<GuardedFolder>,
}

impl SpoolSettings {
    /// Both in one folder, as policy defines them by default.
    pub fn at(path: &str) -> SpoolSettings {
        SpoolSettings {
            data: SpoolDefinition::at("data", path),
            meta: SpoolDefinition::at("meta", path),
            suspend_delivery: true,
            damage: Vec::new(),
            guarded: Vec::new(),
        }
    }

    /// One store for both: what data's definition leaves out of these parameters, meta's may say. Of room it takes what data's asks for.
    fn shared(&self) -> SpoolDefinition {
        let mut shared = self.data.clone();
        let (own, meta) = (&mut shared.rocks_params, &self.meta.rocks_params);
        own.error_latch_duration = own.error_latch_duration.or(meta.error_latch_duration);
        own.error_unlatch_duration = own.error_unlatch_duration.or(meta.error_unlatch_duration);
        own.allow_error_unlatch = own.allow_error_unlatch.or(meta.allow_error_unlatch);
        shared
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
    family: Family,
    holds: &'static [&'static str],
    gate: Mutex<Gate>,
    /// The gate wants to hear of synced writes.
    is_troubled: AtomicBool,
    room: Room,
}

pub(crate) struct Health {
    stores: Vec<Store>,
    others: Vec<Room>,
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
        let room = Room::new(GuardedFolder {
            path,
            min_free_space: definition.min_free_space,
            min_free_inodes: definition.min_free_inodes,
        });
        Store { family, holds, gate: Mutex::new(gate), is_troubled: AtomicBool::new(false), room }
    }
}

impl Health {
    /// `atomic`: both families lie in one store.
    pub fn new(settings: &SpoolSettings, atomic: bool) -> Health {
        let stores = match atomic {
            true => vec![Store::new(&settings.shared(), Family::Meta, &["data", "meta"])],
            false => vec![
                Store::new(&settings.data, Family::Data, &["data"]),
                Store::new(&settings.meta, Family::Meta, &["meta"]),
            ],
        };
        Health {
            stores,
            others: settings.guarded.iter().cloned().map(Room::new).collect(),
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

    /// The stores', then the others.
    fn rooms(&self) -> impl Iterator<Item = &Room> {
        self.stores.iter().map(|store| &store.room).chain(&self.others)
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
        if gate.is_latched() {
            // With the gate held, so that nobody who has seen it open overwrites this.
            self.is_shut.store(true, Ordering::Release);
        }
        drop(gate);
        self.changed.notify_one();
    }

    /// Holds all gates meanwhile: what is said here is true of all of them at once.
    fn look_whether_shut(&self) -> bool {
        let gates: Vec<_> = self.stores.iter().map(|store| lock(&store.gate)).collect();
        let shut = gates.iter().any(|gate| gate.is_latched());
        self.is_shut.store(shut, Ordering::Release);
        shut
    }

    pub fn report(&self, spool: &impl Spool) -> Vec<StoreReport> {
        let report = |store: &Store| {
            let (latched, why) = {
                let gate = lock(&store.gate);
                (gate.is_latched(), gate.explain())
            };
            let room = store.room.report();
            StoreReport {
                path: room.path,
                holds: store.holds,
                latched,
                why,
                properties: spool.properties(store.family),
                free: room.free,
                disk_full: room.is_full,
            }
        };
        self.stores.iter().map(report).collect()
    }

    /// The guarded folders beside the stores'.
    pub fn folders(&self) -> Vec<FolderReport> {
        self.others.iter().map(Room::report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_store_for_both_takes_data_s_word_before_meta_s() {
        let mut settings = SpoolSettings::at("/spool");
        let (data, meta) = (&mut settings.data.rocks_params, &mut settings.meta.rocks_params);
        data.error_latch_duration = Some(Duration::from_secs(1));
        meta.error_latch_duration = Some(Duration::from_secs(2));
        meta.error_unlatch_duration = Some(Duration::from_secs(3));
        meta.allow_error_unlatch = Some(false);
        let shared = settings.shared().rocks_params;
        assert_eq!(shared.error_latch(), Duration::from_secs(1));
        assert_eq!(shared.error_unlatch(), Duration::from_secs(3));
        assert!(!shared.allows_error_unlatch());
    }
}
