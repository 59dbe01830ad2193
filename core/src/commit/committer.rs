//! The committer: greedy group commit without a timer. Whatever waits when the spool is free becomes the next
//! batch.
//!
//! Where both families lie in one database a batch is one synced apply. Where they don't, its bodies are synced
//! first and its meta after them, and the bodies of the next batch are written meanwhile. In both cases the meta is
//! the commit point:
//! - until it is handed over, a deadline costs nothing: the store is dropped and its client told 451;
//! - after that, the client is told 451 at the deadline, and when the batch lands the store is taken back before
//!   anybody hears of it. A failed batch may be on disk in part, so its stores are taken back too.
use super::batch::{Batch, LastWord, LastWords, Submission, delete_bodies};
use super::{
    CommitConfig, CommitOutcome, Deadline, Durable, Input, Output, Refusal, StageId, Ticket,
    Waiver, Work,
};
use crate::canary::{self, Canary};
use crate::id::SpoolId;
use crate::limits;
use crate::marks::{Mark, reached};
use crate::port::{SpoolError, SpoolErrorKind, SyncMode};
use crate::time::{Duration, Mono};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// How long an update or a removal may stay unsynced, and how long a failed undo or sync rests.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// The same while the health gate is shut: such a disk needs its rest, and a promise can't wait for ever.
const REST_SHUT: Duration = Duration::from_secs(5);

/// Pauses before a batch that was turned away is handed over again; they double.
const STALL_PAUSE_FIRST: Duration = Duration::from_micros(500);
const STALL_PAUSE_LONGEST: Duration = Duration::from_millis(50);

