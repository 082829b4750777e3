//! Making, opening and closing a root.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cas_core::compose::{Observer, observe};
use cas_core::image::Uses;
use cas_core::records::Records;
use cas_core::{
    Error, ErrorKind, Location, Owner, Registry, Result, Snapshotter, SnapshotterParts, Store,
};

use super::Cas;
use crate::root::{self, Engines, Keep, Root, parse_snapshotter};

/// Options of [`Cas::open_with`].
#[derive(Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// A store for this handle: a scheme, a URL or the name of a table `[stores.NAME]` in
    /// `cas.toml`. By default, the root's own store.
    pub store: Option<String>,
    /// A snapshotter for this handle: a scheme, or a scheme with options, as in
    /// `overlay://?NAME=VALUE`. By default, the root's own snapshotter.
    pub snapshotter: Option<String>,
    /// The backends, compositions and snapshotters to choose from. By default, all that are
    /// compiled in.
    pub registry: Option<Registry>,
    /// Receives every call to the store. For example, [`Counters`](cas_core::compose::Counters)
    /// collects metrics. By default, calls are not observed.
    pub observer: Option<Arc<dyn Observer>>,
    /// The owner for whom the store is opened. The handle then lists and changes only the names of
    /// this owner, and its garbage collections remove only what belongs to this owner. By default,
    /// the handle lists and changes the names of all owners, and its garbage collections keep the
    /// blobs that an owner claims.
    pub owner: Option<Owner>,
    /// Whether the store must exist already. By default, an absent store is created. The existence
    /// of a store is checked only if the store is in the file system.
    pub must_exist: bool,
    /// Whether to turn off the confinement of the threads that unpack images. By default, the
    /// kernel confines these threads to the directory that they write. A restriction that the
    /// kernel does not support is left out without a warning (see `docs/DURABILITY.md`).
    pub unconfined: bool,
}

impl OpenOptions {
    /// Sets [`store`](Self::store).
    #[must_use]
    pub fn with_store(mut self, store: impl Into<String>) -> Self {
        self.store = Some(store.into());
        self
    }

    /// Sets [`snapshotter`](Self::snapshotter).
    #[must_use]
    pub fn with_snapshotter(mut self, snapshotter: impl Into<String>) -> Self {
        self.snapshotter = Some(snapshotter.into());
        self
    }

    /// Sets [`registry`](Self::registry).
    #[must_use]
    pub fn with_registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Sets [`observer`](Self::observer).
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets [`owner`](Self::owner).
    #[must_use]
    pub fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Sets [`must_exist`](Self::must_exist).
    #[must_use]
    pub fn with_must_exist(mut self, must_exist: bool) -> Self {
        self.must_exist = must_exist;
        self
    }

    /// Sets [`unconfined`](Self::unconfined).
    #[must_use]
    pub fn with_unconfined(mut self, unconfined: bool) -> Self {
        self.unconfined = unconfined;
        self
    }
}

impl Cas {
    /// Makes a root with the default store and snapshotter. Returns the same as [`Cas::init_with`].
    ///
    /// # Errors
    /// As [`Cas::init_with`].
    pub fn init(root: impl AsRef<Path>) -> Result<(Engines, Option<Error>)> {
        let registry = crate::registry();
        Self::init_with(root, Engines::for_registry(&registry), &registry)
    }

    /// Makes a root with these engines, which must be in `registry`. If the root already exists
    /// with the same engines, it stays as it is. If its store was lost, the root can be opened
    /// again after this call, with an empty store. To open the root later, pass the same registry
    /// in [`OpenOptions::registry`].
    ///
    /// Returns the engines of the root. If `engines` names no snapshotter, a new root gets the
    /// first snapshotter of `registry` that works on this machine. If that is not the
    /// preferred snapshotter, which is the first of `registry`, also returns the error of the
    /// preferred snapshotter.
    ///
    /// # Errors
    /// `Unsupported` for an engine that is not in `registry`; `InvalidArgument` if the URL of the
    /// store does not parse or contains a secret, if an engine does not support one of its options,
    /// if a composition lacks a member, if [`Keep::Tar`] is set, but the engines do not allow it
    /// (see [`Engines::keep`]), or if the directory is not a root, but contains other files;
    /// `AlreadyExists` if the root uses other engines; the error of the preferred snapshotter if no
    /// snapshotter works.
    pub fn init_with(
        root: impl AsRef<Path>,
        engines: Engines,
        registry: &Registry,
    ) -> Result<(Engines, Option<Error>)> {
        let location = engines.locate(&engines.store, root.as_ref(), registry)?;
        registry.check(&location)?;
        if !engines.snapshotter.is_empty() {
            let chosen = parse_snapshotter(&engines.snapshotter)?;
            let opener = registry.snapshotter(chosen.scheme())?;
            opener.check(&chosen)?;
        }
        let (root, refused) = Root::init(root.as_ref(), engines, registry)?;
        Ok((root.engines, refused))
    }

