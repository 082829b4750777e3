//! How the engine is set up.

use std::num::NonZeroU8;

use cas_core::{Location, Result};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBRecoveryMode, DataBlockIndexType, LogLevel,
    Options,
};

use crate::compaction::OLDEST;
use crate::error::sort;
use crate::family::{self, CONTENT, ROWS};

/// Least bytes of a row that goes into a blob file.
const BLOB: u64 = 1 << 10;
/// Bits of a filter for each key of a blob: one absent in a hundred is looked for.
const FILTER: f64 = 10.0;
/// Memory for records on their way to the disk, for each table of them.
const SMALL: usize = 4 << 20;
/// Memory for entries: those of a hundred thousand blobs are found in one place.
const ENTRIES: usize = 16 << 20;
/// Size from which a new log of the engine is begun, of which two are kept.
const ENGINE_LOG: usize = 1 << 20;

/// What a user may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Bytes of memory for entries, records and indexes that were read; bytes of blobs are in the
    /// kernel's cache. 64 MiB.
    pub cache: usize,
    /// Bytes of memory that rows are gathered in before they become a blob file; three times as
    /// much while they do. 16 MiB.
    pub buffer: usize,
    /// Threads that write and compact in the background. 2.
    pub jobs: NonZeroU8,
    /// Percent of the bytes in blob files that may be of removed blobs before a collection writes
    /// the files anew. 25.
    pub garbage: u8,
    /// Whether the engine counts what it does; see [`RocksStore::statistics`].
    ///
    /// [`RocksStore::statistics`]: crate::RocksStore::statistics
    pub statistics: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            cache: 64 << 20,
            buffer: 16 << 20,
            jobs: NonZeroU8::MIN.saturating_add(1),
            garbage: 25,
            statistics: false,
        }
    }
}

impl Tuning {
    /// What the options of a location say: `cache`, `buffer` (sizes), `jobs`, `garbage` (numbers)
    /// and `statistics` (`true` or `false`).
    ///
    /// # Errors
    /// `InvalidArgument` for another option or value.
    pub(crate) fn of(location: &Location) -> Result<Self> {
        location.check_options(&["cache", "buffer", "jobs", "garbage", "statistics"])?;
        let default = Tuning::default();
        let size = |name, default| -> Result<usize> {
            let size = location.size_option(name)?;
            Ok(size.map_or(default, |size| usize::try_from(size).unwrap_or(usize::MAX)))
        };
        Ok(Tuning {
            cache: size("cache", default.cache)?,
            buffer: size("buffer", default.buffer)?,
            jobs: (location.parsed_option("jobs", "1 to 255 threads")?).unwrap_or(default.jobs),
            garbage: (location.parsed_option("garbage", "0 to 100 percent")?)
                .unwrap_or(default.garbage),
            statistics: (location.parsed_option("statistics", "true or false")?)
                .unwrap_or(default.statistics),
        })
    }

    /// Options of the database.
    ///
    /// # Errors
    /// Those of the engine for its own words.
    pub(crate) fn database(&self, new: bool) -> Result<Options> {
        // A log that is read is not written elsewhere at once: a full disk has no room for it.
        let mut options = Options::default()
            .get_options_from_string("avoid_flush_during_recovery=true")
            .map_err(sort)?;
        options.create_if_missing(new);
        options.create_missing_column_families(new);
        options.set_paranoid_checks(true);
        // What was not synced may be torn anywhere after a crash: all before is whole, and nothing
        // after it was promised.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_total_wal_size(4 * self.buffer as u64);
        options.set_max_background_jobs(i32::from(self.jobs.get()));
        // One writes at a time; what comes in order then needs no search for its place.
        options.set_allow_concurrent_memtable_write(false);
        // The device begins before the last piece is there.
        options.set_bytes_per_sync(1 << 20);
        options.set_max_open_files(512);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(ENGINE_LOG);
        options.set_keep_log_file_num(2);
        if self.statistics {
            options.enable_statistics();
        } else {
            options.set_stats_dump_period_sec(0);
        }
        Ok(options)
    }

    /// The column families, with options of their own.
    pub(crate) fn families(&self) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.cache);
        let descriptor = |name| {
            let mut table = BlockBasedOptions::default();
            table.set_block_cache(&cache);
            table.set_bloom_filter(FILTER, false);
            table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            table.set_cache_index_and_filter_blocks(true);
            table.set_pin_l0_filter_and_index_blocks_in_cache(true);
            let mut options = Options::default();
            options.set_block_based_table_factory(&table);
            options.set_write_buffer_size(SMALL);
            match name {
                ROWS => {
                    options.set_write_buffer_size(self.buffer);
                    options.set_max_write_buffer_number(3);
                    options.set_enable_blob_files(true);
                    options.set_min_blob_size(BLOB);
                    options.set_blob_gc_age_cutoff(OLDEST);
                }
                CONTENT => {
                    options.set_write_buffer_size(ENTRIES);
                    options.set_memtable_whole_key_filtering(true);
                    options.set_memtable_prefix_bloom_ratio(0.1);
                }
                _ => {}
            }
            ColumnFamilyDescriptor::new(name, options)
        };
        family::all().map(descriptor).collect()
    }
}
