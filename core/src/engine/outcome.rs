//! What an attempt means for its message: records, the next attempt, or the end.
//! Invariant: each recipient that was tried gets one record of the attempt; a recipient with a final outcome is never tried
//! again; a permanent verdict comes from the peer, from policy, or from time.
use super::admission::generated;
use super::model::*;
use super::{
    Engine, InsertReason, Note, Outcome, Outcomes, Output, Question, Reason, RequeueAnswer, Then,
};
use crate::canary::{self, Canary};
use crate::id::OpId;
use crate::log::RecordKind;
use crate::marks::{Mark, reached};
use crate::recipients::RecipientSet;
use crate::smtp::reply::ReplyCode;
use crate::time::{Duration, Mono, Now, Wall};
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// At most so long waits what a session gave back untried: what ended this session may end the next. But what waits for the spool's gate waits
/// for that alone, of which the engine may not have heard yet.
const RETURNED: Duration = Duration::from_secs(60);
const PAUSED: Duration = Duration::from_secs(1);

/// The recipients of an attempt by what became of them.
struct Sorted {
    delivered: RecipientSet,
    refused: RecipientSet,
    deferred: RecipientSet,
    unknown: RecipientSet,
}

fn sort(recipients: u32, tried: &RecipientSet, outcomes: &Outcomes) -> Sorted {
    let none = || RecipientSet::none(recipients);
    let mut sorted =
        Sorted { delivered: none(), refused: none(), deferred: none(), unknown: none() };
    let mut put = |index: u32, outcome: &Outcome| {
        if !tried.contains(index) {
            return;
        }
        match outcome {
            Outcome::Delivered(_) => sorted.delivered.insert(index),
            Outcome::Refused(_) => sorted.refused.insert(index),
            Outcome::Deferred(_) => sorted.deferred.insert(index),
            Outcome::Unknown => sorted.unknown.insert(index),
            Outcome::Returned | Outcome::Paused | Outcome::Gone | Outcome::Aborted { .. } => {}
        }
    };
    match outcomes {
        Outcomes::Uniform(outcome) => tried.iter().for_each(|index| put(index, outcome)),
        Outcomes::Each(each) => each.iter().for_each(|(index, outcome)| put(*index, outcome)),
    }
    sorted
}

/// Of several recipients, one that is tried again.
fn failure_of(outcomes: &Outcomes) -> Option<Failure> {
    let failure = |outcome: &Outcome| match outcome {
        Outcome::Deferred(code) => Some(Failure::Reply(*code)),
        Outcome::Unknown => Some(Failure::Unknown),
        Outcome::Delivered(_) | Outcome::Refused(_) => None,
        Outcome::Returned | Outcome::Paused | Outcome::Gone | Outcome::Aborted { .. } => None,
    };
    match outcomes {
        Outcomes::Uniform(outcome) => failure(outcome),
        Outcomes::Each(each) => each.iter().find_map(|(_, outcome)| failure(outcome)),
    }
}

fn is_paused(outcomes: &Outcomes) -> bool {
    let is_paused = |outcome: &Outcome| *outcome == Outcome::Paused;
    match outcomes {
        Outcomes::Uniform(outcome) => is_paused(outcome),
        Outcomes::Each(each) => each.iter().any(|(_, outcome)| is_paused(outcome)),
    }
}

/// An attempt that has been completed: the session's state while it lasted, and what was to be said if it was cut off.
pub(super) struct Ended {
    pub was: SessionState,
    pub origin: Origin,
    pub abort: Option<Reason>,
    /// How long at most what wasn't tried is kept from being tried again.
    pub untried_wait: Duration,
}

impl Engine {
    pub(super) fn attempted(&mut self, op: OpId, outcomes: Outcomes, reusable: bool) {
        let Ended { was, origin, abort, untried_wait } = self.attempt_ended(op, reusable);
        if let Outcomes::Uniform(Outcome::Aborted { began }) = outcomes {
            let reason = abort.expect("nothing is aborted unless it was ordered");
            return self.aborted(was, &origin, &reason, began);
        }
        let (message, recipients) = match was {
            SessionState::Busy { message, recipients, .. } => (message, recipients),
            was => {
                let outcomes = core::iter::repeat(outcomes);
                return self.judge_batch(was, &origin, outcomes, untried_wait);
            }
        };
        self.ready[origin.ready.expect("it has a session")].in_flight -= 1;
        if canary::planted(Canary::SecondCompletion) {
            self.judge(message, origin.clone(), &recipients, &outcomes, untried_wait);
        }
        self.judge(message, origin, &recipients, &outcomes, untried_wait);
    }

