//! From a ready queue over a session to the peer: egress paths, leases, connections, deliveries.
//! Invariant: a session holds its leases from `Open` to `SessionClosed`; a ready queue with messages has a session, or a
//! timer, or stands in the line of the limit that holds it back, which `held` names.
use super::admission::generated;
use super::model::*;
use super::schedule::ideal_connections;
use super::timers::{NEVER, Timer};
use super::{CloseCause, Engine, InsertReason, Output, Question, Reason, Target};
use crate::config::EgressPath;
use crate::config::queue::DeliveryProtocol;
use crate::id::SessionId;
use crate::limits;
use crate::log::RecordKind;
use crate::recipients::RecipientSet;
use crate::time::{Duration, Mono};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A ready queue without messages and sessions is kept this long.
pub(super) const REAP_AFTER: Duration = Duration::from_secs(600);

impl Engine {
    // ---- Egress path -----------------------------------------------------------------------------------

    pub(super) fn egress_path(
        &mut self,
        handle: ReadyHandle,
    ) -> Result<Arc<EgressPath>, super::promotion::Blocked> {
        let fetched = &self.ready[handle].path;
        if fetched.is_old(self.now.mono) && fetched.asked.is_none() && !self.stopping {
            let ready = &self.ready[handle];
            let question = Question::EgressPath {
                domain: ready.domain.clone(),
                source: ready.source.name.as_ref().into(),
                site: ready.site.clone(),
            };
            let op = self.ask(Pending::EgressPath(handle), question);
            self.ready[handle].path.asked = Some(op);
        }
        super::promotion::known(&self.ready[handle].path, Block::WaitingForEgressPath, |why| {
            Block::EgressPathFailed { why }
        })
    }

    pub(super) fn egress_path_answered(
        &mut self,
        handle: ReadyHandle,
        answer: Result<EgressPath, Box<str>>,
    ) {
        let now = self.now.mono;
        let ready = &mut self.ready[handle];
        match answer {
            Ok(path) => {
                let ttl = path.refresh_interval;
                ready.path.found(Arc::new(path), ttl, now);
            }
            Err(why) => ready.path.failed(why, now),
        }
        self.call_up_all(handle);
        self.list_ready(handle);
    }

    // ---- The pump --------------------------------------------------------------------------------------

    pub(super) fn pump_ready(&mut self, handle: ReadyHandle) {
        let Some(ready) = self.ready.get_mut(handle) else { return };
        ready.listed = false;
        let was_held = ready.held.take();
        let called_for = ready.called_for.take();
        let sessions = ready.sessions.len();
        let wait = self.advance(handle);
        self.note_held_since(handle, was_held.as_ref());
        let taken = self.ready[handle].sessions.len() > sessions;
        // Whoever stands in the same line again found the slot taken: there is nothing to pass on.
        let leaves_it =
            |label: &Arc<str>| !taken && self.ready[handle].in_line_for.as_ref() != Some(label);
        if let Some(label) = called_for.filter(leaves_it) {
            self.call_up_for_lease(&label);
        }
        // Others may still stand in its line when its time has come: looked at again in a while.
        let reap_at = self.ready_reap_at(handle).max(self.now.mono + Duration::from_secs(60));
        self.arm_ready(handle, if wait > self.now.mono { wait } else { reap_at });
    }

    /// What holds it back still, if with another end, has held it back since.
    fn note_held_since(&mut self, handle: ReadyHandle, was: Option<&Held>) {
        let ready = &mut self.ready[handle];
        let kind = core::mem::discriminant::<Held>;
        if ready.held.as_ref().map(kind) != was.map(kind) {
            ready.held_since = self.now.mono;
        }
    }

