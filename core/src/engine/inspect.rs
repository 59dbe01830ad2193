//! A ready queue from inside: what it is made of, what holds it back and since when, and its sessions. Reads only; what a session does is its
//! driver's to tell.
use super::model::{Place, Session, SessionState, Tally};
use super::{Engine, Held, Hosts, ReadySuspension};
use crate::config::EgressPath;
use crate::config::queue::DeliveryProtocol;
use crate::id::{SessionId, SpoolId};
use crate::time::Wall;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

#[derive(Clone, Debug, PartialEq)]
pub struct ReadyInspection {
    pub name: Arc<str>,
    pub site: Arc<str>,
    pub hosts: Arc<Hosts>,
    pub protocol: Arc<DeliveryProtocol>,
    pub source: String,
    pub pool: Arc<str>,
    pub ready: u64,
    pub in_flight: u64,
    /// What holds it back, and since when.
    pub held: Option<(Held, Wall)>,
    pub suspension: Option<ReadySuspension>,
    /// `None`: policy hasn't said it yet.
    pub path: Option<Arc<EgressPath>>,
    /// The oldest first.
    pub sessions: Vec<SessionSummary>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SessionSummary {
    pub session: SessionId,
    pub tally: Tally,
    pub is_idle: bool,
}

impl Engine {
    /// `None`: there is no such queue.
    pub fn inspect_ready(&self, name: &str) -> Option<ReadyInspection> {
        let handle = *self.ready_by_name.get(name)?;
        let ready = &self.ready[handle];
        Some(ReadyInspection {
            name: ready.name.clone(),
            site: ready.site.clone(),
            hosts: ready.hosts.clone(),
            protocol: ready.protocol.clone(),
            source: ready.source.name.as_ref().into(),
            pool: ready.pool.clone(),
            ready: ready.messages.len() as u64,
            in_flight: ready.in_flight,
            held: ready.held.clone().map(|held| (held, self.wall(ready.held_since))),
            suspension: ready.suspension.as_ref().map(|timed| timed.entry.clone()),
            path: ready.path.value.clone(),
            sessions: ready.sessions.iter().map(|session| self.session_summary(*session)).collect(),
        })
    }

    /// The sessions that a message waits for: the one that has it, or those of the ready queue in whose line it stands.
    pub fn sessions_of_message(&self, id: SpoolId) -> Vec<SessionId> {
        let Some(handle) = self.message_by_id.get(&id).copied() else { return Vec::new() };
        match self.messages[handle].place {
            Place::Ready(ready) => self.ready[ready].sessions.clone(),
            Place::InFlight => {
                let has_it = |session: &Session| match &session.state {
                    SessionState::Busy { message, .. } => *message == handle,
                    SessionState::BusyWithBatch { batch, .. } => {
                        batch.iter().any(|(message, _)| *message == handle)
                    }
                    _ => false,
                };
                let sessions = self.sessions.iter().filter(|(_, session)| has_it(session));
                sessions.map(|(id, _)| *id).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Of a ready queue, the oldest first; none if there is no such queue.
    pub fn sessions_of_ready(&self, name: &str) -> Vec<SessionId> {
        let found = self.ready_by_name.get(name);
        found.map_or(Vec::new(), |ready| self.ready[*ready].sessions.clone())
    }

    /// Scheduled queues that may use a ready queue, by name. Goes through all of them.
    pub fn queues_of_ready(&self, name: &str) -> Vec<String> {
        let Some(handle) = self.ready_by_name.get(name).copied() else { return Vec::new() };
        let has_route = |queue: &super::model::ScheduledQueue| {
            queue.routes.iter().any(|route| route.ready == handle)
        };
        let queues = self.queues.iter().filter(|(_, queue)| has_route(queue));
        let mut names: Vec<String> = queues.map(|(_, queue)| queue.name.as_ref().into()).collect();
        names.sort_unstable();
        names
    }

    fn session_summary(&self, session: SessionId) -> SessionSummary {
        let Session { tally, state, .. } = &self.sessions[&session];
        SessionSummary { session, tally: *tally, is_idle: *state == SessionState::Idle }
    }
}
