//! The local log: what happened to each message, as JSON lines in zstd segments (core.md 7.1 to 7.3).
//!
//! A record is rendered by the task that reports it: to copy what it borrows for another thread would come on top of the
//! same rendering. The line goes into [`queue`], and one thread of its own ([`writer`]) compresses and writes
//! ([`segment`]). So no disk holds up a runtime thread, and the disk's own trouble shows as back pressure.
//!
//! # Invariants
//! - A record that was taken is readable in its segment within a second, or waits for a disk that says no, which is told and
//!   counted; it is lost only where `stop` runs out of time, which says how many. One that can't be taken since too many wait is
//!   its reporter's to keep or to count as lost.
//! - A closed segment is read-only and never opened again.
//!
//! Not here: hooks, classification of bounces, and removing old segments, which is the operator's to do.
mod line;
pub mod node_id;
mod queue;
mod segment;
mod select;
#[cfg(test)]
mod tests;
mod writer;

use crate::folder;
use kumo_core::config::service::{LocalLogs, PerRecord};
use kumo_core::log::RecordKind;
use kumo_driver::counters::Counter;
use kumo_driver::record::{RecordEvent, Recorder};
use queue::{Push, Queue};
use segment::{Place, SegmentSettings, Sink};
use select::Selection;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use writer::{Ending, Writer};

/// What the log has done since the start.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Records handed to their segments, and their octets before compression.
    pub records: Counter,
    pub octets: Counter,
    /// Records that had to wait because `back_pressure` was reached.
    pub full: Counter,
    /// Attempts to write that failed.
    pub errors: Counter,
    /// Records that came after the writer had stopped.
    pub late: Counter,
}

/// Where log records go. Without `kumo.configure_local_logs` they are dropped.
#[derive(Debug)]
pub struct LocalLogger {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    queue: Arc<Queue>,
    counters: Arc<LogCounters>,
    selection: Selection,
    node_id: String,
    /// The sink for each kind; `None` where it isn't to be logged.
    routes: [Option<usize>; RecordKind::ALL.len()],
    ending: watch::Receiver<Option<Ending>>,
}

thread_local! {
    /// Lines are rendered here before they go to the queue, so that its lock is held for a copy only.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a thread keeps of that buffer between two lines.
const LINE_OCTETS: usize = 64 * 1024;

impl LocalLogger {
    /// Makes the directories, checks that they can be written, and starts the writer.
    pub fn start(config: Option<LocalLogs>, node_id: String) -> Result<LocalLogger, String> {
        let Some(config) = config else {
            return Ok(LocalLogger { running: None });
        };
        let (places, routes) = routes(&config);
        prepare(&places)?;
        let settings = SegmentSettings {
            compression_level: config.compression_level,
            max_octets: config.max_file_size,
            max_duration: config.max_segment_duration,
        };
        let sinks = places.into_iter().map(|place| Sink::new(place, settings)).collect();
        let queue = Arc::new(Queue::new(config.back_pressure));
        let counters = Arc::new(LogCounters::default());
        let ending = start_writer(Writer::new(queue.clone(), counters.clone(), sinks))?;
        let selection = Selection::new(&config.meta, &config.headers);
        let running = Running { queue, counters, selection, node_id, routes, ending };
        Ok(LocalLogger { running: Some(running) })
    }

    pub fn counters(&self) -> Option<&LogCounters> {
        self.running.as_ref().map(|running| &*running.counters)
    }

    /// Records that aren't yet on their way to a file.
    pub fn waiting(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.queue.waiting())
    }

    /// Writes what is left, finishes the segments and ends the writer; call it when nothing logs any more. An error
    /// says how many records are lost because the deadline came first.
    pub async fn stop(&self, deadline: Duration) -> Result<(), String> {
        match &self.running {
            Some(running) => running.stop(deadline).await,
            None => Ok(()),
        }
    }
}

/// The distinct places, and the one for each kind of record. `Any` speaks for kinds that aren't named.
fn routes(config: &LocalLogs) -> (Vec<Place>, [Option<usize>; RecordKind::ALL.len()]) {
    let mut places = Vec::new();
    let routes = RecordKind::ALL.map(|kind| {
        let chosen = config.per_record.get(kind.name()).or_else(|| config.per_record.get("Any"));
        let place = place(config, chosen)?;
        let known = places.iter().position(|known| *known == place);
        Some(known.unwrap_or_else(|| {
            places.push(place);
            places.len() - 1
        }))
    });
    (places, routes)
}

