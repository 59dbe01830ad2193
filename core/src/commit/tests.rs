//! The committer against a model spool: what it promises must hold whatever the disk does and when.
use super::*;
use crate::port::{Family, SpoolErrorKind};
use crate::time::{Duration, Mono};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use proptest::prelude::*;

fn id(number: u64) -> SpoolId {
    SpoolId(u128::from(number).to_be_bytes())
}

fn store(number: u64) -> Work {
    let body = |text: &'static [u8]| Bytes::from_static(text);
    Work::Store(vec![Store { id: id(number), data: body(b"data"), meta: body(b"meta") }])
}

fn io_error() -> SpoolError {
    SpoolError { kind: SpoolErrorKind::Io, text: "disk said no".into() }
}

fn committer(atomic: bool) -> Committer {
    Committer::new(CommitConfig { atomic, sync: true })
}

fn outputs(machine: &mut Committer) -> Vec<Output> {
    core::iter::from_fn(|| machine.poll()).collect()
}

/// The stages handed over, and the tickets' ends as text.
fn seen(machine: &mut Committer) -> (Vec<(StageId, usize)>, Vec<alloc::string::String>) {
    let (mut stages, mut ends) = (Vec::new(), Vec::new());
    for output in outputs(machine) {
        match output {
            Output::Apply { stage, batch, .. } => stages.push((stage, batch.len())),
            Output::Sync { stage } => stages.push((stage, 0)),
            Output::Done { ticket, outcome } => {
                ends.push(alloc::format!("{} {outcome:?}", ticket.0));
            }
            Output::Undone { ids } => ends.push(alloc::format!("undone {}", ids.len())),
            Output::Drained { owed } => ends.push(alloc::format!("drained {}", owed.len())),
        }
    }
    (stages, ends)
}

const LATER: Deadline = at(Mono(30_000_000_000));

const fn at(at: Mono) -> Deadline {
    Deadline { at, whose: Whose::Spool }
}

fn turned_away() -> SpoolError {
    SpoolError { kind: SpoolErrorKind::Busy, text: "write stall".into() }
}

#[test]
fn what_waits_while_one_batch_is_synced_is_the_next_batch() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), store(1), LATER);
    machine.handle(Mono(0), Input::Tick);
    let (stages, _) = seen(&mut machine);
    assert_eq!(stages.len(), 1);
    for number in 2..5 {
        machine.submit(Ticket(number), store(number), LATER);
        machine.handle(Mono(1), Input::Tick);
    }
    assert_eq!(seen(&mut machine), (vec![], vec![]));
    machine.handle(Mono(2), Input::Applied { stage: stages[0].0, result: Ok(()) });
    let (stages, ends) = seen(&mut machine);
    assert_eq!(stages[0].1, 6, "three messages, two records each");
    assert_eq!(ends, ["1 Durable(Durable(()))"]);
}

#[test]
fn a_deadline_before_the_handing_over_costs_nothing() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), store(1), LATER);
    machine.handle(Mono(0), Input::Tick);
    let (first, _) = seen(&mut machine);
    machine.submit(Ticket(2), store(2), at(Mono(5)));
    machine.handle(Mono(5), Input::Tick);
    assert_eq!(seen(&mut machine).1, ["2 TimedOut(Spool)"]);
    machine.handle(Mono(6), Input::Applied { stage: first[0].0, result: Ok(()) });
    let (stages, _) = seen(&mut machine);
    assert_eq!(stages, [], "the late store is never written");
}

