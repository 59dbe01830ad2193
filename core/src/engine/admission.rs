//! Messages come, change place, and go. Invariant: a message stands in the list of its scheduled queue as long as it
//! exists, in at most one line, and its timer is armed for the first moment that concerns its place.
use super::model::*;
use super::schedule;
use super::timers::{NEVER, Timer};
use super::{
    Admission, Conclusion, Engine, InsertReason, Note, Output, QueueSelector, Reason, Then,
};
use crate::canary::{self, Canary};
use crate::limits;
use crate::log::RecordKind;
use crate::marks::{Mark, reached};
use crate::queue_name::QueueName;
use crate::smtp::reply::{EnhancedCode, ReplyCode};
use crate::time::{Duration, Mono, Now};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// A response that kumod makes up.
pub(super) fn generated(
    code: u16,
    enhanced: (u8, u16, u16),
    internal: bool,
    text: String,
) -> Reason {
    let (class, subject, detail) = enhanced;
    let enhanced = Some(EnhancedCode { class, subject, detail });
    Reason::Generated { code: ReplyCode { code, enhanced }, internal, text }
}

impl Engine {
    /// Whether more mail should be refused for now: what the engine holds has reached its limits.
    pub fn is_full(&self) -> bool {
        self.messages.len() >= limits::MESSAGES || self.queues.len() >= limits::SCHEDULED_QUEUES
    }

    pub fn holds(&self, id: crate::id::SpoolId) -> bool {
        self.message_by_id.contains_key(&id)
    }

    /// A message the engine already holds is left as it is (D25).
    pub(super) fn admit(&mut self, admission: Admission) {
        if self.holds(admission.id) {
            return;
        }
        let queue = self.queue_named(&admission.queue);
        let due = admission.due.map_or(self.now.mono, |due| {
            Moment::from_wall(due - self.gone_back(&admission), self.now).as_mono()
        });
        let message = Message {
            id: admission.id,
            queue,
            previous: None,
            next: None,
            born: self.born(&admission),
            expires: admission.expires.map(|at| Moment::from_wall(at, self.now)),
            due,
            armed: NEVER,
            remaining: admission.remaining,
            recipients: admission.recipients,
            attempts: admission.attempts,
            last: None,
            cleared: false,
            paid: false,
            moves: 0,
            place: Place::Concluding,
        };
        let handle = self.messages.insert(message);
        self.message_by_id.insert(admission.id, handle);
        self.link(handle, queue);
        self.counts.admitted += 1;
        self.put_back(handle);
    }

    /// Only earlier lives' messages are as old as the wall clock says: it may have stepped while this one was on its way in.
    fn born(&self, admission: &Admission) -> Moment {
        let now = Moment::of(self.now.mono);
        match admission.reason {
            InsertReason::Enumerated => {
                Moment::from_wall(admission.id.created(), self.now).min(now)
            }
            _ => now,
        }
    }

    /// A retry that an earlier life wrote down, of a message from the future: the wall clock has gone back since, by so much at
    /// least, and the retry with it, or it would wait for years. What policy scheduled stays as policy said.
    fn gone_back(&self, admission: &Admission) -> Duration {
        match admission.reason {
            InsertReason::Enumerated if admission.attempts > 0 => {
                admission.id.created().since(self.now.wall)
            }
            _ => Duration::ZERO,
        }
    }

    fn queue_named(&mut self, name: &Arc<str>) -> QueueHandle {
        if let Some(found) = self.queue_by_name.get(name) {
            return *found;
        }
        let queue = self.queues.insert(ScheduledQueue::new(name.clone()));
        self.queue_by_name.insert(name.clone(), queue);
        queue
    }

    fn link(&mut self, handle: MessageHandle, queue: QueueHandle) {
        let scheduled = &mut self.queues[queue];
        let first = scheduled.first.replace(handle);
        scheduled.count += 1;
        let message = &mut self.messages[handle];
        (message.queue, message.previous, message.next) = (queue, None, first);
        if let Some(first) = first {
            self.messages[first].previous = Some(handle);
        }
    }