    /// Opens a root. If there is none, makes one with the default store and snapshotter.
    ///
    /// # Errors
    /// `Unsupported` for a store or a snapshotter that is not compiled in; `InvalidArgument` if
    /// the root keeps layers only as tars, but its engines do not allow this (see
    /// [`Engines::keep`]), or if the directory is not a root, but contains other files; `Busy` if
    /// the store allows only one process at a time, and another process has it open;
    /// `FailedPrecondition` if the root has a format that this release does not read; `Corrupt` if
    /// `cas.toml` does not parse, or if the directory of the store existed earlier and is now
    /// missing or empty; errors of the store and the snapshotter.
    pub async fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(root, OpenOptions::default()).await
    }

    /// Opens a root with options.
    ///
    /// # Errors
    /// As [`Cas::open`]; `InvalidArgument` for a store or a snapshotter that does not parse;
    /// `FailedPrecondition` if the root keeps layers only as tars, but the snapshotter in
    /// [`OpenOptions::snapshotter`] does not keep tars; `Unsupported` for an owner if the store
    /// does not support owners; if the store must exist, `NotFound` if it is absent, and
    /// `InvalidArgument` if something else is in its place.
    pub async fn open_with(root: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        let registry = options.registry.unwrap_or_else(crate::registry);
        let root = Root::open(root.as_ref(), &registry)?;
        let location = match &options.store {
            Some(store) => root.locate(store, &registry)?,
            None => root.store(&registry)?,
        };
        root.engines.check_keep(root.path(), &registry)?;
        let new = root.check_made(&location, &registry)?;
        if options.must_exist {
            registry.check(&location)?;
            check_there(&location, &registry)?;
        }
        let mut store = registry.open(&location).await?;
        if let Some(observer) = options.observer {
            store = observe(store, observer);
        }
        if let Some(owner) = &options.owner {
            store = store.for_owner(owner)?;
        }
        let chosen = options.snapshotter.as_ref();
        let chosen = chosen.unwrap_or(&root.engines.snapshotter);
        let scheme = parse_snapshotter(chosen)?.scheme().to_owned();
        let snapshotter = if scheme.is_empty() {
            None
        } else {
            let opened = open_snapshotter(&root, chosen, &store, &registry).await;
            Some(opened.map_err(|error| match options.snapshotter {
                // An option in the file is wrong.
                None if error.kind() == ErrorKind::InvalidArgument => {
                    error.within(root.path().join("cas.toml").display())
                }
                _ => error,
            })?)
        };
        let only_tars = root.engines.keep == Keep::Tar;
        if only_tars && !snapshotter.as_ref().is_some_and(|one| one.keeps_tars()) {
            return Err(Error::precondition(format!(
                "the root keeps layers only as tars (`keep = \"tar\"`), but the snapshotter \
                 {chosen:?} does not keep tars; open the root with its own snapshotter"
            ))
            .operation("open root"));
        }
        root.note_made(&new);
        let uses = Uses::new(Arc::clone(&store.records), Arc::clone(&store.images))?;
        Ok(Cas {
            store,
            snapshotter,
            locks: root.locks(&scheme).into(),
            own_store: options.store.is_none(),
            only_tars: only_tars && options.store.is_none(),
            confine: !options.unconfined,
            read_only: root.read_only(&location),
            location: location.into(),
            uses: Arc::new(uses),
            closed: Arc::new(AtomicBool::new(false)),
            root: Arc::new(root),
            registry: Arc::new(registry),
            warned: Arc::default(),
            #[cfg(feature = "registry")]
            parallel: Arc::default(),
        })
    }

    /// Checks that the store is not in a read-only root. A root is read-only if this user cannot
    /// write to its directory, or if its file system is read-only. On a read-only root, verbs that
    /// change nothing still work.
    ///
    /// # Errors
    /// `Denied` if the root is read-only and the store is in it; `FailedPrecondition` if the handle
    /// is closed.
    pub fn check_writable(&self) -> Result<()> {
        self.opened()?;
        match &self.read_only {
            None => Ok(()),
            Some(root) => Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "root {root} is read-only: its images can be read, but nothing can be changed; \
                     make it writable for this user, or choose another root"
                ),
            )),
        }
    }

    /// Closes the handle and all its clones. When the call returns, everything that was written is
    /// on the device. Verbs that are called later on a clone fail. If the store allows only one
    /// process at a time, another process can open the store after the last clone is dropped.
    ///
    /// # Errors
    /// `FailedPrecondition` if the handle is closed already; errors of the store and the
    /// snapshotter.
    pub async fn close(self) -> Result<()> {
        self.opened()?;
        self.closed.store(true, Ordering::Relaxed);
        // If the disk is full, the last uses of images are lost, but nothing else.
        let _ = self.uses.flush().await;
        self.store.content.flush().await?;
        match &self.snapshotter {
            Some(snapshotter) => snapshotter.close().await,
            None => Ok(()),
        }
    }
}

/// Checks that the store at `location` exists. For a composition, checks its members.
///
/// # Errors
/// As [`root::check_there`]; as [`Registry::parts`].
pub(super) fn check_there(location: &Location, registry: &Registry) -> Result<()> {
    let parts = registry.parts(location)?;
    parts.iter().try_for_each(root::check_there)
}

/// Opens the snapshotter that `chosen` names, in its directory of the root.
pub(super) async fn open_snapshotter(
    root: &Root,
    chosen: &str,
    store: &Store,
    registry: &Registry,
) -> Result<Arc<dyn Snapshotter>> {
    let chosen = parse_snapshotter(chosen)?;
    let records: Arc<dyn Records> = Arc::new(root.local_records()?);
    let directory = root.snapshots(chosen.scheme());
    let mut parts = SnapshotterParts::new(directory, records, store.clone());
    parts.options.clone_from(chosen.options());
    registry.snapshotter(chosen.scheme())?.open(parts).await
}
