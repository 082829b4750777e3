//! The amount of work of a run.

use std::time::Duration;

use crate::data::BLOBS_PER_IMAGE;

/// The amount of work for each row.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Maximum number of small blobs that a round stores.
    pub small_blobs: usize,
    /// Number of large blobs. Each is stored in a round of its own.
    pub large_blobs: u64,
    /// Size of a large blob in bytes.
    pub large_size: u64,
    /// Size in bytes of the blob that is stored as a stream.
    pub stream_size: u64,
    /// Number of images that lists, lookups and collections work on. At least 2.
    pub images: u32,
    /// Number of layers of the image that a snapshot is prepared on. At least 1.
    pub layers: usize,
    /// Number of rounds of a row. A row that is slow or always gives the same value has one round,
    /// and the row `large` has [`Scale::large_blobs`] rounds. If a round takes more than four times
    /// [`Scale::round_time`] in a column, it is the last round of this row in this column.
    pub rounds: usize,
    /// The time after which a round with many small items makes no further calls of the column. The
    /// round can last longer, because one call handles many items. The value of the round is
    /// calculated from the number of items that the calls handled.
    pub round_time: Duration,
}

impl Default for Scale {
    fn default() -> Self {
        Scale {
            small_blobs: 10_000,
            large_blobs: 4,
            large_size: 256 << 20,
            stream_size: 512 << 20,
            images: 1000,
            layers: 128,
            rounds: 3,
            round_time: Duration::from_secs(2),
        }
    }
}

impl Scale {
    /// Returns the default scale with a streamed blob of 10 GiB.
    pub fn full() -> Self {
        Scale {
            stream_size: 10 << 30,
            ..Scale::default()
        }
    }

    /// Returns a scale with less work than the default: a tenth of the small blobs and of the
    /// images, fewer and smaller large blobs, a streamed blob of half the size, and shorter rounds.
    pub fn quick() -> Self {
        Scale {
            small_blobs: 1000,
            large_blobs: 3,
            large_size: 64 << 20,
            stream_size: 256 << 20,
            images: 100,
            round_time: Duration::from_millis(500),
            ..Scale::default()
        }
    }

    /// Returns the number of blobs that lists, lookups and collections work on.
    pub fn image_blobs(&self) -> u32 {
        self.images * BLOBS_PER_IMAGE
    }

    /// Returns a high estimate of the free space in bytes that a run with `columns` columns needs.
    pub fn space(&self, columns: usize) -> u64 {
        // A small blob takes blocks for its bytes, its directory entry and its record. The journal
        // of the file system takes further blocks.
        let images = u64::from(self.image_blobs()) * (16 << 10);
        let small = self.small_blobs as u64 * 2 * self.rounds as u64 * (16 << 10);
        (columns as u64 * images.max(small)).max(2 * self.stream_size.max(self.large_size))
    }
}
