//! The thread that writes: takes lines from the queue, hands them to their segments, flushes and rotates these in time.
//! Invariant: an error of writing loses nothing that is here. It is told once, counted and tried again, while the queue fills
//! up and holds back whoever logs, for as long as they have patience; only `stop` makes the writer give up. One place that
//! can't be written holds up the others, since the order of lines is kept and waiting is the only safe answer.
use super::LogCounters;
use super::queue::{Chunk, LINGER, Queue, Work};
use super::segment::Sink;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between attempts to write what couldn't be written.
const RETRY: Duration = Duration::from_secs(1);
/// Oldest line that isn't in the file. With a chunk's linger, and room for I/O, this stays below a second.
const FLUSH_EVERY: Duration = LINGER;

pub struct Writer {
    queue: Arc<Queue>,
    counters: Arc<LogCounters>,
    sinks: Vec<Sink>,
    /// The error that the last attempt ended with.
    trouble: Option<String>,
}

/// How the writer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Complete,
    /// At most so many records are in no file, and why.
    Lost(u64, String),
}

/// Told to give up.
struct Abandoned;

impl Writer {
    pub fn new(queue: Arc<Queue>, counters: Arc<LogCounters>, sinks: Vec<Sink>) -> Writer {
        Writer { queue, counters, sinks, trouble: None }
    }

    /// Until the queue is closed and everything in it is written, or given up.
    pub fn run(mut self) -> Ending {
        let _guard = AbandonAtEnd(self.queue.clone());
        match self.serve() {
            Ok(()) => Ending::Complete,
            Err(Abandoned) => self.lost(),
        }
    }

    fn serve(&mut self) -> Result<(), Abandoned> {
        loop {
            let Work { chunks, last } = self.queue.wait(self.next_deadline());
            for chunk in chunks {
                self.write_chunk(&chunk)?;
                self.queue.release(chunk);
            }
            if last {
                self.for_each_sink(|_, _| true, Sink::flush)?;
                self.sync();
                return self.for_each_sink(|_, _| true, Sink::close);
            }
            if self.queue.is_unsettled() {
                self.for_each_sink(|_, _| true, Sink::flush)?;
                self.sync();
            }
            self.for_each_sink(flush_is_due, Sink::flush)?;
            self.for_each_sink(has_expired, Sink::close)?;
        }
    }

    /// Once only: what the kernel couldn't write it forgets, so that a second sync would succeed and prove nothing.
    fn sync(&mut self) {
        let mut all = true;
        for sink in 0..self.sinks.len() {
            if let Err(error) = self.sinks[sink].sync() {
                self.failed(sink, &error);
                // What comes next has a segment whose syncs are to be believed. Should it not close, the next flush will tell.
                let _ = self.sinks[sink].close();
                all = false;
            }
        }
        if all { self.queue.settle() } else { self.queue.give_up_syncing() }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let flush = |sink: &Sink| sink.unflushed_since().map(|since| since + FLUSH_EVERY);
        self.sinks.iter().flat_map(|sink| [flush(sink), sink.expires()]).flatten().min()
    }

    /// Runs of lines for the same place, as long as its segment has room, are compressed at once.
    fn write_chunk(&mut self, chunk: &Chunk) -> Result<(), Abandoned> {
        let mut begin = 0;
        let mut entries = chunk.entries.as_slice();
        while let [first, ..] = entries {
            let room = self.sinks[first.sink].room();
            let goes_along = |position: usize| {
                let entry = &entries[position];
                entry.sink == first.sink && (entry.end - begin) as u64 <= room
            };
            let more = (1..entries.len()).take_while(|position| goes_along(*position)).count();
            let (run, rest) = entries.split_at(1 + more);
            let end = run[more].end;
            let lines = &chunk.lines[begin..end];
            self.insist(first.sink, |sink| {
                sink.write(lines, run.len() as u64, first.second, chunk.since)
            })?;
            self.counters.records.add(run.len() as u64);
            self.counters.octets.add(lines.len() as u64);
            (begin, entries) = (end, rest);
        }
        Ok(())
    }

    fn for_each_sink(
        &mut self,
        is_due: fn(&Sink, Instant) -> bool,
        operation: fn(&mut Sink) -> io::Result<()>,
    ) -> Result<(), Abandoned> {
        let now = Instant::now();
        for index in 0..self.sinks.len() {
            if is_due(&self.sinks[index], now) {
                self.insist(index, operation)?;
            }
        }
        Ok(())
    }

    /// Until it works. Everything a sink does may be repeated.
    fn insist(
        &mut self,
        sink: usize,
        operation: impl Fn(&mut Sink) -> io::Result<()>,
    ) -> Result<(), Abandoned> {
        loop {
            match operation(&mut self.sinks[sink]) {
                Ok(()) => {
                    self.recovered(sink);
                    return Ok(());
                }
                Err(error) => self.failed(sink, &error),
            }
            if !self.queue.pause(RETRY) {
                return Err(Abandoned);
            }
        }
    }

    fn failed(&mut self, sink: usize, error: &io::Error) {
        self.counters.errors.add(1);
        let directory = self.sinks[sink].place().directory.display();
        let trouble = format!("can't write to {directory}: {error}");
        if self.trouble.is_none() {
            tracing::error!(
                target: "logs",
                "{trouble}; log records wait in memory, mail waits with them once back_pressure is reached, and \
                 then records are lost. \
                 Make room or mend the directory; kumod tries again every second"
            );
        }
        self.trouble = Some(trouble);
    }

    fn recovered(&mut self, sink: usize) {
        if self.trouble.take().is_some() {
            let directory = self.sinks[sink].place().directory.display();
            tracing::info!(target: "logs", "log records go to {directory} again");
        }
    }

    fn lost(&mut self) -> Ending {
        let unflushed: u64 = self.sinks.iter().map(Sink::unflushed_records).sum();
        let trouble = self.trouble.take().unwrap_or_else(|| "there was no time".into());
        Ending::Lost(self.queue.waiting() + unflushed, trouble)
    }
}

fn flush_is_due(sink: &Sink, now: Instant) -> bool {
    sink.unflushed_since().is_some_and(|since| since + FLUSH_EVERY <= now)
}

fn has_expired(sink: &Sink, now: Instant) -> bool {
    sink.expires().is_some_and(|expires| expires <= now)
}

/// Nobody may wait for a writer that is gone.
struct AbandonAtEnd(Arc<Queue>);

impl Drop for AbandonAtEnd {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
