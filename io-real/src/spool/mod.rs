//! The `Spool` port over the real world: RocksDB or plain files, chosen by the policy for data and for meta.
//! Invariant: where data and meta share a path and RocksDB, they are two families of one database, and a batch that
//! touches both is one; else each has a store of its own, and a batch goes to data before meta, removals the
//! other way round, so that what a crash leaves in between is data without meta and never meta without data.
mod directory;
mod local_disk;
mod lock;
mod rocks;
mod store;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use kumo_core::config::service::{SpoolDefinition, SpoolKind};
use kumo_core::id::SpoolId;
use kumo_core::port::{
    Family, FreeSpace, ScanPage, Spool, SpoolError, SpoolErrorKind, SpoolOperation,
    SpoolProperties, SyncMode,
};
use local_disk::LocalDisk;
use rocks::Rocks;
use std::fs;
use std::path::{Path, PathBuf};
use store::{Gap, ScanRequest, Store, io_error};

pub enum RealSpool {
    /// One database for both families.
    Shared(SharedSpool),
    Split(SplitSpool),
}

/// Data and meta in one store.
pub struct SharedSpool(Store);

/// Data and meta each in its own.
pub struct SplitSpool {
    data: Store,
    meta: Store,
}

impl RealSpool {
    /// Blocks for as long as the stores need to recover.
    pub fn open(data: &SpoolDefinition, meta: &SpoolDefinition) -> Result<RealSpool, SpoolError> {
        let data_path = prepared(data)?;
        let meta_path = prepared(meta)?;
        if data_path != meta_path {
            let data = open_store(data, &data_path, Family::Data)?;
            let meta = open_store(meta, &meta_path, Family::Meta)?;
            return Ok(RealSpool::Split(SplitSpool { data, meta }));
        }
        match (data.kind, meta.kind) {
            (SpoolKind::RocksDB, SpoolKind::RocksDB) => {
                let families = vec![
                    (Family::Data, data.rocks_params.clone()),
                    (Family::Meta, meta.rocks_params.clone()),
                ];
                let store = Store::new(&data_path, Rocks::open(&data_path, families)?)?;
                Ok(RealSpool::Shared(SharedSpool(store)))
            }
            (SpoolKind::LocalDisk, SpoolKind::LocalDisk) => {
                Ok(RealSpool::Split(SplitSpool {
                    data: open_below(data, &data_path, Family::Data)?,
                    meta: open_below(meta, &meta_path, Family::Meta)?,
                }))
            }
            _ => Err(mixed(&data_path)),
        }
    }

    /// What was found damaged, and passed over, when the stores were opened; also when opened again.
    pub fn damage_at_open(&self) -> Vec<String> {
        self.stores().into_iter().flat_map(Store::damage_at_open).collect()
    }
}

/// The directory, made and tried out, under its one true name.
fn prepared(definition: &SpoolDefinition) -> Result<PathBuf, SpoolError> {
    let path = Path::new(&definition.path);
    directory::prepare(path)?;
    fs::canonicalize(path).map_err(|error| io_error(path, "finding its real name", &error))
}