#[test]
fn a_store_that_lands_after_its_deadline_is_taken_back_with_a_sync() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), store(1), at(Mono(5)));
    machine.handle(Mono(0), Input::Tick);
    let (stages, _) = seen(&mut machine);
    machine.handle(Mono(5), Input::Tick);
    assert_eq!(seen(&mut machine).1, ["1 TimedOut(Spool)"]);
    machine.handle(Mono(9), Input::Applied { stage: stages[0].0, result: Ok(()) });
    let Some(Output::Apply { stage, batch, sync }) = machine.poll() else { panic!("an undo") };
    assert_eq!(sync, SyncMode::Synced);
    assert!(batch.iter().all(|one| matches!(one, SpoolOperation::Delete { .. })));
    machine.handle(Mono(10), Input::Applied { stage, result: Ok(()) });
    assert_eq!(seen(&mut machine).1, ["undone 1"]);
}

#[test]
fn a_failed_batch_fails_its_tickets_and_is_taken_back_after_a_rest() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), store(1), LATER);
    machine.submit(Ticket(2), Work::Remove { id: id(9) }, LATER);
    machine.handle(Mono(0), Input::Tick);
    let (stages, _) = seen(&mut machine);
    machine.handle(Mono(1), Input::Applied { stage: stages[0].0, result: Err(io_error()) });
    let (stages, ends) = seen(&mut machine);
    assert!(stages.is_empty() && ends.iter().all(|end| end.contains("Failed")), "{ends:?}");
    let wake = machine.next_wake().expect("an undo is owed");
    assert_eq!(wake, Mono(1) + Duration::from_secs(1));
    machine.handle(wake, Input::Tick);
    assert_eq!(seen(&mut machine).0.len(), 1);
}

#[test]
fn a_lone_removal_is_synced_within_a_second() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), Work::Remove { id: id(1) }, LATER);
    machine.handle(Mono(0), Input::Tick);
    let Some(Output::Apply { stage, sync, .. }) = machine.poll() else { panic!("a batch") };
    assert_eq!(sync, SyncMode::Unsynced);
    machine.handle(Mono(7), Input::Applied { stage, result: Ok(()) });
    assert_eq!(seen(&mut machine).1, ["1 Written"]);
    let wake = machine.next_wake().expect("a sync is due");
    assert_eq!(wake, Mono(7) + Duration::from_secs(1));
    machine.handle(wake, Input::Tick);
    assert!(matches!(machine.poll(), Some(Output::Sync { .. })));
}

#[test]
fn with_two_paths_bodies_are_synced_before_the_meta_that_speaks_of_them() {
    let mut machine = committer(false);
    machine.submit(Ticket(1), store(1), LATER);
    machine.handle(Mono(0), Input::Tick);
    let Some(Output::Apply { stage, batch, sync: SyncMode::Synced }) = machine.poll() else {
        panic!("bodies first")
    };
    assert!(batch.iter().all(|one| one.family() == Family::Data));
    machine.submit(Ticket(2), store(2), LATER);
    machine.handle(Mono(1), Input::Applied { stage, result: Ok(()) });
    let (stages, ends) = seen(&mut machine);
    assert_eq!(stages.len(), 2, "meta of the first beside bodies of the second");
    assert!(ends.is_empty());
    machine.handle(Mono(2), Input::Applied { stage: stages[0].0, result: Ok(()) });
    assert_eq!(seen(&mut machine).1, ["1 Durable(Durable(()))"]);
}

#[test]
fn with_two_paths_a_body_goes_only_once_the_removal_of_its_meta_is_synced() {
    let mut machine = committer(false);
    machine.submit(Ticket(1), Work::Remove { id: id(1) }, LATER);
    machine.handle(Mono(0), Input::Tick);
    let Some(Output::Apply { stage, sync, .. }) = machine.poll() else { panic!("the meta") };
    assert_eq!(sync, SyncMode::Unsynced);
    machine.handle(Mono(1), Input::Applied { stage, result: Ok(()) });
    assert_eq!(seen(&mut machine), (vec![], vec!["1 Written".into()]));

    machine.submit(Ticket(2), store(2), LATER);
    machine.handle(Mono(2), Input::Tick);
    let (bodies, _) = seen(&mut machine);
    assert_eq!(bodies[0].1, 1, "the second's body alone, and it is synced");
    machine.handle(Mono(3), Input::Applied { stage: bodies[0].0, result: Ok(()) });
    let (meta, _) = seen(&mut machine);
    machine.handle(Mono(4), Input::Applied { stage: meta[0].0, result: Ok(()) });
    assert!(matches!(machine.poll(), Some(Output::Done { ticket: Ticket(2), .. })));
    let Some(Output::Apply { batch, .. }) = machine.poll() else { panic!("the body left over") };
    assert_eq!(batch, [SpoolOperation::Delete { family: Family::Data, key: id(1) }]);
}

