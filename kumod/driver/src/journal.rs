//! Writes the engine's journal (`core::journal`) without ever holding the engine up. Invariant: what the disk can't take, in
//! time or at all, is left out whole, marked by a gap, and followed by a snapshot; a segment in which a write failed gets
//! nothing more. Segments rotate by size, go on after those of earlier lives, and the oldest are removed.
use crate::shared::Shared;
use crate::world::World;
use kumo_core::engine::{Engine, EngineConfig, Input, Output};
use kumo_core::journal::{self, Step};
use kumo_core::marks::{Mark, reached};
use kumo_core::port::Files;
use kumo_core::time::{Duration, Mono, Now};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Handed to the writer at one time.
const CHUNK_OCTETS: usize = 64 * 1024;
/// Chunks waiting for the disk; with one more the gap begins.
const CHUNKS: usize = 64;
/// For which inputs gather where there are few: each chunk costs a call of the system and the waking of two threads.
const PAUSE: Duration = Duration::from_millis(50);
/// One call of the disk.
const CALL: Duration = Duration::from_secs(30);

/// How much is written, and how often anew.
#[derive(Clone, Copy, Debug)]
pub struct JournalLimits {
    /// A segment is closed above this size, or above four times the snapshots in it.
    pub segment_octets: usize,
    /// Segments kept.
    pub segments: u64,
    /// A gap is at least so long, so that a disk that is too slow doesn't cost the engine one snapshot after the other.
    pub gap: Duration,
}

impl Default for JournalLimits {
    fn default() -> JournalLimits {
        let gap = Duration::from_secs(10);
        JournalLimits { segment_octets: 64 * 1024 * 1024, segments: 16, gap }
    }
}

struct Chunk {
    segment: u64,
    /// In it.
    inputs: u64,
    /// That a gap in it tells of.
    left_out: u64,
    octets: Vec<u8>,
}

/// What has become of the chunks.
#[derive(Default)]
struct Progress {
    /// Chunks written or lost; told last.
    settled: AtomicU64,
    /// Inputs in lost chunks that no gap tells of yet.
    lost: AtomicU64,
    /// The last segment in which a write failed.
    broken: AtomicU64,
}

/// Inputs that are left out since a moment.
struct Gap {
    since: Mono,
    inputs: u64,
}

/// The engine loop's end.
pub(crate) struct Journal<W: World> {
    shared: Arc<Shared<W>>,
    limits: JournalLimits,
    chunks: mpsc::Sender<Chunk>,
    progress: Arc<Progress>,
    handed_over: u64,
    segment: u64,
    segment_octets: usize,
    segment_limit: usize,
    buffer: Vec<u8>,
    /// Inputs in the buffer.
    buffered: u64,
    gap: Option<Gap>,
    /// When the last input came.
    now: Mono,
    /// The one that the engine is just taking.
    step: Option<Step>,
    /// When the buffer is handed over though it isn't full.
    due: Option<Mono>,
}

impl<W: World> Journal<W> {
    /// `written` is dropped once everything is written after [`Journal::finish`].
    pub fn start(
        shared: &Arc<Shared<W>>,
        limits: JournalLimits,
        config: &EngineConfig,
        seed: u64,
        written: oneshot::Sender<()>,
    ) -> Journal<W> {
        let (chunks, waiting) = mpsc::channel(CHUNKS);
        let progress = Arc::new(Progress::default());
        let writer = Writer {
            shared: shared.clone(),
            segments: limits.segments,
            progress: progress.clone(),
            earlier: None,
            last: 0,
        };
        shared.spawn(writer.run(waiting, written));
        let mut buffer = Vec::with_capacity(CHUNK_OCTETS);
        journal::begin(config, seed, &mut buffer);
        Journal {
            shared: shared.clone(),
            limits,
            chunks,
            progress,
            handed_over: 0,
            segment: 1,
            segment_octets: 0,
            segment_limit: limits.segment_octets,
            buffer,
            buffered: 0,
            gap: None,
            now: Mono(0),
            step: None,
            due: None,
        }
    }

    pub fn begin_step(&mut self, now: Now, input: &Input) {
        self.now = now.mono;
        if self.gap.is_some() {
            return self.leave_out(1);
        }
        self.step = Some(Step::begin(now, input, &mut self.buffer));
    }

    pub fn output(&mut self, output: &Output) {
        if let Some(step) = &mut self.step {
            step.add(output);
        }
    }

    pub fn end_step(&mut self) {
        if let Some(step) = self.step.take() {
            step.end(&mut self.buffer);
            self.buffered += 1;
            self.due.get_or_insert(self.now + PAUSE);
        }
    }

    /// When [`Journal::rest`] wants to be called though no input came.
    pub fn due(&self) -> Option<Mono> {
        self.due
    }

    /// Between inputs: hands over what has gathered, if it is much, or is due and nothing else is to be done.
    pub fn rest(&mut self, engine: &Engine, idle: bool) {
        if self.gap.is_none() && self.is_broken() {
            self.give_up_buffer();
        }
        if let Some(gap) = &self.gap {
            if self.now.since(gap.since) >= self.limits.gap {
                self.close_gap(engine);
            }
        } else if self.buffer.len() >= CHUNK_OCTETS || (idle && self.is_due()) {
            self.hand_over(0);
            if self.gap.is_none() && self.segment_octets >= self.segment_limit {
                self.begin_segment();
                journal::snapshot(engine, &mut self.buffer);
                self.raise_limit(self.buffer.len());
            }
        }
    }