    /// Does what can be done now. Returns when to look again, if at a certain time; else the past.
    fn advance(&mut self, handle: ReadyHandle) -> Mono {
        let path = match self.egress_path(handle) {
            Ok(path) => path,
            Err(blocked) if self.ready[handle].messages.len() > 0 => return blocked.until,
            Err(_) => return Mono(0),
        };
        if self.ready[handle].messages.len() == 0 {
            self.ready[handle].gathering_since = None;
        }
        if self.stopping {
            return Mono(0);
        }
        let is_suspended = self.sources[self.ready[handle].of].suspension().is_some();
        if is_suspended || self.ready[handle].suspension.is_some() {
            self.give_back_all(handle);
            return Mono(0);
        }
        let waits = match self.spool_healthy {
            true => [self.dispatch(handle, &path), self.connect(handle, &path)],
            false => [Mono(0); 2],
        };
        self.offer_room(handle, &path);
        let ahead = waits.into_iter().filter(|wait| *wait > self.now.mono);
        ahead.min().unwrap_or(Mono(0))
    }

    /// Hands messages to idle sessions. Returns when a token for the next comes; the past if that isn't what it waits for.
    fn dispatch(&mut self, handle: ReadyHandle, path: &Arc<EgressPath>) -> Mono {
        while !self.ready[handle].idle.is_empty() {
            let Some(message) = self.ready[handle].messages.front(&self.messages) else { break };
            if let Some(until) = self.gathers_until(handle) {
                return until;
            }
            let token = self.message_token(handle, path);
            if token > self.now.mono {
                self.ready[handle].held = Some(Held::MessageRate { until: token });
                return token;
            }
            let session = self.ready[handle].idle.pop().expect("seen above");
            match &*self.ready[handle].protocol {
                DeliveryProtocol::CustomLua(_) => self.deliver_batch(handle, session, path),
                _ => self.deliver(handle, session, message, path),
            }
        }
        Mono(0)
    }

    fn deliver(
        &mut self,
        handle: ReadyHandle,
        session: SessionId,
        message: MessageHandle,
        path: &EgressPath,
    ) {
        self.take_message_tokens(handle, path, 1);
        self.place(message, Place::InFlight);
        let op = self.start(Pending::Deliver(session));
        let Message { id, remaining, recipients, .. } = &self.messages[message];
        let id = *id;
        let recipients = first_recipients(remaining, *recipients, path.max_recipients_per_batch);
        let entry = self.sessions.get_mut(&session).expect("idle sessions stand");
        entry.state = SessionState::Busy { op, message, recipients: recipients.clone() };
        entry.deliveries += 1;
        self.ready[handle].in_flight += 1;
        let deadline = self.now.mono + longest_attempt(path);
        self.outputs.push_back(Output::Deliver { op, session, message: id, recipients, deadline });
    }

    /// Opens what the queue's length asks for and the limits allow. Returns as [`Engine::dispatch`] does.
    fn connect(&mut self, handle: ReadyHandle, path: &Arc<EgressPath>) -> Mono {
        if let Some(until) = self.gathers_until(handle) {
            return until;
        }
        loop {
            let (queued, in_flight) = self.transactions(handle);
            let ready = &self.ready[handle];
            let have = ready.sessions.len() as u64;
            let idle = ready.idle.len() as u64;
            // Sessions on their way and idle ones will each take a transaction.
            if queued <= ready.opening + idle {
                return Mono(0);
            }
            let lowest = lowest_limit(path);
            if have >= ideal_connections(lowest, queued + in_flight) {
                return Mono(0);
            }
            let token = self.message_token(handle, path);
            if token > self.now.mono + path.idle_timeout {
                self.ready[handle].held = Some(Held::MessageRate { until: token });
                return token;
            }
            if let Some(rate) = &path.max_connection_rate {
                let until = self.ready[handle].connection_throttle.earliest(rate, self.now.mono);
                if until > self.now.mono {
                    self.ready[handle].held = Some(Held::ConnectionRate { until });
                    return until;
                }
            }
            if let Err(label) = self.open(handle, path) {
                self.ready[handle].held = Some(Held::ConnectionLimit { label });
                return Mono(0);
            }
        }
    }

