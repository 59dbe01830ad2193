//! All that is outside the node and outlives it. What it may do to the node stands in the files of its parts.
use crate::dns::Zones;
use crate::fault::Faults;
use crate::files::FileStore;
use crate::host::Clock;
use crate::ledger::{Event, Ledger};
use crate::lives::Lives;
use crate::net::{Net, NetSettings};
use crate::policy::PolicyTable;
use crate::recorder::Log;
use crate::spool::{Disk, DiskSettings};
use crate::waits::Waits;
use kumo_core::time::Now;
use std::net::IpAddr;
use std::sync::Arc;

/// What is fixed for a run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub disk: DiskSettings,
    pub net: NetSettings,
    /// The node's addresses.
    pub interfaces: Vec<IpAddr>,
    pub policy: PolicyTable,
    pub zones: Zones,
}

pub struct Universe {
    pub seed: u64,
    pub settings: Settings,
    pub clock: Clock,
    pub faults: Faults,
    pub lives: Lives,
    pub waits: Waits,
    pub ledger: Ledger,
    pub disk: Disk,
    pub net: Net,
    pub log: Log,
    pub files: FileStore,
}

impl Universe {
    /// Inside a runtime, whose time begins here.
    pub fn new(seed: u64, settings: Settings) -> Arc<Universe> {
        Arc::new(Universe {
            seed,
            clock: Clock::start(),
            faults: Faults::new(seed),
            lives: Lives::default(),
            waits: Waits::default(),
            ledger: Ledger::default(),
            disk: Disk::new(seed, &settings.disk),
            net: Net::new(seed, &settings.net),
            log: Log::new(seed),
            files: FileStore::default(),
            settings,
        })
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    pub fn write(&self, event: Event) {
        self.ledger.write(self.now(), event);
    }
}
