//! A handle on images, their content and their snapshots. The methods that do a job are called
//! verbs. Many verbs have a second form, `*_with`, that also takes options. The future of a verb
//! may be dropped at any time. Dropping the future cancels the job, and the unfinished work of the
//! job is removed in the background. A job may still complete if it has begun its last write, or if
//! it unmounts or removes something.

mod arguments;
mod blobs;
pub mod blocking;
mod bundle;
mod copy;
#[cfg(feature = "registry")]
mod cosign;
mod dir_lock;
#[cfg(feature = "erofs")]
mod disk;
mod each_snapshotter;
mod exchange;
mod fsck;
mod gc;
mod images;
mod ingests;
#[cfg(feature = "on-demand")]
mod lazy_settings;
mod leftovers;
mod listing;
mod lookup;
#[cfg(feature = "on-demand")]
mod lost_tables;
mod mount;
mod mounted;
mod only_tars;
mod open;
#[cfg(feature = "registry")]
mod parallel_pull;
mod paths;
mod prune;
#[cfg(feature = "registry")]
mod remote;
#[cfg(feature = "registry")]
mod remote_options;
mod root_dir;
mod runs;
mod snapshot_mounts;
mod snapshots;
#[cfg(feature = "soci")]
mod soci;
#[cfg(feature = "soci")]
mod soci_convert;
mod stored;
mod unpack;

use std::collections::BTreeSet;
use std::path::Path;
#[cfg(feature = "registry")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cas_core::image::Uses;
use cas_core::{Error, Location, Registry, Result, Snapshotter, Store};

#[cfg(feature = "registry")]
pub use self::arguments::RegistryRef;
pub use self::arguments::{ImageRef, NewName};
pub use self::copy::CopyOptions;
#[cfg(feature = "erofs")]
pub use self::disk::{DiskFormat, DiskOptions};
pub use self::exchange::ImportOptions;
pub use self::fsck::FsckOptions;
pub use self::images::{DeleteOptions, QueryOptions};
pub use self::ingests::IngestInfo;
pub use self::listing::{Listed, Listing};
pub use self::mount::MountOptions;
pub use self::open::OpenOptions;
#[cfg(feature = "registry")]
pub use self::parallel_pull::ParallelPull;
#[cfg(feature = "registry")]
pub use self::remote_options::{Policy, PullOptions, PushOptions};
pub use self::root_dir::RootDirOptions;
pub use self::runs::{EndedRun, Run};
pub use self::snapshot_mounts::{MountSnapshotOptions, UnmountOptions};
pub use self::snapshots::{SnapshotOptions, UsageOptions};
#[cfg(feature = "soci")]
pub use self::soci::{SociIndex, SociLayer, SociOptions};
pub use self::stored::StoredImage;
pub use self::unpack::UnpackOptions;
use crate::root::Root;

/// A handle on an open root: a directory with settings (`cas.toml`), a store of images and their
/// content, and snapshots. The store may also be outside of the directory.
///
/// The methods that do a job, such as [`Cas::import`] or [`Cas::gc`], are called verbs. If the root
/// is read-only and contains the store, verbs that change something return `Denied` (see
/// [`Cas::check_writable`]).
///
/// A handle is cheap to clone. All clones are the same handle: after [`Cas::close`], the verbs of
/// all clones return `FailedPrecondition`.
#[derive(Clone)]
pub struct Cas {
    store: Store,
    /// `None` if the root was made without a snapshotter, and none was chosen for this handle.
    snapshotter: Option<Arc<dyn Snapshotter>>,
    /// The directory of the lock files by which unpacks of the same layers exclude each other.
    locks: Arc<Path>,
    /// Where the store is.
    location: Arc<Location>,
    /// Whether the store is the root's own, and not one that was chosen for this handle.
    own_store: bool,
    /// Whether unpacked layers are kept only as tars in the snapshotter, without their blobs in the
    /// store. Always false if the store was chosen for this handle.
    only_tars: bool,
    /// Whether the threads that unpack images are confined (see [`OpenOptions::unconfined`]).
    confine: bool,
    /// The path of the root, if the root is read-only and the store is in it.
    read_only: Option<Arc<str>>,
    uses: Arc<Uses>,
    closed: Arc<AtomicBool>,
    root: Arc<Root>,
    /// The snapshotters to choose from.
    registry: Arc<Registry>,
    /// The snapshotters that could not be opened, and for which a warning was logged.
    warned: Arc<Mutex<BTreeSet<&'static str>>>,
    /// The limits of parallel pulls that `cas.toml` sets, or `None` if `cas.toml` does not turn
    /// parallel pulls on. The first pull that needs these limits reads `cas.toml`.
    #[cfg(feature = "registry")]
    parallel: Arc<OnceLock<Option<ParallelPull>>>,
}

impl Cas {
    /// Returns the store, for operations that have no verb.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the snapshotter.
    ///
    /// # Errors
    /// `FailedPrecondition` if the root was made without a snapshotter and none was chosen for this
    /// handle, or if the handle is closed.
    pub fn snapshotter(&self) -> Result<&Arc<dyn Snapshotter>> {
        self.opened()?;
        self.snapshotter.as_ref().ok_or_else(|| {
            Error::precondition(
                "the root was made without a snapshotter; choose one for this handle, or make a \
                 new root with a build that has one",
            )
            .operation("open snapshotter")
        })
    }

    /// Returns the store if the handle is not closed.
    fn opened(&self) -> Result<&Store> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::precondition(
                "the handle was closed; open the root again",
            ));
        }
        Ok(&self.store)
    }

    /// Returns the store if the handle is not closed and the root can be written.
    fn writable(&self) -> Result<&Store> {
        self.check_writable()?;
        Ok(&self.store)
    }
}

#[cfg(feature = "redb")]
#[cfg(test)]
mod tests {
    use cas_core::{ErrorKind, pool::wait};

    use super::*;

    fn open(root: &Path) -> Cas {
        let registry = Registry::new().with(backend_redb::RedbOpener);
        let options = OpenOptions::default().with_registry(registry);
        wait(Cas::open_with(root, options)).unwrap()
    }

    #[test]
    fn a_root_without_a_snapshotter_has_images_and_says_that_it_has_no_snapshotter() {
        let temp = tempfile::tempdir().unwrap();
        let cas = open(&temp.path().join("root"));
        assert_eq!(wait(cas.images()).unwrap(), []);
        wait(cas.gc()).unwrap();
        let error = cas.snapshotter().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("snapshotter"), "{error}");
    }

    #[test]
    fn a_closed_handle_says_so_in_every_clone_and_the_root_opens_again() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("root");
        let cas = open(&root);
        let clone = cas.clone();
        wait(cas.close()).unwrap();
        let error = wait(clone.images()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("closed"), "{error}");
        drop(clone);
        assert_eq!(wait(open(&root).images()).unwrap(), []);
    }
}
