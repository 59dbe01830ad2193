//! What happens once a client has its destination: octets go both ways, and so do the ends of streams. Invariants: an end is passed on
//! after everything before it; when one side fails, what the other still has to say arrives if it can; a relay in which
//! nothing moves ends at the listener's idle_timeout.
use crate::connection::Listening;
use crate::{copy, splice};
use kumo_driver::counters::Counter;
use kumo_io_real::net::RealStream;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, split};
use tokio::time::{Instant, sleep_until};

/// Why a relay, or one direction of it, ended before its time.
#[derive(Debug)]
pub enum Broken {
    Reading(io::Error),
    Writing(io::Error),
    Idle(Duration),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Reading(error) => write!(f, "a side broke off: {error}"),
            Broken::Writing(error) => write!(f, "a side takes no more: {error}"),
            Broken::Idle(patience) => {
                write!(f, "nobody said anything for {patience:?}, the listener's idle_timeout")
            }
        }
    }
}

/// When octets were last passed on.
struct Activity {
    began: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Activity {
        Activity { began: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    /// Ends when there was none for so long.
    async fn ceases(&self, patience: Duration) {
        loop {
            let last = self.last.load(Ordering::Relaxed);
            sleep_until(self.began + Duration::from_millis(last) + patience).await;
            if self.last.load(Ordering::Relaxed) == last {
                return;
            }
        }
    }
}

/// What one direction tells of its progress.
pub struct Progress<'a> {
    activity: &'a Activity,
    octets: &'a Counter,
}

impl Progress<'_> {
    pub fn moved(&self, octets: usize) {
        self.octets.add(octets as u64);
        self.activity.note();
    }
}

/// Until both sides have ended. `rest`: what the client has said already.
pub async fn run(
    listening: &Listening,
    mut client: RealStream,
    mut destination: RealStream,
    rest: &[u8],
) -> Result<(), Broken> {
    let activity = Activity::new();
    let counters = &listening.counters;
    let there = Progress { activity: &activity, octets: &counters.client_to_destination };
    let back = Progress { activity: &activity, octets: &counters.destination_to_client };
    let relaying = async {
        if !rest.is_empty() {
            destination.write_all(rest).await.map_err(Broken::Writing)?;
            there.moved(rest.len());
        }
        if let Some(mut pipes) = pipes(listening, &client, &destination) {
            let (client, destination) = (client.tcp(), destination.tcp());
            return both(
                splice::pass(client, destination, &mut pipes.0, &there),
                splice::pass(destination, client, &mut pipes.1, &back),
            )
            .await;
        }
        let (mut from_client, mut to_client) = split(&mut client);
        let (mut from_destination, mut to_destination) = split(&mut destination);
        both(
            copy::pass(&mut from_client, &mut to_destination, &there),
            copy::pass(&mut from_destination, &mut to_client, &back),
        )
        .await
    };
    tokio::select! {
        biased;
        ended = relaying => ended,
        () = activity.ceases(listening.idle_timeout) => Err(Broken::Idle(listening.idle_timeout)),
    }
}

/// One for each direction, where octets can stay in the kernel. Without pipes they are copied.
fn pipes(
    listening: &Listening,
    client: &RealStream,
    destination: &RealStream,
) -> Option<(splice::Pipe, splice::Pipe)> {
    if !(listening.use_splice && client.is_plain() && destination.is_plain()) {
        return None;
    }
    match (splice::Pipe::new(), splice::Pipe::new()) {
        (Ok(there), Ok(back)) => Some((there, back)),
        (Err(error), _) | (_, Err(error)) => {
            tracing::debug!("no pipes for splice, so octets are copied: {error}");
            None
        }
    }
}

/// Both directions. One that can't write leaves the other to end by itself, since there may be a last word.
async fn both(
    there: impl Future<Output = Result<(), Broken>>,
    back: impl Future<Output = Result<(), Broken>>,
) -> Result<(), Broken> {
    let (mut there, mut back) = (pin!(there), pin!(back));
    tokio::select! {
        first = &mut there => and_then_the_other(first, back).await,
        first = &mut back => and_then_the_other(first, there).await,
    }
}

async fn and_then_the_other(
    first: Result<(), Broken>,
    second: impl Future<Output = Result<(), Broken>>,
) -> Result<(), Broken> {
    match first {
        Err(Broken::Reading(error)) => Err(Broken::Reading(error)),
        first => {
            let second = second.await;
            first.and(second)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn broken() -> io::Error {
        io::ErrorKind::ConnectionReset.into()
    }

    async fn after(done: &AtomicBool, result: Result<(), Broken>) -> Result<(), Broken> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        done.store(true, Ordering::Relaxed);
        result
    }

    #[tokio::test]
    async fn a_last_word_is_waited_for_unless_its_hearer_is_gone() {
        for (first, is_waited_for) in [
            (Ok(()), true),
            (Err(Broken::Writing(broken())), true),
            (Err(Broken::Reading(broken())), false),
        ] {
            let (what, is_well) = (format!("{first:?}"), first.is_ok());
            let done = AtomicBool::new(false);
            let ended = both(async { first }, after(&done, Ok(()))).await;
            assert_eq!(ended.is_ok(), is_well, "{what}");
            assert_eq!(done.load(Ordering::Relaxed), is_waited_for, "{what}");
        }
    }

    #[tokio::test]
    async fn activity_puts_the_end_off() {
        let activity = Activity::new();
        let patience = Duration::from_millis(200);
        let noting = async {
            tokio::time::sleep(Duration::from_millis(120)).await;
            activity.note();
        };
        tokio::join!(noting, activity.ceases(patience));
        assert!(activity.began.elapsed() >= Duration::from_millis(310));
    }
}
