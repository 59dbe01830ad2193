//! Writes the engine's journal (`core::journal`) without ever holding the engine up. Invariant: what the disk can't take in
//! time is left out whole, marked by a gap, and followed by a snapshot; segments rotate by size and old ones are removed.
use crate::shared::Shared;
use crate::world::World;
use kumo_core::engine::{Engine, EngineConfig, Input, Output};
use kumo_core::journal::{self, OutputHash};
use kumo_core::port::Files;
use kumo_core::time::{Duration, Now};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Handed to the writer at one time.
const CHUNK_OCTETS: usize = 64 * 1024;
/// Chunks waiting for the disk; with one more the gap begins.
const CHUNKS: usize = 64;
/// A segment is closed above this size, or above four times the snapshot it begins with.
const SEGMENT_OCTETS: usize = 64 * 1024 * 1024;
/// Segments kept.
const SEGMENTS: u64 = 16;
/// One write.
const WRITE: Duration = Duration::from_secs(30);

struct Chunk {
    segment: u64,
    octets: Vec<u8>,
}

/// The engine loop's end.
pub(crate) struct Journal {
    chunks: mpsc::Sender<Chunk>,
    segment: u64,
    segment_octets: usize,
    segment_limit: usize,
    buffer: Vec<u8>,
    /// Inputs in the buffer.
    buffered: u64,
    /// Inputs left out since the disk fell behind.
    missing: u64,
}

impl Journal {
    pub fn start<W: World>(shared: &Arc<Shared<W>>, config: &EngineConfig, seed: u64) -> Journal {
        let (chunks, waiting) = mpsc::channel(CHUNKS);
        shared.spawn(write(shared.clone(), waiting));
        let mut buffer = Vec::with_capacity(CHUNK_OCTETS);
        journal::begin(config, seed, &mut buffer);
        Journal {
            chunks,
            segment: 1,
            segment_octets: 0,
            segment_limit: SEGMENT_OCTETS,
            buffer,
            buffered: 0,
            missing: 0,
        }
    }

    pub fn step(&mut self, now: Now, input: &Input, outputs: &OutputHash) {
        if self.missing > 0 {
            self.missing += 1;
            return;
        }
        journal::step(now, input, outputs, &mut self.buffer);
        self.buffered += 1;
    }

    /// After each input: hands over what has gathered, if it is much or nothing else is to be done.
    pub fn rest(&mut self, engine: &Engine, idle: bool) {
        if self.missing > 0 {
            self.close_gap(engine);
        } else if self.buffer.len() >= CHUNK_OCTETS || (idle && !self.buffer.is_empty()) {
            self.hand_over();
            if self.segment_octets >= self.segment_limit {
                self.rotate(engine);
            }
        }
    }

    fn hand_over(&mut self) {
        let octets = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_OCTETS));
        let length = octets.len();
        let buffered = std::mem::take(&mut self.buffered);
        match self.chunks.try_send(Chunk { segment: self.segment, octets }) {
            Ok(()) => self.segment_octets += length,
            Err(_) => self.missing += buffered.max(1),
        }
    }

    /// Once the disk has caught up.
    fn close_gap(&mut self, engine: &Engine) {
        if self.chunks.capacity() < CHUNKS / 2 {
            return;
        }
        journal::gap(std::mem::take(&mut self.missing), &mut self.buffer);
        journal::snapshot(engine, &mut self.buffer);
        self.hand_over();
    }

    fn rotate(&mut self, engine: &Engine) {
        self.segment += 1;
        self.segment_octets = 0;
        journal::continue_with(engine, &mut self.buffer);
        self.segment_limit = SEGMENT_OCTETS.max(4 * self.buffer.len());
    }
}

/// The hash of one input's outputs, if anybody wants it.
pub(crate) fn add(hash: &mut Option<OutputHash>, output: &Output) {
    if let Some(hash) = hash {
        hash.add(output);
    }
}

async fn write<W: World>(shared: Arc<Shared<W>>, mut chunks: mpsc::Receiver<Chunk>) {
    let mut last = 0;
    while let Some(Chunk { segment, octets }) = chunks.recv().await {
        let files = shared.world.files();
        if segment != last {
            last = segment;
            let oldest = segment.saturating_sub(SEGMENTS - 1);
            report(timeout(WRITE, files.trim_journal(oldest)).await);
        }
        report(timeout(WRITE, files.append_to_journal(segment, octets)).await);
    }
}

fn report<E: std::fmt::Display>(done: Result<Result<(), String>, E>) {
    match done {
        Ok(Ok(())) => {}
        Ok(Err(why)) => tracing::error!("the journal couldn't be written: {why}"),
        Err(_) => tracing::error!("the journal's disk didn't take a write within {WRITE:?}"),
    }
}