    fn open(&mut self, handle: ReadyHandle, path: &Arc<EgressPath>) -> Result<(), Box<str>> {
        let leases = self.lease(handle, path)?;
        if let Some(rate) = &path.max_connection_rate {
            self.ready[handle].connection_throttle.take(rate, self.now.mono);
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let state = SessionState::Opening;
        let takes = self.ready[handle].batch_size();
        let (deliveries, tally, abort) = (0, Tally::default(), None);
        let entry = Session { ready: handle, state, takes, deliveries, leases, tally, abort };
        self.sessions.insert(session, entry);
        let ready = &mut self.ready[handle];
        ready.sessions.push(session);
        ready.opening += 1;
        let target = Target {
            ready_queue: ready.name.clone(),
            queue: ready.queue.clone(),
            site: ready.site.clone(),
            domain: ready.domain.clone(),
            pool: ready.pool.clone(),
            source: ready.source.clone(),
            path: path.clone(),
            protocol: ready.protocol.clone(),
            hosts: ready.hosts.clone(),
        };
        self.outputs.push_back(Output::Open { session, target: Box::new(target) });
        Ok(())
    }

    /// There is room: the first scheduled queue in line may go on. It runs before this queue is looked at again.
    fn offer_room(&mut self, handle: ReadyHandle, path: &EgressPath) {
        if self.ready[handle].messages.len() as u64 >= path.max_ready {
            return;
        }
        if self.call_up(handle) {
            self.list_ready(handle);
        }
    }

    /// A suspended ready queue keeps nothing: its messages may have another way out.
    pub(super) fn give_back_all(&mut self, handle: ReadyHandle) {
        for session in self.ready[handle].idle.clone() {
            self.close_session(session);
        }
        let messages: Vec<MessageHandle> =
            self.ready[handle].messages.iter(&self.messages).collect();
        for message in messages {
            self.messages[message].paid = true;
            self.put_back(message);
        }
    }

    // ---- Rates -----------------------------------------------------------------------------------------

    pub(super) fn message_token(&self, handle: ReadyHandle, path: &EgressPath) -> Mono {
        let now = self.now.mono;
        let own = path
            .max_message_rate
            .as_ref()
            .map_or(now, |rate| self.ready[handle].message_throttle.earliest(rate, now));
        path.additional_message_rate_throttles.iter().fold(own, |latest, (key, rate)| {
            latest.max(self.shared_throttle(key).earliest(rate, now))
        })
    }

    /// What goes together isn't parted for want of tokens: later messages wait for it to be paid for.
    pub(super) fn take_message_tokens(
        &mut self,
        handle: ReadyHandle,
        path: &EgressPath,
        count: u64,
    ) {
        if let Some(rate) = &path.max_message_rate {
            self.ready[handle].message_throttle.take_many(rate, self.now.mono, count);
        }
        for (key, rate) in &path.additional_message_rate_throttles {
            self.take_shared(key, rate, count);
        }
    }

    // ---- Leases ----------------------------------------------------------------------------------------

    /// All of them or none; if none, this queue stands in the line of the one that is used up, whose name is the error.
    fn lease(&mut self, handle: ReadyHandle, path: &EgressPath) -> Result<Vec<Arc<str>>, Box<str>> {
        let ready = &self.ready[handle];
        let own: Arc<str> =
            format!("kumomta.connection_limit.{}->{}", ready.source.name, ready.site).into();
        let everything: Arc<str> = "limits::SESSIONS".into();
        let additional = path.additional_connection_limits.iter();
        let mut wanted: Vec<(Arc<str>, u64)> =
            additional.map(|(key, spec)| (Arc::from(&**key), spec.limit)).collect();
        wanted.push((own, path.connection_limit.limit));
        wanted.push((everything, limits::SESSIONS as u64));
        let used_up = |(label, limit): &&(Arc<str>, u64)| {
            self.leases.get(label).is_some_and(|lease| lease.held >= *limit)
        };
        if let Some((label, _)) = wanted.iter().find(used_up) {
            let ready = &mut self.ready[handle];
            if ready.in_line_for.is_none() {
                ready.in_line_for = Some(label.clone());
                self.leases.entry(label.clone()).or_default().waiters.push_back(handle);
            }
            return Err(label.as_ref().into());
        }
        let labels: Vec<Arc<str>> = wanted.into_iter().map(|(label, _)| label).collect();
        for label in &labels {
            self.leases.entry(label.clone()).or_default().held += 1;
        }
        Ok(labels)
    }

    fn release(&mut self, labels: &[Arc<str>]) {
        for label in labels {
            self.leases.get_mut(label).expect("a held lease is known").held -= 1;
            self.call_up_for_lease(label);
        }
    }

    /// One slot is free: the first in line may take it, and if it doesn't, the next.
    fn call_up_for_lease(&mut self, label: &Arc<str>) {
        let Some(lease) = self.leases.get_mut(label) else { return };
        while let Some(handle) = lease.waiters.pop_front() {
            let Some(ready) = self.ready.get_mut(handle) else { continue };
            ready.in_line_for = None;
            ready.called_for = Some(label.clone());
            self.list_ready(handle);
            return;
        }
        if lease.held == 0 {
            self.leases.remove(label);
        }
    }

    // ---- Sessions --------------------------------------------------------------------------------------

    pub(super) fn session_ready(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            panic!("{id:?} is ready and doesn't exist");
        };
        let handle = session.ready;
        match session.state {
            SessionState::Ending => return,
            SessionState::Opening => {
                self.ready[handle].opening -= 1;
                self.ready[handle].consecutive_failures = 0;
            }
            SessionState::Idle => {}
            SessionState::Busy { .. } | SessionState::BusyWithBatch { .. } => {
                panic!("{id:?} is ready while a delivery is outstanding")
            }
        }
        session.state = SessionState::Idle;
        let path = &self.ready[handle].path.value;
        let used_up = path
            .as_ref()
            .is_some_and(|path| session.deliveries >= path.max_deliveries_per_connection);
        if !self.ready[handle].idle.contains(&id) {
            self.ready[handle].idle.push(id);
        }
        if used_up || self.stopping {
            self.close_session(id);
        }
        self.list_ready(handle);
    }

