//! Options of a check.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::digest::Digest;
use crate::document::Manifest;
use crate::error::{Error, Result};
use crate::image::Reference;
use crate::location::size;
use crate::progress::{Progress, Silent};
use crate::snapshot::Snapshotter;
use crate::transfer::Fetcher;

/// Selects the blobs that are read and hashed, and the snapshots whose files are read. The
/// documents of images are always read. A snapshot is selected only if it is committed and the
/// checks that do not read its files found no damage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadData {
    /// No blobs and no snapshots.
    #[default]
    Nothing,
    /// All blobs and all snapshots.
    All,
    /// One of several disjoint parts, which together contain all blobs and snapshots.
    Part {
        /// The number of the part, from 1 to `of`.
        number: u64,
        /// How many parts there are.
        of: u64,
    },
    /// Blobs that together have at least this percentage (1 to 100) of all bytes. The selection
    /// begins after the last blob of the previous check with a percentage, so repeated checks read
    /// all blobs in turn. Snapshots are selected in the same way.
    Percent(u8),
}

impl ReadData {
    /// Parses `all`, a part as in `2/7`, or a percentage as in `5%`.
    ///
    /// # Errors
    /// `InvalidArgument` for any other text.
    pub fn parse(text: &str) -> Result<Self> {
        let fail = || {
            Error::invalid("expected `all`, a part as in 2/7, or a percentage from 1% to 100%")
                .operation("parse part")
                .subject(format!("{text:.40}"))
        };
        if text == "all" {
            return Ok(ReadData::All);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: u8 = percent.parse().map_err(|_| fail())?;
            return match percent {
                1..=100 => Ok(ReadData::Percent(percent)),
                _ => Err(fail()),
            };
        }
        let (number, of) = text.split_once('/').ok_or_else(fail)?;
        let (number, of) = (number.parse(), of.parse());
        match (number, of) {
            (Ok(number), Ok(of)) if (1..=of).contains(&number) => Ok(ReadData::Part { number, of }),
            _ => Err(fail()),
        }
    }
}

/// Parses a rate per second: a number of bytes without a unit, or a whole number of KiB, MiB, GiB
/// or TiB, as in `50MiB`. Returns bytes per second.
///
/// # Errors
/// `InvalidArgument` if the rate is 0 or does not parse.
pub fn parse_rate(text: &str) -> Result<u64> {
    size(text).filter(|bytes| *bytes > 0).ok_or_else(|| {
        Error::invalid(
            "expected a rate above 0: a whole number of bytes, KiB, MiB, GiB or TiB per second, as \
             in 5000000 or 50MiB",
        )
        .operation("parse rate")
        .subject(format!("{text:.40}"))
    })
}

/// The sources from which a repair fetches blobs.
#[async_trait]
pub trait Sources: Send + Sync {
    /// Returns the sources that may have the blobs of the image `name`, in the order in which the
    /// repair tries them. If `name` is `None`, returns the sources that do not depend on the name
    /// of an image.
    ///
    /// # Errors
    /// Errors of connecting to a source, if there is only one source.
    async fn of(&self, name: Option<&Reference>) -> Result<Vec<Arc<dyn Fetcher>>>;
}

/// [`Sources`] without any source, for a repair that fetches no blobs.
pub struct NoSources;

#[async_trait]
impl Sources for NoSources {
    async fn of(&self, _: Option<&Reference>) -> Result<Vec<Arc<dyn Fetcher>>> {
        Ok(Vec::new())
    }
}

/// Makes committed snapshots again from layers.
#[async_trait]
pub trait Rebuilder: Send + Sync {
    /// Replaces the files of the committed snapshot `key`. If one of these files is the undamaged
    /// tar of the layer, copies this tar. Otherwise, unpacks the layer again. Existing mounts keep
    /// the old files. If the snapshot does not exist, makes it, and the snapshots below it that do
    /// not exist.
    ///
    /// # Errors
    /// `NotFound` if no image in the store has the layer, or if neither the store nor a source has
    /// the blob of the layer; other errors of fetching and unpacking the layer.
    async fn rebuild(&self, snapshotter: &dyn Snapshotter, key: &str) -> Result<()>;

    /// Makes the snapshots of an image that do not exist. `tars` has the paths of tars, by the
    /// digests of their layers. A tar that has the diff ID of its layer is copied. Any other layer
    /// is unpacked from the store. The tars stay as they are.
    ///
    /// # Errors
    /// `NotFound` if the store does not have a layer that is not copied; other errors of unpacking
    /// layers.
    async fn restore(
        &self,
        snapshotter: &dyn Snapshotter,
        manifest: &Manifest,
        tars: BTreeMap<Digest, PathBuf>,
    ) -> Result<()>;
}

/// The sources of blobs and the rebuilder of snapshots that a repair uses.
pub struct Repair<'a> {
    /// Where missing and damaged blobs are fetched from.
    pub sources: &'a dyn Sources,
    /// Unpacks layers again. If this is `None`, missing and damaged committed snapshots are only
    /// reported.
    pub rebuilder: Option<&'a dyn Rebuilder>,
}

/// What a check reads, and whether it repairs the damage that it finds.
pub struct CheckOptions<'a> {
    /// Which blobs and snapshots are read.
    pub read_data: ReadData,
    /// Whether the check continues where an interrupted check of the same selection stopped. Up to
    /// 16 blobs or snapshots are read again. The blobs are read in the order of their digests. A
    /// blob that was stored after the interrupted check began is skipped if its digest comes before
    /// the place where this check continues. A check with a percentage always continues after the
    /// previous check with a percentage.
    pub resume: bool,
    /// Maximum number of bytes of the selected blobs and snapshots that are read per second; `None`
    /// for no maximum. The documents of images are read without a maximum.
    pub bytes_per_second: Option<u64>,
    /// Whether names were lost before the check. Every check reports documents that have no valid
    /// record and that no name and no lease reaches. If names were lost before the check, or if the
    /// check itself finds lost names, the check also reports unreached documents that have a valid
    /// record. A repair keeps the reported documents.
    pub names_lost: bool,
    /// How damage is repaired. If this is `None`, damage is only reported.
    pub repair: Option<Repair<'a>>,
    /// Receives the progress of each selected blob and snapshot that is read, and of each blob that
    /// a repair fetches.
    pub progress: Arc<dyn Progress>,
}

impl Default for CheckOptions<'_> {
    fn default() -> Self {
        CheckOptions {
            read_data: ReadData::Nothing,
            resume: false,
            bytes_per_second: None,
            names_lost: false,
            repair: None,
            progress: Arc::new(Silent),
        }
    }
}
