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