fn place(config: &LocalLogs, chosen: Option<&PerRecord>) -> Option<Place> {
    if chosen.is_some_and(|chosen| !chosen.enable) {
        return None;
    }
    let directory = chosen.and_then(|chosen| chosen.log_dir.as_ref()).unwrap_or(&config.log_dir);
    let suffix = chosen.and_then(|chosen| chosen.suffix.clone()).unwrap_or_default();
    Some(Place { directory: directory.into(), suffix })
}

fn prepare(places: &[Place]) -> Result<(), String> {
    for place in places {
        if place.suffix.contains(['/', '\0']) {
            let suffix = &place.suffix;
            return Err(format!("per_record: suffix {suffix:?} can't be part of a file name"));
        }
        folder::prepare("log_dir", &place.directory)?;
        let directory = place.directory.display();
        match place.close_leftovers() {
            Ok(0) => {}
            Ok(count) => tracing::info!(
                target: "logs",
                "{directory}: {count} segments that an earlier run left open are read-only now"
            ),
            Err(error) => tracing::warn!(
                target: "logs",
                "{directory}: can't look for segments that an earlier run left open: {error}"
            ),
        }
    }
    Ok(())
}

fn start_writer(writer: Writer) -> Result<watch::Receiver<Option<Ending>>, String> {
    let (sender, ending) = watch::channel(None);
    std::thread::Builder::new()
        .name("log-writer".into())
        .spawn(move || {
            let ending = writer.run();
            sender.send_replace(Some(ending));
        })
        .map_err(|error| format!("can't start the thread that writes logs: {error}"))?;
    Ok(ending)
}

impl Running {
    async fn stop(&self, deadline: Duration) -> Result<(), String> {
        self.queue.close();
        match tokio::time::timeout(deadline, self.ended()).await {
            Ok(ending) => ending,
            Err(_) => {
                self.queue.abandon();
                // The writer looks up at once, unless the disk holds it in a call.
                let moment = Duration::from_millis(100);
                tokio::time::timeout(moment, self.ended()).await.unwrap_or_else(|_| {
                    let waiting = self.queue.waiting();
                    Err(format!("the disk doesn't answer; {waiting} log records are lost"))
                })
            }
        }
    }

    async fn ended(&self) -> Result<(), String> {
        let mut ending = self.ending.clone();
        let ended = ending.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Ending::Complete)) => Ok(()),
            Ok(Some(Ending::Lost(records, trouble))) => {
                Err(format!("{trouble}; up to {records} log records are lost"))
            }
            Ok(None) | Err(_) => Err(format!(
                "the thread that writes logs died; {} log records are lost",
                self.queue.waiting()
            )),
        }
    }

    /// Renders the record and offers it to the queue. Yields the line if it has to wait.
    fn submit(&self, event: &RecordEvent<'_>, sink: usize) -> Option<Vec<u8>> {
        LINE.with_borrow_mut(|line| {
            line.clear();
            line::render(event, &self.selection, &self.node_id, line);
            let second = event.when.unix_seconds();
            let overflow = match self.queue.push(line, sink, second) {
                Push::Taken => None,
                Push::Closed => {
                    self.note_late();
                    None
                }
                Push::Full => Some(line.clone()),
            };
            line.shrink_to(LINE_OCTETS);
            overflow
        })
    }

    async fn wait_for_room(&self, line: Vec<u8>, sink: usize, second: i64) {
        self.counters.full.add(1);
        if self.queue.push_when_room(&line, sink, second).await == Push::Closed {
            self.note_late();
        }
    }

    fn note_late(&self) {
        if self.counters.late.get() == 0 {
            tracing::error!(target: "logs", "a log record came after the log was closed; it is lost");
        }
        self.counters.late.add(1);
    }
}

impl Recorder for LocalLogger {
    fn quotes_header(&self, kind: RecordKind) -> bool {
        let running =
            self.running.as_ref().filter(|running| running.routes[kind as usize].is_some());
        running.is_some_and(|running| running.selection.quotes_header())
    }

    async fn record(&self, event: RecordEvent<'_>) {
        let Some(running) = &self.running else { return };
        let Some(sink) = running.routes[event.kind as usize] else { return };
        let second = event.when.unix_seconds();
        if let Some(line) = running.submit(&event, sink) {
            running.wait_for_room(line, sink, second).await;
        }
    }

    async fn settled(&self) -> bool {
        match &self.running {
            Some(running) => running.queue.settled().await,
            None => true,
        }
    }
}

impl Drop for Running {
    /// A logger that wasn't stopped leaves its writer to finish by itself.
    fn drop(&mut self) {
        self.queue.close();
    }
}
