//! The `Spool` port over the real world: RocksDB or plain files, chosen by the policy for data and for meta.
//! Invariant: where data and meta share a path and RocksDB, they are two families of one database, and a batch that
//! touches both is one; else each has a store of its own, and a batch goes to data before meta, removals the
//! other way round, so that what a crash leaves in between is data without meta and never meta without data. Two
//! stores are opened only as the pair they are.
mod directory;
mod local_disk;
mod lock;
pub mod offline;
mod pair;
mod rocks;
mod store;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use kumo_core::config::service::{SpoolDefinition, SpoolKind};
use kumo_core::id::SpoolId;
use kumo_core::port::{
    Damage, Family, FreeSpace, ScanPage, Spool, SpoolError, SpoolErrorKind, SpoolOperation,
    SpoolProperties, SyncMode,
};
use local_disk::LocalDisk;
use pair::Half;
use rocks::Rocks;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
pub use store::MemoryBudget;
use store::{Gap, Purpose, ScanRequest, Scanned, Store, io_error};

/// Ids that are asked for at a time while filling a gap.
const GAP_IDS: usize = 256;

/// The store or stores of one kumod.
pub struct RealSpool {
    layout: Layout,
}

enum Layout {
    /// One database for both families.
    Shared(Store),
    Split {
        data: Store,
        meta: Store,
    },
}

impl RealSpool {
    /// Blocks for as long as the stores need to recover.
    pub fn open(data: &SpoolDefinition, meta: &SpoolDefinition) -> Result<RealSpool, SpoolError> {
        let data_path = prepared(data)?;
        let meta_path = prepared(meta)?;
        let layout = if data_path != meta_path {
            open_pair((data, &data_path), (meta, &meta_path))?
        } else {
            open_at_one_path(data, meta, &data_path)?
        };
        Ok(RealSpool { layout })
    }

    /// What was found damaged, and passed over, when the stores were opened; also when opened again. Where they are one, it is meta's.
    pub fn damage_at_open(&self) -> Vec<(Family, String)> {
        let of = |store: &Store, family| {
            let found = store.found();
            let lines = [found.log_damage, found.table_damage].concat();
            lines.into_iter().map(move |line| (family, line))
        };
        match &self.layout {
            Layout::Shared(store) => of(store, Family::Meta).collect(),
            Layout::Split { data, meta } => {
                of(data, Family::Data).chain(of(meta, Family::Meta)).collect()
            }
        }
    }

    /// Of all stores together.
    pub fn memory_budget(&self) -> MemoryBudget {
        let (one, other) = self.stores();
        let (one, other) =
            (one.memory_budget(), other.map(Store::memory_budget).unwrap_or_default());
        MemoryBudget {
            memtables: one.memtables + other.memtables,
            block_cache: one.block_cache + other.block_cache,
        }
    }

    fn stores(&self) -> (&Store, Option<&Store>) {
        match &self.layout {
            Layout::Shared(store) => (store, None),
            Layout::Split { data, meta } => (data, Some(meta)),
        }
    }

    fn store(&self, family: Family) -> &Store {
        match (&self.layout, family) {
            (Layout::Shared(store), _) => store,
            (Layout::Split { data, .. }, Family::Data) => data,
            (Layout::Split { meta, .. }, Family::Meta) => meta,
        }
    }