    /// From here on the session isn't busy.
    pub(super) fn attempt_ended(&mut self, op: OpId, reusable: bool) -> Ended {
        let Pending::Deliver(id) = self.finish(op) else { panic!("{op:?} isn't a delivery") };
        let session = self.sessions.get_mut(&id).expect("a busy session stands");
        let abort = session.abort.take();
        // Until it says that it is ready again, or closed. One that was to be cut off, and had completed just before, is let go.
        let goes_on = reusable && abort.is_none();
        let next = if goes_on { SessionState::Idle } else { SessionState::Ending };
        if reusable && !goes_on {
            self.outputs.push_back(Output::Close { session: id });
        }
        let was = core::mem::replace(&mut session.state, next);
        let (SessionState::Busy { op: busy, .. } | SessionState::BusyWithBatch { op: busy, .. }) =
            was
        else {
            panic!("{op:?} was attempted on a session that is {was:?}")
        };
        assert_eq!(op, busy, "the attempt completed is the one outstanding");
        // One that has had mail, and is over, went while it was idle, just when it got some more: another takes that at once.
        let was_kept = !goes_on && session.tally != Tally::default();
        let untried_wait = if was_kept { Duration::ZERO } else { RETURNED };
        let ready = session.ready;
        self.list_ready(ready);
        let origin = Origin { attempt: Some(op), session: Some(id), ready: Some(ready) };
        Ended { was, origin, abort, untried_wait }
    }

    fn count(&mut self, origin: &Origin, tally: Tally) {
        if let Some(session) = origin.session.and_then(|id| self.sessions.get_mut(&id)) {
            session.tally.add(tally);
        }
    }

    pub(super) fn judge(
        &mut self,
        handle: MessageHandle,
        origin: Origin,
        tried: &RecipientSet,
        outcomes: &Outcomes,
        untried_wait: Duration,
    ) {
        if *outcomes == Outcomes::Uniform(Outcome::Gone) {
            return self.forget(handle);
        }
        let message = &mut self.messages[handle];
        let sorted = sort(message.recipients, tried, outcomes);
        message.last = failure_of(outcomes).or(message.last);
        let settled = [&sorted.delivered, &sorted.refused];
        settled.into_iter().flat_map(RecipientSet::iter).for_each(|i| message.remaining.remove(i));
        let failed = !sorted.deferred.is_empty() || !sorted.unknown.is_empty();
        let progress = settled.iter().any(|set| !set.is_empty());
        if failed || progress {
            message.attempts = message.attempts.saturating_add(1);
        }
        let done = message.remaining.is_empty();
        self.counts.delivered += u64::from(sorted.delivered.len());
        self.counts.bounced += u64::from(sorted.refused.len());
        self.counts.transfailed += u64::from(sorted.deferred.len() + sorted.unknown.len());
        if !sorted.unknown.is_empty() {
            reached(Mark::UnknownOutcome);
        }
        let tally = Tally {
            delivered: u64::from(!sorted.delivered.is_empty()),
            transfailed: u64::from(failed),
            failed: u64::from(!sorted.refused.is_empty()),
        };
        self.count(&origin, tally);
        let notes = notes_of(sorted, self.is_sent_by_policy(&origin));
        match (done, failed, progress) {
            (true, ..) => self.conclude(handle, origin, notes, Then::Remove, After::Forget),
            (_, true, _) => {
                self.requeue(handle, origin, notes, InsertReason::LoggedTransientFailure)
            }
            // The rest of the recipients go in the next transaction.
            (.., true) => {
                self.messages[handle].due = self.now.mono;
                self.update(handle, origin, notes);
            }
            (.., false) => {
                let longest = if is_paused(outcomes) { PAUSED } else { untried_wait };
                self.return_untried(handle, longest);
            }
        }
    }

    /// The attempt didn't take place.
    fn return_untried(&mut self, handle: MessageHandle, longest_wait: Duration) {
        let wait = match self.spool_healthy {
            true => self.retry_random.duration_up_to(longest_wait),
            false => Duration::ZERO,
        };
        self.messages[handle].due = self.now.mono + wait;
        self.counts.returned += 1;
        reached(Mark::ReturnedUntried);
        self.put_back(handle);
    }

    /// A failed attempt that didn't reach a peer, or a verdict short of one.
    pub(super) fn fail_for_now(
        &mut self,
        handle: MessageHandle,
        origin: Origin,
        reason: Reason,
        because: InsertReason,
    ) {
        let message = &mut self.messages[handle];
        message.attempts = message.attempts.saturating_add(1);
        message.last = Some(match &reason {
            Reason::Generated { code, .. } => Failure::Reply(*code),
            Reason::PeerReply | Reason::SessionEnd => Failure::NoSession(because),
        });
        let recipients = message.remaining.clone();
        self.counts.transfailed += u64::from(recipients.len());
        let notes = vec![Note { kind: RecordKind::TransientFailure, recipients, reason }];
        self.requeue(handle, origin, notes, because);
    }

