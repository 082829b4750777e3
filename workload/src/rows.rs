//! The rows of the table, as data. The functions in `steps` measure them.

use cas_core::{Error, Result};

use crate::number::{count, size};
use crate::scale::Scale;

use Better::{Higher, Lower};

/// Whether high or low values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// High values, such as high rates.
    Higher,
    /// Low values, such as short times and small sizes.
    Lower,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The short name by which a user selects the row.
    pub key: &'static str,
    /// The unit of the values.
    pub unit: &'static str,
    /// Whether high or low values are better.
    pub better: Better,
    /// Whether only columns with [`Promise::Durable`](crate::Promise::Durable) compete for the best
    /// value in this row.
    pub durable: bool,
    /// Returns the description of the measurement at a scale.
    pub title: fn(&Scale) -> String,
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    Row {
        key: "put",
        unit: "blobs/s",
        better: Higher,
        durable: true,
        title: |scale| {
            format!(
                "ingest of {} blobs of 4 KiB, one by one",
                count(scale.small_blobs as u64)
            )
        },
    },
    Row {
        key: "batch",
        unit: "blobs/s",
        better: Higher,
        durable: true,
        title: |scale| {
            format!(
                "ingest of {} blobs of 4 KiB, 256 at a time",
                count(scale.small_blobs as u64)
            )
        },
    },
    Row {
        key: "large",
        unit: "MiB/s",
        better: Higher,
        durable: true,
        title: |scale| {
            format!(
                "ingest of {} blobs of {}",
                scale.large_blobs,
                size(scale.large_size)
            )
        },
    },
    Row {
        key: "stream",
        unit: "MiB/s",
        better: Higher,
        durable: true,
        title: |scale| format!("ingest of one blob of {}", size(scale.stream_size)),
    },
    Row {
        key: "stream-memory",
        unit: "MiB",
        better: Lower,
        durable: true,
        title: |scale| format!("peak memory of the ingest of {}", size(scale.stream_size)),
    },
    Row {
        key: "same",
        unit: "ms",
        better: Lower,
        durable: true,
        title: |_| "ingest of one blob of 16 MiB by 8 concurrent writers".to_owned(),
    },
    Row {
        key: "fill",
        unit: "blobs/s",
        better: Higher,
        durable: true,
        title: |scale| {
            format!(
                "ingest of {} blobs of 100 B, synced together, in {} named images",
                count(scale.image_blobs().into()),
                scale.images
            )
        },
    },
    Row {
        key: "stat",
        unit: "µs",
        better: Lower,
        durable: false,
        title: |scale| {
            format!(
                "stat of a blob that exists, among {}",
                count(scale.image_blobs().into())
            )
        },
    },
    Row {
        key: "absent",
        unit: "µs",
        better: Lower,
        durable: false,
        title: |scale| {
            format!(
                "stat of a blob that does not exist, among {}",
                count(scale.image_blobs().into())
            )
        },
    },
    Row {
        key: "read",
        unit: "µs",
        better: Lower,
        durable: false,
        title: |_| "open and read of a blob of 4 KiB, warm".to_owned(),
    },
    Row {
        key: "ranges",
        unit: "µs",
        better: Lower,
        durable: false,
        title: |scale| {
            format!(
                "read of 64 KiB anywhere in a blob of {}, warm",
                size(scale.large_size)
            )
        },
    },
    Row {
        key: "list",
        unit: "ms",
        better: Lower,
        durable: false,
        title: |scale| format!("list of all {} blobs", count(scale.image_blobs().into())),
    },
    Row {
        key: "label",
        unit: "µs",
        better: Lower,
        durable: true,
        title: |_| "update of a label".to_owned(),
    },
    Row {
        key: "tag",
        unit: "µs",
        better: Lower,
        durable: true,
        title: |scale| format!("creation of a name among {}", scale.images),
    },
    Row {
        key: "resolve",
        unit: "µs",
        better: Lower,
        durable: false,
        title: |scale| format!("lookup of a name among {}", scale.images),
    },
    Row {
        key: "edges",
        unit: "ms",
        better: Lower,
        durable: true,
        title: |_| "update of 100 blob records with 99 references each, in one batch".to_owned(),
    },
    Row {
        key: "collect-1",
        unit: "s",
        better: Lower,
        durable: true,
        title: |scale| {
            format!(
                "collection of {} blobs, 1 % dead",
                count(scale.image_blobs().into())
            )
        },
    },
    Row {
        key: "collect-50",
        unit: "s",
        better: Lower,
        durable: true,
        title: |scale| {
            format!(
                "collection of {} blobs, 50 % dead",
                count(scale.image_blobs().into())
            )
        },
    },
    Row {
        key: "collect-99",
        unit: "s",
        better: Lower,
        durable: true,
        title: |scale| {
            format!(
                "collection of {} blobs, 99 % dead",
                count(scale.image_blobs().into())
            )
        },
    },
    Row {
        key: "collect-memory",
        unit: "MiB",
        better: Lower,
        durable: true,
        title: |scale| {
            format!(
                "peak memory of the collection of {} blobs, 50 % dead",
                count(scale.image_blobs().into())
            )
        },
    },
    Row {
        key: "reopen",
        unit: "ms",
        better: Lower,
        durable: true,
        title: |_| "open and first stat after a writer was killed".to_owned(),
    },
    Row {
        key: "prepare",
        unit: "µs",
        better: Lower,
        durable: true,
        title: |scale| {
            format!(
                "preparation of a writable overlay snapshot on {} layers",
                scale.layers
            )
        },
    },
    Row {
        key: "disk",
        unit: "x",
        better: Lower,
        durable: false,
        title: |_| "bytes on disk for each byte in blobs of 4 KiB".to_owned(),
    },
    Row {
        key: "disk-large",
        unit: "x",
        better: Lower,
        durable: false,
        title: |scale| {
            format!(
                "bytes on disk for each byte in blobs of {}",
                size(scale.large_size)
            )
        },
    },
    Row {
        key: "syncs",
        unit: "syncs",
        better: Lower,
        durable: true,
        title: |_| "syncs for each blob of 4 KiB, stored one by one".to_owned(),
    },
    Row {
        key: "syncs-batch",
        unit: "syncs",
        better: Lower,
        durable: true,
        title: |_| "syncs for each blob of 4 KiB, stored 256 at a time".to_owned(),
    },
];

/// Returns the rows with these keys in the order of [`ROWS`], or all rows if there are no keys.
///
/// # Errors
/// `InvalidArgument` for an unknown key. The message lists the known keys.
pub fn rows(keys: &[String]) -> Result<Vec<Row>> {
    let unknown = keys
        .iter()
        .find(|key| ROWS.iter().all(|row| row.key != **key));
    if let Some(unknown) = unknown {
        let known: Vec<&str> = ROWS.iter().map(|row| row.key).collect();
        let text = format!("unknown row; the rows are: {}", known.join(", "));
        return Err(Error::invalid(text).subject(unknown));
    }
    let wanted = |row: &&Row| keys.is_empty() || keys.iter().any(|key| key == row.key);
    Ok(ROWS.iter().filter(wanted).copied().collect())
}