    /// Asks for a session's end: politely where it may still say QUIT.
    pub(super) fn close_session(&mut self, id: SessionId) {
        let session = self.sessions.get_mut(&id).expect("only sessions that stand are closed");
        let ready = session.ready;
        match session.state {
            SessionState::Ending => return,
            // Its attempt is completed first; the driver ends it as D22 says.
            SessionState::Busy { .. } | SessionState::BusyWithBatch { .. } => {
                self.outputs.push_back(Output::Close { session: id });
                return;
            }
            SessionState::Opening => {
                self.ready[ready].opening -= 1;
                let why = String::from("it isn't wanted any more");
                self.outputs.push_back(Output::Abort { session: id, why });
            }
            SessionState::Idle => {
                self.ready[ready].idle.retain(|idle| *idle != id);
                self.outputs.push_back(Output::Close { session: id });
            }
        }
        session.state = SessionState::Ending;
    }

    pub(super) fn session_closed(&mut self, id: SessionId, cause: CloseCause) {
        let session = self.sessions.remove(&id).unwrap_or_else(|| panic!("{id:?} closed twice"));
        let handle = session.ready;
        let ready = &mut self.ready[handle];
        ready.sessions.retain(|session| *session != id);
        ready.idle.retain(|idle| *idle != id);
        match session.state {
            SessionState::Opening => ready.opening -= 1,
            SessionState::Busy { op, .. } | SessionState::BusyWithBatch { op, .. } => {
                panic!("{id:?} closed before {op:?} was completed")
            }
            SessionState::Idle | SessionState::Ending => {}
        }
        if ready.is_empty() {
            ready.empty_since = self.now.mono;
        }
        self.release(&session.leases);
        self.list_ready(handle);
        if session.state == SessionState::Opening {
            self.never_ready(handle, id, cause);
        }
    }

    /// What it means for the messages that no session came about.
    fn never_ready(&mut self, handle: ReadyHandle, session: SessionId, cause: CloseCause) {
        let origin = Origin { attempt: None, session: Some(session), ready: Some(handle) };
        let why = |because| (Reason::SessionEnd, because);
        match cause {
            CloseCause::Done | CloseCause::Aborted => {}
            CloseCause::ConnectFailed => self.connect_failed(handle, origin, Reason::SessionEnd),
            CloseCause::NoHosts => {
                let (reason, because) = why(InsertReason::MxResolvedToZeroHosts);
                self.fail_all(handle, &origin, &reason, because);
            }
            CloseCause::Skipped => {
                let (reason, because) = why(InsertReason::MxWasSkipped);
                self.fail_all(handle, &origin, &reason, because);
            }
            CloseCause::Prohibited => {
                for message in self.in_line(handle) {
                    self.settle(message, origin.clone(), RecordKind::Bounce, Reason::SessionEnd);
                }
            }
        }
    }

