//! Options of the engine.

use std::num::NonZeroU8;
use std::str::FromStr;

use cas_core::{Location, Result};
use cas_kv::OpenMode;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBRecoveryMode, DataBlockIndexType, LogLevel,
    Options,
};

use crate::error::classify;
use crate::family::{self, CONTENT, ROWS};

/// Maximum number of compactions that rewrite blob files, one after the other. Each rewrites the
/// oldest quarter of the blob files that exist when it starts. The number of files is rounded down.
pub(crate) const PASSES: u64 = 4;
/// The part of the blob files that one compaction rewrites, the oldest files first.
const PASS_PART: f64 = 1.0 / PASSES as f64;
/// Minimum size in bytes of a row that is stored in a blob file.
const BLOB_FILE_MIN: u64 = 1 << 10;
/// Bits per key of the Bloom filters: about one in a hundred lookups of an absent key reads a
/// block.
const FILTER_BITS: f64 = 10.0;
/// Size in bytes of the write buffer of each column family other than `CONTENT` and `ROWS`.
const RECORDS_BUFFER: usize = 4 << 20;
/// Size in bytes of the write buffer of blob entries. The buffer has room for about a hundred
/// thousand entries.
const CONTENT_BUFFER: usize = 16 << 20;
/// Maximum size in bytes of a file with RocksDB's log messages. RocksDB keeps two such files.
const MESSAGES_MAX: usize = 1 << 20;

/// Options that a user can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Size in bytes of RocksDB's block cache. The cache contains records, the entries of blobs,
    /// and RocksDB's index and filter blocks. Rows (pieces of blobs) of 1 KiB or more are cached
    /// only by the kernel. Default: 64 MiB.
    pub cache: usize,
    /// Size in bytes of the write buffer of rows. A full buffer is written to one of RocksDB's blob
    /// files, which contain rows of many blobs. Up to three buffers are in memory while files are
    /// written. Default: 16 MiB.
    pub buffer: usize,
    /// Number of background threads that flush and compact. Default: 2.
    pub jobs: NonZeroU8,
    /// A percentage, from 0 to 100. A compaction rewrites RocksDB's blob files if at least this
    /// percentage of their bytes is dead. The bytes of removed blobs are dead. Default: 25.
    pub garbage: u8,
    /// Whether the engine collects statistics: see [`RocksStore::statistics`]. Default: `false`.
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

/// A percentage.
struct Percent(u8);

impl FromStr for Percent {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let percent = text.parse().ok().filter(|percent| *percent <= 100);
        percent.map(Percent).ok_or(())
    }
}

impl Tuning {
    /// Returns the options in a location: `cache` and `buffer` (sizes), `jobs` and `garbage`
    /// (numbers), and `statistics` (`true` or `false`).
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown option or an invalid value.
    pub(crate) fn from_location(location: &Location) -> Result<Self> {
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
                .map_or(default.garbage, |Percent(garbage)| garbage),
            statistics: (location.parsed_option("statistics", "true or false")?)
                .unwrap_or(default.statistics),
        })
    }

    /// Returns the options of the database.
    ///
    /// # Errors
    /// Errors of the engine, which parses some options itself.
    pub(crate) fn database(&self, mode: OpenMode) -> Result<Options> {
        // Do not copy the log to table files on open: a full disk has no room for them.
        let mut options = Options::default()
            .get_options_from_string("avoid_flush_during_recovery=true")
            .map_err(classify)?;
        options.create_if_missing(mode == OpenMode::Create);
        options.create_missing_column_families(mode == OpenMode::Create);
        // A damaged database is opened even if some of its tables cannot be opened.
        options.set_paranoid_checks(mode != OpenMode::Damaged);
        // After a crash, the unsynced end of the log may be damaged. Everything before the damage
        // is intact, and nothing after it was acknowledged as durable.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        // This is set for a damaged database too. Without it, RocksDB crashes when it reads a
        // manifest that names logs.
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_max_total_wal_size((self.buffer as u64).saturating_mul(4));
        options.set_max_background_jobs(i32::from(self.jobs.get()));
        // There is one writer at a time. Without support for concurrent writers, keys that arrive
        // in order are inserted faster.
        options.set_allow_concurrent_memtable_write(false);
        // Let the device start to write before the file is complete.
        options.set_bytes_per_sync(1 << 20);
        options.set_max_open_files(512);
        options.set_log_level(LogLevel::Warn);
        options.set_max_log_file_size(MESSAGES_MAX);
        options.set_keep_log_file_num(2);
        if self.statistics {
            options.enable_statistics();
        } else {
            options.set_stats_dump_period_sec(0);
        }
        Ok(options)
    }

    /// Returns the column families with their options.
    pub(crate) fn families(&self) -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(self.cache);
        let descriptor = |name| {
            let mut table = BlockBasedOptions::default();
            table.set_block_cache(&cache);
            table.set_bloom_filter(FILTER_BITS, false);
            table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
            table.set_cache_index_and_filter_blocks(true);
            table.set_pin_l0_filter_and_index_blocks_in_cache(true);
            let mut options = Options::default();
            options.set_block_based_table_factory(&table);
            options.set_write_buffer_size(RECORDS_BUFFER);
            match name {
                ROWS => {
                    options.set_write_buffer_size(self.buffer);
                    options.set_max_write_buffer_number(3);
                    options.set_enable_blob_files(true);
                    options.set_min_blob_size(BLOB_FILE_MIN);
                    options.set_blob_gc_age_cutoff(PASS_PART);
                }
                CONTENT => {
                    options.set_write_buffer_size(CONTENT_BUFFER);
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
