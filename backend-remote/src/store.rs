//! The store as a whole, and how it is opened.

use std::sync::Arc;

use cas_core::image::RecordImages;
use cas_core::{Capabilities, Capability, ContentStore, Error, ImageStore, Records, Result, Store};
use opendal::Operator;
use opendal::services::Memory;

use crate::cell::{Cells, Swaps};
use crate::format::Format;
use crate::ingest::Desk;
use crate::place::{Condition, Place};
use crate::{probe, runtime};

/// Longest name of an object in a bucket, in bytes.
pub(crate) const LONGEST: usize = 1024;

/// Laws that a store in a bucket, or one in memory, does not keep; in a directory it keeps all.
pub const GAPS: &[(&str, &str)] = &[
    (
        "openings_share_the_key",
        "ingests are a process's own; uploads of two processes never meet, the first is the blob",
    ),
    (
        "odd_keys_are_keys",
        "S3 takes names of 1,024 bytes, prefix and escapes included; a longer key is refused",
    ),
];

/// What openings of a store have in common.
pub(crate) struct Remote {
    pub(crate) cells: Cells,
    pub(crate) desk: Desk,
    pub(crate) capabilities: Capabilities,
}

/// A store in a bucket, a directory or memory; clones are handles of one opening.
#[derive(Clone)]
pub struct RemoteStore(pub(crate) Arc<Remote>);

impl RemoteStore {
    /// What a bucket promises whose service decides conditions atomically.
    pub(crate) const OF_BUCKET: Capabilities =
        Capabilities::of(&[Capability::Durable, Capability::Shared]);

    /// An empty store in memory, gone when the last handle is dropped, with the bounds of a
    /// bucket; for tests of what must work in one.
    ///
    /// # Errors
    /// `Unavailable` when no threads can be had.
    pub async fn memory() -> Result<Self> {
        let operator = Operator::new(Memory::default())
            .map_err(|error| crate::error::sort(error, "open store", "memory"))?;
        let place = Place::new(operator, None, LONGEST);
        Self::open_alone(place, Capabilities::default()).await
    }

    /// Opens a store that this process uses alone.
    pub(crate) async fn open_alone(place: Place, capabilities: Capabilities) -> Result<Self> {
        runtime::run(async move {
            if Format::load(&place).await?.is_none() {
                let format = Format::new(None, false);
                format.write(&place, Condition::Any).await?;
            }
            Ok(Self::new(place, Swaps::local(), capabilities))
        })
        .await
    }

    /// Opens a store that other processes may use too, where `endpoint` turns out to allow it.
    pub(crate) async fn open_shared(place: Place, endpoint: String) -> Result<Self> {
        runtime::run(async move {
            let deletion = match Format::load(&place).await? {
                Some(format) if format.endpoint.as_deref() == Some(&endpoint) => {
                    probe::glance(&place, &format).await?;
                    format.conditional_deletion
                }
                Some(_) => probe::examine(&place).await?,
                None => Self::make_shared(&place, endpoint).await?,
            };
            let swaps = Swaps::Service { deletion };
            Ok(Self::new(place, swaps, RemoteStore::OF_BUCKET))
        })
        .await
    }

    async fn make_shared(place: &Place, endpoint: String) -> Result<bool> {
        let deletion = probe::examine(place).await?;
        let format = Format::new(Some(endpoint), deletion);
        if format.write(place, Condition::Absent).await? || Format::load(place).await?.is_some() {
            return Ok(deletion);
        }
        Err(Error::unavailable(
            "another process made the store and removed it; retry",
        ))
    }

    fn new(place: Place, swaps: Swaps, capabilities: Capabilities) -> Self {
        RemoteStore(Arc::new(Remote {
            cells: Cells::new(place, swaps),
            desk: Desk::default(),
            capabilities,
        }))
    }

    /// The bytes.
    pub fn content(&self) -> Arc<dyn ContentStore> {
        Arc::new(self.clone())
    }

    /// The home of records.
    pub fn records(&self) -> Arc<dyn Records> {
        Arc::new(self.clone())
    }

    /// The names, which are records.
    pub fn images(&self) -> Arc<dyn ImageStore> {
        Arc::new(RecordImages::new(self.records()))
    }

    /// All three as one.
    pub fn store(&self) -> Store {
        Store {
            content: self.content(),
            records: self.records(),
            images: self.images(),
        }
    }
}
