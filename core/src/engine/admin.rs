//! What operators ordered: bounces, suspensions of scheduled and ready queues, new configuration.
//! Invariant: an entry holds until it ends or is cancelled, for messages that come later too; a bounce is carried out a
//! bounded number of messages at a time.
use super::admission::{generated, selects};
use super::model::*;
use super::timers::{NEVER, Timer};
use super::{
    AdminCommand, AdminEntry, AdminReply, Engine, Note, Output, QueueSelector, ReadySuspension,
    Then,
};
use crate::id::OpId;
use crate::limits;
use crate::log::RecordKind;
use crate::time::{Mono, Wall};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

impl Engine {
    pub(super) fn administer(&mut self, op: OpId, command: AdminCommand) {
        let reply = match command {
            AdminCommand::Bounce(entry) => self.bounce(entry),
            AdminCommand::Suspend(entry) => self.suspend(entry),
            AdminCommand::SuspendReady(entry) => self.suspend_ready(entry),
            AdminCommand::CancelBounce { id } => {
                cancelled(remove(&mut self.admin.bounces, |bounce| *bounce.entry.id == *id))
            }
            AdminCommand::CancelSuspend { id } => {
                let found = remove(&mut self.admin.suspensions, |entry| *entry.id == *id);
                self.list_blocked(|block| matches!(block, Block::Suspended { .. }));
                cancelled(found)
            }
            AdminCommand::CancelSuspendReady { id } => {
                let found = remove(&mut self.admin.ready_suspensions, |entry| *entry.id == *id);
                self.lift_ready_suspensions();
                cancelled(found)
            }
            AdminCommand::ResumeSource { name } => self.resume_source(&name),
            AdminCommand::AbortSession { ready_queue, session } => {
                self.abort_by_order(&ready_queue, session)
            }
            AdminCommand::BumpEpoch => {
                self.bump_epoch();
                AdminReply::Done
            }
        };
        self.arm_admin();
        self.outputs.push_back(Output::AdminDone { op, reply });
    }

    fn ends(&self, expires: Wall) -> Mono {
        Moment::from_wall(expires, self.now).as_mono().max(self.now.mono)
    }

    // ---- Bounce ----------------------------------------------------------------------------------------

    fn bounce(&mut self, entry: AdminEntry) -> AdminReply {
        if self.admin.bounces.len() >= limits::ADMIN_ENTRIES {
            return AdminReply::Full;
        }
        let ends = self.ends(entry.expires);
        let entry = Arc::new(entry);
        let bounce = Bounce { entry: entry.clone(), bounced: BTreeMap::new() };
        self.admin.bounces.push(Timed { entry: bounce, ends });
        for queue in self.selected(&entry.selector) {
            for message in self.bounceable(queue) {
                self.condemn(message, entry.clone());
            }
        }
        let bounce = self.admin.bounces.iter().rfind(|timed| timed.entry.entry.id == entry.id);
        let bounced = &bounce.expect("pushed above").entry.bounced;
        AdminReply::Bounced(bounced.iter().map(|(name, count)| (name.clone(), *count)).collect())
    }

    /// What a bounce would take now, by scheduled queue.
    pub fn preview_bounce(&self, selector: &QueueSelector) -> BTreeMap<Arc<str>, u64> {
        let selected = self.selected(selector).into_iter();
        let count = |queue| (self.queues[queue].name.clone(), self.bounceable(queue).len() as u64);
        selected.map(count).filter(|(_, count)| *count > 0).collect()
    }

    fn selected(&self, selector: &QueueSelector) -> Vec<QueueHandle> {
        let queues = self.queues.iter();
        let selected = queues.filter(|(_, queue)| selects(selector, &queue.name));
        selected.map(|(handle, _)| handle).collect()
    }

    fn bounceable(&self, queue: QueueHandle) -> Vec<MessageHandle> {
        let mut messages = self.messages_of(queue);
        messages.retain(|message| {
            let place = self.messages[*message].place;
            matches!(place, Place::Scheduled | Place::Waiting | Place::Ready(_))
        });
        messages
    }

    pub(super) fn bounce_for(&self, queue: QueueHandle) -> Option<Arc<AdminEntry>> {
        self.bounces_of(queue).next().map(|timed| timed.entry.entry.clone())
    }

    /// When the last bounce that takes the queue's mail is over.
    pub(super) fn bounce_ends(&self, queue: QueueHandle) -> Option<Mono> {
        self.bounces_of(queue).map(|timed| timed.ends).max()
    }

    fn bounces_of(&self, queue: QueueHandle) -> impl Iterator<Item = &Timed<Bounce>> {
        let bounces = self.admin.bounces.iter();
        bounces.filter(move |timed| selects(&timed.entry.entry.selector, &self.queues[queue].name))
    }

    pub(super) fn condemn(&mut self, message: MessageHandle, entry: Arc<AdminEntry>) {
        let queue = self.queues[self.messages[message].queue].name.clone();
        let mut bounces = self.admin.bounces.iter_mut();
        if let Some(timed) = bounces.find(|timed| timed.entry.entry.id == entry.id) {
            *timed.entry.bounced.entry(queue).or_default() += 1;
        }
        self.place(message, Place::Condemned);
        self.condemned.push_back((message, entry));
        self.conclude_condemned();
    }

