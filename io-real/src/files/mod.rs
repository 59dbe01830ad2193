//! The `Files` port: maildir deliveries and the engine's journal.
//!
//! Invariant: a call that was dropped goes on to its end on its own thread, so no file is left half-handled.
//! Names the file in every error. Decides neither what is delivered nor when a journal is cut.
mod journal;
mod maildir;
#[cfg(test)]
mod tests;

use crate::folder;
use journal::Journal;
use kumo_core::port::{Files, FreeSpace, MaildirDelivery};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::spawn_blocking;

/// Files of this machine.
pub struct RealFiles {
    hostname: Arc<str>,
    journal: Option<Arc<Mutex<Journal>>>,
}

impl RealFiles {
    /// `hostname` becomes part of maildir names. Without a journal directory, no journal is kept: what is
    /// appended to it is dropped.
    pub fn new(hostname: &str, journal_directory: Option<PathBuf>) -> RealFiles {
        let journal = journal_directory.map(|path| Arc::new(Mutex::new(Journal::new(path))));
        RealFiles { hostname: hostname.into(), journal }
    }

    async fn with_journal<T: Default + Send + 'static>(
        &self,
        work: impl FnOnce(&mut Journal) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let Some(journal) = self.journal.clone() else { return Ok(T::default()) };
        on_a_thread(move || work(&mut journal.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

impl Files for RealFiles {
    async fn deliver_to_maildir(&self, delivery: MaildirDelivery) -> Result<String, String> {
        let hostname = self.hostname.clone();
        on_a_thread(move || maildir::deliver(&delivery, &hostname)).await
    }

    async fn append_to_journal(&self, segment: u64, data: Vec<u8>) -> Result<(), String> {
        self.with_journal(move |journal| journal.append(segment, &data)).await
    }

    async fn newest_journal_segment(&self) -> Result<u64, String> {
        self.with_journal(|journal| journal.newest()).await
    }

    async fn free_space(&self, path: &str) -> Result<FreeSpace, String> {
        let path = PathBuf::from(path);
        on_a_thread(move || {
            folder::free_space(&path).map_err(explain("asking for the free space of", &path))
        })
        .await
    }

    async fn trim_journal(&self, oldest_kept: u64) -> Result<(), String> {
        self.with_journal(move |journal| journal.trim(oldest_kept)).await
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(stopped) => Err(format!("file system work was given up: {stopped}")),
        },
    }
}

/// What was tried with which file, and what the file system said.
fn explain(tried: &str, path: &Path) -> impl FnOnce(io::Error) -> String {
    move |error| format!("{tried} {}: {error}", path.display())
}
