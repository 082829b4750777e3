//! A store of App Container images (ACIs) over any store of `cas`, with the functions of rkt's
//! image store.
//!
//! An [`AciStore`] keeps a [`Catalogue`] in the [notes](cas_core::records::Notes) of a store, and
//! the archives and manifests of the images as blobs. Like rkt's package `imagestore`, an
//! `AciStore` imports ACIs from streams, and finds them by key, name and labels. It also reads,
//! lists and removes ACIs. The catalogue also has the remotes that ACIs were fetched from.
//!
//! ```
//! # use cas_core::testing::memory::MemoryStore;
//! # async fn run(archive: std::fs::File) -> cas_core::Result<()> {
//! use cas_aci::AciStore;
//!
//! let store = AciStore::open(MemoryStore::new().with_images()).await?;
//! let key = store.write_aci(archive).await?;
//! let archive = store.read_stream(&key.half()).await?;
//! store.close().await?;
//! # Ok(())
//! # }
//! ```

mod archive;
mod blobs;
mod catalogue;
mod fetch;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod info;
mod key;
mod manifest;
mod ql;
mod remote;
mod rkt;
mod store;
mod used;

pub use catalogue::Catalogue;
pub use fetch::{AciFetcher, Fetched};
pub use info::{AciInfo, MANIFEST_MEDIA_TYPE, MEDIA_TYPE, SortField};
pub use key::{Key, KeyPrefix, hash_to_key};
pub use manifest::{
    App, Dependency, EventHandler, ImageManifest, Label, MountPoint, Port, check_identifier,
};
pub use remote::{Remote, max_age};
pub use rkt::ImportedStore;
pub use store::{
    AciReader, AciStore, OpenOptions, StoreRemovalError, Swept, TempFile, WriteOptions,
};