    fn unlink(&mut self, handle: MessageHandle) {
        let Message { queue, previous, next, .. } = self.messages[handle];
        match previous {
            Some(previous) => self.messages[previous].next = next,
            None => self.queues[queue].first = next,
        }
        if let Some(next) = next {
            self.messages[next].previous = previous;
        }
        let scheduled = &mut self.queues[queue];
        scheduled.count -= 1;
        if scheduled.count == 0 {
            scheduled.empty_since = self.now.mono;
            // Its timer goes, and what it waited for with it: the next message looks anew.
            scheduled.block = None;
            let reap_at = self.reap_at(queue);
            self.arm_scheduled(queue, reap_at);
        }
    }

    /// All messages of a scheduled queue.
    pub(super) fn messages_of(&self, queue: QueueHandle) -> Vec<MessageHandle> {
        let mut found = Vec::new();
        let mut next = self.queues[queue].first;
        while let Some(handle) = next {
            found.push(handle);
            next = self.messages[handle].next;
        }
        found
    }

    pub(super) fn forget(&mut self, handle: MessageHandle) {
        self.place(handle, Place::Concluding);
        self.unlink(handle);
        let message = self.messages.remove(handle);
        self.message_by_id.remove(&message.id);
    }

    // ---- Places ----------------------------------------------------------------------------------------

    /// The one way to move a message.
    pub(super) fn place(&mut self, handle: MessageHandle, place: Place) {
        let Message { place: old, queue, moves, .. } = self.messages[handle];
        match old {
            Place::Waiting => self.queues[queue].waiting.left(),
            Place::Ready(ready) => {
                self.ready[ready].messages.left();
                self.list_ready(ready);
            }
            _ => {}
        }
        let promoted = &mut self.queues[queue].promoted;
        *promoted -= u64::from(old.is_promoted());
        *promoted += u64::from(place.is_promoted());
        let moves = moves.wrapping_add(1);
        let message = &mut self.messages[handle];
        (message.place, message.moves) = (place, moves);
        match place {
            Place::Waiting => self.queues[queue].waiting.push_back(handle, moves, &self.messages),
            Place::Ready(ready) => {
                self.ready[ready].messages.push_back(handle, moves, &self.messages);
            }
            _ => {}
        }
        self.arm_message(handle);
    }

    /// Into its scheduled queue: until it is due, or in line at once.
    pub(super) fn put_back(&mut self, handle: MessageHandle) {
        let Message { due, queue, .. } = self.messages[handle];
        if due > self.now.mono {
            // Asks for the configuration if it isn't known: expiry needs it.
            let _ = self.queue_config(queue);
            self.place(handle, Place::Scheduled);
            return;
        }
        self.place(handle, Place::Waiting);
        if self.queues[queue].block.is_none() {
            self.list_scheduled(queue);
        }
    }

    /// Its time is up at; [`NEVER`] while its queue's configuration isn't known.
    pub(super) fn expiry(&self, message: &Message) -> Mono {
        if let Some(expires) = message.expires {
            return expires.as_mono();
        }
        let config = self.queues[message.queue].config.value.as_ref();
        config.map_or(NEVER, |config| message.born.plus(config.max_age).as_mono())
    }

    pub(super) fn arm_message(&mut self, handle: MessageHandle) {
        let message = &self.messages[handle];
        let at = match message.place {
            Place::Scheduled => message.due.min(self.expiry(message)),
            Place::Waiting | Place::Ready(_) if canary::planted(Canary::ExpirySkippedInReady) => {
                NEVER
            }
            Place::Waiting | Place::Ready(_) => self.expiry(message),
            Place::Unremoved => message.due,
            Place::Asking | Place::InFlight | Place::Concluding | Place::Condemned => NEVER,
        };
        let armed = &mut self.messages[handle].armed;
        self.timers.move_to(armed, at, Timer::Message(handle));
    }

