//! The rows of the table.

use std::time::Duration;

use cas_core::{Error, Result};

use crate::data::IMAGE;
use crate::step::Step;

/// How much is done for each row.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Small blobs of one round.
    pub small: usize,
    /// Large blobs, each a round of its own.
    pub larges: u64,
    /// Bytes of a large blob.
    pub large: u64,
    /// Bytes of the blob that is too large for any memory.
    pub stream: u64,
    /// Images of 100 blobs each that are there for lists, lookups and collections.
    pub images: u32,
    /// Layers of the image that a snapshot is made of.
    pub layers: usize,
    /// How often each row is measured, but for those that take long.
    pub rounds: usize,
    /// How long one round of a row goes on; a rate is of what was done by then.
    pub patience: Duration,
}

impl Default for Scale {
    fn default() -> Self {
        Scale {
            small: 10_000,
            larges: 4,
            large: 256 << 20,
            stream: 512 << 20,
            images: 1000,
            layers: 128,
            rounds: 3,
            patience: Duration::from_secs(2),
        }
    }
}

impl Scale {
    /// With a blob of 10 GiB.
    pub fn full() -> Self {
        Scale {
            stream: 10 << 30,
            ..Scale::default()
        }
    }

    /// A tenth of everything.
    pub fn quick() -> Self {
        Scale {
            small: 1000,
            larges: 3,
            large: 64 << 20,
            stream: 256 << 20,
            images: 100,
            patience: Duration::from_millis(500),
            ..Scale::default()
        }
    }

    /// Blobs that are there for lists, lookups and collections.
    pub fn many(&self) -> u32 {
        self.images * IMAGE
    }

    /// Bytes of free space that `columns` columns need at most.
    pub fn space(&self, columns: usize) -> u64 {
        // A small blob takes blocks for its bytes, its name, its record and the journal of each.
        let many = u64::from(self.many()) * (16 << 10);
        let small = self.small as u64 * 2 * self.rounds as u64 * (16 << 10);
        (columns as u64 * many.max(small)).max(2 * self.stream.max(self.large))
    }
}

/// Which values are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times and sizes.
    Lower,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its short name, as one asks for it.
    pub key: &'static str,
    /// What is done.
    pub title: fn(&Scale) -> String,
    /// Unit of its values.
    pub unit: &'static str,
    /// Which values are good.
    pub better: Better,
    /// Whether only columns that are durable compete in it.
    pub durable: bool,
    /// What is run for it.
    pub(crate) step: Step,
}

const fn row(
    key: &'static str,
    unit: &'static str,
    better: Better,
    durable: bool,
    step: Step,
    title: fn(&Scale) -> String,
) -> Row {
    Row {
        key,
        title,
        unit,
        better,
        durable,
        step,
    }
}

/// A count as text.
fn apart(count: u32) -> String {
    crate::render::number(f64::from(count))
}