    pub(super) fn next_condemned(&mut self) {
        self.condemned_concluding -= 1;
        self.conclude_condemned();
    }

    fn conclude_condemned(&mut self) {
        // What a stop leaves is the next life's, which knows of no order.
        while !self.stopping && self.condemned_concluding < limits::CONCLUDING_BOUNCES {
            let Some((message, entry)) = self.condemned.pop_front() else { return };
            self.condemned_concluding += 1;
            self.counts.admin_bounced += 1;
            let recipients = self.messages[message].remaining.clone();
            let text = format!("administrator bounced the message: {}", entry.reason);
            let reason = generated(551, (5, 7, 1), true, text);
            let note = Note { kind: RecordKind::AdminBounce, recipients, reason };
            let notes = if entry.suppress_logging { Vec::new() } else { vec![note] };
            self.conclude(message, Origin::default(), notes, Then::Remove, After::ForgetCondemned);
        }
    }

    // ---- Suspend ---------------------------------------------------------------------------------------

    fn suspend(&mut self, entry: AdminEntry) -> AdminReply {
        if self.admin.suspensions.len() >= limits::ADMIN_ENTRIES {
            return AdminReply::Full;
        }
        let ends = self.ends(entry.expires);
        self.admin.suspensions.push(Timed { entry, ends });
        AdminReply::Done
    }

    fn suspend_ready(&mut self, entry: ReadySuspension) -> AdminReply {
        if self.admin.ready_suspensions.len() >= limits::ADMIN_ENTRIES {
            return AdminReply::Full;
        }
        let timed = Timed { ends: self.ends(entry.expires), entry };
        if let Some(ready) = self.ready_by_name.get(&*timed.entry.name).copied() {
            self.ready[ready].suspension = Some(timed.clone());
            self.give_back_all(ready);
            // Who waits for room in it waits for something else now.
            self.call_up_all(ready);
        }
        self.admin.ready_suspensions.push(timed);
        AdminReply::Done
    }

    pub(super) fn suspend_new_ready(&mut self, ready: ReadyHandle) {
        let name = &self.ready[ready].name;
        let mut entries = self.admin.ready_suspensions.iter();
        let found = entries.find(|timed| *timed.entry.name == **name).cloned();
        self.ready[ready].suspension = found;
    }

    fn lift_ready_suspensions(&mut self) {
        let suspended: Vec<ReadyHandle> = self
            .ready
            .iter()
            .filter(|(_, ready)| ready.suspension.is_some())
            .map(|(handle, _)| handle)
            .collect();
        for ready in suspended {
            self.suspend_new_ready(ready);
            if self.ready[ready].suspension.is_none() {
                self.call_up_all(ready);
                self.list_ready(ready);
            }
        }
        self.list_blocked(Block::is_for_want_of_a_way_out);
    }

    // ---- Ends ------------------------------------------------------------------------------------------

    fn arm_admin(&mut self) {
        let bounces = self.admin.bounces.iter().map(|timed| timed.ends);
        let suspensions = self.admin.suspensions.iter().map(|timed| timed.ends);
        let ready = self.admin.ready_suspensions.iter().map(|timed| timed.ends);
        let first = bounces.chain(suspensions).chain(ready).min().unwrap_or(NEVER);
        self.timers.move_to(&mut self.admin.armed, first, Timer::Admin);
    }

    pub(super) fn admin_timer(&mut self) {
        let now = self.now.mono;
        self.admin.bounces.retain(|timed| timed.ends > now);
        self.admin.suspensions.retain(|timed| timed.ends > now);
        self.admin.ready_suspensions.retain(|timed| timed.ends > now);
        self.list_blocked(|block| matches!(block, Block::Suspended { .. }));
        self.lift_ready_suspensions();
        self.arm_admin();
    }

    /// Everything that policy answered is asked for anew.
    fn bump_epoch(&mut self) {
        let now = self.now.mono;
        let queues: Vec<QueueHandle> = self.queues.iter().map(|(handle, _)| handle).collect();
        for queue in queues {
            self.queues[queue].config.good_until = now;
            self.list_scheduled(queue);
        }
        self.pools.values_mut().for_each(|pool| pool.resolved.good_until = now);
        let ready: Vec<ReadyHandle> = self.ready.iter().map(|(handle, _)| handle).collect();
        for handle in ready {
            self.ready[handle].path.good_until = now;
            self.list_ready(handle);
        }
    }
}

fn remove<T>(entries: &mut Vec<Timed<T>>, wanted: impl Fn(&T) -> bool) -> bool {
    let before = entries.len();
    entries.retain(|timed| !wanted(&timed.entry));
    entries.len() < before
}

fn cancelled(found: bool) -> AdminReply {
    if found { AdminReply::Done } else { AdminReply::UnknownId }
}
