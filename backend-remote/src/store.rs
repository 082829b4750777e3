//! The store as a whole.

use std::sync::Arc;

use cas_core::image::RecordImages;
use cas_core::{Capabilities, ContentStore, ImageStore, Records, Result, Store};
use opendal::Operator;
use opendal::services::Memory;

use crate::blob::Blobs;
use crate::cell::Cells;
use crate::error::classify;
use crate::format::{self, Format};
use crate::ingest::OpenIngests;
use crate::prefix::Prefix;
use crate::runtime;

/// Maximum length of the name of an object in a bucket, in bytes.
pub(crate) const MAX_NAME: usize = 1024;

/// The laws (conformance tests) that a store in a bucket does not pass, as pairs of a law and the
/// reason. A store in memory does not pass `odd_keys_are_keys` either. The law
/// `openings_share_the_key` does not apply to a store in memory, because the law is only for shared
/// stores. A store in a directory passes all laws that apply to it.
pub const GAPS: &[(&str, &str)] = &[
    (
        "openings_share_the_key",
        "processes do not share ingests, so two processes can upload with the same key; the first \
         publish provides the blob",
    ),
    (
        "odd_keys_are_keys",
        "S3 limits the name of an object to 1,024 bytes, including the prefix and escapes; a key \
         whose name is longer is refused",
    ),
];

/// The state that all handles of one open store share.
pub(crate) struct Remote {
    pub(crate) cells: Arc<Cells>,
    pub(crate) blobs: Blobs,
    pub(crate) ingests: Arc<OpenIngests>,
    pub(crate) capabilities: Capabilities,
}

/// A store in a bucket, a directory or memory. A clone is another handle of the same open store.
#[derive(Clone)]
pub struct RemoteStore(pub(crate) Arc<Remote>);

impl RemoteStore {
    /// Returns an empty store in memory, for tests. The names of its objects have the same maximum
    /// length as in a bucket. Its content is lost when the last handle is dropped.
    ///
    /// # Errors
    /// Errors of the system if the threads of the store cannot be set up.
    pub async fn memory() -> Result<Self> {
        let operator = Operator::new(Memory::default())
            .map_err(|error| classify(error, "open store", "memory"))?;
        let prefix = Prefix::new(operator, None, MAX_NAME);
        Self::open_single(prefix, None, Capabilities::default()).await
    }

    /// Opens a store that this process uses alone. Creates the store if the prefix is empty.
    /// Upgrades an older format if the store can be written. `known` is the format of the store if
    /// the caller has read it already.
    pub(crate) async fn open_single(
        prefix: Prefix,
        known: Option<Format>,
        capabilities: Capabilities,
    ) -> Result<Self> {
        runtime::run(async move {
            let found = match known {
                Some(known) => Some(known),
                None => Format::load(&prefix).await?,
            };
            let written = match found {
                Some(found) => found.upgraded().filter(|_| prefix.is_writable()),
                None => Some(Format::single()),
            };
            if let Some(format) = written {
                prefix.put(format::PATH, format.body()?).await?;
            }
            if let Some(folder) = prefix.folder() {
                folder.create_reserve();
            }
            Ok(Self::new(Cells::local(prefix), capabilities))
        })
        .await
    }

    pub(crate) fn new(cells: Cells, capabilities: Capabilities) -> Self {
        let cells = Arc::new(cells);
        RemoteStore(Arc::new(Remote {
            blobs: Blobs::new(Arc::clone(&cells)),
            cells,
            ingests: Arc::default(),
            capabilities,
        }))
    }

    /// Returns the content store.
    pub fn content(&self) -> Arc<dyn ContentStore> {
        Arc::new(self.clone())
    }

    /// Returns the records store.
    pub fn records(&self) -> Arc<dyn Records> {
        Arc::new(self.clone())
    }

    /// Returns the image store. Images are stored as records.
    pub fn images(&self) -> Arc<dyn ImageStore> {
        Arc::new(RecordImages::new(self.records()))
    }

    /// Returns the content store, the records store and the image store together.
    pub fn store(&self) -> Store {
        Store {
            content: self.content(),
            records: self.records(),
            images: self.images(),
        }
    }
}