/// What the spool is busy with on behalf of the commit point.
#[derive(Debug)]
enum Commit {
    Batch {
        stage: StageId,
        batch: Batch,
        sync: SyncMode,
    },
    /// Two paths only: its bodies are written, and its meta was turned away for now.
    Stalled {
        batch: Batch,
    },
    Sync {
        stage: StageId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Stopping,
    Draining,
    Drained,
}

#[derive(Debug)]
pub struct Committer {
    config: CommitConfig,
    phase: Phase,
    waiting: VecDeque<Submission>,
    /// Not later than the earliest deadline of what waits or is handed over and unanswered.
    earliest_deadline: Mono,
    /// Two paths only: bodies being written, then bodies written whose meta waits for its turn.
    writing_bodies: Option<(StageId, Batch)>,
    bodies_written: Option<Batch>,
    commit: Option<Commit>,
    undo: Vec<SpoolId>,
    /// Written since the last sync; once one has failed nobody knows what is left of it, and it is written again.
    unsynced: LastWords,
    redo: LastWords,
    /// Bodies that no meta speaks of any more, whatever a power cut does.
    orphans: Vec<SpoolId>,
    /// Two paths only: bodies whose meta a power cut may still bring back. They become orphans with its sync.
    orphans_once_synced: Vec<SpoolId>,
    /// Undo and sync rest until then after a failure, so that a broken disk isn't hammered.
    rest_until: Mono,
    /// The store is stalled: nothing is handed over until then.
    retry_at: Option<Mono>,
    stall_pause: Duration,
    /// The health gate.
    is_shut: bool,
    /// Since when something applied is unsynced.
    unsynced_since: Option<Mono>,
    next_stage: u64,
    outputs: VecDeque<Output>,
}

impl Committer {
    pub fn new(config: CommitConfig) -> Committer {
        Committer {
            config,
            phase: Phase::Running,
            waiting: VecDeque::new(),
            earliest_deadline: Mono(u64::MAX),
            writing_bodies: None,
            bodies_written: None,
            commit: None,
            undo: Vec::new(),
            unsynced: LastWords::new(),
            redo: LastWords::new(),
            orphans: Vec::new(),
            orphans_once_synced: Vec::new(),
            rest_until: Mono(0),
            retry_at: None,
            stall_pause: STALL_PAUSE_FIRST,
            is_shut: false,
            unsynced_since: None,
            next_stage: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Queues work; a `Tick` (or any other input) after one or many of these hands it over.
    pub fn submit(&mut self, ticket: Ticket, work: Work, deadline: Deadline) {
        assert!(self.phase < Phase::Draining, "nothing is submitted after Drain");
        let submission = Submission { ticket, work, deadline, answered: false };
        if let Some(refusal) = self.refusal()
            && submission.is_store()
        {
            return self.done(ticket, CommitOutcome::Refused(refusal));
        }
        if self.waiting.len() >= limits::COMMIT_BACKLOG {
            return self.done(ticket, CommitOutcome::Refused(Refusal::Full));
        }
        self.earliest_deadline = self.earliest_deadline.min(deadline.at);
        self.waiting.push_back(submission);
    }

    pub fn handle(&mut self, now: Mono, input: Input) {
        assert!(self.phase < Phase::Drained, "no input after Drained");
        match input {
            Input::Applied { stage, result } => self.applied(now, stage, result),
            Input::Tick => {}
            Input::Gate { is_open } => self.gate(is_open),
            Input::Stop => self.stop(),
            Input::Drain => {
                self.stop();
                self.phase = Phase::Draining;
                // One more try, whatever failed last.
                self.rest_until = now;
                self.retry_at = None;
            }
        }
        self.expire(now);
        self.advance(now);
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When a `Tick` is wanted: a deadline, an unsynced write's second, or the end of a rest or a stall.
    pub fn next_wake(&self) -> Option<Mono> {
        let free = !self.is_handing_over();
        let owing = self.is_owing();
        let unsynced = self.unsynced_since.map(|since| (since + SYNC_AFTER).max(self.rest_until));
        let wakes = [
            (self.earliest_deadline != Mono(u64::MAX)).then_some(self.earliest_deadline),
            unsynced.filter(|_| free),
            (owing && free).then_some(self.rest_until),
            self.retry_at,
        ];
        wakes.into_iter().flatten().min()
    }

    fn done(&mut self, ticket: Ticket, outcome: CommitOutcome) {
        self.outputs.push_back(Output::Done { ticket, outcome });
    }

    fn stage(&mut self) -> StageId {
        self.next_stage += 1;
        StageId(self.next_stage)
    }

    fn gate(&mut self, is_open: bool) {
        self.is_shut = !is_open;
        self.refuse();
    }

    fn stop(&mut self) {
        self.phase = self.phase.max(Phase::Stopping);
        self.refuse();
    }

    /// Why stores aren't taken. What is said of messages that are there goes on: a removal that isn't written is a second delivery.
    fn refusal(&self) -> Option<Refusal> {
        match self.phase {
            Phase::Running => self.is_shut.then_some(Refusal::Unhealthy),
            _ => Some(Refusal::Stopping),
        }
    }

    /// Refuses the stores that aren't committed.
    fn refuse(&mut self) {
        let Some(refusal) = self.refusal() else { return };
        for submission in core::mem::take(&mut self.waiting) {
            if !submission.is_store() {
                self.waiting.push_back(submission);
                continue;
            }
            if refusal == Refusal::Stopping {
                reached(Mark::StoreRefusedAtStop);
            }
            self.done(submission.ticket, CommitOutcome::Refused(refusal));
        }
        self.take_back_uncommitted(refusal);
    }

    /// Bodies without their commit point promise nothing yet.
    fn take_back_uncommitted(&mut self, refusal: Refusal) {
        if let Some(batch) = self.bodies_written.take() {
            let batch = self.without_stores(batch, |_| true, Answer::Refused(refusal));
            self.bodies_written = Some(batch);
        }
        self.commit = match self.commit.take() {
            Some(Commit::Stalled { batch }) => {
                let batch = self.without_stores(batch, |_| true, Answer::Refused(refusal));
                Some(Commit::Stalled { batch })
            }
            other => other,
        };
    }

    /// Takes the chosen stores out of a batch that isn't committed, and answers them.
    fn without_stores(
        &mut self,
        mut batch: Batch,
        chosen: impl Fn(&Submission) -> bool,
        answer: Answer,
    ) -> Batch {
        for submission in core::mem::take(&mut batch.submissions) {
            if !submission.is_store() || !chosen(&submission) {
                batch.submissions.push(submission);
                continue;
            }
            reached(Mark::BodiesWithoutCommit);
            self.orphans.extend(submission.stored_ids());
            if !submission.answered {
                self.done(submission.ticket, answer.of(&submission));
            }
        }
        batch
    }

    // ---- Deadlines -------------------------------------------------------------------------------------

    fn expire(&mut self, now: Mono) {
        if now < self.earliest_deadline {
            return;
        }
        let (late, waiting): (VecDeque<_>, VecDeque<_>) = core::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|submission| submission.deadline.at <= now);
        self.waiting = waiting;
        for submission in late {
            reached(Mark::StoreLateWaiting);
            self.done(submission.ticket, Answer::TimedOut.of(&submission));
        }
        if let Some(batch) = self.bodies_written.take() {
            let late = |submission: &Submission| submission.deadline.at <= now;
            self.bodies_written = Some(self.without_stores(batch, late, Answer::TimedOut));
        }
        self.answer_late_in_flight(now);
        self.earliest_deadline = self.find_earliest_deadline();
    }

    /// What is in the spool's hands can't be dropped: its client hears 451, and it owes an undo.
    fn answer_late_in_flight(&mut self, now: Mono) {
        let mut late = Vec::new();
        for submission in self.in_flight_mut() {
            if submission.deadline.at <= now && !submission.answered {
                submission.answered = true;
                late.push((submission.ticket, Answer::TimedOut.of(submission)));
            }
        }
        for (ticket, outcome) in late {
            reached(Mark::StoreLateInFlight);
            self.done(ticket, outcome);
        }
    }

    fn in_flight_mut(&mut self) -> impl Iterator<Item = &mut Submission> {
        let committing = match &mut self.commit {
            Some(Commit::Batch { batch, .. } | Commit::Stalled { batch }) => {
                batch.submissions.as_mut_slice()
            }
            _ => &mut [],
        };
        let writing = match &mut self.writing_bodies {
            Some((_, batch)) => batch.submissions.as_mut_slice(),
            None => &mut [],
        };
        committing.iter_mut().chain(writing)
    }

    fn find_earliest_deadline(&mut self) -> Mono {
        let unanswered = |submission: &Submission| !submission.answered;
        let in_flight =
            self.in_flight_mut().filter(|one| unanswered(one)).map(|one| one.deadline.at).min();
        let written = self.bodies_written.iter().flat_map(|batch| &batch.submissions);
        let queued = self.waiting.iter().chain(written).map(|one| one.deadline.at).min();
        in_flight.into_iter().chain(queued).min().unwrap_or(Mono(u64::MAX))
    }

    // ---- Handing over ----------------------------------------------------------------------------------

    fn advance(&mut self, now: Mono) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        if self.retry_at.is_none() {
            self.hand_over(now);
        }
        self.finish(now);
    }

    fn hand_over(&mut self, now: Mono) {
        if !self.config.atomic {
            self.write_bodies(now);
        }
        match self.commit.take() {
            None => self.begin_commit(now),
            Some(Commit::Stalled { batch }) => {
                // The last moment that costs only an orphan.
                let batch = self.without_stores(batch, |one| one.answered, Answer::TimedOut);
                match batch.is_empty() {
                    true => self.begin_commit(now),
                    false => self.apply_commit(batch),
                }
            }
            busy => self.commit = busy,
        }
        // A batch without bodies went straight on: the body stage is free for the next.
        if !self.config.atomic {
            self.write_bodies(now);
        }
    }

    fn begin_commit(&mut self, now: Mono) {
        let batch = match self.config.atomic {
            true => self.form(now),
            false => self.bodies_written.take().unwrap_or_default(),
        };
        if !batch.is_empty() {
            return self.apply_commit(batch);
        }
        let due = match self.phase {
            Phase::Draining => self.is_idle() && now >= self.rest_until,
            _ => self.unsynced_since.is_some_and(|since| now >= since + SYNC_AFTER),
        };
        if due && self.unsynced_since.is_some() && now >= self.rest_until {
            let stage = self.stage();
            self.commit = Some(Commit::Sync { stage });
            self.outputs.push_back(Output::Sync { stage });
        }
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.writing_bodies.is_none()
            && self.bodies_written.is_none()
            && !self.is_owing()
    }

    /// Whether something has to be taken back, written again or swept.
    fn is_owing(&self) -> bool {
        !self.undo.is_empty() || !self.redo.is_empty() || !self.orphans.is_empty()
    }

    /// The next batch: what is owed first, then what waits, in order.
    fn form(&mut self, now: Mono) -> Batch {
        let mut batch = Batch::default();
        if now >= self.rest_until {
            batch.undo = core::mem::take(&mut self.undo);
            batch.redo = core::mem::take(&mut self.redo);
            batch.orphans = core::mem::take(&mut self.orphans);
        }
        while let Some(next) = self.waiting.front() {
            if !batch.has_room_for(next) {
                break;
            }
            batch.push(self.waiting.pop_front().expect("there is a front"));
        }
        // What is said of a message now is newer than what would be said again later; after a removal there is nothing newer.
        if !self.redo.is_empty() {
            let newer: Vec<SpoolId> = batch.last_words().map(|(id, _)| id).collect();
            for id in newer {
                if let Some(LastWord::Update(_)) = self.redo.get(&id)
                    && let Some(older) = self.redo.remove(&id)
                {
                    batch.superseded.insert(id, older);
                }
            }
        }
        batch
    }

    fn apply_commit(&mut self, batch: Batch) {
        let mut operations = Vec::new();
        if self.config.atomic {
            batch.data_puts(&mut operations);
        }
        batch.meta_operations(&mut operations);
        if self.config.atomic {
            delete_bodies(batch.bodies_left_over(), &mut operations);
            delete_bodies(batch.orphans.iter().copied(), &mut operations);
        }
        let sync = self.sync_mode(batch.needs_sync());
        let stage = self.stage();
        let asked =
            if canary::planted(Canary::AckBeforeDurable) { SyncMode::Unsynced } else { sync };
        self.outputs.push_back(Output::Apply { stage, batch: operations, sync: asked });
        self.commit = Some(Commit::Batch { stage, batch, sync });
    }

    fn sync_mode(&self, needed: bool) -> SyncMode {
        if needed && self.config.sync { SyncMode::Synced } else { SyncMode::Unsynced }
    }

    /// Two paths: the first stage of the next batch, if the one before it has moved on.
    fn write_bodies(&mut self, now: Mono) {
        if self.writing_bodies.is_some() || self.bodies_written.is_some() {
            return;
        }
        let batch = self.form(now);
        if batch.is_empty() {
            return;
        }
        let mut operations = Vec::new();
        batch.data_puts(&mut operations);
        let has_stores = !operations.is_empty();
        delete_bodies(batch.orphans.iter().copied(), &mut operations);
        if operations.is_empty() {
            self.bodies_written = Some(batch);
            if self.commit.is_none() {
                self.begin_commit(now);
            }
            return;
        }
        let stage = self.stage();
        let sync = self.sync_mode(has_stores);
        self.outputs.push_back(Output::Apply { stage, batch: operations, sync });
        self.writing_bodies = Some((stage, batch));
    }

    fn finish(&mut self, now: Mono) {
        let busy = self.is_handing_over() || !self.waiting.is_empty();
        let owing = self.is_owing() || self.unsynced_since.is_some();
        // What a failing disk won't undo or sync is said, not waited for: the process is about to end.
        let failing = now < self.rest_until;
        if self.phase == Phase::Draining && !busy && (!owing || failing) {
            self.phase = Phase::Drained;
            let owed = core::mem::take(&mut self.undo);
            if !owed.is_empty() {
                reached(Mark::DrainedOwing);
            }
            self.outputs.push_back(Output::Drained { owed });
        }
    }

    fn is_handing_over(&self) -> bool {
        self.commit.is_some() || self.writing_bodies.is_some() || self.bodies_written.is_some()
    }

    // ---- Completions -----------------------------------------------------------------------------------

    fn applied(&mut self, now: Mono, stage: StageId, result: Result<(), SpoolError>) {
        if self.writing_bodies.as_ref().is_some_and(|(writing, _)| *writing == stage) {
            let (_, batch) = self.writing_bodies.take().expect("just seen");
            return self.bodies_applied(now, batch, result);
        }
        match self.commit.take() {
            Some(Commit::Batch { stage: ours, batch, sync }) if ours == stage => match result {
                Ok(()) => self.committed(now, batch, sync),
                Err(error) if error.kind != SpoolErrorKind::Busy => {
                    self.write_again();
                    self.failed(now, batch, &error);
                }
                Err(_) if self.config.atomic => self.turned_away(now, batch),
                Err(_) => {
                    self.commit = Some(Commit::Stalled { batch });
                    self.pause(now);
                }
            },
            Some(Commit::Sync { stage: ours }) if ours == stage => match result {
                Ok(()) => self.synced(),
                Err(_) => {
                    reached(Mark::SyncFailed);
                    self.write_again();
                    self.rest(now);
                }
            },
            _ => panic!("{stage:?} is unknown or was completed before"),
        }
    }

    fn rest(&mut self, now: Mono) {
        self.rest_until = now + if self.is_shut { REST_SHUT } else { SYNC_AFTER };
    }

    fn bodies_applied(&mut self, now: Mono, mut batch: Batch, result: Result<(), SpoolError>) {
        match result {
            Ok(()) => {
                batch.orphans.clear();
                // Whoever was told 451 meanwhile isn't committed: the last moment that costs only an orphan.
                let batch = self.without_stores(batch, |one| one.answered, Answer::TimedOut);
                let batch = match self.refusal() {
                    Some(refusal) => self.without_stores(batch, |_| true, Answer::Refused(refusal)),
                    None => batch,
                };
                self.bodies_written = (!batch.is_empty()).then_some(batch);
            }
            Err(error) if error.kind == SpoolErrorKind::Busy => self.turned_away(now, batch),
            Err(error) => self.failed(now, batch, &error),
        }
    }

    /// The store asked for patience and has written nothing of it: it goes back to the head of the line.
    fn turned_away(&mut self, now: Mono, batch: Batch) {
        self.undo.extend(batch.undo);
        self.redo_later(batch.redo);
        // The newer word may be nobody's any more.
        self.redo_later(batch.superseded);
        self.orphans.extend(batch.orphans);
        for submission in batch.submissions.into_iter().rev() {
            if !submission.answered {
                self.waiting.push_front(submission);
            }
        }
        self.pause(now);
    }

    fn pause(&mut self, now: Mono) {
        reached(Mark::BatchTurnedAway);
        self.retry_at = Some(now + self.stall_pause);
        self.stall_pause = (self.stall_pause * 2).min(STALL_PAUSE_LONGEST);
        self.refuse();
    }

    fn committed(&mut self, now: Mono, batch: Batch, sync: SyncMode) {
        self.stall_pause = STALL_PAUSE_FIRST;
        if !self.config.atomic {
            self.orphans_once_synced.extend(batch.bodies_left_over());
        }
        if sync == SyncMode::Unsynced && self.config.sync {
            self.unsynced_since.get_or_insert(now);
            self.unsynced.extend(batch.last_words());
        } else {
            self.synced();
        }
        if !batch.undo.is_empty() {
            reached(Mark::StoreLateUndone);
            self.outputs.push_back(Output::Undone { ids: batch.undo });
        }
        for submission in batch.submissions {
            if submission.answered {
                self.undo.extend(submission.stored_ids());
                continue;
            }
            let outcome = match (submission.is_store(), self.config.sync) {
                (true, true) => {
                    assert_eq!(sync, SyncMode::Synced, "a batch with a store is synced");
                    CommitOutcome::Durable(Durable(()))
                }
                (true, false) => CommitOutcome::Waived(Waiver::FlushOff),
                (false, _) => CommitOutcome::Written,
            };
            self.done(submission.ticket, outcome);
        }
    }

    /// All meta applied so far is as durable as the configuration wants it.
    fn synced(&mut self) {
        self.unsynced_since = None;
        self.unsynced.clear();
        self.orphans.append(&mut self.orphans_once_synced);
    }

    /// What is there already is newer.
    fn redo_later(&mut self, words: LastWords) {
        for (id, word) in words {
            self.redo.entry(id).or_insert(word);
        }
    }

    /// What a failed batch said of a message may be there all the same: an older word that is written again mustn't undo it, least of all bring
    /// the envelope of a removed message back without its body.
    fn renew(&mut self, failed: &Batch) {
        for (id, word) in failed.last_words() {
            if self.redo.contains_key(&id) || failed.superseded.contains_key(&id) {
                self.redo.insert(id, word);
            }
        }
    }

    /// A store that has failed may have lost what wasn't synced, or lose it when it is opened again.
    fn write_again(&mut self) {
        let newer = core::mem::take(&mut self.unsynced);
        self.redo.extend(newer);
        // They follow the removals that are written again.
        self.orphans_once_synced.clear();
        if !self.redo.is_empty() {
            reached(Mark::WrittenAgain);
            self.unsynced_since = None;
        }
    }

    /// Nothing is known of what a failed batch left behind: every store in it is taken back.
    fn failed(&mut self, now: Mono, batch: Batch, error: &SpoolError) {
        reached(Mark::BatchFailed);
        self.rest(now);
        self.renew(&batch);
        self.redo_later(batch.redo);
        self.undo.extend(batch.undo);
        self.orphans.extend(batch.orphans);
        for submission in batch.submissions {
            self.undo.extend(submission.stored_ids());
            if !submission.answered {
                self.done(submission.ticket, CommitOutcome::Failed(error.clone()));
            }
        }
    }
}

/// Why a store is taken out of a batch before its commit point.
#[derive(Clone, Copy)]
enum Answer {
    TimedOut,
    Refused(Refusal),
}

impl Answer {
    fn of(self, submission: &Submission) -> CommitOutcome {
        match self {
            Answer::TimedOut => CommitOutcome::TimedOut(submission.deadline.whose),
            Answer::Refused(refusal) => CommitOutcome::Refused(refusal),
        }
    }
}