    pub(super) fn message_timer(&mut self, handle: MessageHandle) {
        let message = &self.messages[handle];
        match message.place {
            // The next life finds it in the spool as it is.
            Place::Unremoved if self.stopping => {}
            Place::Unremoved => {
                self.conclude(handle, Origin::default(), Vec::new(), Then::Remove, After::Forget);
            }
            place if self.expiry(message) <= self.now.mono => {
                reached(match place {
                    Place::Waiting => Mark::ExpiredInLine,
                    Place::Ready(_) => Mark::ExpiredReady,
                    _ => Mark::ExpiredScheduled,
                });
                self.expire(handle, Origin::default(), Vec::new())
            }
            Place::Scheduled => self.put_back(handle),
            place => unreachable!("a timer fired for a message that is {place:?}"),
        }
    }

    // ---- Conclusions -----------------------------------------------------------------------------------

    /// Ends a message whose time is up, or whose next attempt would come too late.
    pub(super) fn expire(&mut self, handle: MessageHandle, origin: Origin, mut notes: Vec<Note>) {
        let message = &self.messages[handle];
        let due = message.due.max(self.now.mono);
        let text = match (message.expires, &self.queues[message.queue].config.value) {
            (None, Some(config)) => format!(
                "Next delivery time would be {} after creation, which exceeds max_age={}",
                render(whole_seconds(Moment::of(due).since(message.born))),
                render(config.max_age)
            ),
            _ => format!(
                "Next delivery time would be at {} which exceeds the expiry time {} configured via set_scheduling",
                self.date(Moment::of(due)),
                self.date(message.expires.unwrap_or(Moment(0)))
            ),
        };
        let recipients = message.remaining.clone();
        let reason = generated(551, (5, 4, 7), true, text);
        notes.push(Note { kind: RecordKind::Expiration, recipients, reason });
        self.counts.expired += 1;
        self.conclude(handle, origin, notes, Then::Remove, After::Forget);
    }

    /// A moment of the engine's clock as a date, by today's wall clock.
    pub(super) fn date(&self, moment: Moment) -> String {
        let Now { mono, wall } = self.now;
        let offset = moment.0.saturating_sub(Moment::of(mono).0);
        crate::date::rfc3339(crate::time::Wall(wall.0.saturating_add(offset)))
    }

    pub(super) fn conclude(
        &mut self,
        handle: MessageHandle,
        origin: Origin,
        notes: Vec<Note>,
        then: Then,
        after: After,
    ) {
        self.place(handle, Place::Concluding);
        let op = self.start(Pending::Conclude { message: handle, after });
        self.concluding += 1;
        self.emit_conclusion(op, handle, origin, notes, then);
    }

    /// Writes a record about a message that stays where it is.
    pub(super) fn note(&mut self, handle: MessageHandle, kind: RecordKind, reason: Reason) {
        let op = self.start(Pending::Note);
        self.concluding += 1;
        let recipients = self.messages[handle].remaining.clone();
        let notes = vec![Note { kind, recipients, reason }];
        self.emit_conclusion(op, handle, Origin::default(), notes, Then::Nothing);
    }

    fn emit_conclusion(
        &mut self,
        op: crate::id::OpId,
        handle: MessageHandle,
        origin: Origin,
        notes: Vec<Note>,
        then: Then,
    ) {
        let message = &self.messages[handle];
        let queue = &self.queues[message.queue];
        let ready = origin.ready.and_then(|ready| self.ready.get(ready));
        let conclusion = Conclusion {
            message: message.id,
            attempt: origin.attempt,
            session: origin.session,
            queue: queue.name.clone(),
            site: ready.map(|ready| ready.name.clone()),
            pool: ready.map(|ready| ready.pool.clone()),
            source: ready.map(|ready| ready.source.name.as_ref().into()),
            attempts: message.attempts,
            notes,
            then,
        };
        self.outputs.push_back(Output::Conclude { op, conclusion: Box::new(conclusion) });
    }