    /// The first in line bears it; after too many in a row all do.
    pub(super) fn connect_failed(&mut self, handle: ReadyHandle, origin: Origin, reason: Reason) {
        let ready = &mut self.ready[handle];
        ready.consecutive_failures += 1;
        let failures = ready.consecutive_failures;
        let limit = ready
            .path
            .value
            .as_ref()
            .map_or(u64::MAX, |path| path.consecutive_connection_failures_before_delay);
        if let Some(message) = self.ready[handle].messages.front(&self.messages) {
            let because = InsertReason::LoggedTransientFailure;
            self.fail_for_now(message, origin.clone(), reason, because);
        }
        if failures > limit {
            let text = String::from(
                "No connection could be made for a long time; all messages of this ready queue are delayed",
            );
            let reason = generated(451, (4, 4, 1), true, text);
            self.fail_all(handle, &origin, &reason, InsertReason::TooManyConnectionFailures);
        }
    }

    fn in_line(&self, handle: ReadyHandle) -> Vec<MessageHandle> {
        self.ready[handle].messages.iter(&self.messages).collect()
    }

    fn fail_all(
        &mut self,
        handle: ReadyHandle,
        origin: &Origin,
        reason: &Reason,
        because: InsertReason,
    ) {
        for message in self.in_line(handle) {
            self.fail_for_now(message, origin.clone(), reason.clone(), because);
        }
    }

    // ---- Timer -----------------------------------------------------------------------------------------

    pub(super) fn arm_ready(&mut self, handle: ReadyHandle, at: Mono) {
        let armed = &mut self.ready[handle].armed;
        self.timers.move_to(armed, at, Timer::Ready(handle));
    }

    fn ready_reap_at(&self, handle: ReadyHandle) -> Mono {
        let ready = &self.ready[handle];
        if ready.is_empty() { ready.empty_since + REAP_AFTER } else { NEVER }
    }

    pub(super) fn ready_timer(&mut self, handle: ReadyHandle) {
        let ready = &self.ready[handle];
        let waits = !ready.waiters.is_empty() || ready.in_line_for.is_some();
        let used = !ready.is_empty() || ready.path.asked.is_some() || waits;
        if used || ready.listed {
            self.list_ready(handle);
            return;
        }
        if self.ready_reap_at(handle) > self.now.mono {
            self.arm_ready(handle, self.ready_reap_at(handle));
            return;
        }
        let reaped = self.ready.remove(handle);
        self.ready_by_name.remove(&reaped.name);
    }
}

pub(super) fn lowest_limit(path: &EgressPath) -> u64 {
    let additional = path.additional_connection_limits.values();
    additional.fold(path.connection_limit.limit, |lowest, spec| lowest.min(spec.limit))
}

/// What an attempt takes at most if every wait comes to its end: the driver's fence, not a wait of its own.
pub(super) fn longest_attempt(path: &EgressPath) -> Duration {
    let waits = [
        path.mail_from_timeout,
        path.rcpt_to_timeout,
        path.data_timeout,
        path.data_timeout,
        path.data_dot_timeout,
        path.rset_timeout,
        Duration::from_secs(60),
    ];
    waits.into_iter().fold(Duration::ZERO, Duration::saturating_add)
}

pub(super) fn first_recipients(
    remaining: &RecipientSet,
    recipients: u32,
    most: u64,
) -> RecipientSet {
    if u64::from(remaining.len()) <= most {
        return remaining.clone();
    }
    let mut first = RecipientSet::none(recipients);
    let most = usize::try_from(most).unwrap_or(usize::MAX).max(1);
    remaining.iter().take(most).for_each(|index| first.insert(index));
    first
}
