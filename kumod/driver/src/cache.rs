//! Messages kept in memory after reception, so that the normal delivery never reads the disk.
//! Invariant: at most the budget, oldest out first; what is dropped here is in the spool. No I/O.
use crate::counters::Counters;
use crate::shared::lock;
use kumo_core::id::SpoolId;
use kumo_core::message::Message;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// What a message costs beyond its body: envelope, metadata, bookkeeping.
const OVERHEAD_OCTETS: usize = 1024;

#[derive(Default)]
struct Inner {
    messages: HashMap<SpoolId, Arc<Message>>,
    /// Oldest first; ids that are no longer in `messages` are stale.
    order: VecDeque<SpoolId>,
    octets: usize,
}

pub(crate) struct MessageCache {
    inner: Mutex<Inner>,
    budget: usize,
}

fn cost(message: &Message) -> usize {
    message.body.len() + OVERHEAD_OCTETS
}

impl Inner {
    fn remove(&mut self, id: SpoolId) -> Option<Arc<Message>> {
        let message = self.messages.remove(&id)?;
        self.octets -= cost(&message);
        Some(message)
    }

    fn forget_stale(&mut self) {
        if self.order.len() > 2 * self.messages.len() + 64 {
            let messages = &self.messages;
            self.order.retain(|id| messages.contains_key(id));
        }
    }
}

impl MessageCache {
    pub fn new(budget: usize) -> MessageCache {
        MessageCache { inner: Mutex::default(), budget }
    }

    /// Keeps a message that is in the spool, in the place of what was kept of it.
    pub fn insert(&self, message: Arc<Message>, counters: &Counters) {
        let mut inner = lock(&self.inner);
        let id = message.id;
        if inner.remove(id).is_none() {
            inner.order.push_back(id);
        }
        inner.octets += cost(&message);
        inner.messages.insert(id, message);
        while inner.octets > self.budget {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.remove(oldest);
        }
        inner.forget_stale();
        counters.body_cache_octets.set(inner.octets as u64);
        counters.body_cache_messages.set(inner.messages.len() as u64);
    }

    pub fn get(&self, id: SpoolId) -> Option<Arc<Message>> {
        lock(&self.inner).messages.get(&id).cloned()
    }

    pub fn remove(&self, id: SpoolId) {
        let mut inner = lock(&self.inner);
        inner.remove(id);
        inner.forget_stale();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    #[test]
    fn the_oldest_leave_first_and_the_budget_holds() {
        let cache = MessageCache::new(3 * (OVERHEAD_OCTETS + 100));
        let counters = Counters::default();
        let messages: Vec<Arc<Message>> = (0..5).map(|n| Arc::new(message(n, 100))).collect();
        messages.iter().for_each(|message| cache.insert(message.clone(), &counters));
        let kept: Vec<bool> = messages.iter().map(|m| cache.get(m.id).is_some()).collect();
        assert_eq!(kept, [false, false, true, true, true]);
        cache.insert(messages[2].clone(), &counters);
        assert_eq!(counters.body_cache_messages.get(), 3);
        messages.iter().for_each(|message| cache.remove(message.id));
        assert_eq!(lock(&cache.inner).octets, 0);
    }

    #[test]
    fn coming_and_going_leaves_nothing_behind() {
        let cache = MessageCache::new(1 << 20);
        let counters = Counters::default();
        for n in 0..10_000 {
            let message = Arc::new(message(n, 10));
            cache.insert(message.clone(), &counters);
            cache.remove(message.id);
        }
        assert!(lock(&cache.inner).order.len() < 200);
    }
}
