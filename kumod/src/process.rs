//! What kumod and proxy-server have in common as processes: their runtime, and the signals that end them. Invariant: what is still
//! running when the work is done doesn't hold the process up.
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Does the work on a runtime of its own; an error says why it couldn't be done.
pub fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime can't start: {error}"))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Lets other threads go before the calling one where processors are scarce, so that one that computes without end delays nobody: a tenth of
/// their weight, and turns so long that whoever wakes up interrupts them (sched_setattr(2), Linux 6.12). A kernel that won't costs no more than that.
pub fn give_way_to_other_threads() {
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_nice: 10,
        // In nanoseconds.
        sched_runtime: 100_000_000,
        // SAFETY: it is made of integers.
        ..unsafe { std::mem::zeroed() }
    };
    // SAFETY: it only reads the structure, which outlives it and says its own size. 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// Both are listened to from the first moment, so that none is missed.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn new() -> Result<Signals, String> {
        let listen =
            |kind| signal(kind).map_err(|error| format!("can't listen to signals: {error}"));
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// SIGINT or SIGTERM.
    pub async fn wait(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
