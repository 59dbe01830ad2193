//! `kumo.define_spool` with its `rocks_params`, and `kumo.configure_local_logs` (seed.md 1.1, 1.2; core.md 7.3).
use crate::time::Duration;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpoolKind {
    LocalDisk,
    /// The default (D27).
    RocksDB,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpoolDefinition {
    pub name: String,
    pub path: String,
    pub kind: SpoolKind,
    /// Sync before acknowledging; true by default (D1).
    pub flush: bool,
    pub rocks_params: RocksParams,
}

/// Only what has an effect; the rest is in the option table. `None` leaves RocksDB's own default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RocksParams {
    pub increase_parallelism: Option<i32>,
    pub optimize_level_style_compaction: Option<u64>,
    pub optimize_universal_style_compaction: Option<u64>,
    /// `None` means true (D2).
    pub paranoid_checks: Option<bool>,
    /// `None`, `Lz4` or `Zstd`; others are refused.
    pub compression_type: Option<String>,
    pub compaction_readahead_size: Option<u64>,
    pub level_compaction_dynamic_level_bytes: Option<bool>,
    pub max_open_files: Option<i32>,
    pub write_buffer_size: Option<u64>,
    pub level0_stop_writes_trigger: Option<i32>,
    pub log_level: Option<String>,
    pub memtable_huge_page_size: Option<u64>,
    pub log_file_time_to_roll: Option<Duration>,
    pub obsolete_files_period: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalLogs {
    pub log_dir: String,
    /// Octets before compression.
    pub max_file_size: u64,
    /// Records waiting for the writer.
    pub back_pressure: u64,
    /// 0 is zstd's own default.
    pub compression_level: i32,
    pub max_segment_duration: Option<Duration>,
    pub meta: Vec<String>,
    pub headers: Vec<String>,
    pub per_record: BTreeMap<String, PerRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerRecord {
    pub enable: bool,
    pub suffix: Option<String>,
    pub log_dir: Option<String>,
}
