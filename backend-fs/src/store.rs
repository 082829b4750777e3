//! The whole store, and its opener.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::check::Finding;
use cas_core::{
    Capabilities, ContentStore, Context, Digest, Error, ImageStore, Location, Opener, Records,
    Result, Store, pool,
};
use cas_host::Dir;
use cas_records_sqlite::SqliteRecords;

use crate::content::{CAPABILITIES, FsContent};
use crate::examine::examine;
use crate::images::FsImages;
use crate::layout::{Layout, RECORDS};
use crate::places::{self, CAS_DIR};
use crate::shared::Shared;

/// The laws (conformance tests) that this store does not keep, as pairs of a law and the reason.
/// There are none.
pub const GAPS: &[(&str, &str)] = &[];

/// An `fs` store in a directory.
pub struct FsStore {
    content: Arc<FsContent>,
    records: SqliteRecords,
    images: Arc<FsImages>,
}

impl FsStore {
    /// Opens the store in the directory `path`. If the directory is absent or empty, creates the
    /// store. If the directory has an image layout of another program, adds `.cas/` to the layout.
    /// If the process cannot write to the directory, opens the store read-only.
    ///
    /// # Errors
    /// `InvalidArgument` if `path` exists and is not a directory; `FailedPrecondition` if the
    /// directory is not empty and has no image layout, or if it has an image layout of a version
    /// other than 1, a store of another kind or a store of a newer format; `Corrupt` if a file or
    /// directory of the store is damaged, lost or of the wrong type, for example if
    /// `.cas/format.json` has more than 64 KiB; `Corrupt`, `InvalidArgument`, `OutOfRange` or
    /// `Full` if the names in `refs/` of an old layout cannot be copied to a new `index.json`;
    /// `Unavailable`, `NotFound` or `Unsupported` if the ID of the boot cannot be read from
    /// `/proc`; errors of the records and of the file system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Layout::open(path)
            .and_then(|layout| Self::of(layout, path))
            .map_err(|error| explain(path, error).backend("fs"))
            .during("open store", path.display())
    }

    /// Opens the store, or the image layout of another program, in the directory `path` for reading
    /// only. Writes nothing to the directory.
    ///
    /// # Errors
    /// `FailedPrecondition` if the directory has no image layout, or if it has an image layout of a
    /// version other than 1, a store of another kind or a store of a newer format; `Corrupt` if a
    /// file or directory of the store is damaged, lost or of the wrong type, for example if
    /// `.cas/format.json` has more than 64 KiB; `Unavailable`, `NotFound` or `Unsupported` if the
    /// ID of the boot cannot be read from `/proc`; errors of the records and of the file system.
    /// This function does not read `index.json`. The methods of the image store report damage of
    /// that file.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let layout = || Layout::read_only(Dir::open(path)?);
        layout()
            .and_then(|layout| Self::of(layout, path))
            .map_err(|error| explain(path, error).backend("fs"))
            .during("open store", path.display())
    }

    fn of(layout: Layout, path: &Path) -> Result<Self> {
        let shared = Arc::new(Shared::open(layout, path)?);
        let database = path.join(CAS_DIR).join(RECORDS);
        let records = if shared.layout.writable {
            SqliteRecords::open(&database)?
        } else {
            SqliteRecords::open_read_only(&database)?
        };
        Ok(FsStore {
            images: Arc::new(FsImages::new(Arc::clone(&shared), records.clone())),
            content: Arc::new(FsContent(shared)),
            records,
        })
    }

    /// Returns false for a layout of another program, to which `.cas/` was never added.
    pub(crate) fn is_of_cas(&self) -> bool {
        self.content.0.layout.cas_dir.is_some()
    }

    /// Returns the content store.
    pub fn content(&self) -> Arc<dyn ContentStore> {
        self.content.clone()
    }

    /// Returns the records store.
    pub fn records(&self) -> Arc<dyn Records> {
        Arc::new(self.records.clone())
    }

    /// Returns the image store.
    pub fn images(&self) -> Arc<dyn ImageStore> {
        self.images.clone()
    }

    /// Creates the file `path` with the bytes of a blob: as a reflink, or as a hard link where the
    /// file system has no reflinks. The blob stays if `path` is removed. Do not write to the file:
    /// if it is a hard link, a write damages the blob.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the blob; `AlreadyExists` if `path` exists;
    /// `Unsupported` if `path` is on another file system, or the file system does not allow hard
    /// links (copy the blob instead); errors of the file system.
    pub async fn link_blob(&self, digest: &Digest, path: impl AsRef<Path>) -> Result<()> {
        let (content, digest, path) =
            (Arc::clone(&self.content), *digest, path.as_ref().to_owned());
        pool::run(move || content.0.link(&digest, &path).during("link", digest)).await
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

/// Returns an error that names a misplaced entry of the store at `path`, if there is one and it may
/// have caused `error`. Otherwise returns `error`.
fn explain(path: &Path, error: Error) -> Error {
    match Dir::open(path) {
        Ok(root) => places::explain(&root, error),
        Err(_) => error,
    }
}

/// Opens stores at `fs:///path`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsOpener;

#[async_trait]
impl Opener for FsOpener {
    fn scheme(&self) -> &'static str {
        "fs"
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn gaps(&self) -> &'static [(&'static str, &'static str)] {
        GAPS
    }

    fn check(&self, location: &Location) -> Result<()> {
        location.check_options(&[])
    }

    async fn open(&self, location: &Location) -> Result<Store> {
        location.check_options(&[])?;
        let path = location.path()?;
        pool::run(move || FsStore::open(path).map(|store| store.store())).await
    }

    async fn examine(&self, location: &Location, repair: bool) -> Result<Vec<Finding>> {
        location.check_options(&[])?;
        let path = location.path()?;
        pool::run(move || examine(path.as_ref(), repair).during("examine store", path.display()))
            .await
    }
}