fn mebibytes(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib >= 1024 && mib % 1024 == 0 => format!("{} GiB", mib >> 10),
        mib => format!("{mib} MiB"),
    }
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    row("put", "blobs/s", Better::Higher, true, Step::Put, |scale| {
        format!(
            "ingest of {} blobs of 4 KiB, one by one",
            apart(scale.small as u32)
        )
    }),
    row(
        "batch",
        "blobs/s",
        Better::Higher,
        true,
        Step::Batch,
        |scale| {
            let count = apart(scale.small as u32);
            format!("ingest of {count} blobs of 4 KiB, 256 at a time")
        },
    ),
    row(
        "large",
        "MiB/s",
        Better::Higher,
        true,
        Step::Large,
        |scale| {
            format!(
                "ingest of {} blobs of {}",
                scale.larges,
                mebibytes(scale.large)
            )
        },
    ),
    row(
        "stream",
        "MiB/s",
        Better::Higher,
        true,
        Step::Stream,
        |scale| format!("ingest of one blob of {}", mebibytes(scale.stream)),
    ),
    row(
        "stream-memory",
        "MiB",
        Better::Lower,
        true,
        Step::Stream,
        |scale| format!("peak memory of the ingest of {}", mebibytes(scale.stream)),
    ),
    row("same", "ms", Better::Lower, true, Step::Same, |_| {
        "ingest of one blob of 16 MiB by 8 writers at once".to_owned()
    }),
    row(
        "fill",
        "blobs/s",
        Better::Higher,
        true,
        Step::Fill,
        |scale| {
            let (blobs, names) = (apart(scale.many()), scale.images);
            format!("ingest of {blobs} blobs of 100 B in {names} named images, synced once")
        },
    ),
    row("stat", "µs", Better::Lower, false, Step::Stat, |scale| {
        format!(
            "stat of a blob that is there, among {}",
            apart(scale.many())
        )
    }),
    row(
        "absent",
        "µs",
        Better::Lower,
        false,
        Step::Absent,
        |scale| {
            format!(
                "stat of a blob that is not there, among {}",
                apart(scale.many())
            )
        },
    ),
    row("read", "µs", Better::Lower, false, Step::Read, |_| {
        "open and read of a blob of 4 KiB, warm".to_owned()
    }),
    row(
        "ranges",
        "µs",
        Better::Lower,
        false,
        Step::Ranges,
        |scale| {
            format!(
                "read of 64 KiB anywhere in a blob of {}, warm",
                mebibytes(scale.large)
            )
        },
    ),
    row("list", "ms", Better::Lower, false, Step::List, |scale| {
        format!("list of all {} blobs", apart(scale.many()))
    }),
    row("label", "µs", Better::Lower, true, Step::Label, |_| {
        "update of a label".to_owned()
    }),
    row("tag", "µs", Better::Lower, true, Step::Tag, |scale| {
        format!("making of a name beside {}", scale.images)
    }),
    row(
        "resolve",
        "µs",
        Better::Lower,
        false,
        Step::Resolve,
        |scale| format!("lookup of a name among {}", scale.images),
    ),
    row("edges", "ms", Better::Lower, true, Step::Edges, |_| {
        "update of the edges of 100 blobs, 99 each, in one batch".to_owned()
    }),
    row(
        "collect-1",
        "s",
        Better::Lower,
        true,
        Step::Collect(1),
        |scale| format!("collection of {} blobs, 1 % dead", apart(scale.many())),
    ),
    row(
        "collect-50",
        "s",
        Better::Lower,
        true,
        Step::Collect(50),
        |scale| format!("collection of {} blobs, 50 % dead", apart(scale.many())),
    ),
    row(
        "collect-99",
        "s",
        Better::Lower,
        true,
        Step::Collect(99),
        |scale| format!("collection of {} blobs, 99 % dead", apart(scale.many())),
    ),
    row(
        "collect-memory",
        "MiB",
        Better::Lower,
        true,
        Step::Collect(50),
        |scale| {
            format!(
                "peak memory of the collection of {} blobs, 50 % dead",
                scale.many()
            )
        },
    ),
    row("reopen", "ms", Better::Lower, true, Step::Reopen, |_| {
        "open and first stat after a writer was killed".to_owned()
    }),
    row(
        "prepare",
        "µs",
        Better::Lower,
        true,
        Step::Prepare,
        |scale| {
            format!(
                "a writable overlay snapshot of an image of {} layers",
                scale.layers
            )
        },
    ),
    row("disk", "x", Better::Lower, false, Step::Disk, |_| {
        "bytes on disk for each byte in blobs of 4 KiB".to_owned()
    }),
    row(
        "disk-large",
        "x",
        Better::Lower,
        false,
        Step::DiskLarge,
        |scale| {
            format!(
                "bytes on disk for each byte in blobs of {}",
                mebibytes(scale.large)
            )
        },
    ),
    row("syncs", "syncs", Better::Lower, true, Step::Syncs, |_| {
        "syncs for a blob of 4 KiB, one by one".to_owned()
    }),
    row(
        "syncs-batch",
        "syncs",
        Better::Lower,
        true,
        Step::SyncsBatched,
        |_| "syncs for a blob of 4 KiB, 256 at a time".to_owned(),
    ),
];

/// The rows of these keys, or all without any.
///
/// # Errors
/// `InvalidArgument` for an unknown key, listing those that are known.
pub fn rows(keys: &[String]) -> Result<Vec<Row>> {
    let unknown = keys
        .iter()
        .find(|key| ROWS.iter().all(|row| row.key != **key));
    if let Some(unknown) = unknown {
        let known: Vec<&str> = ROWS.iter().map(|row| row.key).collect();
        return Err(
            Error::invalid(format!("no such row; rows are: {}", known.join(", "))).subject(unknown),
        );
    }
    let wanted = |row: &&Row| keys.is_empty() || keys.iter().any(|key| key == row.key);
    Ok(ROWS.iter().filter(wanted).copied().collect())
}
