//! The driver's log: records wait in a buffer, then lie on disk. Invariant: every record that was taken ends in the ledger once, as
//! `Recorded` or as `RecordLost`. There is no task: what is due is settled whenever somebody calls. Lines aren't rendered.
use crate::fault::FaultKind;
use crate::ledger::Event;
use crate::universe::Universe;
use crate::waits::WaitKind;
use kumo_core::id::SpoolId;
use kumo_core::log::RecordKind;
use kumo_core::random::Random;
use kumo_core::time::{Duration, Mono, Now};
use kumo_driver::record::{RecordEvent, Recorder};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::sleep;

/// A record is on disk after so long, even if nobody asks.
pub const DURABLE_AFTER: Duration = Duration::from_millis(800);
/// To sync what is pending.
const SYNC: Duration = Duration::from_millis(1);
/// Between tries to sync what is overdue.
const RETRY: Duration = Duration::from_millis(200);

struct Pending {
    number: u64,
    made: Now,
    taken: Mono,
    /// A sync failed on it: it is written, and a power cut would take it.
    failed: bool,
    kind: RecordKind,
    id: SpoolId,
    event: Event,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    pending: VecDeque<Pending>,
    taken: u64,
    counts: BTreeMap<RecordKind, u64>,
    retry_at: Mono,
}

/// The log's files and what is on its way to them, of all lives.
pub struct Log {
    state: Mutex<State>,
    /// By kind.
    quotes: Vec<bool>,
}

impl Log {
    pub fn new(seed: u64) -> Log {
        let mut random = Random::new(seed, "log");
        let quotes = RecordKind::ALL.iter().map(|_| random.below(4) == 0).collect();
        Log { state: Mutex::default(), quotes }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records taken so far, by kind, whatever became of them.
    pub fn counts(&self) -> BTreeMap<RecordKind, u64> {
        self.state().counts.clone()
    }

    /// Records that are neither on disk nor lost yet.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// Writes down what is due. To be called each second, since the log has no task of its own.
    pub fn settle(&self, universe: &Universe) {
        let now = universe.now().mono;
        let mut state = self.state();
        let due = state.pending.iter().take_while(|one| is_due(one, now)).last();
        let Some(last) = due.map(|one| one.number) else { return };
        if now >= state.retry_at && !state.sync(universe, last) {
            state.retry_at = now + RETRY;
        }
    }

    /// At a graceful stop: everything is on disk.
    pub fn close(&self, universe: &Universe) {
        for one in self.state().pending.drain(..) {
            one.write_down(universe);
        }
    }

    /// The process is gone, and with it what it hadn't written; with the machine also what it hadn't synced.
    pub fn crash(&self, universe: &Universe, power_cut: bool) {
        self.settle(universe);
        let now = universe.now().mono;
        for one in self.state().pending.drain(..) {
            if !is_due(&one, now) || (power_cut && one.failed) {
                universe.write(Event::RecordLost { kind: one.kind, id: one.id });
            } else {
                one.write_down(universe);
            }
        }
    }

    fn take(&self, made: Now, taken: Mono, event: &RecordEvent<'_>) {
        let mut state = self.state();
        state.taken += 1;
        *state.counts.entry(event.kind).or_default() += 1;
        let (number, kind, id) = (state.taken, event.kind, event.message.id);
        let event = recorded(event);
        state.pending.push_back(Pending { number, made, taken, failed: false, kind, id, event });
    }

    fn last_taken(&self) -> u64 {
        self.state().taken
    }
}

impl State {
    /// Whether all records up to `last` are on disk now.
    fn sync(&mut self, universe: &Universe, last: u64) -> bool {
        let count = self.pending.partition_point(|one| one.number <= last);
        if count == 0 {
            return true;
        }
        if universe.faults.strikes(FaultKind::LogFailure, "").is_some() {
            self.pending.iter_mut().take(count).for_each(|one| one.failed = true);
            return false;
        }
        for one in self.pending.drain(..count) {
            one.write_down(universe);
        }
        true
    }
}

impl Pending {
    fn write_down(self, universe: &Universe) {
        universe.ledger.write(self.made, self.event);
    }
}

fn is_due(one: &Pending, now: Mono) -> bool {
    now >= one.taken + DURABLE_AFTER
}

fn recorded(event: &RecordEvent<'_>) -> Event {
    Event::Recorded {
        kind: event.kind,
        id: event.message.id,
        recipients: event.recipients.iter().map(|one| one.as_str().into()).collect(),
        code: event.response.code,
        text: event.response.content.clone(),
        queue: event.queue.into(),
    }
}

pub struct SimRecorder {
    universe: Arc<Universe>,
    life: u64,
}

impl SimRecorder {
    pub fn new(universe: &Arc<Universe>, life: u64) -> SimRecorder {
        SimRecorder { universe: universe.clone(), life }
    }

