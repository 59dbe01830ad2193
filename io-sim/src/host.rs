//! The `Host` port: the clocks, interfaces and memory of the node's machine. The monotonic clock is madsim's virtual time; the wall clock
//! runs beside it and jumps when told to. Invariant: nothing else in this crate knows what time it is.
use crate::fault::FaultKind;
use crate::universe::Universe;
use kumo_core::port::{Host, MemoryStatus};
use kumo_core::random::Random;
use kumo_core::time::{Duration, Mono, Now, Wall};
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// 2026-11-18, when the first of these worlds began.
pub const BEGINNING: Wall = Wall(1_795_000_000_000_000_000);
const MEMORY_OCTETS: u64 = 1 << 30;

/// The machine's clock, for everybody in the universe.
pub struct Clock {
    began: Instant,
    wall: AtomicI64,
}

impl Clock {
    /// Inside a runtime.
    pub fn start() -> Clock {
        Clock { began: Instant::now(), wall: AtomicI64::new(BEGINNING.0) }
    }

    pub fn now(&self) -> Now {
        let nanos = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let since = i64::try_from(nanos).unwrap_or(i64::MAX);
        let wall = Wall(self.wall.load(Ordering::Relaxed).saturating_add(since));
        // A machine is up for a while before its first process starts.
        Now { mono: Mono(nanos + 1_000_000_000), wall }
    }

    pub fn step_wall(&self, by: Duration, back: bool) {
        let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        self.wall.fetch_add(if back { -nanos } else { nanos }, Ordering::Relaxed);
    }

    /// To the first of January 1970, as after the battery of the clock has died.
    pub fn step_to_1970(&self) {
        let now = self.now().wall.0;
        self.wall.fetch_sub(now, Ordering::Relaxed);
    }
}

pub struct SimHost {
    universe: Arc<Universe>,
    seeds: Mutex<Random>,
}

impl SimHost {
    pub fn new(universe: &Arc<Universe>, life: u64) -> SimHost {
        let seeds = Random::new(universe.seed ^ life.rotate_left(32), "host");
        SimHost { universe: universe.clone(), seeds: Mutex::new(seeds) }
    }
}

impl Host for SimHost {
    fn now(&self) -> Now {
        self.universe.clock.now()
    }

    fn hostname(&self) -> String {
        "here.example".into()
    }

    fn interfaces(&self) -> Vec<IpAddr> {
        let standing = |address: &&IpAddr| {
            !self.universe.faults.is_active(FaultKind::HostLostAddress, &address.to_string())
        };
        self.universe.settings.interfaces.iter().filter(standing).copied().collect()
    }

    fn memory(&self) -> MemoryStatus {
        let pressed = self.universe.faults.strikes(FaultKind::HostMemoryPressure, "").is_some();
        let used_octets = if pressed { MEMORY_OCTETS / 100 * 98 } else { MEMORY_OCTETS / 4 };
        MemoryStatus { used_octets, limit_octets: MEMORY_OCTETS }
    }

    fn seed(&self) -> u64 {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}