/// Swarm seed 77179.
#[test]
fn what_is_written_again_after_a_failure_is_the_newest_word_that_may_be_there() {
    let update = |meta: &'static [u8]| Work::Update { id: id(1), meta: Bytes::from_static(meta) };
    let meta = |value: &'static [u8]| SpoolOperation::Put {
        family: Family::Meta,
        key: id(1),
        value: Bytes::from_static(value),
    };
    let gone = |family| SpoolOperation::Delete { family, key: id(1) };
    for (newer, expected) in [
        (Work::Remove { id: id(1) }, vec![gone(Family::Meta), gone(Family::Data)]),
        (update(b"second"), vec![meta(b"second")]),
    ] {
        let mut machine = committer(true);
        machine.submit(Ticket(1), update(b"first"), LATER);
        machine.handle(Mono(0), Input::Tick);
        let (stages, _) = seen(&mut machine);
        machine.handle(Mono(1), Input::Applied { stage: stages[0].0, result: Ok(()) });
        seen(&mut machine);
        machine.submit(Ticket(2), newer, LATER);
        machine.handle(Mono(2), Input::Tick);
        let (stages, _) = seen(&mut machine);
        machine.handle(Mono(3), Input::Applied { stage: stages[0].0, result: Err(io_error()) });
        seen(&mut machine);
        let wake = machine.next_wake().expect("it is written again");
        machine.handle(wake, Input::Tick);
        let Some(Output::Apply { batch, .. }) = machine.poll() else {
            panic!("it is written again")
        };
        assert_eq!(batch, expected);
    }
}

#[test]
fn without_syncs_a_body_goes_at_once() {
    let mut machine = Committer::new(CommitConfig { atomic: false, sync: false });
    machine.submit(Ticket(1), Work::Remove { id: id(1) }, LATER);
    machine.handle(Mono(0), Input::Tick);
    let (stages, _) = seen(&mut machine);
    machine.handle(Mono(1), Input::Applied { stage: stages[0].0, result: Ok(()) });
    assert_eq!(seen(&mut machine).0.len(), 1);
}

#[test]
fn stop_refuses_what_was_not_handed_over_and_drain_ends_with_a_sync() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), store(1), LATER);
    machine.handle(Mono(0), Input::Tick);
    let (stages, _) = seen(&mut machine);
    machine.submit(Ticket(2), store(2), LATER);
    machine.submit(Ticket(3), Work::Remove { id: id(7) }, LATER);
    machine.handle(Mono(1), Input::Stop);
    machine.submit(Ticket(4), store(4), LATER);
    let ends = seen(&mut machine).1;
    assert_eq!(ends, ["2 Refused(Stopping)", "4 Refused(Stopping)"]);
    machine.handle(Mono(2), Input::Drain);
    machine.handle(Mono(3), Input::Applied { stage: stages[0].0, result: Ok(()) });
    let (stages, ends) = seen(&mut machine);
    assert_eq!(ends, ["1 Durable(Durable(()))"]);
    machine.handle(Mono(4), Input::Applied { stage: stages[0].0, result: Ok(()) });
    let (stages, ends) = seen(&mut machine);
    assert_eq!((stages[0].1, ends), (0, vec!["3 Written".into()]));
    machine.handle(Mono(5), Input::Applied { stage: stages[0].0, result: Ok(()) });
    assert_eq!(seen(&mut machine).1, ["drained 0"]);
}