    /// The driver's side of `quotes_header`. A rejected message has no body to show.
    fn check_body(&self, event: &RecordEvent<'_>) {
        let is_missing = event.message.body.is_empty() && event.size > 0;
        if is_missing && event.kind != RecordKind::Rejection && self.quotes_header(event.kind) {
            let what = format!("a {} record of {}", event.kind.name(), event.message.id);
            let what = format!("{what} should quote the header, and the body isn't there");
            self.universe.ledger.violation(self.universe.now(), "recorder", what);
        }
    }

    async fn stall(&self) {
        let universe = &self.universe;
        if universe.faults.strikes(FaultKind::LogStall, "").is_some() {
            let _waiting = universe.waits.begin(WaitKind::Record, universe.now().mono);
            universe.faults.over(FaultKind::LogStall, "").await;
            universe.lives.alive(self.life).await;
        }
    }
}

impl Recorder for SimRecorder {
    fn quotes_header(&self, kind: RecordKind) -> bool {
        self.universe.log.quotes[kind as usize]
    }

    async fn record(&self, event: RecordEvent<'_>) {
        let universe = &self.universe;
        universe.lives.alive(self.life).await;
        self.check_body(&event);
        universe.log.settle(universe);
        let made = universe.now();
        self.stall().await;
        universe.log.take(made, universe.now().mono, &event);
    }

    async fn settled(&self) -> bool {
        let universe = &self.universe;
        universe.lives.alive(self.life).await;
        universe.log.settle(universe);
        if universe.log.pending() == 0 {
            return true;
        }
        let last = universe.log.last_taken();
        let _waiting = universe.waits.begin(WaitKind::Record, universe.now().mono);
        sleep(SYNC).await;
        universe.lives.alive(self.life).await;
        universe.log.state().sync(universe, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Zones;
    use crate::dns::tests::{fault, universe};
    use crate::policy::PolicyTable;
    use kumo_core::address::{Mailbox, ReversePath};
    use kumo_core::id::SpoolIdGenerator;
    use kumo_core::message::{Envelope, Message};
    use kumo_core::recipients::RecipientSet;
    use kumo_core::smtp::reply::Reply;
    use kumo_core::time::Wall;
    use tokio::time::timeout;

    fn world() -> (Arc<Universe>, SimRecorder) {
        let universe = universe(Zones::default(), PolicyTable::default());
        let recorder = SimRecorder::new(&universe, 1);
        (universe, recorder)
    }

    fn message() -> Message {
        Message {
            id: SpoolIdGenerator::new(1).next(Wall(0)),
            envelope: Envelope {
                sender: ReversePath::Null,
                recipients: vec![Mailbox::parse("joe@a.test").unwrap()],
            },
            remaining: RecipientSet::all(1),
            meta: Default::default(),
            schedule: Default::default(),
            attempts: 0,
            body: "\r\n".into(),
        }
    }

    fn event(message: &Message) -> RecordEvent<'_> {
        RecordEvent {
            kind: RecordKind::Delivery,
            when: Wall(0),
            message,
            size: 2,
            recipients: message.envelope.recipients.iter().collect(),
            queue: "a.test",
            site: "a.test",
            response: Reply::new(250, "2.0.0 OK"),
            attempts: 1,
            peer_address: None,
            pool: None,
            source: None,
            source_address: None,
            delivery_protocol: None,
            tls: None,
            provider: None,
            session: None,
        }
    }

    /// Recorded, lost.
    fn written(universe: &Universe) -> (usize, usize) {
        universe.ledger.read(|entries| {
            let count = |wanted: fn(&Event) -> bool| {
                entries.iter().filter(|entry| wanted(&entry.event)).count()
            };
            let recorded = count(|event| matches!(event, Event::Recorded { .. }));
            (recorded, count(|event| matches!(event, Event::RecordLost { .. })))
        })
    }

    #[madsim::test]
    async fn a_record_is_durable_once_settled_under_the_time_it_was_made() {
        let (universe, recorder) = world();
        let message = message();
        let made = universe.now();
        recorder.record(event(&message)).await;
        assert_eq!(written(&universe), (0, 0));
        assert!(recorder.settled().await);
        let expected = Event::Recorded {
            kind: RecordKind::Delivery,
            id: message.id,
            recipients: vec!["joe@a.test".into()],
            code: 250,
            text: "OK".into(),
            queue: "a.test".into(),
        };
        universe.ledger.read(|entries| {
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].event, expected);
            assert!(entries[0].now.mono.since(made.mono) < SYNC);
        });
        assert_eq!(universe.log.counts(), [(RecordKind::Delivery, 1)].into());
    }

