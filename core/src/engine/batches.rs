//! Several messages at once, for senders of policy's own (core.md 13): who waits for whom, and what a batch came to.
//! Invariant: a batch goes once it has `min_batch_size` messages or its first has waited for `max_batch_latency`; until then its messages
//! stand in the ready queue's line, and nothing that befalls a message there has to know of it. A batch is one operation, and never larger
//! than what its session's sender was made for.
use super::dispatch::{first_recipients, longest_attempt};
use super::model::*;
use super::outcome::Ended;
use super::{Engine, Outcomes, Output};
use crate::config::EgressPath;
use crate::config::queue::{CustomLua, DeliveryProtocol};
use crate::id::{OpId, SessionId};
use crate::time::{Duration, Mono};
use alloc::vec::Vec;

impl ReadyQueue {
    fn sender(&self) -> Option<&CustomLua> {
        match &*self.protocol {
            DeliveryProtocol::CustomLua(lua) => Some(lua),
            _ => None,
        }
    }

    pub(super) fn batch_size(&self) -> u64 {
        self.sender().map_or(1, |lua| lua.batch_size)
    }
}

impl Engine {
    /// Until when the messages in line wait for others; `None` where some may go now, or there are none.
    pub(super) fn gathers_until(&mut self, handle: ReadyHandle) -> Option<Mono> {
        let now = self.now.mono;
        let ready = &mut self.ready[handle];
        let lua = ready.sender()?;
        let (least, latency) = (lua.min_batch_size, lua.max_batch_latency);
        let have = ready.messages.len() as u64;
        if have == 0 {
            return None;
        }
        let until = *ready.gathering_since.get_or_insert(now) + latency;
        if have >= least || until <= now {
            return None;
        }
        ready.held = Some(Held::Batch { until });
        Some(until)
    }

    /// How many transactions wait to begin, and how many are under way.
    pub(super) fn transactions(&self, handle: ReadyHandle) -> (u64, u64) {
        let ready = &self.ready[handle];
        let have = ready.messages.len() as u64;
        let Some(lua) = ready.sender() else { return (have, ready.in_flight) };
        let (full, rest) = (have / lua.batch_size, have % lua.batch_size);
        // After full ones the rest has to gather anew.
        let rest_goes = match full {
            0 => rest > 0,
            _ => rest >= lua.min_batch_size,
        };
        (full + u64::from(rest_goes), ready.in_flight.div_ceil(lua.batch_size))
    }

    pub(super) fn deliver_batch(
        &mut self,
        handle: ReadyHandle,
        session: SessionId,
        path: &EgressPath,
    ) {
        // Scheduled queues that differ in their batch_size may share a ready queue.
        let size = self.ready[handle].batch_size().min(self.sessions[&session].takes);
        let mut batch = Vec::new();
        let mut messages = Vec::new();
        while (batch.len() as u64) < size {
            let Some(message) = self.ready[handle].messages.front(&self.messages) else { break };
            self.place(message, Place::InFlight);
            let Message { id, remaining, recipients, .. } = &self.messages[message];
            let most = path.max_recipients_per_batch;
            let recipients = first_recipients(remaining, *recipients, most);
            messages.push((*id, recipients.clone()));
            batch.push((message, recipients));
        }
        let count = batch.len() as u64;
        self.take_message_tokens(handle, path, count);
        let op = self.start(Pending::Deliver(session));
        let entry = self.sessions.get_mut(&session).expect("idle sessions stand");
        entry.state = SessionState::BusyWithBatch { op, batch };
        entry.deliveries += count;
        let ready = &mut self.ready[handle];
        ready.in_flight += count;
        // After a full one the rest gathers anew; what a smaller one left behind has waited.
        if count == ready.batch_size() {
            ready.gathering_since = None;
        }
        let deadline = self.now.mono + longest_attempt(path);
        self.outputs.push_back(Output::DeliverBatch { op, session, messages, deadline });
    }

    pub(super) fn batch_attempted(&mut self, op: OpId, outcomes: Vec<Outcomes>, reusable: bool) {
        let Ended { was, origin, untried_wait, .. } = self.attempt_ended(op, reusable);
        if let SessionState::BusyWithBatch { batch, .. } = &was {
            assert_eq!(batch.len(), outcomes.len(), "each message of a batch has its outcome");
        }
        self.judge_batch(was, &origin, outcomes.into_iter(), untried_wait);
    }

    pub(super) fn judge_batch(
        &mut self,
        was: SessionState,
        origin: &Origin,
        outcomes: impl Iterator<Item = Outcomes>,
        untried_wait: Duration,
    ) {
        let SessionState::BusyWithBatch { batch, .. } = was else {
            panic!("a session that was {was:?} had no batch")
        };
        let ready = origin.ready.expect("an attempt has a session");
        self.ready[ready].in_flight -= batch.len() as u64;
        for ((message, recipients), outcomes) in batch.into_iter().zip(outcomes) {
            self.judge(message, origin.clone(), &recipients, &outcomes, untried_wait);
        }
    }

    pub(super) fn is_sent_by_policy(&self, origin: &Origin) -> bool {
        let ready = origin.ready.and_then(|ready| self.ready.get(ready));
        ready.is_some_and(|ready| ready.sender().is_some())
    }
}