#[test]
fn what_is_turned_away_is_handed_over_again_with_growing_pauses_until_its_deadline() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), store(1), at(Mono(1_000_000_000)));
    machine.handle(Mono(0), Input::Tick);
    let (mut now, mut pauses) = (Mono(0), Vec::new());
    loop {
        let (stages, ends) = seen(&mut machine);
        if !ends.is_empty() {
            assert_eq!((stages.len(), ends), (0, vec!["1 TimedOut(Spool)".into()]));
            break;
        }
        for (stage, _) in stages {
            machine.handle(now, Input::Applied { stage, result: Err(turned_away()) });
        }
        let wake = machine.next_wake().unwrap();
        pauses.push(wake.since(now));
        now = wake;
        machine.handle(now, Input::Tick);
    }
    assert_eq!(now, Mono(1_000_000_000));
    let micros: Vec<u128> = pauses.iter().map(Duration::as_micros).collect();
    assert_eq!(micros[..8], [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 50_000]);
    let wake = machine.next_wake().expect("the end of the pause");
    machine.handle(wake, Input::Tick);
    assert_eq!(seen(&mut machine), (vec![], vec![]), "nothing is owed: it was never written");
    assert_eq!(machine.next_wake(), None);
}

#[test]
fn with_two_paths_meta_that_is_turned_away_keeps_its_place() {
    let mut machine = committer(false);
    machine.submit(Ticket(1), store(1), LATER);
    machine.handle(Mono(0), Input::Tick);
    let (bodies, _) = seen(&mut machine);
    machine.handle(Mono(1), Input::Applied { stage: bodies[0].0, result: Ok(()) });
    let (meta, _) = seen(&mut machine);
    machine.handle(Mono(2), Input::Applied { stage: meta[0].0, result: Err(turned_away()) });
    assert_eq!(seen(&mut machine), (vec![], vec![]));
    let wake = machine.next_wake().unwrap();
    assert_eq!(wake, Mono(2) + Duration::from_micros(500));
    machine.handle(wake, Input::Tick);
    let (meta, _) = seen(&mut machine);
    machine.handle(wake, Input::Applied { stage: meta[0].0, result: Ok(()) });
    assert_eq!(seen(&mut machine).1, ["1 Durable(Durable(()))"]);
}

#[test]
fn a_shut_gate_refuses_stores_and_hands_over_removals_and_what_is_owed() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), store(1), LATER);
    machine.handle(Mono(0), Input::Tick);
    let (stages, _) = seen(&mut machine);
    machine.submit(Ticket(2), store(2), LATER);
    machine.submit(Ticket(3), Work::Remove { id: id(9) }, LATER);
    machine.handle(Mono(1), Input::Gate { is_open: false });
    machine.submit(Ticket(4), store(4), LATER);
    machine.handle(Mono(2), Input::Applied { stage: stages[0].0, result: Err(io_error()) });
    let (stages, ends) = seen(&mut machine);
    assert_eq!(ends[..2], ["2 Refused(Unhealthy)", "4 Refused(Unhealthy)"]);
    assert!(ends[2].starts_with("1 Failed"));
    assert_eq!(stages.len(), 1, "the removal");
    machine.handle(Mono(3), Input::Applied { stage: stages[0].0, result: Ok(()) });
    assert_eq!(seen(&mut machine), (vec![], vec!["3 Written".into()]));
    let rested = Mono(2) + Duration::from_secs(5);
    machine.handle(rested, Input::Tick);
    assert_eq!(seen(&mut machine).0.len(), 1, "the undo");
}

#[test]
fn the_caller_s_deadline_counts_only_if_it_is_earlier() {
    let spool = Mono(9);
    assert_eq!(Deadline::of(spool, None), at(spool));
    assert_eq!(Deadline::of(spool, Some(spool)), at(spool));
    let shorter = Deadline { at: Mono(8), whose: Whose::Caller };
    assert_eq!(Deadline::of(spool, Some(Mono(8))), shorter);
}

