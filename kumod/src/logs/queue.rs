//! The bounded queue between the tasks that log and the thread that writes.
//! Invariant: a line that was taken is given to the writer exactly once, in the order of taking, and counts as waiting
//! until the writer releases it. Lines are appended to shared chunks, so that a record costs neither an allocation
//! of its own nor, while the writer is busy or lingering, a system call.
use kumo_core::limits::LOG_BACKLOG_OCTETS;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A chunk of that size is worth waking the writer for.
const CHUNK_OCTETS: usize = 256 * 1024;
/// How long the writer may let a smaller one grow.
pub const LINGER: Duration = Duration::from_millis(400);
/// Emptied chunks kept for the next lines.
const SPARE_CHUNKS: usize = 4;

/// One line of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub end: usize,
    pub sink: usize,
    /// When it happened, in seconds since 1970.
    pub second: i64,
}

#[derive(Debug)]
pub struct Chunk {
    pub lines: Vec<u8>,
    pub entries: Vec<Entry>,
    /// When the first line came.
    pub since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Push {
    Taken,
    Full,
    /// The writer stops, or died.
    Closed,
}

/// What the writer has to do next.
#[derive(Debug)]
pub struct Work {
    pub chunks: VecDeque<Chunk>,
    /// Nothing comes after these.
    pub last: bool,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Chunk>,
    spare: Vec<Chunk>,
    /// Taken and not yet released.
    records: u64,
    octets: usize,
    closed: bool,
    abandoned: bool,
    /// Records taken since the start, and those of them that somebody wants on disk, and that are.
    taken: u64,
    wanted: u64,
    settled: u64,
    /// Up to here some couldn't be synced.
    unsynced: u64,
}

#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    /// For the writer: there is work, or the queue was closed.
    work: Condvar,
    /// For those who found the queue full.
    room: Notify,
    /// For those who wait for their records to be on disk.
    settling: Notify,
    limit: u64,
}

impl Queue {
    /// Holds at most `limit` records.
    pub fn new(limit: u64) -> Queue {
        let (state, work) = (Mutex::default(), Condvar::new());
        Queue { state, work, room: Notify::new(), settling: Notify::new(), limit }
    }

