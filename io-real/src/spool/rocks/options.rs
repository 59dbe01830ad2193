//! From `define_spool`'s `rocks_params` to RocksDB's options, and the fixed ones with their reasons.
//! Where data and meta share a database, what concerns the whole of it comes from data's parameters first, then
//! meta's; the families keep their own.
use kumo_core::config::service::RocksParams;
use kumo_core::port::{SpoolError, SpoolErrorKind};
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, InfoLogger, LogLevel, Options,
};
use std::fs;
use std::io;
use std::path::Path;

pub(super) const BLOCK_CACHE_OCTETS: usize = 16 * 1024 * 1024;
const WRITE_BUFFER_OCTETS: u64 = 16 * 1024 * 1024;
const BLOOM_BITS: f64 = 10.0;
const LOG_FILES_KEPT: usize = 10;
/// Write-ahead log, in write buffers of all families: what a restart may have to replay, and how long the rarely
/// flushed family can hold on to the log of the busy one.
const WAL_BUFFERS: u64 = 4;
/// Written back in the background in steps of this size, so that a sync never meets a mountain of dirty pages.
const WRITE_BACK_OCTETS: u64 = 1024 * 1024;

/// How much of what was found at open is let pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leniency {
    /// Read what can be read of the write-ahead log, whatever stands in between.
    pub skip_damaged_wal: bool,
    /// Open although a log is missing or shorter than what was synced of it.
    pub accept_missing_wal: bool,
    /// Open although table files are missing or damaged.
    pub skip_damaged_tables: bool,
}

impl Leniency {
    pub const NONE: Leniency =
        Leniency { skip_damaged_wal: false, accept_missing_wal: false, skip_damaged_tables: false };
    pub const ALL: Leniency =
        Leniency { skip_damaged_wal: true, accept_missing_wal: true, skip_damaged_tables: true };
}

/// What a family's write buffers take at most, in octets: RocksDB stalls writes before it opens another.
pub(super) fn memtables(params: &RocksParams) -> u64 {
    // The optimize_ functions allow six of them, RocksDB by itself two.
    let styled = params.optimize_level_style_compaction.is_some()
        || params.optimize_universal_style_compaction.is_some();
    write_buffer(params).saturating_mul(if styled { 6 } else { 2 })
}

/// Block cache for all families of one database.
pub(super) fn block_cache() -> Cache {
    Cache::new_lru_cache(BLOCK_CACHE_OCTETS)
}

pub(super) fn database(params: &[&RocksParams], leniency: Leniency) -> Result<Options, SpoolError> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_keep_log_file_num(LOG_FILES_KEPT);
    options.set_bytes_per_sync(WRITE_BACK_OCTETS);
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_skip_stats_update_on_db_open(true);
    let buffers: u64 = params.iter().map(|params| write_buffer(params)).sum();
    options.set_max_total_wal_size(buffers.saturating_mul(WAL_BUFFERS));

    // RocksDB's own default would drop, without a word, everything after the first damaged record.
    options.set_wal_recovery_mode(match leniency.skip_damaged_wal {
        false => DBRecoveryMode::TolerateCorruptedTailRecords,
        true => DBRecoveryMode::SkipAnyCorruptedRecord,
    });
    // Notices logs that are missing or shorter than what was synced, which reading them can't.
    options.set_track_and_verify_wals_in_manifest(!leniency.accept_missing_wal);
    let paranoid = first(params, |params| params.paranoid_checks).unwrap_or(true);
    options.set_paranoid_checks(paranoid && !leniency.skip_damaged_tables);

    if let Some(threads) = first(params, |params| params.increase_parallelism) {
        options.increase_parallelism(threads);
    }
    if let Some(octets) = first(params, |params| params.compaction_readahead_size) {
        options.set_compaction_readahead_size(to_usize(octets));
    }
    if let Some(files) = first(params, |params| params.max_open_files) {
        options.set_max_open_files(files);
    }
    if let Some(duration) = first(params, |params| params.log_file_time_to_roll) {
        options.set_log_file_time_to_roll(to_usize(duration.as_secs()));
    }
    if let Some(duration) = first(params, |params| params.obsolete_files_period) {
        options
            .set_delete_obsolete_files_period_micros(duration.as_secs().saturating_mul(1_000_000));
    }
    if let Some(level) = first(params, |params| params.log_level.as_deref()) {
        options.set_log_level(log_level(level)?);
    }
    Ok(options)
}

/// For opening it read-only: RocksDB would still begin a new LOG and rename the old one.
pub(super) fn leave_no_trace(options: &mut Options) {
    options.create_if_missing(false);
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
}