    /// Hands over the rest.
    pub fn finish(mut self) {
        if self.gap.is_none() {
            self.hand_over(0);
        }
    }

    /// A slow disk gets its chunks when they are full.
    fn is_due(&mut self) -> bool {
        let now = self.shared.now().mono;
        let is_due = self.due.is_some_and(|due| due <= now);
        let may_hand_over = self.waiting() < CHUNKS as u64 / 2;
        if is_due && !may_hand_over {
            self.due = Some(now + PAUSE);
        }
        is_due && may_hand_over
    }

    fn is_broken(&self) -> bool {
        self.progress.broken.load(Ordering::Acquire) == self.segment
    }

    fn waiting(&self) -> u64 {
        self.handed_over - self.progress.settled.load(Ordering::Acquire)
    }

    fn hand_over(&mut self, left_out: u64) {
        self.due = None;
        let length = self.buffer.len();
        if length == 0 {
            return;
        }
        let octets = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_OCTETS));
        let chunk = Chunk { segment: self.segment, inputs: self.buffered, left_out, octets };
        if self.chunks.try_send(chunk).is_err() {
            return self.give_up_buffer();
        }
        self.handed_over += 1;
        self.segment_octets += length;
        self.buffered = 0;
    }

    /// The gap begins.
    fn give_up_buffer(&mut self) {
        reached(Mark::JournalGap);
        self.buffer.clear();
        self.due = None;
        self.gap = Some(Gap { since: self.now, inputs: 0 });
        let inputs = std::mem::take(&mut self.buffered);
        self.leave_out(inputs);
    }

    fn leave_out(&mut self, inputs: u64) {
        self.shared.counters.journal_gaps.add(inputs);
        self.gap.as_mut().expect("only in a gap").inputs += inputs;
    }

    /// Once the disk has caught up by half; after a failure wholly, for only then is it known what was lost.
    fn close_gap(&mut self, engine: &Engine) {
        let is_broken = self.is_broken();
        let may_wait = if is_broken { 0 } else { CHUNKS as u64 / 2 };
        if self.waiting() > may_wait {
            return;
        }
        let Some(gap) = self.gap.take() else { return };
        let left_out = gap.inputs + self.progress.lost.swap(0, Ordering::Relaxed);
        if is_broken || self.segment_octets >= self.segment_limit {
            self.begin_segment();
        } else if self.segment_octets == 0 {
            // What should have been its beginning was left out.
            self.buffer.extend_from_slice(journal::HEADER);
        }
        journal::gap(left_out, &mut self.buffer);
        journal::snapshot(engine, &mut self.buffer);
        self.raise_limit(self.buffer.len());
        self.hand_over(left_out);
    }

    fn begin_segment(&mut self) {
        self.segment += 1;
        self.segment_octets = 0;
        self.segment_limit = self.limits.segment_octets;
        self.buffer.extend_from_slice(journal::HEADER);
    }

    fn raise_limit(&mut self, snapshot: usize) {
        self.segment_limit = self.segment_limit.max(4 * snapshot);
    }
}

/// The disk's end.
struct Writer<W: World> {
    shared: Arc<Shared<W>>,
    segments: u64,
    progress: Arc<Progress>,
    /// The last segment of earlier lives.
    earlier: Option<u64>,
    /// The segment written last.
    last: u64,
}

impl<W: World> Writer<W> {
    async fn run(mut self, mut chunks: mpsc::Receiver<Chunk>, written: oneshot::Sender<()>) {
        while let Some(chunk) = chunks.recv().await {
            let Chunk { segment, inputs, left_out, .. } = chunk;
            let is_broken = self.progress.broken.load(Ordering::Relaxed) == segment;
            if is_broken || self.write(chunk).await.is_err() {
                self.shared.counters.journal_gaps.add(inputs);
                self.progress.lost.fetch_add(inputs + left_out, Ordering::Relaxed);
                self.progress.broken.store(segment, Ordering::Release);
            }
            self.progress.settled.fetch_add(1, Ordering::Release);
        }
        drop(written);
    }

    /// The error has been told.
    async fn write(&mut self, Chunk { segment, octets, .. }: Chunk) -> Result<(), ()> {
        let files = self.shared.world.files();
        let earlier = match self.earlier {
            Some(earlier) => earlier,
            None => *self.earlier.insert(told(files.newest_journal_segment()).await?),
        };
        let number = earlier + segment;
        if segment != self.last {
            self.last = segment;
            // One segment too many harms nobody.
            let _ = told(files.trim_journal((number + 1).saturating_sub(self.segments))).await;
        }
        told(files.append_to_journal(number, octets)).await
    }
}

async fn told<T>(call: impl Future<Output = Result<T, String>>) -> Result<T, ()> {
    match timeout(CALL, call).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(why)) => tracing::error!("the journal couldn't be written: {why}"),
        Err(_) => tracing::error!("the journal's disk didn't answer within {CALL:?}"),
    }
    Err(())
}