#[test]
#[should_panic(expected = "unknown or was completed before")]
fn a_second_completion_is_a_broken_invariant() {
    let mut machine = committer(true);
    machine.submit(Ticket(1), store(1), LATER);
    machine.handle(Mono(0), Input::Tick);
    let (stages, _) = seen(&mut machine);
    for _ in 0..2 {
        machine.handle(Mono(1), Input::Applied { stage: stages[0].0, result: Ok(()) });
    }
}

// ---- Against a model -----------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Event {
    Store {
        patience: u64,
    },
    RemoveOldest,
    /// Completes the oldest or the youngest call under way.
    Complete {
        oldest: bool,
        how: How,
    },
    Gate {
        is_open: bool,
    },
    Pass(u64),
}

#[derive(Clone, Copy, Debug)]
enum How {
    Well,
    /// A part of the batch is left behind; what wasn't synced may go with it.
    Failed {
        part: usize,
        loses: bool,
    },
    /// Nothing is.
    TurnedAway,
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        7 => Just(How::Well),
        2 => (0..9usize, any::<bool>()).prop_map(|(part, loses)| How::Failed { part, loses }),
        2 => Just(How::TurnedAway),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..3_000u64).prop_map(|patience| Event::Store { patience }),
        2 => Just(Event::RemoveOldest),
        4 => (any::<bool>(), how()).prop_map(|(oldest, how)| Event::Complete { oldest, how }),
        1 => prop::bool::weighted(0.7).prop_map(|is_open| Event::Gate { is_open }),
        2 => (0..1_500u64).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 0..120)
}

/// A spool that applies at completion, and everything the committer said.
struct Model {
    machine: Committer,
    atomic: bool,
    now: Mono,
    spool: BTreeSet<(Family, SpoolId)>,
    /// What a power cut can't take away, and what it takes away any part of.
    synced: BTreeSet<(Family, SpoolId)>,
    unsynced: Vec<SpoolOperation>,
    under_way: Vec<(StageId, Vec<SpoolOperation>, SyncMode)>,
    stores: BTreeMap<Ticket, SpoolId>,
    removals: BTreeMap<Ticket, SpoolId>,
    ended: BTreeMap<Ticket, &'static str>,
    durable: BTreeSet<SpoolId>,
    removing: BTreeSet<SpoolId>,
    /// For good, as the committer said.
    removed: BTreeSet<SpoolId>,
    tickets: u64,
    is_shut: bool,
    /// Bodies may be left over, for the next start to sweep.
    lost_bodies_removals: bool,
    drained: bool,
}

impl Model {
    fn new(atomic: bool) -> Model {
        Model {
            machine: committer(atomic),
            atomic,
            now: Mono(0),
            spool: BTreeSet::new(),
            synced: BTreeSet::new(),
            unsynced: Vec::new(),
            under_way: Vec::new(),
            stores: BTreeMap::new(),
            removals: BTreeMap::new(),
            ended: BTreeMap::new(),
            durable: BTreeSet::new(),
            removing: BTreeSet::new(),
            removed: BTreeSet::new(),
            tickets: 0,
            is_shut: false,
            lost_bodies_removals: false,
            drained: false,
        }
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        while let Some(output) = self.machine.poll() {
            match output {
                Output::Apply { stage, batch, sync } => {
                    let is_repair =
                        |one: &SpoolOperation| matches!(one, SpoolOperation::Delete { .. });
                    assert!(!self.is_shut || batch.iter().all(is_repair), "the gate is shut");
                    self.under_way.push((stage, batch, sync));
                }
                Output::Sync { stage } => self.under_way.push((stage, vec![], SyncMode::Synced)),
                Output::Done { ticket, outcome } => self.end(ticket, outcome),
                Output::Undone { ids } => {
                    assert!(ids.iter().all(|id| !self.spool.contains(&(Family::Meta, *id))));
                }
                Output::Drained { owed } => {
                    assert!(owed.is_empty(), "the disk was well at the end");
                    self.drained = true;
                }
            }
        }
        assert!(self.under_way.len() <= 2);
        self.survives_a_power_cut();
    }

