//! The asynchronous face of a blocking store: one OS thread does all that changes it, in order; reads run on tokio's
//! blocking threads, a bounded number at a time.
//! Invariant: a change that reached the writer's queue is carried out whether or not anybody still waits for it.
//! Dropping a [`Store`] lets its writer finish and end by itself; `close` is the way to be sure that it has.
use crate::folder;
use bytes::Bytes;
use kumo_core::id::SpoolId;
use kumo_core::limits;
use kumo_core::port::{
    Family, FreeSpace, ScanPage, SpoolError, SpoolErrorKind, SpoolOperation, SpoolProperties,
    SyncMode,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};

#[derive(Clone, Copy, Debug)]
pub(super) struct ScanRequest {
    pub family: Family,
    pub from: Option<SpoolId>,
    pub limit: usize,
    pub keys_only: bool,
}

/// Keys that a scan couldn't read: from `first` up to `end`, exclusive; `None` is the end of all keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub first: SpoolId,
    pub end: Option<SpoolId>,
}

/// A page ends where a gap begins; its `next` is where the gap ends.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub page: ScanPage,
    pub gap: Option<Gap>,
}

/// A store whose calls block. `apply`, `sync`, `reopen`, `replace` and `close` come from one thread.
pub(super) trait Backend: Send + Sync + 'static {
    fn apply(&self, batch: &[SpoolOperation], sync: SyncMode) -> Result<(), SpoolError>;
    fn sync(&self) -> Result<(), SpoolError>;
    fn reopen(&self) -> Result<(), SpoolError>;
    fn close(&self) -> Result<(), SpoolError>;
    fn get(&self, family: Family, key: SpoolId) -> Result<Option<Bytes>, SpoolError>;
    fn scan(&self, request: ScanRequest) -> Result<Scanned, SpoolError>;
    fn compact(&self, family: Family) -> Result<(), SpoolError>;
    fn properties(&self, family: Family) -> SpoolProperties;
    fn found(&self) -> Found;
    fn may_lack_records(&self) -> bool;
    /// Keeps what a repair could lose, and says where; `None`: a repair loses nothing.
    fn keep_aside(&self) -> Result<Option<PathBuf>, SpoolError> {
        Ok(None)
    }
    /// An empty store that can take this one's place; `None`: damage is of single records here, and a new one no cure.
    fn begin_anew(&self) -> Result<Option<Arc<dyn Backend>>, SpoolError> {
        Ok(None)
    }
    /// What was begun anew has come to nothing.
    fn give_up_anew(&self) -> Result<(), SpoolError> {
        Ok(())
    }
    /// A repair found nothing in it that can't be read, or has put another in its place.
    fn is_well_again(&self) -> Result<(), SpoolError> {
        Ok(())
    }
    /// By the one that was begun anew, filled, and closed.
    fn replace(&self) -> Result<(), SpoolError> {
        Ok(())
    }
    fn memory_budget(&self) -> MemoryBudget {
        MemoryBudget::default()
    }
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Serve,
    /// Changes nothing in the directory but the pid in the lock file.
    Check,
    /// As for serving, but no table is compacted.
    Repair,
}

/// What was found when a store was opened, also when opened again. Each is a line for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// No damage, but good to know. Those of files come from scans.
    pub notes: Vec<String>,
    /// Of write-ahead logs, and of the log of changes that RocksDB calls MANIFEST.
    pub log_damage: Vec<String>,
    pub table_damage: Vec<String>,
}

/// What a store keeps in memory at most, in octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBudget {
    pub memtables: u64,
    pub block_cache: u64,
}

enum Task {
    Apply(Vec<SpoolOperation>, SyncMode),
    Sync,
    Reopen,
    Replace,
    Close,
}

struct Job {
    task: Task,
    reply: oneshot::Sender<Result<(), SpoolError>>,
}

pub(super) struct Store {
    directory: PathBuf,
    backend: Arc<dyn Backend>,
    jobs: mpsc::Sender<Job>,
    readers: Arc<Semaphore>,
}

impl Store {
    pub fn new(directory: &Path, backend: impl Backend) -> Result<Store, SpoolError> {
        Store::over(directory, Arc::new(backend))
    }

