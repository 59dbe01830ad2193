//! The room on the file system of one folder: its disk guard (`core::health`), and what was free when it was last looked at. Invariant: each
//! edge is logged once. When it is looked at is [`super::watch`]'s.
use crate::shared::lock;
use kumo_core::health::{DiskGuard, Edge, Threshold};
use kumo_core::port::FreeSpace;
use std::sync::Mutex;

/// A folder that mail needs room in, and how much.
#[derive(Clone, Debug)]
pub struct GuardedFolder {
    pub path: String,
    pub min_free_space: Threshold,
    pub min_free_inodes: Threshold,
}

/// A guarded folder as metrics and `kcli spool-health` show it.
#[derive(Clone, Debug)]
pub struct FolderReport {
    pub path: String,
    /// Zeros until it has been looked at.
    pub free: FreeSpace,
    pub is_full: bool,
}

pub(super) struct Room {
    pub path: String,
    state: Mutex<State>,
}

struct State {
    guard: DiskGuard,
    free: FreeSpace,
    /// Why it isn't known, as it was last said.
    unknown: Option<String>,
}

impl Room {
    pub fn new(folder: GuardedFolder) -> Room {
        let guard = DiskGuard::new(folder.min_free_space, folder.min_free_inodes);
        Room {
            path: folder.path,
            state: Mutex::new(State { guard, free: FreeSpace::default(), unknown: None }),
        }
    }

    pub fn sample(&self, look: Result<FreeSpace, &str>) {
        let mut state = lock(&self.state);
        let path = &self.path;
        let free = match look {
            Ok(free) => free,
            Err(why) if state.unknown.as_deref() == Some(why) => return,
            Err(why) => {
                tracing::error!("the room at {path} isn't known: {why}");
                state.unknown = Some(why.into());
                return;
            }
        };
        (state.free, state.unknown) = (free, None);
        let FreeSpace { octets, inodes, .. } = free;
        match state.guard.sample(free) {
            Some(Edge::Entered) => tracing::error!(
                "{path}: {octets} octets and {inodes} inodes are free, which is below min_free_space or min_free_inodes: no mail is \
                 taken until there is more room"
            ),
            Some(Edge::Left) => {
                tracing::info!(
                    "{path}: has recovered: {octets} octets and {inodes} inodes are free"
                );
            }
            None => {}
        }
    }

    pub fn is_full(&self) -> bool {
        lock(&self.state).guard.is_over()
    }

    pub fn report(&self) -> FolderReport {
        let state = lock(&self.state);
        FolderReport { path: self.path.clone(), free: state.free, is_full: state.guard.is_over() }
    }
}
