//! For tests of the real binary: a home for it, the process, scripted clients and servers on the loopback
//! interface, and its logs. Invariant: no wait here is without an end, and no process outlives its test.
#![allow(dead_code, unused_imports, reason = "each test file uses a part")]
pub mod ask;
pub mod choices;
mod client;
pub mod damage;
pub mod folders;
mod home;
pub mod lives;
pub mod load;
pub mod peer;
pub mod power;
mod process;
mod sink;
pub mod trace;
pub mod verdict;

pub use client::{Client, Reply, send_numbered, swaks};
pub use home::Home;
pub use process::{Kumod, refuses_to_start};
pub use sink::{Behaviour, Sink, Sunk, Verdict};

use std::time::{Duration, Instant};

/// For anything that takes milliseconds on an idle machine; these machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until there is something; the panic says what was waited for.
pub fn wait_for<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited {patience:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