    fn over(directory: &Path, backend: Arc<dyn Backend>) -> Result<Store, SpoolError> {
        let (jobs, queue) = mpsc::channel(limits::SPOOL_JOBS);
        let writer = backend.clone();
        std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || write_jobs(&*writer, queue))
            .map_err(|error| io_error(directory, "starting the writer thread", &error))?;
        let readers = Arc::new(Semaphore::new(limits::SPOOL_READERS));
        Ok(Store { directory: directory.to_owned(), backend, jobs, readers })
    }

    pub async fn apply(
        &self,
        batch: Vec<SpoolOperation>,
        sync: SyncMode,
    ) -> Result<(), SpoolError> {
        self.submit(Task::Apply(batch, sync)).await
    }

    pub async fn sync(&self) -> Result<(), SpoolError> {
        self.submit(Task::Sync).await
    }

    pub async fn reopen(&self) -> Result<(), SpoolError> {
        self.submit(Task::Reopen).await
    }

    pub async fn keep_aside(&self) -> Result<Option<PathBuf>, SpoolError> {
        self.read(|backend| backend.keep_aside()).await
    }

    pub async fn begin_anew(&self) -> Result<Option<Store>, SpoolError> {
        let backend = self.read(|backend| backend.begin_anew()).await?;
        backend.map(|backend| Store::over(&self.directory, backend)).transpose()
    }

    pub async fn give_up_anew(&self) -> Result<(), SpoolError> {
        self.read(|backend| backend.give_up_anew()).await
    }

    pub async fn is_well_again(&self) -> Result<(), SpoolError> {
        self.read(|backend| backend.is_well_again()).await
    }

    pub async fn replace(&self) -> Result<(), SpoolError> {
        self.submit(Task::Replace).await
    }

    pub async fn close(&self) -> Result<(), SpoolError> {
        self.submit(Task::Close).await
    }

    pub async fn get(&self, family: Family, key: SpoolId) -> Result<Option<Bytes>, SpoolError> {
        self.read(move |backend| backend.get(family, key)).await
    }

    pub async fn scan(&self, request: ScanRequest) -> Result<Scanned, SpoolError> {
        self.read(move |backend| backend.scan(request)).await
    }

    pub async fn compact(&self, family: Family) -> Result<(), SpoolError> {
        self.read(move |backend| backend.compact(family)).await
    }

    pub async fn free_space(&self) -> Result<FreeSpace, SpoolError> {
        let directory = self.directory.clone();
        let asking = "asking for its free space";
        self.read(move |_| {
            folder::free_space(&directory).map_err(|error| io_error(&directory, asking, &error))
        })
        .await
    }

    pub fn properties(&self, family: Family) -> SpoolProperties {
        self.backend.properties(family)
    }

    pub fn memory_budget(&self) -> MemoryBudget {
        self.backend.memory_budget()
    }

    pub fn found(&self) -> Found {
        self.backend.found()
    }

    pub fn may_lack_records(&self) -> bool {
        self.backend.may_lack_records()
    }

    async fn submit(&self, task: Task) -> Result<(), SpoolError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.send(Job { task, reply }).await;
        sent.map_err(|_| closed(&self.directory))?;
        answer.await.map_err(|_| closed(&self.directory))?
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Backend) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let permit = self.readers.clone().acquire_owned().await;
        let permit = permit.expect("nobody closes the semaphore");
        let backend = self.backend.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let result = work(&*backend);
            drop(permit);
            result
        });
        reading.await.map_err(|_| closed(&self.directory))?
    }
}

/// Goes on after a close, until the store is dropped: a job sent while the queue is being dropped could stay in it for
/// ever, and its sender would wait as long.
fn write_jobs(backend: &dyn Backend, mut queue: mpsc::Receiver<Job>) {
    while let Some(Job { task, reply }) = queue.blocking_recv() {
        let result = match task {
            Task::Apply(batch, sync) => backend.apply(&batch, sync),
            Task::Sync => backend.sync(),
            Task::Reopen => backend.reopen(),
            Task::Replace => backend.replace(),
            Task::Close => backend.close(),
        };
        // Nobody waiting is fine: the change was made all the same.
        let _ = reply.send(result);
    }
}

pub(super) fn closed(directory: &Path) -> SpoolError {
    let text = format!("the spool at {} is closed", directory.display());
    SpoolError { kind: SpoolErrorKind::Closed, text }
}

/// What the file system said about doing `what` at `path`.
pub(super) fn io_error(path: &Path, what: &str, error: &std::io::Error) -> SpoolError {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let kind = match error.kind() {
        StorageFull | QuotaExceeded => SpoolErrorKind::NoSpace,
        _ => SpoolErrorKind::Io,
    };
    SpoolError { kind, text: format!("{}: {what}: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Does nothing but know whether it is closed.
    #[derive(Default)]
    struct Nothing(AtomicBool);

    impl Nothing {
        fn check(&self) -> Result<(), SpoolError> {
            match self.0.load(Ordering::Acquire) {
                true => Err(closed(Path::new("/nowhere"))),
                false => Ok(()),
            }
        }
    }

    impl Backend for Nothing {
        fn apply(&self, _: &[SpoolOperation], _: SyncMode) -> Result<(), SpoolError> {
            self.check()
        }
        fn sync(&self) -> Result<(), SpoolError> {
            self.check()
        }
        fn reopen(&self) -> Result<(), SpoolError> {
            self.check()
        }
        fn close(&self) -> Result<(), SpoolError> {
            self.check()?;
            self.0.store(true, Ordering::Release);
            Ok(())
        }
        fn get(&self, _: Family, _: SpoolId) -> Result<Option<Bytes>, SpoolError> {
            self.check().map(|()| None)
        }
        fn scan(&self, _: ScanRequest) -> Result<Scanned, SpoolError> {
            self.check().map(|()| Scanned::default())
        }
        fn compact(&self, _: Family) -> Result<(), SpoolError> {
            self.check()
        }
        fn properties(&self, _: Family) -> SpoolProperties {
            SpoolProperties::default()
        }
        fn found(&self) -> Found {
            Found::default()
        }
        fn may_lack_records(&self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn calls_that_race_with_closing_are_answered() {
        for _ in 0..3_000 {
            let store = Store::new(Path::new("/nowhere"), Nothing::default()).unwrap();
            store.apply(Vec::new(), SyncMode::Synced).await.unwrap();
            store.close().await.unwrap();
            for _ in 0..4 {
                let error = store.sync().await.unwrap_err();
                assert_eq!(error.kind, SpoolErrorKind::Closed);
            }
        }
    }
}