    #[madsim::test]
    async fn a_record_is_durable_after_a_while() {
        let (universe, recorder) = world();
        recorder.record(event(&message())).await;
        universe.log.settle(&universe);
        assert_eq!(universe.log.pending(), 1);
        sleep(DURABLE_AFTER).await;
        universe.log.settle(&universe);
        assert_eq!(written(&universe), (1, 0));
    }

    #[madsim::test]
    async fn a_crash_takes_the_young_and_a_stop_takes_none() {
        let (universe, recorder) = world();
        recorder.record(event(&message())).await;
        sleep(DURABLE_AFTER).await;
        recorder.record(event(&message())).await;
        universe.log.crash(&universe, false);
        assert_eq!(written(&universe), (1, 1));
        recorder.record(event(&message())).await;
        universe.log.close(&universe);
        assert_eq!((written(&universe), universe.log.pending()), ((2, 1), 0));
    }

    #[madsim::test]
    async fn what_cant_be_synced_survives_a_kill_and_no_power_cut() {
        for power_cut in [false, true] {
            let (universe, recorder) = world();
            universe.faults.begin(fault(FaultKind::LogFailure, None, None));
            recorder.record(event(&message())).await;
            assert!(!recorder.settled().await);
            sleep(DURABLE_AFTER).await;
            universe.log.settle(&universe);
            assert_eq!((written(&universe), universe.log.pending()), ((0, 0), 1));
            universe.log.crash(&universe, power_cut);
            assert_eq!(written(&universe), if power_cut { (0, 1) } else { (1, 0) });
        }
    }

    #[madsim::test]
    async fn after_a_failure_a_later_sync_takes_all() {
        let (universe, recorder) = world();
        let id = universe.faults.begin(fault(FaultKind::LogFailure, None, None));
        recorder.record(event(&message())).await;
        assert!(!recorder.settled().await);
        universe.faults.end(id);
        recorder.record(event(&message())).await;
        assert!(recorder.settled().await);
        assert_eq!((written(&universe), universe.log.pending()), ((2, 0), 0));
        assert!(recorder.settled().await);
    }

    #[madsim::test]
    async fn a_stalled_log_takes_a_record_when_it_is_over_unless_it_is_given_up() {
        let (universe, recorder) = world();
        universe.faults.begin(fault(FaultKind::LogStall, None, None));
        let message = message();
        let given_up = timeout(Duration::from_secs(1), recorder.record(event(&message)));
        assert!(given_up.await.is_err());
        let mut waits = Box::pin(recorder.record(event(&message)));
        assert!(timeout(Duration::from_secs(60), &mut waits).await.is_err());
        assert_eq!(universe.waits.standing()[0].0, WaitKind::Record);
        universe.faults.heal();
        waits.await;
        assert_eq!(universe.log.pending(), 1);
    }

    #[madsim::test]
    async fn the_dead_record_nothing() {
        let (universe, recorder) = world();
        universe.lives.end();
        let message = message();
        let record = timeout(Duration::from_secs(1), recorder.record(event(&message)));
        assert!(record.await.is_err());
        assert_eq!(universe.log.pending(), 0);
    }

    #[madsim::test]
    async fn a_body_that_should_be_quoted_has_to_be_there() {
        let (universe, recorder) = world();
        let empty = Message { body: Default::default(), ..message() };
        for kind in RecordKind::ALL {
            recorder.record(RecordEvent { kind, ..event(&empty) }).await;
        }
        let quoting = RecordKind::ALL.into_iter().filter(|kind| recorder.quotes_header(*kind));
        let expected = quoting.filter(|kind| *kind != RecordKind::Rejection).count();
        let is_violation = |entry: &&crate::ledger::Entry| {
            matches!(entry.event, Event::Violation { invariant: "recorder", .. })
        };
        let found = universe.ledger.read(|entries| entries.iter().filter(is_violation).count());
        assert_eq!(found, expected);
    }

    #[test]
    fn some_seeds_quote_and_some_kinds_dont() {
        let quotes: Vec<bool> = (0..50).flat_map(|seed| Log::new(seed).quotes).collect();
        let share = quotes.iter().filter(|quotes| **quotes).count() * 100 / quotes.len();
        assert!((15..35).contains(&share), "{share}");
    }
}
