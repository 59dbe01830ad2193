//! Sessions that are cut off whatever they do: by the watchdog, which found one stuck, or by an operator. Invariant: what such a session had in hand
//! is put back once, with a record and without counting an attempt, when the driver has completed it; who else waits gets another session.
//! One that was stuck before it could take anything is a connection that failed, like one that failed by itself.
use super::admission::generated;
use super::model::*;
use super::{AdminReply, Engine, InsertReason, Note, Output, Reason};
use crate::id::SessionId;
use crate::log::RecordKind;
use crate::marks::{Mark, reached};
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

/// What was in the hands of a session that was cut off waits at most so long: what others wait for may be what it was stuck in.
const SPREAD: Duration = Duration::from_secs(60);

impl Engine {
    /// Of a session that is gone, this is old news.
    pub(super) fn session_stuck(&mut self, id: SessionId, text: Box<str>) {
        let Some(session) = self.sessions.get(&id) else { return };
        reached(Mark::SessionStuck);
        let (ready, was_opening) = (session.ready, session.state == SessionState::Opening);
        self.ready[ready].stuck += 1;
        let reason = generated(451, (4, 4, 1), false, text.into());
        let why = "the watchdog has heard nothing of it for too long";
        self.abort_session(id, reason.clone(), why);
        if was_opening {
            let origin = Origin { attempt: None, session: Some(id), ready: Some(ready) };
            self.connect_failed(ready, origin, reason);
        }
    }

    pub(super) fn abort_by_order(&mut self, ready_queue: &str, id: SessionId) -> AdminReply {
        let found = self.sessions.get(&id);
        if found.is_none_or(|session| *self.ready[session.ready].name != *ready_queue) {
            return AdminReply::UnknownId;
        }
        let text = String::from("returning message to scheduled queue");
        let reason = generated(451, (4, 4, 1), true, text);
        self.abort_session(id, reason, "an administrator ordered it");
        AdminReply::Done
    }

    /// `reason`: for the record of what it has in hand.
    fn abort_session(&mut self, id: SessionId, reason: Reason, why: &str) {
        let session = self.sessions.get_mut(&id).expect("only sessions that stand are aborted");
        let handle = session.ready;
        match session.state {
            SessionState::Busy { .. } | SessionState::BusyWithBatch { .. } => {
                session.abort = Some(reason);
            }
            SessionState::Opening => self.ready[handle].opening -= 1,
            SessionState::Idle => self.ready[handle].idle.retain(|idle| *idle != id),
            SessionState::Ending => {}
        }
        if session.abort.is_none() {
            session.state = SessionState::Ending;
        }
        self.outputs.push_back(Output::Abort { session: id, why: why.to_string() });
        self.list_ready(handle);
    }

    /// A delivery was cut off. `began`: the peer may have what was in it.
    pub(super) fn aborted(
        &mut self,
        was: SessionState,
        origin: &Origin,
        reason: &Reason,
        began: bool,
    ) {
        let in_hand: Vec<MessageHandle> = match was {
            SessionState::Busy { message, .. } => vec![message],
            SessionState::BusyWithBatch { batch, .. } => {
                batch.into_iter().map(|(message, _)| message).collect()
            }
            was => panic!("a session that was {was:?} had nothing in hand"),
        };
        self.ready[origin.ready.expect("it has a session")].in_flight -= in_hand.len() as u64;
        for message in in_hand {
            self.put_back_aborted(message, origin.clone(), reason.clone(), began);
        }
    }

    fn put_back_aborted(
        &mut self,
        handle: MessageHandle,
        origin: Origin,
        reason: Reason,
        began: bool,
    ) {
        if began {
            reached(Mark::UnknownOutcome);
            self.messages[handle].last = Some(Failure::CutOff);
        }
        self.counts.returned += 1;
        let recipients = self.messages[handle].remaining.clone();
        let notes = vec![Note { kind: RecordKind::Delayed, recipients, reason }];
        let due = self.now.mono + self.retry_random.duration_up_to(SPREAD);
        let reasons = vec![InsertReason::DispatcherDrop, InsertReason::LoggedTransientFailure];
        self.requeue_at(Requeue { message: handle, origin, notes, due, reasons }, false);
    }
}
