//! `source_selection`: what it costs to choose a source for a message, with 100 sources in its pool of which 50 are suspended: the time
//! from admission to ready queue, less that with one source. The peers never answer, so that nothing else is in it. Run with `make bench`.
use kumo_core::config::{
    EgressPath, EgressPool, EgressSource, LimitSpec, PoolEntry, QueueConfig, SuspendRule, Trigger,
};
use kumo_core::engine::{
    Admission, Answer, CloseCause, Engine, EngineConfig, Input, InsertReason, Output, Question,
    ResolvedPool,
};
use kumo_core::id::SpoolIdGenerator;
use kumo_core::mx;
use kumo_core::port::MxAnswer;
use kumo_core::recipients::RecipientSet;
use kumo_core::source_health::SourceFailure;
use kumo_core::time::{Duration, Mono, Now, Wall};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

const MESSAGES: usize = 500_000;
const RUNS: usize = 5;
const TARGET_NANOSECONDS: f64 = 1_000.0;
const AN_HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    engine: Engine,
    now: Now,
    ids: SpoolIdGenerator,
    sources: usize,
    inputs: VecDeque<Input>,
}

impl Bench {
    /// Every second source is suspended, if there are several.
    fn new(sources: usize) -> Bench {
        let mut bench = Bench {
            engine: Engine::new(EngineConfig::default(), 1),
            now: Now { mono: Mono(1_000_000_000), wall: Wall(1_795_000_000_000_000_000) },
            ids: SpoolIdGenerator::new(1),
            sources,
            inputs: VecDeque::new(),
        };
        bench.admit(4 * sources);
        let suspended = bench.engine.sources();
        let suspended = suspended.iter().filter(|source| source.suspension.is_some()).count();
        assert_eq!(suspended, sources / 2);
        bench
    }

    fn admit(&mut self, messages: usize) {
        let queue: Arc<str> = "customer.example".into();
        for _ in 0..messages {
            self.now.mono = self.now.mono + Duration::from_micros(1);
            self.now.wall = Wall(self.now.wall.0 + 1_000);
            self.inputs.push_back(Input::Admit(Admission {
                id: self.ids.next(self.now.wall),
                queue: queue.clone(),
                recipients: 1,
                remaining: RecipientSet::all(1),
                size: 1024,
                attempts: 0,
                due: None,
                expires: None,
                reason: InsertReason::Received,
            }));
            while let Some(input) = self.inputs.pop_front() {
                self.engine.handle(self.now, input);
                while let Some(output) = self.engine.poll() {
                    self.perform(output);
                }
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Ask { op, question, .. } => {
                let answer = self.answer(question);
                self.inputs.push_back(Input::Answer { op, answer });
            }
            Output::Resolve { op, domain, .. } => {
                let records = vec![(10, format!("mx.{domain}").into())];
                let answer = MxAnswer { records, ttl: AN_HOUR, secure: false };
                let resolution = mx::resolution(&domain, Ok(answer));
                self.inputs.push_back(Input::Resolved { op, resolution });
            }
            Output::Open { session, target } if target.source.name.starts_with("bad") => {
                let failure = SourceFailure::Unplumbed;
                self.inputs.push_back(Input::SourceFailed { session, failure });
            }
            Output::Abort { session, .. } => {
                let cause = CloseCause::Aborted;
                self.inputs.push_back(Input::SessionClosed { session, cause });
            }
            _ => {}
        }
    }

    fn answer(&self, question: Question) -> Answer {
        match question {
            Question::QueueConfig { .. } => Answer::QueueConfig(Box::new(QueueConfig {
                refresh_interval: AN_HOUR,
                ..QueueConfig::default()
            })),
            Question::Pool { name } => {
                let named = |number: usize| {
                    let kind = if number % 2 == 1 { "bad" } else { "good" };
                    format!("{kind}{number}")
                };
                let source = |number| {
                    let rule = SuspendRule { trigger: Trigger::Immediate, duration: AN_HOUR };
                    Arc::new(EgressSource {
                        suspend_when_unplumbed: Some(rule),
                        ttl: AN_HOUR,
                        ..EgressSource::named(&named(number))
                    })
                };
                let entry = |number| PoolEntry { name: named(number).into(), weight: 1 };
                let entries = (0..self.sources).map(entry).collect();
                let pool = EgressPool { name: name.as_ref().into(), entries, ttl: AN_HOUR };
                let sources = (0..self.sources).map(source).collect();
                Answer::Pool(Box::new(ResolvedPool { pool, sources }))
            }
            Question::EgressPath { .. } => Answer::EgressPath(Box::new(EgressPath {
                refresh_interval: AN_HOUR,
                max_ready: u64::MAX,
                connection_limit: LimitSpec { limit: 1, force_local: false },
                ..EgressPath::default()
            })),
            other => panic!("policy has no handler for {other:?}"),
        }
    }
}

fn nanoseconds(sources: usize) -> f64 {
    let mut bench = Bench::new(sources);
    let began = Instant::now();
    bench.admit(MESSAGES);
    began.elapsed().as_nanos() as f64 / MESSAGES as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let of = |sources| median((0..RUNS).map(|_| nanoseconds(sources)).collect());
    let (one, hundred) = (of(1), of(100));
    let cost = hundred - one;
    let met = if cost < TARGET_NANOSECONDS { "target met" } else { "TARGET MISSED" };
    println!("source_selection: {MESSAGES} messages of one queue, one core, medians of {RUNS}");
    println!("  one source                       {one:>6.0} ns from admission to ready queue");
    println!("  100 sources, 50 of them suspended {hundred:>5.0} ns");
    println!(
        "  choosing                         {cost:>6.0} ns   (target below {TARGET_NANOSECONDS}: {met})"
    );
}
