//! `engine_lifecycle`: what one core's engine can do. Admit, promote, lease, deliver, remove, over 10,000 queues, each with
//! a ready queue and a site of its own, and the memory of messages that wait for their next attempt.
//! The outside is the least there can be: policy, DNS, peers and spool answer at once. No disk, socket or thread.
//! Run with `make bench`; `cargo bench -p kumo-core -- once` makes one short pass, for callgrind.
use kumo_core::config::{EgressPath, EgressPool, EgressSource, PoolEntry, QueueConfig};
use kumo_core::engine::{
    Admission, Answer, Engine, EngineConfig, Input, InsertReason, Outcome, Outcomes, Output,
    Question, ResolvedPool,
};
use kumo_core::id::SpoolIdGenerator;
use kumo_core::mx;
use kumo_core::port::MxAnswer;
use kumo_core::recipients::RecipientSet;
use kumo_core::smtp::reply::ReplyCode;
use kumo_core::time::{Duration, Mono, Now, Wall};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const QUEUES: usize = 10_000;
const MESSAGES: usize = 1_000_000;
/// Messages that come in before the first of them is delivered, as a burst of a group commit would bring them.
const BURST: usize = 128;
const RUNS: usize = 5;
const TARGET_PER_SECOND: f64 = 200_000.0;
const TARGET_OCTETS: f64 = 400.0;

/// Counts what is allocated, so that an engine's size is what it is and not what the allocator rounds it to.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counter is not part of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Bench {
    engine: Engine,
    now: Now,
    ids: SpoolIdGenerator,
    queues: Vec<Arc<str>>,
    inputs: VecDeque<Input>,
    delivered: usize,
    removed: usize,
}

impl Bench {
    fn new() -> Bench {
        let queues = (0..QUEUES).map(|number| format!("customer{number}.example").into());
        Bench {
            engine: Engine::new(EngineConfig::default(), 1),
            now: Now { mono: Mono(1_000_000_000), wall: Wall(1_795_000_000_000_000_000) },
            ids: SpoolIdGenerator::new(1),
            queues: queues.collect(),
            inputs: VecDeque::new(),
            delivered: 0,
            removed: 0,
        }
    }

    fn admit(&mut self, number: usize, due: Option<Wall>) {
        // A microsecond each: a million messages a second.
        self.now.mono = self.now.mono + Duration::from_micros(1);
        self.now.wall = Wall(self.now.wall.0 + 1_000);
        self.inputs.push_back(Input::Admit(Admission {
            id: self.ids.next(self.now.wall),
            queue: self.queues[number % QUEUES].clone(),
            recipients: 1,
            remaining: RecipientSet::all(1),
            size: 1024,
            attempts: 0,
            due,
            expires: None,
            reason: InsertReason::Received,
        }));
    }

    fn run(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            self.engine.handle(self.now, input);
            while let Some(output) = self.engine.poll() {
                self.perform(output);
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Ask { op, question, .. } => {
                self.inputs.push_back(Input::Answer { op, answer: answer(question) });
            }
            Output::Resolve { op, domain, .. } => {
                let records = vec![(10, format!("mx.{domain}").into())];
                let answer = MxAnswer { records, ttl: Duration::from_secs(3600), secure: false };
                let resolution = mx::resolution(&domain, Ok(answer));
                self.inputs.push_back(Input::Resolved { op, resolution });
            }
            Output::Open { session, .. } => self.inputs.push_back(Input::SessionReady { session }),
            Output::Deliver { op, session, .. } => {
                self.delivered += 1;
                let code = ReplyCode { code: 250, enhanced: None };
                let outcomes = Outcomes::Uniform(Outcome::Delivered(code));
                self.inputs.push_back(Input::Attempted { op, outcomes, reusable: true });
                self.inputs.push_back(Input::SessionReady { session });
            }
            Output::Conclude { op, .. } => {
                self.removed += 1;
                self.inputs.push_back(Input::Concluded { op, stored: true });
            }
            other => panic!("nothing here should bring about {other:?}"),
        }
    }

    /// Whole lives of so many messages, over all queues.
    fn deliver(&mut self, messages: usize) {
        let (delivered, removed) = (self.delivered, self.removed);
        for number in 0..messages {
            self.admit(number, None);
            if number % BURST == BURST - 1 {
                self.run();
            }
        }
        self.run();
        assert_eq!(self.delivered - delivered, messages);
        assert_eq!(self.removed - removed, messages);
        assert_eq!(self.engine.message_count(), 0);
    }
}

fn answer(question: Question) -> Answer {
    // Refreshing configuration isn't what is measured.
    let an_hour = Duration::from_secs(3600);
    match question {
        Question::QueueConfig { .. } => {
            let config = QueueConfig { refresh_interval: an_hour, ..QueueConfig::default() };
            Answer::QueueConfig(Box::new(config))
        }
        Question::Pool { name } => {
            let entries = vec![PoolEntry { name: "source".into(), weight: 1 }];
            let pool = EgressPool { name: name.as_ref().into(), entries, ttl: an_hour };
            let source = EgressSource::named("source");
            Answer::Pool(Box::new(ResolvedPool { pool, sources: vec![Arc::new(source)] }))
        }
        Question::EgressPath { .. } => {
            // A connection serves as long as the bench runs: making them is the driver's work.
            let path = EgressPath {
                refresh_interval: an_hour,
                max_deliveries_per_connection: u64::MAX,
                ..EgressPath::default()
            };
            Answer::EgressPath(Box::new(path))
        }
        other => panic!("policy has no handler for {other:?}"),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn lifecycles_per_second() -> f64 {
    let mut bench = Bench::new();
    bench.deliver(QUEUES);
    let began = Instant::now();
    bench.deliver(MESSAGES);
    MESSAGES as f64 / began.elapsed().as_secs_f64()
}

/// Octets of engine for each message that waits an hour for its next attempt; its queues are there already.
fn octets_per_message() -> f64 {
    let mut bench = Bench::new();
    bench.deliver(QUEUES);
    let before = ALLOCATED.load(Ordering::Relaxed);
    for number in 0..MESSAGES {
        let due = Wall(bench.now.wall.0 + 3_600_000_000_000);
        bench.admit(number, Some(due));
        bench.run();
    }
    assert_eq!(bench.engine.message_count(), MESSAGES);
    (ALLOCATED.load(Ordering::Relaxed) - before) as f64 / MESSAGES as f64
}

fn verdict(met: bool) -> &'static str {
    if met { "target met" } else { "TARGET MISSED" }
}

fn main() {
    if std::env::args().any(|argument| argument == "once") {
        let mut bench = Bench::new();
        bench.deliver(10 * QUEUES);
        return println!("{} lives", bench.delivered);
    }
    println!("engine_lifecycle: {MESSAGES} messages, {QUEUES} queues, one core, medians of {RUNS}");
    let rate = median((0..RUNS).map(|_| lifecycles_per_second()).collect());
    let met = verdict(rate >= TARGET_PER_SECOND);
    println!("  lives a second           {rate:>10.0}   (target {TARGET_PER_SECOND}: {met})");
    let octets = octets_per_message();
    let met = verdict(octets <= TARGET_OCTETS);
    println!("  octets a queued message  {octets:>10.0}   (target {TARGET_OCTETS}: {met})");
}
