//! What is to happen when. Invariant: two things due at one moment happen in the order in which they were put down.
use crate::options::Options;
use kumo_core::time::Duration;
use kumo_io_sim::fault::{FaultId, FaultKind};
use std::collections::BTreeMap;
use tokio::time::Instant;

#[derive(Debug)]
pub enum Action {
    /// The fault of that position in the options.
    Begin(usize),
    End(FaultId),
    /// Nothing that a fault began is under way any more.
    Over(FaultKind),
    Start,
    Resume,
    /// The order of that position in the options.
    Order(usize),
}

pub struct Agenda {
    began: Instant,
    actions: BTreeMap<(Duration, u64), Action>,
    next: u64,
}

impl Agenda {
    pub fn of(options: &Options) -> Agenda {
        let mut agenda = Agenda { began: Instant::now(), actions: BTreeMap::new(), next: 0 };
        for (index, fault) in options.fault.iter().enumerate() {
            agenda.add(fault.at, Action::Begin(index));
        }
        for (index, order) in options.order.iter().enumerate() {
            agenda.add(order.at, Action::Order(index));
        }
        agenda
    }

    fn add(&mut self, at: Duration, action: Action) {
        self.actions.insert((at, self.next), action);
        self.next += 1;
    }

    /// So long from now.
    pub fn add_now(&mut self, wait: Duration, action: Action) {
        self.add(self.began.elapsed() + wait, action);
    }

    /// When the next thing is due.
    pub fn next(&self) -> Option<Instant> {
        self.actions.keys().next().map(|(at, _)| self.began + *at)
    }

    pub fn due(&mut self, now: Duration) -> Option<Action> {
        let first = *self.actions.keys().next()?;
        if first.0 > now.min(self.began.elapsed()) {
            return None;
        }
        self.actions.remove(&first)
    }

    /// No fault begins or ends any more; what the node needs stays.
    pub fn clear_faults(&mut self) {
        self.actions.retain(|_, action| matches!(action, Action::Start | Action::Resume));
    }
}
