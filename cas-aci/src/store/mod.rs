//! The image store.

mod dump;
mod find;
mod read;
mod remotes;
mod remove;
mod sweep;
mod temp;
mod write;

use std::path::PathBuf;

use cas_core::records::{Batch, Expect, retry};
use cas_core::{Context, Result, Store};

pub use read::AciReader;
pub use remove::StoreRemovalError;
pub use sweep::Swept;
pub use temp::TempFile;
pub use write::WriteOptions;

use crate::catalogue::Catalogue;
use crate::info::{AciInfo, SortField, sort};
use crate::used::NotedReads;

/// The owner of the leases that keep ACIs. The ids of these leases, and the keys of the ingests of
/// ACIs, begin with it, too.
const OWNER: &str = "aci";

/// A store of ACIs over any store of `cas`. Clones are handles of the same image store.
///
/// The bytes of an ACI are a blob, stored as they were imported, and its manifest is another blob.
/// A lease keeps both for as long as the [`Catalogue`] lists the ACI, so a collection
/// ([`cas_core::gc`]) does not remove them. [`AciStore::remove_aci`] also removes this lease.
#[derive(Clone)]
pub struct AciStore {
    store: Store,
    catalogue: Catalogue,
    reads: NotedReads,
    directory: Option<PathBuf>,
}

/// Options of [`AciStore::open_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The directory for temporary files. It is created when it is first used. It must have no
    /// other files, because [`AciStore::sweep`] removes old files in it. Without a directory,
    /// [`AciStore::tmp_dir`], [`AciStore::tmp_file`] and [`AciStore::tmp_named_file`] fail.
    pub directory: Option<PathBuf>,
}

impl OpenOptions {
    /// Sets [`directory`](Self::directory).
    #[must_use]
    pub fn with_directory(mut self, directory: impl Into<Option<PathBuf>>) -> Self {
        self.directory = directory.into();
        self
    }
}

impl AciStore {
    /// Opens the image store in `store`, and creates it if there is none. If `store` is read-only
    /// or full, an absent image store is opened as an empty one. A catalogue of an older format is
    /// migrated. Its entries in the older format stay as a backup.
    ///
    /// # Errors
    /// `FailedPrecondition` if the format of the catalogue is newer than this version of `cas` can
    /// read, or if the catalogue must be migrated but the store cannot be written; `Busy` while
    /// another process migrates the catalogue; `Busy`, too, if a process was killed during a
    /// migration, until the lease of this process has expired; `Corrupt` if the number of the format does not parse; errors of the store.
    pub async fn open(store: Store) -> Result<Self> {
        Self::open_with(store, OpenOptions::default()).await
    }

    /// Opens the image store in `store` as [`AciStore::open`] does, with options.
    ///
    /// # Errors
    /// As [`AciStore::open`].
    pub async fn open_with(store: Store, options: OpenOptions) -> Result<Self> {
        let catalogue = Catalogue::open(&store).await?;
        Ok(AciStore {
            store,
            catalogue,
            reads: NotedReads::default(),
            directory: options.directory,
        })
    }

    /// Calls [`AciStore::flush`], and closes the image store for all of its handles. Later calls
    /// that need the catalogue fail with `FailedPrecondition`. The store that was passed to
    /// [`AciStore::open`] stays open, and each [`AciReader`] that is open can still be read.
    ///
    /// # Errors
    /// `FailedPrecondition` if the image store is closed already; as [`AciStore::flush`]. The image
    /// store is closed even if the flush fails.
    pub async fn close(&self) -> Result<()> {
        self.catalogue.check_open()?;
        let flushed = self.flush().await;
        self.catalogue.close();
        flushed
    }

    /// Returns the catalogue. With it, a caller can make several changes in one batch.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// [`AciStore::read_stream`] and [`AciStore::to_image`] keep in memory when an ACI was last
    /// used. This function writes these times to the store. Every import, removal and update through this type
    /// also writes these times, and does not fail if they cannot be written. If the store is
    /// read-only or full, the times stay in memory, and this call does not fail.
    ///
    /// # Errors
    /// If times are in memory: `FailedPrecondition` after [`AciStore::close`]; `Corrupt` if the
    /// information on an ACI does not parse; errors of the store.
    pub async fn flush(&self) -> Result<()> {
        self.reads.flush(&self.catalogue).await
    }

    /// Calls [`AciStore::flush`] after a job, and ignores errors: the times that were not written
    /// stay in memory.
    async fn flush_if_possible(&self) {
        let _ = self.flush().await;
    }

    /// Returns the information on the only ACI whose key begins with `key`.
    ///
    /// # Errors
    /// As [`AciStore::resolve_key`]; `Corrupt` if the information does not parse.
    pub async fn get_aci_info(&self, key: &str) -> Result<AciInfo> {
        let found = self.find(key).await;
        let info = found.during("get information on ACI", key)?;
        Ok(self.reads.merged(info))
    }

    /// Returns all ACIs, sorted by the first field, then the second, and so on: in ascending order
    /// if `ascending` is set, and otherwise in descending order.
    ///
    /// # Errors
    /// As [`Catalogue::get_all_aci_infos`].
    pub async fn get_all_aci_infos(
        &self,
        fields: &[SortField],
        ascending: bool,
    ) -> Result<Vec<AciInfo>> {
        let infos = self.catalogue.get_all_aci_infos(&[], true).await?;
        let merged = infos.into_iter().map(|info| self.reads.merged(info));
        let mut infos: Vec<AciInfo> = merged.collect();
        sort(&mut infos, fields, ascending);
        Ok(infos)
    }

    /// Sets [`AciInfo::tree_store_size`]: the size in bytes of the file trees that a container
    /// runtime has unpacked from the ACI.
    ///
    /// # Errors
    /// As [`AciStore::get_aci_info`].
    pub async fn update_tree_store_size(&self, key: &str, size: u64) -> Result<()> {
        let update = self.update(key, |info| info.tree_store_size = size);
        update.await.during("update tree store size", key)?;
        self.flush_if_possible().await;
        Ok(())
    }

    /// Returns the underlying store.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    async fn update(&self, key: &str, change: impl Fn(&mut AciInfo) + Send + Sync) -> Result<()> {
        let (key, change) = (&self.resolve(key).await?.key, &change);
        retry(|| async move {
            let (mut info, revision) = self.load(key).await?;
            change(&mut info);
            let mut batch = Batch::new();
            self.catalogue
                .put(&mut batch, &info, Expect::Revision(revision))?;
            self.catalogue.commit(&batch).await
        })
        .await
    }
}