    /// A panic elsewhere leaves no half-made change behind, since none of the sections below can panic midway.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, line: &[u8], sink: usize, second: i64) -> Push {
        let mut state = self.state();
        if state.closed {
            return Push::Closed;
        }
        if state.is_full(self.limit, line.len()) {
            return Push::Full;
        }
        let was_empty = state.chunks.is_empty();
        let is_complete = state.append(line, sink, second);
        drop(state);
        if was_empty || is_complete {
            self.work.notify_one();
        }
        Push::Taken
    }

    /// Waits while the queue is full; anything but `Full`.
    pub async fn push_when_room(&self, line: &[u8], sink: usize, second: i64) -> Push {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            match self.push(line, sink, second) {
                Push::Full => room.await,
                settled => return settled,
            }
        }
    }

    /// Waits until every record taken so far is on disk. False: some of them may never be.
    pub async fn settled(&self) -> bool {
        let mine = {
            let mut state = self.state();
            state.wanted = state.taken;
            state.taken
        };
        self.work.notify_one();
        loop {
            let mut settling = std::pin::pin!(self.settling.notified());
            settling.as_mut().enable();
            {
                let state = self.state();
                if state.unsynced >= mine {
                    return false;
                }
                if state.settled >= mine || state.abandoned {
                    return state.settled >= mine;
                }
            }
            settling.await;
        }
    }

    /// For the writer: whether records are wanted on disk that aren't there.
    pub fn is_unsettled(&self) -> bool {
        let state = self.state();
        state.wanted > state.settled
    }

    /// Everything that was released is on disk and synced.
    pub fn settle(&self) {
        let mut state = self.state();
        state.settled = state.taken - state.records;
        drop(state);
        self.settling.notify_waiters();
    }

    /// It is in the files, but the disk failed to sync it, and a second try would prove nothing.
    pub fn give_up_syncing(&self) {
        let mut state = self.state();
        state.settled = state.taken - state.records;
        state.unsynced = state.settled;
        drop(state);
        self.settling.notify_waiters();
    }

    /// Blocks until a chunk is complete or has waited long enough, `deadline` is there, or the queue is closed.
    pub fn wait(&self, deadline: Option<Instant>) -> Work {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let due = earliest(state.due(now), deadline);
            if state.closed || due.is_some_and(|due| due <= now) {
                let last = state.closed;
                return Work { chunks: std::mem::take(&mut state.chunks), last };
            }
            state = match due {
                Some(due) => {
                    let waited = self.work.wait_timeout(state, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The chunk's lines are with the operating system, or as good as.
    pub fn release(&self, mut chunk: Chunk) {
        let mut state = self.state();
        state.records -= chunk.entries.len() as u64;
        state.octets -= chunk.lines.len();
        if state.spare.len() < SPARE_CHUNKS && chunk.lines.capacity() <= 2 * CHUNK_OCTETS {
            chunk.lines.clear();
            chunk.entries.clear();
            state.spare.push(chunk);
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Takes no more lines. Those that wait for room get [`Push::Closed`].
    pub fn close(&self) {
        self.state().closed = true;
        self.work.notify_one();
        self.room.notify_waiters();
    }

    /// Closes, and tells the writer to give up what it can't write.
    pub fn abandon(&self) {
        self.state().abandoned = true;
        self.close();
        self.settling.notify_waiters();
    }

    /// The writer's patience after an error: false if it was told to give up.
    pub fn pause(&self, time: Duration) -> bool {
        let state = self.state();
        let waited = self.work.wait_timeout_while(state, time, |state| !state.abandoned);
        !waited.unwrap_or_else(PoisonError::into_inner).0.abandoned
    }

    /// Records taken and not yet released.
    pub fn waiting(&self) -> u64 {
        self.state().records
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

impl State {
    /// A line larger than all the room there is goes through when nothing else waits.
    fn is_full(&self, limit: u64, octets: usize) -> bool {
        let above = self.octets.saturating_add(octets) > LOG_BACKLOG_OCTETS;
        self.records >= limit || (above && self.records > 0)
    }

    /// Whether the line made its chunk complete.
    fn append(&mut self, line: &[u8], sink: usize, second: i64) -> bool {
        if self.chunks.back().is_none_or(|chunk| chunk.is_complete()) {
            let mut chunk = self.spare.pop().unwrap_or_else(Chunk::new);
            chunk.since = Instant::now();
            self.chunks.push_back(chunk);
        }
        let chunk = self.chunks.back_mut().expect("one was just made sure of");
        chunk.lines.extend_from_slice(line);
        chunk.entries.push(Entry { end: chunk.lines.len(), sink, second });
        self.records += 1;
        self.taken += 1;
        self.octets += line.len();
        chunk.is_complete()
    }

    /// When the first chunk is to be written; at once if there is none and what was written is wanted on disk.
    fn due(&self, now: Instant) -> Option<Instant> {
        let Some(chunk) = self.chunks.front() else {
            return (self.wanted > self.settled).then_some(now);
        };
        Some(if chunk.is_complete() { chunk.since } else { chunk.since + LINGER })
    }
}

impl Chunk {
    fn new() -> Chunk {
        Chunk { lines: Vec::new(), entries: Vec::new(), since: Instant::now() }
    }

    fn is_complete(&self) -> bool {
        self.lines.len() >= CHUNK_OCTETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn lines_come_out_once_in_order_and_count_until_they_are_released() {
        let queue = Queue::new(3);
        for line in ["a\n", "b\n", "c\n"] {
            assert_eq!(queue.push(line.as_bytes(), 0, 0), Push::Taken);
        }
        assert_eq!(queue.push(b"d\n", 0, 0), Push::Full);
        let mut work = queue.wait(Some(Instant::now()));
        assert_eq!(work.chunks.len(), 1);
        let chunk = work.chunks.pop_front().unwrap();
        assert_eq!(chunk.lines, b"a\nb\nc\n");
        assert_eq!(chunk.entries.iter().map(|entry| entry.end).collect::<Vec<_>>(), [2, 4, 6]);
        assert_eq!((queue.waiting(), queue.push(b"d\n", 0, 0)), (3, Push::Full));
        queue.release(chunk);
        assert_eq!((queue.waiting(), queue.push(b"d\n", 0, 0)), (0, Push::Taken));
    }

    #[test]
    fn a_complete_chunk_is_handed_over_at_once_and_a_small_one_lingers() {
        let queue = Queue::new(1000);
        let begun = Instant::now();
        queue.push(&vec![b'x'; CHUNK_OCTETS], 0, 0);
        assert_eq!(queue.wait(None).chunks.len(), 1);
        assert!(begun.elapsed() < LINGER);
        let begun = Instant::now();
        queue.push(b"x\n", 0, 0);
        assert_eq!(queue.wait(None).chunks.len(), 1);
        assert!(begun.elapsed() >= LINGER);
    }

    #[test]
    fn octets_are_bounded_too_but_one_large_line_passes() {
        let queue = Queue::new(1000);
        let large = vec![b'x'; LOG_BACKLOG_OCTETS];
        assert_eq!(queue.push(&large, 0, 0), Push::Taken);
        assert_eq!(queue.push(b"x\n", 0, 0), Push::Full);
        let chunk = queue.wait(None).chunks.pop_front().unwrap();
        queue.release(chunk);
        assert_eq!(queue.push(b"x\n", 0, 0), Push::Taken);
    }

    #[test]
    fn a_closed_queue_yields_its_rest_and_refuses_the_next() {
        let queue = Queue::new(10);
        queue.push(b"a\n", 0, 0);
        queue.close();
        assert_eq!(queue.push(b"b\n", 0, 0), Push::Closed);
        let work = queue.wait(None);
        assert!(work.last && work.chunks.len() == 1);
    }

    #[tokio::test]
    async fn whoever_waits_for_room_goes_on_when_there_is_some_or_the_queue_closes() {
        let queue = Arc::new(Queue::new(1));
        queue.push(b"a\n", 0, 0);
        let waiter = |queue: &Arc<Queue>| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.push_when_room(b"b\n", 0, 0).await })
        };
        let first = waiter(&queue);
        tokio::task::yield_now().await;
        assert!(!first.is_finished());
        let chunk = queue.wait(Some(Instant::now())).chunks.pop_front().unwrap();
        queue.release(chunk);
        assert_eq!(first.await.unwrap(), Push::Taken);
        let second = waiter(&queue);
        tokio::task::yield_now().await;
        queue.close();
        assert_eq!(second.await.unwrap(), Push::Closed);
    }

    #[tokio::test]
    async fn whoever_wants_records_on_disk_hears_of_it_once_they_are_released_and_settled() {
        let queue = Arc::new(Queue::new(10));
        queue.push(b"a\n", 0, 0);
        let waiter = queue.clone();
        let waiter = tokio::spawn(async move { waiter.settled().await });
        tokio::task::yield_now().await;
        assert!(queue.is_unsettled());
        let chunk = queue.wait(None).chunks.pop_front().unwrap();
        queue.settle();
        assert!(queue.is_unsettled(), "it wasn't released");
        queue.release(chunk);
        assert!(queue.wait(None).chunks.is_empty(), "called at once though there are no lines");
        queue.settle();
        assert!(waiter.await.unwrap() && !queue.is_unsettled());
        queue.push(b"b\n", 0, 0);
        let waiter = queue.clone();
        let waiter = tokio::spawn(async move { waiter.settled().await });
        tokio::task::yield_now().await;
        let chunk = queue.wait(None).chunks.pop_front().unwrap();
        queue.release(chunk);
        queue.give_up_syncing();
        assert!(!waiter.await.unwrap() && !queue.is_unsettled(), "the disk failed");
        queue.push(b"c\n", 0, 0);
        let waiter = queue.clone();
        let waiter = tokio::spawn(async move { waiter.settled().await });
        tokio::task::yield_now().await;
        queue.abandon();
        assert!(!waiter.await.unwrap(), "given up");
    }

    #[test]
    fn a_pause_ends_early_when_the_writer_is_told_to_give_up() {
        let queue = Queue::new(1);
        assert!(queue.pause(Duration::from_millis(1)));
        queue.abandon();
        assert!(!queue.pause(Duration::from_secs(600)));
    }
}