pub(super) fn family(params: &RocksParams, cache: &Cache) -> Result<Options, SpoolError> {
    let mut options = Options::default();
    // These two set others as well, so they come first.
    if let Some(octets) = params.optimize_level_style_compaction {
        options.optimize_level_style_compaction(to_usize(octets));
    }
    if let Some(octets) = params.optimize_universal_style_compaction {
        options.optimize_universal_style_compaction(to_usize(octets));
    }
    options.set_write_buffer_size(to_usize(write_buffer(params)));
    let compression = compression(params.compression_type.as_deref())?;
    options.set_compression_type(compression);
    if params.compression_type.is_some() {
        // The optimize_ functions have chosen one for each level.
        options.set_compression_per_level(&[compression]);
    }
    if let Some(dynamic) = params.level_compaction_dynamic_level_bytes {
        options.set_level_compaction_dynamic_level_bytes(dynamic);
    }
    if let Some(files) = params.level0_stop_writes_trigger {
        options.set_level_zero_stop_writes_trigger(files);
    }
    if let Some(octets) = params.memtable_huge_page_size {
        options.set_memtable_huge_page_size(to_usize(octets));
    }
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    // For ids that are in one family only, and so that one damaged block is in the way of few reads.
    table.set_bloom_filter(BLOOM_BITS, false);
    options.set_block_based_table_factory(&table);
    Ok(options)
}

/// The families that the database had when RocksDB last wrote down its options, for when the MANIFEST can't tell.
pub(super) fn families_noted(database: &Path) -> io::Result<Vec<String>> {
    let mut newest = None;
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.strip_prefix("OPTIONS-").and_then(|number| number.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    let Some((_, path)) = newest else { return Ok(Vec::new()) };
    let noted = fs::read(path)?;
    let family = |line: &str| {
        let name = line.trim().strip_prefix("[CFOptions \"")?.strip_suffix("\"]")?;
        Some(name.to_owned())
    };
    Ok(String::from_utf8_lossy(&noted).lines().filter_map(family).collect())
}

/// In octets.
fn write_buffer(params: &RocksParams) -> u64 {
    // A quarter is what RocksDB makes of the budget itself.
    let budget =
        params.optimize_universal_style_compaction.or(params.optimize_level_style_compaction);
    let chosen = params.write_buffer_size.or(budget.map(|octets| octets / 4));
    chosen.unwrap_or(WRITE_BUFFER_OCTETS)
}

fn compression(name: Option<&str>) -> Result<DBCompressionType, SpoolError> {
    match name {
        None | Some("Lz4") => Ok(DBCompressionType::Lz4),
        Some("None") => Ok(DBCompressionType::None),
        Some("Zstd") => Ok(DBCompressionType::Zstd),
        Some(other) => Err(refused("compression_type", other, "None, Lz4 or Zstd")),
    }
}

fn log_level(name: &str) -> Result<LogLevel, SpoolError> {
    match name {
        "Debug" => Ok(LogLevel::Debug),
        "Info" => Ok(LogLevel::Info),
        "Warn" => Ok(LogLevel::Warn),
        "Error" => Ok(LogLevel::Error),
        "Fatal" => Ok(LogLevel::Fatal),
        "Header" => Ok(LogLevel::Header),
        other => Err(refused("log_level", other, "Debug, Info, Warn, Error, Fatal or Header")),
    }
}

fn refused(key: &str, value: &str, choices: &str) -> SpoolError {
    let text = format!("rocks_params.{key} can't be {value:?}; choose {choices}");
    SpoolError { kind: SpoolErrorKind::Other, text }
}

fn first<'a, T>(
    params: &[&'a RocksParams],
    choose: impl Fn(&'a RocksParams) -> Option<T>,
) -> Option<T> {
    params.iter().find_map(|params| choose(params))
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_and_log_level_are_only_what_is_built_in() {
        for name in ["None", "Lz4", "Zstd"] {
            assert!(compression(Some(name)).is_ok(), "{name}");
        }
        for name in ["Debug", "Info", "Warn", "Error", "Fatal", "Header"] {
            assert!(log_level(name).is_ok(), "{name}");
        }
        let error = compression(Some("Snappy")).unwrap_err();
        assert_eq!(
            error.text,
            "rocks_params.compression_type can't be \"Snappy\"; choose None, Lz4 or Zstd"
        );
        assert!(log_level("info").is_err());
    }

    #[test]
    fn the_write_buffer_is_what_is_asked_for_or_a_quarter_of_the_budget() {
        let mut params = RocksParams::default();
        assert_eq!(write_buffer(&params), WRITE_BUFFER_OCTETS);
        params.optimize_level_style_compaction = Some(512);
        assert_eq!(write_buffer(&params), 128);
        params.write_buffer_size = Some(64);
        assert_eq!(write_buffer(&params), 64);
    }

    #[test]
    fn a_shared_database_takes_data_s_choice_before_meta_s() {
        let some = RocksParams { max_open_files: Some(7), ..RocksParams::default() };
        let none = RocksParams::default();
        let choose = |params: &RocksParams| params.max_open_files;
        assert_eq!(first(&[&none, &some], choose), Some(7));
        assert_eq!(first(&[&none, &none], choose), None);
    }
}
