//! `kumo.define_spool` with its `rocks_params`, and `kumo.configure_local_logs` (seed.md 1.1, 1.2; core.md 7.3): types,
//! defaults and how they are read. Nothing is opened here.
use super::options::{self, Constructed, OptionTable};
use super::read::{self, Form, Report, Table};
use super::{fields, name_forms};
use crate::health::Threshold;
use crate::log::RecordKind;
use crate::time::Duration;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpoolKind {
    LocalDisk,
    /// The default (D27).
    RocksDB,
}

name_forms!(SpoolKind);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpoolDefinition {
    pub name: String,
    pub path: String,
    pub kind: SpoolKind,
    /// Sync before acknowledging; true by default (D1).
    pub flush: bool,
    /// Below these no mail is taken; 10 % by default.
    pub min_free_space: Threshold,
    pub min_free_inodes: Threshold,
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
    #[serde(with = "super::duration::optional_text")]
    pub log_file_time_to_roll: Option<Duration>,
    #[serde(with = "super::duration::optional_text")]
    pub obsolete_files_period: Option<Duration>,
    /// How long a write may wait for the store; 30 s by default. This and the next three count for every kind of spool.
    #[serde(with = "super::duration::optional_text")]
    pub store_deadline: Option<Duration>,
    /// How long trouble lasts before the health gate shuts; 15 s.
    #[serde(with = "super::duration::optional_text")]
    pub error_latch_duration: Option<Duration>,
    /// How long a shut gate has to be quiet before it opens; 5 minutes.
    #[serde(with = "super::duration::optional_text")]
    pub error_unlatch_duration: Option<Duration>,
    /// `Some(false)`: a shut gate stays shut until a restart.
    pub allow_error_unlatch: Option<bool>,
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
    #[serde(with = "super::duration::optional_text")]
    pub max_segment_duration: Option<Duration>,
    pub meta: Vec<String>,
    pub headers: Vec<String>,
    pub per_record: BTreeMap<String, PerRecord>,
    pub min_free_space: Threshold,
    pub min_free_inodes: Threshold,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerRecord {
    pub enable: bool,
    pub suffix: Option<String>,
    pub log_dir: Option<String>,
}

impl SpoolDefinition {
    /// As policy's `kumo.define_spool { name = …, path = … }` has it.
    pub fn at(name: &str, path: &str) -> SpoolDefinition {
        SpoolDefinition {
            name: name.into(),
            path: path.into(),
            kind: SpoolKind::RocksDB,
            flush: true,
            min_free_space: Threshold::default(),
            min_free_inodes: Threshold::default(),
            rocks_params: RocksParams::default(),
        }
    }
}

impl Constructed for SpoolDefinition {
    const OPTIONS: &'static OptionTable = &options::SPOOL;
    fn read(table: &mut Table) -> SpoolDefinition {
        let rocks_params: Option<RocksParams> = table.optional("rocks_params");
        let (name, path) = (table.required_text("name"), table.required_text("path"));
        let usual = SpoolDefinition::at(&name, &path);
        let spool = SpoolDefinition {
            kind: table.or("kind", usual.kind),
            flush: table.or("flush", usual.flush),
            min_free_space: table.or("min_free_space", usual.min_free_space),
            min_free_inodes: table.or("min_free_inodes", usual.min_free_inodes),
            rocks_params: rocks_params.clone().unwrap_or_default(),
            ..usual
        };
        if !spool.flush {
            let text =
                "messages are accepted before they are on disk, and a power failure loses them";
            table.warn("flush", format_args!("{text}"));
        }
        let for_any_kind = rocks_params.is_none_or(|params| params.is_of_any_kind());
        if !for_any_kind && spool.kind == SpoolKind::LocalDisk {
            let text = "but for store_deadline and those of the health gate it has no effect for kind = 'LocalDisk'";
            table.warn("rocks_params", format_args!("{text}"));
        }
        spool
    }
}

impl Form for RocksParams {
    fn read(value: Value, report: &mut Report) -> Option<RocksParams> {
        let mut table = Table::open(value, &options::ROCKS_PARAMS, report)?;
        let mut params = fields!(table, RocksParams::default(), {
            increase_parallelism optimize_level_style_compaction
            optimize_universal_style_compaction paranoid_checks compaction_readahead_size
            level_compaction_dynamic_level_bytes max_open_files write_buffer_size
            level0_stop_writes_trigger memtable_huge_page_size log_file_time_to_roll
            obsolete_files_period store_deadline error_latch_duration error_unlatch_duration
            allow_error_unlatch
        });
        params.compression_type = compression_type(&mut table);
        params.log_level = log_level(&mut table);
        params.check(&mut table);
        table.finish();
        Some(params)
    }
}

impl RocksParams {
    pub fn store_deadline(&self) -> Duration {
        self.store_deadline.unwrap_or(Duration::from_secs(30))
    }

    pub fn error_latch(&self) -> Duration {
        self.error_latch_duration.unwrap_or(Duration::from_secs(15))
    }

    pub fn error_unlatch(&self) -> Duration {
        self.error_unlatch_duration.unwrap_or(Duration::from_secs(300))
    }

    pub fn allows_error_unlatch(&self) -> bool {
        self.allow_error_unlatch.unwrap_or(true)
    }

    /// Whether nothing in it is RocksDB's own.
    fn is_of_any_kind(&self) -> bool {
        let mut others = self.clone();
        others.store_deadline = None;
        others.error_latch_duration = None;
        others.error_unlatch_duration = None;
        others.allow_error_unlatch = None;
        others == RocksParams::default()
    }

    fn check(&self, table: &mut Table) {
        let exclusive = self.optimize_level_style_compaction.is_none()
            || self.optimize_universal_style_compaction.is_none();
        let wrong = "choose it or optimize_level_style_compaction, not both";
        table.check("optimize_universal_style_compaction", exclusive, wrong);
        for (key, number) in [
            ("increase_parallelism", self.increase_parallelism),
            ("level0_stop_writes_trigger", self.level0_stop_writes_trigger),
        ] {
            table.check(key, number.is_none_or(|number| number > 0), "it must be at least 1");
        }
        for (key, duration) in [
            ("store_deadline", self.store_deadline),
            ("error_latch_duration", self.error_latch_duration),
            ("error_unlatch_duration", self.error_unlatch_duration),
        ] {
            let lasting = duration.is_none_or(|duration| !duration.is_zero());
            table.check(key, lasting, "it must be above 0");
        }
        if self.paranoid_checks == Some(false) {
            let text = "RocksDB then passes over I/O errors in flush and compaction";
            table.warn("paranoid_checks", format_args!("{text}"));
        }
    }
}

/// Snappy isn't built in; Lz4 is as fast and compresses alike.
fn compression_type(table: &mut Table) -> Option<String> {
    let key = "compression_type";
    let name: String = table.optional(key)?;
    match name.as_str() {
        "None" | "Lz4" | "Zstd" => return Some(name),
        "Snappy" => table.warn(key, format_args!("kumod has no Snappy and uses Lz4")),
        "Zlib" | "Bz2" | "Lz4hc" => {
            table.error(key, format_args!("refused: kumod has no {name}; use None, Lz4 or Zstd"));
        }
        _ => table.error(key, format_args!("it is one of None, Lz4, Zstd")),
    }
    Some("Lz4".into())
}

fn log_level(table: &mut Table) -> Option<String> {
    let level: String = table.optional("log_level")?;
    let levels = ["Debug", "Info", "Warn", "Error", "Fatal", "Header"];
    let wrong = "it is one of Debug, Info, Warn, Error, Fatal, Header";
    table.check("log_level", levels.contains(&level.as_str()), wrong);
    Some(level)
}

/// What zstd knows; 0 is its default.
const COMPRESSION_LEVELS: core::ops::RangeInclusive<i32> = -7..=22;

impl Constructed for LocalLogs {
    const OPTIONS: &'static OptionTable = &options::LOCAL_LOGS;
    fn read(table: &mut Table) -> LocalLogs {
        let per_record: BTreeMap<Box<str>, PerRecord> = table.or("per_record", BTreeMap::new());
        for name in per_record.keys() {
            let known = &**name == "Any" || read::value::<RecordKind>(Value::from(&**name)).is_ok();
            table.check(
                "per_record",
                known,
                "its keys are Any and the record types, such as Delivery",
            );
        }
        let logs = LocalLogs {
            log_dir: table.required_text("log_dir"),
            max_file_size: table.or("max_file_size", 1_000_000_000),
            back_pressure: table.or("back_pressure", 128_000),
            compression_level: table.or("compression_level", 0),
            max_segment_duration: table.optional("max_segment_duration"),
            meta: table.or("meta", Vec::new()),
            headers: table.or("headers", Vec::new()),
            per_record: per_record.into_iter().map(|(name, to)| (name.into(), to)).collect(),
            min_free_space: table.or("min_free_space", Threshold::default()),
            min_free_inodes: table.or("min_free_inodes", Threshold::default()),
        };
        logs.check(table);
        logs
    }
}

impl LocalLogs {
    /// All that records go to, each once.
    pub fn folders(&self) -> BTreeSet<&str> {
        let own = self.per_record.values().filter_map(|to| to.log_dir.as_deref());
        own.chain([&*self.log_dir]).collect()
    }

    fn check(&self, table: &mut Table) {
        let level = COMPRESSION_LEVELS.contains(&self.compression_level);
        table.check("compression_level", level, "it is a number from -7 to 22");
        for (key, number) in
            [("max_file_size", self.max_file_size), ("back_pressure", self.back_pressure)]
        {
            table.check(key, number > 0, "it must be at least 1");
        }
        let lasting = self.max_segment_duration.is_none_or(|duration| !duration.is_zero());
        table.check("max_segment_duration", lasting, "it must be above 0");
    }
}

name_forms!(RecordKind);

impl Form for PerRecord {
    fn read(value: Value, report: &mut Report) -> Option<PerRecord> {
        let mut table = Table::open(value, &options::PER_RECORD, report)?;
        let record = PerRecord {
            enable: table.or("enable", true),
            suffix: table.optional("suffix"),
            log_dir: table.optional("log_dir"),
        };
        table.finish();
        Some(record)
    }
}