    /// Back to the scheduled queue after a counted attempt: until the next one, unless time is up before.
    fn requeue(
        &mut self,
        handle: MessageHandle,
        origin: Origin,
        notes: Vec<Note>,
        because: InsertReason,
    ) {
        let due = self.next_retry(handle);
        let mut reasons = vec![InsertReason::LoggedTransientFailure];
        if because != InsertReason::LoggedTransientFailure {
            reasons.insert(0, because);
        }
        self.requeue_at(Requeue { message: handle, origin, notes, due, reasons }, true);
    }

    /// Unless time is up before, or policy has other ideas.
    pub(super) fn requeue_at(&mut self, requeue: Requeue, increment_attempts: bool) {
        let Requeue { message: handle, due, .. } = requeue;
        self.messages[handle].due = due;
        if due > self.expiry(&self.messages[handle]) {
            reached(Mark::ExpiredAfterAttempt);
            self.expire(handle, requeue.origin, requeue.notes);
            return;
        }
        if !self.config.asks_requeue || self.stopping {
            self.update(handle, requeue.origin, requeue.notes);
            return;
        }
        self.place(handle, Place::Asking);
        let question = Question::Requeue {
            message: self.messages[handle].id,
            attempt: requeue.origin.attempt,
            reasons: requeue.reasons.clone(),
            increment_attempts,
            delay: Some(due.since(self.now.mono)),
        };
        self.ask(Pending::Requeue(requeue.into()), question);
    }

    pub(super) fn requeue_answered(&mut self, requeue: Requeue, answer: RequeueAnswer) {
        let Requeue { message: handle, origin, notes, due, .. } = requeue;
        match answer {
            RequeueAnswer::Keep => self.messages[handle].due = due,
            RequeueAnswer::Due(wall) => {
                self.messages[handle].due = Moment::from_wall(wall, self.now).as_mono();
            }
            RequeueAnswer::Move { queue } => {
                self.rebind(handle, &queue);
                self.messages[handle].due = self.now.mono;
            }
            RequeueAnswer::Reject(code) => {
                self.reject(handle, origin, notes, code);
                return;
            }
        }
        if self.messages[handle].due > self.expiry(&self.messages[handle]) {
            reached(Mark::ExpiredAfterAttempt);
            self.expire(handle, origin, notes);
            return;
        }
        self.update(handle, origin, notes);
    }

    fn reject(
        &mut self,
        handle: MessageHandle,
        origin: Origin,
        mut notes: Vec<Note>,
        code: ReplyCode,
    ) {
        let recipients = self.messages[handle].remaining.clone();
        let text = String::from("rejected by the requeue_message event");
        let reason = Reason::Generated { code, internal: true, text };
        notes.push(Note { kind: RecordKind::Bounce, recipients, reason });
        self.counts.bounced += 1;
        self.conclude(handle, origin, notes, Then::Remove, After::Forget);
    }

    /// Writes the message's new state, then schedules it.
    fn update(&mut self, handle: MessageHandle, origin: Origin, notes: Vec<Note>) {
        let message = &self.messages[handle];
        let then = Then::Update {
            attempts: message.attempts,
            due: wall_of(message.due, self.now),
            remaining: message.remaining.clone(),
        };
        self.conclude(handle, origin, notes, then, After::Schedule);
    }
}

/// A moment of the engine's clock by today's wall clock.
fn wall_of(at: Mono, now: Now) -> Wall {
    now.wall + at.since(now.mono)
}

fn notes_of(sorted: Sorted, is_sent_by_policy: bool) -> Vec<Note> {
    let lost = match is_sent_by_policy {
        true => "policy's sender was given up before it said what became of the message",
        false => "the reply to the final dot was lost; the peer may have the message",
    };
    let unknown = generated(451, (4, 4, 2), true, lost.into());
    let notes = [
        (RecordKind::Delivery, sorted.delivered, Reason::PeerReply),
        (RecordKind::Bounce, sorted.refused, Reason::PeerReply),
        (RecordKind::TransientFailure, sorted.deferred, Reason::PeerReply),
        (RecordKind::TransientFailure, sorted.unknown, unknown),
    ];
    let said = notes.into_iter().filter(|(_, recipients, _)| !recipients.is_empty());
    said.map(|(kind, recipients, reason)| Note { kind, recipients, reason }).collect()
}