    /// Whatever part of the unsynced operations is on disk by now: what was acknowledged is there, and so is the
    /// body of every envelope. One database keeps its order, so that the latter is no question there.
    fn survives_a_power_cut(&self) {
        let under_way = self.under_way.iter().flat_map(|(_, batch, _)| batch);
        let (mut put, mut deleted) = (BTreeSet::new(), BTreeSet::new());
        for operation in self.unsynced.iter().chain(under_way) {
            match operation {
                SpoolOperation::Put { family, key, .. } => put.insert((*family, *key)),
                SpoolOperation::Delete { family, key } => deleted.insert((*family, *key)),
            };
        }
        let is_certain = |key| self.synced.contains(&key) && !deleted.contains(&key);
        for id in self.durable.difference(&self.removing) {
            assert!(is_certain((Family::Meta, *id)) && is_certain((Family::Data, *id)));
        }
        for (family, id) in self.synced.union(&put) {
            let needs_body = !self.atomic && *family == Family::Meta;
            assert!(
                !needs_body || is_certain((Family::Data, *id)),
                "a power cut leaves the envelope of {id:?} without its body"
            );
        }
    }

    fn land(&mut self, operations: impl Iterator<Item = SpoolOperation>) {
        for operation in operations {
            perform(&operation, &mut self.spool);
            self.unsynced.push(operation);
        }
    }

    /// A sync reaches the families of its batch; without a batch, or in one database, all.
    fn synced(&mut self, families: &BTreeSet<Family>) {
        let all = self.atomic || families.is_empty();
        for operation in core::mem::take(&mut self.unsynced) {
            match all || families.contains(&operation.family()) {
                true => perform(&operation, &mut self.synced),
                false => self.unsynced.push(operation),
            }
        }
    }

    fn end(&mut self, ticket: Ticket, outcome: CommitOutcome) {
        let end = match outcome {
            CommitOutcome::Durable(_) => {
                let id = self.stores[&ticket];
                for family in [Family::Data, Family::Meta] {
                    assert!(self.spool.contains(&(family, id)), "250 for what isn't there");
                }
                self.durable.insert(id);
                "durable"
            }
            CommitOutcome::Written => {
                let id = self.removals[&ticket];
                assert!(!self.spool.contains(&(Family::Meta, id)));
                self.durable.remove(&id);
                self.removed.insert(id);
                "written"
            }
            // A removal that failed may have landed all the same: it is asked for again, never forgotten.
            CommitOutcome::Failed(_) | CommitOutcome::TimedOut(_) => "not",
            CommitOutcome::Refused(_) => "refused",
            CommitOutcome::Waived(_) => panic!("sync is on"),
        };
        assert_eq!(self.ended.insert(ticket, end), None, "one end a ticket");
    }

