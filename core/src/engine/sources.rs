//! Egress sources as the engine sees them: their health, and what a suspension means for the mail that would leave by them.
//! Invariant: while a source is suspended, its ready queues hold nothing and open nothing, and its timer is armed for the end; what
//! can leave another way does so at once. When a source is suspended is [`crate::source_health`]'s to say.
use super::model::*;
use super::timers::{NEVER, Timer};
use super::{AdminReply, Engine, Output, ResolvedPool};
use crate::config::EgressSource;
use crate::id::SessionId;
use crate::limits;
use crate::marks::{Mark, reached};
use crate::source_health::{SourceEdge, SourceFailure, SourceHealth, Suspension};
use crate::time::{Duration, Mono};
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Between two searches for sources that nothing uses.
const SCAN_AGAIN: Duration = Duration::from_secs(60);

pub(super) type SourceHandle = super::arena::Handle<Source>;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Source {
    pub name: Arc<str>,
    /// As the last ready queue was made with it.
    pub config: Arc<EgressSource>,
    pub health: SourceHealth,
    /// For the end of its suspension.
    pub armed: Mono,
}

impl Source {
    pub fn suspension(&self) -> Option<Suspension> {
        self.health.suspension()
    }
}

impl Engine {
    /// Finds or makes it; `None`: there are too many.
    pub(super) fn source(&mut self, config: &Arc<EgressSource>) -> Option<SourceHandle> {
        if let Some(found) = self.source_by_name.get(&*config.name) {
            self.sources[*found].config = config.clone();
            return Some(*found);
        }
        if self.sources.len() >= limits::SOURCES {
            self.forget_unused_sources();
        }
        if self.sources.len() >= limits::SOURCES {
            return None;
        }
        let name: Arc<str> = config.name.as_ref().into();
        let source = Source {
            name: name.clone(),
            config: config.clone(),
            health: SourceHealth::default(),
            armed: NEVER,
        };
        let handle = self.sources.insert(source);
        self.source_by_name.insert(name, handle);
        Some(handle)
    }

    /// Goes through all there is, so not again at once if it was in vain.
    fn forget_unused_sources(&mut self) {
        if self.now.mono < self.sources_full_until {
            return;
        }
        self.sources_full_until = self.now.mono + SCAN_AGAIN;
        let mut used: Vec<SourceHandle> = self.ready.iter().map(|(_, ready)| ready.of).collect();
        let routes = self.queues.iter().flat_map(|(_, queue)| &queue.routes);
        used.extend(routes.map(|route| route.of));
        used.sort_unstable();
        let is_unused = |handle: &SourceHandle| used.binary_search(handle).is_err();
        let all = self.sources.iter();
        let unused = all.filter(|(_, source)| source.suspension().is_none());
        let unused: Vec<SourceHandle> =
            unused.map(|(handle, _)| handle).filter(is_unused).collect();
        for handle in unused {
            let source = self.sources.remove(handle);
            self.source_by_name.remove(&source.name);
        }
    }

    pub(super) fn source_failed(&mut self, session: SessionId, failure: SourceFailure) {
        // Fenced meanwhile: what it says has no meaning any more.
        let Some(session) = self.sessions.get(&session) else { return };
        let handle = self.ready[session.ready].of;
        let source = &mut self.sources[handle];
        let rule = match failure {
            SourceFailure::Unplumbed => source.config.suspend_when_unplumbed,
            SourceFailure::ProxyUnhealthy => source.config.suspend_when_proxy_unhealthy,
        };
        let Some(edge) = source.health.failed(self.now.mono, failure, rule.as_ref()) else {
            return;
        };
        reached(Mark::SourceSuspended);
        self.tell_source_edge(handle, edge);
        self.arm_source(handle);
        for ready in self.ready_queues_of(handle) {
            self.clear_out(ready);
        }
    }

    fn tell_source_edge(&mut self, handle: SourceHandle, edge: SourceEdge) {
        let source = self.sources[handle].name.clone();
        self.outputs.push_back(Output::SourceChanged { source, edge });
    }

    fn arm_source(&mut self, handle: SourceHandle) {
        let source = &mut self.sources[handle];
        let ends = source.suspension().map_or(NEVER, |suspension| suspension.ends);
        self.timers.move_to(&mut source.armed, ends, Timer::Source(handle));
    }

    fn ready_queues_of(&self, source: SourceHandle) -> Vec<ReadyHandle> {
        let of = self.ready.iter().filter(|(_, ready)| ready.of == source);
        of.map(|(handle, _)| handle).collect()
    }

    /// Its messages may have another way out, and what it is opening leads nowhere. Who waits for room in it waits for something else now.
    fn clear_out(&mut self, ready: ReadyHandle) {
        for session in self.ready[ready].sessions.clone() {
            if self.sessions[&session].state == SessionState::Opening {
                self.close_session(session);
            }
        }
        self.give_back_all(ready);
        self.call_up_all(ready);
    }

    pub(super) fn source_timer(&mut self, handle: SourceHandle) {
        if let Some(edge) = self.sources[handle].health.expire(self.now.mono) {
            self.source_is_back(handle, edge);
        }
        self.arm_source(handle);
    }

    pub(super) fn resume_source(&mut self, name: &str) -> AdminReply {
        let Some(handle) = self.source_by_name.get(name).copied() else {
            return AdminReply::UnknownId;
        };
        let Some(edge) = self.sources[handle].health.resume() else { return AdminReply::UnknownId };
        self.source_is_back(handle, edge);
        self.arm_source(handle);
        AdminReply::Done
    }

    fn source_is_back(&mut self, handle: SourceHandle, edge: SourceEdge) {
        self.tell_source_edge(handle, edge);
        self.forget_old_pools_with(handle);
        for ready in self.ready_queues_of(handle) {
            self.ready[ready].consecutive_failures = 0;
            self.list_ready(ready);
        }
        self.list_blocked(Block::is_for_want_of_a_way_out);
    }

    /// What was wrong with the source may have been corrected in policy meanwhile: to try it once more as it was would suspend it once more.
    fn forget_old_pools_with(&mut self, handle: SourceHandle) {
        let (name, now) = (self.sources[handle].name.clone(), self.now.mono);
        let has_it = |pool: &ResolvedPool| pool.sources.iter().any(|source| *source.name == *name);
        for pool in self.pools.values_mut() {
            if pool.resolved.is_old(now) && pool.resolved.value.as_deref().is_some_and(has_it) {
                pool.resolved.value = None;
            }
        }
    }
}
