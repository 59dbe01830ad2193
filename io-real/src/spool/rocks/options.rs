//! From `define_spool`'s `rocks_params` to RocksDB's options, and the fixed ones with their reasons.
//! Where data and meta share a database, what concerns the whole of it comes from data's parameters first, then
//! meta's; the families keep their own.
use kumo_core::config::service::RocksParams;
use kumo_core::port::{Family, SpoolError, SpoolErrorKind};
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, FifoCompactOptions, LogLevel,
    Options,
};

const BLOCK_CACHE_OCTETS: usize = 16 * 1024 * 1024;
const WRITE_BUFFER_OCTETS: u64 = 16 * 1024 * 1024;
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
    /// Open although table files are missing or damaged.
    pub skip_damaged_tables: bool,
}

/// Block cache for all families of one database.
pub(super) fn block_cache() -> Cache {
    Cache::new_lru_cache(BLOCK_CACHE_OCTETS)
}

pub(super) fn database(
    params: &[&RocksParams],
    leniency: Leniency,
) -> Result<Options, SpoolError> {
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
    options.set_track_and_verify_wals_in_manifest(!leniency.skip_damaged_wal);
    let paranoid = params.iter().any(|params| params.paranoid_checks.unwrap_or(true));
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
        options.set_delete_obsolete_files_period_micros(duration.as_secs().saturating_mul(1_000_000));
    }
    if let Some(level) = first(params, |params| params.log_level.as_deref()) {
        options.set_log_level(log_level(level)?);
    }
    Ok(options)
}

pub(super) fn family(
    params: &RocksParams,
    family: Family,
    cache: &Cache,
) -> Result<Options, SpoolError> {
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
    Ok(options)
}