    /// A failed sync takes along what wasn't synced in its database.
    fn lose(&mut self, families: &BTreeSet<Family>) {
        let all = self.atomic || families.is_empty();
        let goes = |family: Family| all || families.contains(&family);
        self.lost_bodies_removals |= goes(Family::Data);
        self.unsynced.retain(|operation| !goes(operation.family()));
        self.spool.retain(|(family, _)| !goes(*family));
        self.spool.extend(self.synced.iter().filter(|(family, _)| goes(*family)));
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::Store { patience } => {
                let ticket = self.ticket();
                self.stores.insert(ticket, id(ticket.0));
                let deadline = self.now + Duration::from_millis(patience);
                self.machine.submit(ticket, store(ticket.0), at(deadline));
                self.feed(Input::Tick);
            }
            Event::RemoveOldest => {
                let Some(id) = self.durable.first().copied() else { return };
                self.remove(id);
                self.feed(Input::Tick);
            }
            Event::Complete { oldest, how } => self.complete(oldest, how),
            Event::Gate { is_open } => {
                self.is_shut = !is_open;
                self.feed(Input::Gate { is_open });
            }
            Event::Pass(milliseconds) => {
                self.now = self.now + Duration::from_millis(milliseconds);
                self.feed(Input::Tick);
            }
        }
    }

    fn remove(&mut self, id: SpoolId) {
        let ticket = self.ticket();
        self.removals.insert(ticket, id);
        self.removing.insert(id);
        let deadline = at(self.now + Duration::from_secs(9));
        self.machine.submit(ticket, Work::Remove { id }, deadline);
    }

    fn complete(&mut self, oldest: bool, how: How) {
        if self.under_way.is_empty() {
            return;
        }
        let at = if oldest { 0 } else { self.under_way.len() - 1 };
        let (stage, batch, sync) = self.under_way.remove(at);
        let (landed, result) = match how {
            How::Well => (batch.len(), Ok(())),
            How::Failed { part, .. } => (part.min(batch.len()), Err(io_error())),
            How::TurnedAway => (0, Err(turned_away())),
        };
        let families = batch.iter().map(SpoolOperation::family).collect();
        self.land(batch.into_iter().take(landed));
        if let How::Failed { loses: true, .. } = how
            && sync == SyncMode::Synced
        {
            self.lose(&families);
        }
        if result.is_ok() && sync == SyncMode::Synced {
            self.synced(&families);
        }
        // A durable message is only ever taken out by its own removal.
        for id in self.durable.difference(&self.removing) {
            assert!(self.spool.contains(&(Family::Meta, *id)), "an accepted message is gone");
        }
        self.feed(Input::Applied { stage, result });
    }

    /// The disk is well from now on; removals are asked for again, and everything has to come to its end.
    fn settle(&mut self) {
        self.act(Event::Gate { is_open: true });
        for id in self.removing.difference(&self.removed).copied().collect::<Vec<_>>() {
            self.remove(id);
        }
        self.feed(Input::Stop);
        self.feed(Input::Drain);
        for _ in 0..1_000 {
            if self.drained {
                return;
            }
            match self.under_way.is_empty() {
                false => self.complete(true, How::Well),
                true => {
                    let wake = self.machine.next_wake().expect("something is armed");
                    self.now = self.now.max(wake);
                    self.feed(Input::Tick);
                }
            }
        }
        panic!("never drained");
    }
}

fn perform(operation: &SpoolOperation, spool: &mut BTreeSet<(Family, SpoolId)>) {
    match operation {
        SpoolOperation::Put { family, key, .. } => spool.insert((*family, *key)),
        SpoolOperation::Delete { family, key } => spool.remove(&(*family, *key)),
    };
}

proptest! {
    #[test]
    fn every_ticket_ends_once_and_only_what_was_acknowledged_stays(
        atomic: bool,
        events in events(),
    ) {
        let mut model = Model::new(atomic);
        for event in events {
            model.act(event);
        }
        model.settle();
        prop_assert_eq!(model.ended.len() as u64, model.tickets);
        for (ticket, id) in &model.stores {
            let there = model.spool.contains(&(Family::Meta, *id));
            match model.ended[ticket] {
                "durable" => prop_assert_eq!(there, !model.removing.contains(id)),
                _ => prop_assert!(!there, "a refused store stayed: {:?}", id),
            }
        }
        for (family, id) in &model.spool {
            prop_assert!(
                *family == Family::Meta
                    || model.lost_bodies_removals
                    || model.spool.contains(&(Family::Meta, *id)),
                "a body was left over: {:?}", id
            );
        }
    }
}