    /// In a gap the order is lost, not every record: the other family knows the ids, and most of what the damaged
    /// block isn't asked for can still be had one by one. What can't is named.
    async fn fill_gap(
        &self,
        page: &mut ScanPage,
        gap: Gap,
        request: ScanRequest,
    ) -> Result<(), SpoolError> {
        let family = other(request.family);
        let mut room = request.limit.max(1).saturating_sub(page.entries.len());
        let mut from = gap.first;
        loop {
            // One more than there is room for shows where to go on.
            let limit = room.saturating_add(1).min(GAP_IDS);
            let ids = ScanRequest { family, from: Some(from), limit, keys_only: true };
            let found = self.store(family).scan(ids).await?.page;
            page.damaged.extend(found.damaged);
            for (id, _) in found.entries {
                if gap.end.is_some_and(|end| id >= end) {
                    return Ok(());
                }
                if room == 0 {
                    page.next = Some(id);
                    return Ok(());
                }
                room -= 1;
                self.read_in_gap(page, id, request).await?;
            }
            match found.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    async fn read_in_gap(
        &self,
        page: &mut ScanPage,
        id: SpoolId,
        request: ScanRequest,
    ) -> Result<(), SpoolError> {
        match self.store(request.family).get(request.family, id).await {
            Ok(None) => {}
            Ok(Some(_)) if request.keys_only => page.entries.push((id, Bytes::new())),
            Ok(Some(value)) => page.entries.push((id, value)),
            Err(error) if is_damage(&error) => {
                let text = format!("{id} can't be read: {error}");
                page.damaged.push(Damage { family: request.family, id: Some(id), text });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Spool for RealSpool {
    fn is_atomic_across_families(&self) -> bool {
        matches!(self.layout, Layout::Shared(_))
    }

    fn may_lack_records(&self) -> bool {
        let (one, other) = self.stores();
        one.may_lack_records() || other.is_some_and(Store::may_lack_records)
    }

    /// In two stores, synced makes durable what was applied before to the families that the batch touches.
    async fn apply(&self, batch: Vec<SpoolOperation>, sync: SyncMode) -> Result<(), SpoolError> {
        let Layout::Split { data, meta } = &self.layout else {
            return self.store(Family::Meta).apply(batch, sync).await;
        };
        let stages = Stages::of(batch);
        if !stages.before.is_empty() {
            data.apply(stages.before, sync).await?;
        }
        if !stages.meta.is_empty() {
            meta.apply(stages.meta, sync).await?;
        }
        if !stages.after.is_empty() {
            data.apply(stages.after, sync).await?;
        }
        Ok(())
    }

    async fn sync(&self, family: Family) -> Result<(), SpoolError> {
        self.store(family).sync().await
    }

    async fn get(&self, family: Family, key: SpoolId) -> Result<Option<Bytes>, SpoolError> {
        self.store(family).get(family, key).await
    }

    async fn scan(
        &self,
        family: Family,
        from: Option<SpoolId>,
        limit: usize,
        keys_only: bool,
    ) -> Result<ScanPage, SpoolError> {
        let request = ScanRequest { family, from, limit, keys_only };
        let Scanned { mut page, gap } = self.store(family).scan(request).await?;
        if let Some(gap) = gap {
            self.fill_gap(&mut page, gap, request).await?;
        }
        Ok(page)
    }

    async fn compact(&self, family: Family) -> Result<(), SpoolError> {
        self.store(family).compact(family).await
    }

    fn properties(&self, family: Family) -> SpoolProperties {
        self.store(family).properties(family)
    }

    async fn free_space(&self, family: Family) -> Result<FreeSpace, SpoolError> {
        self.store(family).free_space().await
    }

    async fn reopen(&self, family: Family) -> Result<(), SpoolError> {
        self.store(family).reopen().await
    }

    async fn close(&self) -> Result<(), SpoolError> {
        match &self.layout {
            Layout::Shared(store) => store.close().await,
            Layout::Split { data, meta } => both(tokio::join!(data.close(), meta.close())),
        }
    }
}

/// A batch for two stores, in the order that never leaves meta without data. The committer stages its batches itself,
/// so that none of its touches both families; but the port takes such a batch from anybody, and its conformance suite
/// sends some.
#[derive(Default)]
struct Stages {
    before: Vec<SpoolOperation>,
    meta: Vec<SpoolOperation>,
    after: Vec<SpoolOperation>,
}

impl Stages {
    fn of(batch: Vec<SpoolOperation>) -> Stages {
        let mut stages = Stages::default();
        let (meta, data): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|operation| operation.family() == Family::Meta);
        if meta.is_empty() {
            return Stages { before: data, ..stages };
        }
        stages.meta = meta;
        // Of several operations on one key the last one counts, so that puts and removals may part.
        let mut last = BTreeMap::new();
        for operation in data {
            let (SpoolOperation::Put { key, .. } | SpoolOperation::Delete { key, .. }) = &operation;
            last.insert(*key, operation);
        }
        for operation in last.into_values() {
            match operation {
                SpoolOperation::Put { .. } => stages.before.push(operation),
                SpoolOperation::Delete { .. } => stages.after.push(operation),
            }
        }
        stages
    }
}

fn both(results: (Result<(), SpoolError>, Result<(), SpoolError>)) -> Result<(), SpoolError> {
    results.0.and(results.1)
}

fn other(family: Family) -> Family {
    match family {
        Family::Data => Family::Meta,
        Family::Meta => Family::Data,
    }
}

fn is_damage(error: &SpoolError) -> bool {
    matches!(error.kind, SpoolErrorKind::Corruption | SpoolErrorKind::Io)
}

fn open_pair(
    (data, data_path): (&SpoolDefinition, &Path),
    (meta, meta_path): (&SpoolDefinition, &Path),
) -> Result<Layout, SpoolError> {
    pair::check(
        Half { kind: data.kind, path: data_path },
        Half { kind: meta.kind, path: meta_path },
    )?;
    Ok(Layout::Split {
        data: open_store(data, data_path, Family::Data)?,
        meta: open_store(meta, meta_path, Family::Meta)?,
    })
}

fn open_store(
    definition: &SpoolDefinition,
    path: &Path,
    family: Family,
) -> Result<Store, SpoolError> {
    match definition.kind {
        SpoolKind::LocalDisk => Store::new(path, LocalDisk::open(path)?),
        SpoolKind::RocksDB => {
            let families = vec![(family, definition.rocks_params.clone())];
            Store::new(path, Rocks::open(path, families, Purpose::Serve)?)
        }
    }
}

fn open_at_one_path(
    data: &SpoolDefinition,
    meta: &SpoolDefinition,
    path: &Path,
) -> Result<Layout, SpoolError> {
    pair::check_not_half(path)?;
    match (data.kind, meta.kind) {
        (SpoolKind::RocksDB, SpoolKind::RocksDB) => {
            let families = vec![
                (Family::Data, data.rocks_params.clone()),
                (Family::Meta, meta.rocks_params.clone()),
            ];
            let rocks = Rocks::open(path, families, Purpose::Serve)?;
            Ok(Layout::Shared(Store::new(path, rocks)?))
        }
        (SpoolKind::LocalDisk, SpoolKind::LocalDisk) => {
            let below = [path.join("data"), path.join("meta")];
            below.iter().try_for_each(|path| directory::prepare(path))?;
            open_pair((data, &below[0]), (meta, &below[1]))
        }
        _ => {
            let text = format!(
                "data and meta share the path {}, so they have to be of one kind; give both the \
                 same kind, or each its own path",
                path.display()
            );
            Err(SpoolError { kind: SpoolErrorKind::Other, text })
        }
    }
}

/// The directory, made and tried out, under its one true name.
fn prepared(definition: &SpoolDefinition) -> Result<PathBuf, SpoolError> {
    let path = Path::new(&definition.path);
    directory::prepare(path)?;
    fs::canonicalize(path).map_err(|error| io_error(path, "finding its real name", &error))
}