    pub(super) fn concluded(&mut self, op: crate::id::OpId, stored: bool) {
        self.concluding -= 1;
        let (handle, after) = match self.finish(op) {
            Pending::Note => return,
            Pending::Conclude { message, after } => (message, after),
            other => panic!("{op:?} is {other:?}, not a conclusion"),
        };
        if canary::planted(Canary::SecondCompletion) && self.messages.get(handle).is_none() {
            return;
        }
        if after == After::ForgetCondemned {
            self.next_condemned();
        }
        match (after, stored) {
            (After::Schedule, _) if canary::planted(Canary::RequeueForgotten) => {}
            (After::Schedule, _) => self.put_back(handle),
            (_, true) => self.forget(handle),
            (_, false) => self.retry_removal(handle),
        }
    }

    /// It must not be sent again, only removed.
    fn retry_removal(&mut self, handle: MessageHandle) {
        reached(Mark::RemovalRetried);
        let spread = self.retry_random.duration_up_to(Duration::from_secs(55));
        self.messages[handle].due = self.now.mono + Duration::from_secs(5) + spread;
        self.place(handle, Place::Unremoved);
    }

    // ---- Scheduled queues ------------------------------------------------------------------------------

    pub(super) fn arm_scheduled(&mut self, queue: QueueHandle, at: Mono) {
        let armed = &mut self.queues[queue].armed;
        self.timers.move_to(armed, at, Timer::Scheduled(queue));
    }

    fn reap_at(&self, queue: QueueHandle) -> Mono {
        let queue = &self.queues[queue];
        let interval =
            queue.config.value.as_ref().map_or(Duration::from_secs(600), |c| c.reap_interval);
        queue.empty_since + interval
    }

    pub(super) fn scheduled_timer(&mut self, queue: QueueHandle) {
        let scheduled = &self.queues[queue];
        if scheduled.count > 0 {
            self.list_scheduled(queue);
            return;
        }
        let busy =
            scheduled.config.asked.is_some() || scheduled.site.asked.is_some() || scheduled.listed;
        let reap_at = self.reap_at(queue);
        if busy || reap_at > self.now.mono {
            self.arm_scheduled(queue, reap_at.max(self.now.mono + Duration::from_secs(1)));
            return;
        }
        let reaped = self.queues.remove(queue);
        self.queue_by_name.remove(&reaped.name);
    }

    /// Moves a message to another scheduled queue.
    pub(super) fn rebind(&mut self, handle: MessageHandle, name: &Arc<str>) {
        self.place(handle, Place::Concluding);
        let queue = self.queue_named(name);
        if self.messages[handle].queue != queue {
            self.unlink(handle);
            self.link(handle, queue);
        }
    }

    pub(super) fn next_retry(&mut self, handle: MessageHandle) -> Mono {
        let message = &self.messages[handle];
        let config = self.queues[message.queue].config.value.clone().unwrap_or_default();
        let delay = schedule::retry_delay(&config, message.attempts);
        self.now.mono + schedule::jittered(&config, delay, &mut self.retry_random)
    }
}

/// So that records of one cause read alike.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

pub(super) fn render(duration: Duration) -> String {
    crate::config::duration::render(duration)
}

/// Whether an operator's selector means the queue of this name: by its names if it has any, else by all of its parts.
/// An empty selector means every queue.
pub(super) fn selects(selector: &QueueSelector, name: &str) -> bool {
    let parsed = QueueName::parse(name);
    let matches = |wanted: &Option<Box<str>>, have: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| have == Some(wanted))
    };
    if !selector.queue_names.is_empty() {
        return selector.queue_names.iter().any(|wanted| &**wanted == name);
    }
    matches(&selector.campaign, parsed.campaign)
        && matches(&selector.tenant, parsed.tenant)
        && matches(&selector.domain, Some(parsed.domain))
        && matches(&selector.routing_domain, parsed.routing_domain)
}
