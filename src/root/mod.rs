//! A root: the directory with a store, snapshots, and the file that names the store and the
//! snapshotter.
//!
//! ```text
//! ROOT/                0700
//!   cas.toml           the engines, and settings of registries; never a secret
//!   store/             the store; a store of the backend `fs` is an OCI image layout
//!   stores/NAME/       the store of the table NAME of cas.toml, or a composition whose scheme is
//!                      NAME; the members of a composition are below it
//!   snapshots/NAME/    the files of a snapshotter, and unpack jobs
//!   local/records.db   the records of snapshots, which are always local
//!   local/made.json    a list of the directories that the root has made for its stores
//!   run/               bundles of `cas run` that are in use
//! ```

mod engines;
mod file;
mod found;
mod keep;
mod lazy;
mod made;
mod places;
#[cfg(feature = "registry")]
mod pull_modes;
mod registries;
mod remote;
#[cfg(feature = "registry")]
mod settings;
mod snapshotter;
#[cfg(feature = "registry")]
mod soci_config;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cas_core::{Context, Error, Location, Registry, Result};
use cas_host::calls::{make_dirs, undisturbed};
use cas_host::{Dir, Lock, find_foreign, make_private_dir};
use cas_records_sqlite::SqliteRecords;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

pub use self::engines::{Engines, Table};
pub(crate) use self::found::examine as examine_settings;
pub use self::keep::Keep;
pub use self::lazy::LazyTable;
pub(crate) use self::made::check_there;
#[cfg(feature = "registry")]
pub use self::pull_modes::{PullMode, PullModes};
pub use self::registries::RegistryTable;
pub use self::remote::{PolicyTable, RemoteTable};
#[cfg(feature = "registry")]
pub use self::settings::RemoteSettings;

#[cfg(feature = "fuzzing")]
pub(crate) use self::file::{parse, text};
pub(crate) use self::snapshotter::parse as parse_snapshotter;

/// The table of `cas.toml` about parallel pulls, and about the SOCI indexes that are used.
const PULL_MODES: &str = "pull_modes";

/// The file that is locked while `cas.toml` or `local/made.json` is written.
const LOCK: &str = ".lock";

/// An open root directory.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    path: PathBuf,
    /// Whether this process can write to the directory.
    writable: bool,
    pub(crate) engines: Engines,
}

impl Root {
    /// Opens a root. If there is none, makes one with the default store and snapshotter. If only
    /// `cas.toml` is lost, makes it again with the engines whose files are in the root.
    ///
    /// # Errors
    /// `Corrupt` if `cas.toml` does not parse, if something else is in its place, or if it is lost
    /// and the root has stores in other directories than `store`; `FailedPrecondition` if it has
    /// another format; `InvalidArgument` if `speed` in its table `[lazy]` is wrong; if `cas.toml`
    /// does not exist, as [`Root::init`]; errors of the file system.
    pub(crate) fn open(path: &Path, registry: &Registry) -> Result<Self> {
        match file::read(path)? {
            Some(text) => Self::new(path, file::parse(&text, path)?),
            None => {
                let engines = found::engines(path, registry)?;
                Self::init(path, engines, registry).map(|(root, _)| root)
            }
        }
    }

    /// Makes a root with these engines. If the root exists with the same engines, keeps it. If its
    /// store is lost, the next opening then makes the store again. A setting other than the store
    /// counts as the same if `engines` leaves it at its default. Returns the root. If the root is
    /// new, `engines` has no snapshotter, and the preferred snapshotter does not work on this
    /// machine, also returns the reason.
    ///
    /// # Errors
    /// `AlreadyExists` if `path` is a root with other engines; `FailedPrecondition` for a
    /// `cas.toml` of another format; `Corrupt` if `cas.toml` does not parse, if something else is
    /// in its place, or if the root has lost it and has another store; `InvalidArgument` if the directory contains something else, for a store
    /// with a secret in its URL, a store that cannot be located, engines that do not allow their
    /// `keep`, or a wrong `speed` in the table `[lazy]`; the error of the preferred snapshotter if
    /// none works; errors of the file system. After an error of the file system, the root may have
    /// been made. After any other error, it was not made.
    pub(crate) fn init(
        path: &Path,
        mut engines: Engines,
        registry: &Registry,
    ) -> Result<(Self, Option<Error>)> {
        file::refuse_secret(&engines.store)?;
        let place = std::path::absolute(path).during("init root", path.display())?;
        engines.locate(&engines.store, &place, registry)?;
        engines.check_keep(&place, registry)?;
        engines.lazy.bytes_per_second()?;
        make_private_dir(path).during("make root", path.display())?;
        let dir = Dir::open(path).during("init root", path.display())?;
        if file::read(path)?.is_none() {
            refuse_foreign(&dir).during("init root", path.display())?;
        }
        let _lock = Lock::exclusive(&dir, LOCK).during("init root", path.display())?;
        if let Some(text) = file::read(path)? {
            let found = same_engines(engines, file::parse(&text, path)?);
            let found = found.during("init root", path.display())?;
            made::forget_lost(path)?;
            return Ok((Self::new(path, found)?, None));
        }
        found::check_chosen(&place, &engines, registry).during("init root", path.display())?;
        let mut refused = None;
        if engines.snapshotter.is_empty()
            && let Some(found) = found::snapshotter(&place, registry)
        {
            engines.snapshotter = found;
        }
        if engines.snapshotter.is_empty() {
            let snapshots = path.join("snapshots");
            (engines.snapshotter, refused) = snapshotter::first_usable(&snapshots, registry)?;
        }
        let text = file::text(&engines)?;
        dir.replace(file::NAME, text.as_bytes(), 0o600, (&dir, ".cas.toml"))
            .during("init root", path.display())?;
        Ok((Self::new(path, engines)?, refused))
    }

    fn new(path: &Path, engines: Engines) -> Result<Self> {
        let path = std::path::absolute(path).during("open root", path.display())?;
        let check = || accessat(CWD, &path, Access::WRITE_OK, AtFlags::EACCESS);
        let writable = match undisturbed(check) {
            Err(Errno::ROFS | Errno::ACCESS | Errno::PERM) => false,
            checked => checked
                .map_err(io::Error::from)
                .during("open root", path.display())
                .map(|()| true)?,
        };
        Ok(Root {
            path,
            writable,
            engines,
        })
    }

    /// Returns the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the location of the root's own store.
    pub(crate) fn store(&self, registry: &Registry) -> Result<Location> {
        self.locate(&self.engines.store, registry)
    }

    /// Returns the location of `store`, which is a scheme, a URL or the name of a table.
    pub(crate) fn locate(&self, store: &str, registry: &Registry) -> Result<Location> {
        self.engines.locate(store, &self.path, registry)
    }

    /// Returns the settings of registries in `cas.toml`.
    #[cfg(feature = "registry")]
    pub(crate) fn remote_settings(&self) -> RemoteSettings {
        RemoteSettings::of(&self.path, self.engines.clone())
    }

    /// Returns the table `[pull_modes]` of `cas.toml`, and warnings about settings that have no
    /// effect or are replaced.
    ///
    /// # Errors
    /// As [`PullModes::from_toml`]; errors of the file system.
    #[cfg(feature = "registry")]
    pub(crate) fn pull_modes(&self) -> Result<(PullModes, Vec<String>)> {
        let file = self.path.join(file::NAME);
        let text = file::read(&self.path)?.unwrap_or_default();
        PullModes::from_toml(&text).map_err(|error| error.within(file.display()))
    }

    /// Returns the directory of a snapshotter.
    pub(crate) fn snapshots(&self, name: &str) -> PathBuf {
        self.path.join("snapshots").join(name)
    }

    /// Returns the directory of the lock files by which unpacks of the same layers into a
    /// snapshotter exclude each other.
    pub(crate) fn locks(&self, name: &str) -> PathBuf {
        self.snapshots(name).join("locks")
    }

    /// Returns whether the directory of a snapshotter has files, or cannot be read.
    pub(crate) fn has_files_of(&self, name: &str) -> bool {
        !made::has_no_files(&self.snapshots(name))
    }

    /// Returns whether this user can write to the root.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Returns the path of this root if the root is read-only and `store` is in it, so that nothing
    /// can be written to `store`.
    pub(crate) fn read_only(&self, store: &Location) -> Option<Arc<str>> {
        let inside = Path::new(store.place()).starts_with(&self.path);
        (inside && !self.writable).then(|| self.path.display().to_string().into())
    }

    /// Opens the local records. Creates them if they are absent and the root can be written. In a
    /// read-only root, absent records read as empty ones.
    ///
    /// # Errors
    /// As [`SqliteRecords::open`] and [`SqliteRecords::open_read_only`].
    pub(crate) fn local_records(&self) -> Result<SqliteRecords> {
        let path = self.local_database();
        if !self.writable {
            return SqliteRecords::open_read_only(&path);
        }
        let directory = self.path.join("local");
        make_dirs(&directory).during("make", directory.display())?;
        SqliteRecords::open(&path)
    }

    /// Returns the file of the local records.
    pub(crate) fn local_database(&self) -> PathBuf {
        self.path.join("local/records.db")
    }
}

/// Returns the engines `found` in an existing root, if they are the same as the `chosen` engines.
/// A setting other than the store counts as the same if `chosen` leaves it at its default.
///
/// # Errors
/// `AlreadyExists` if the engines differ.
fn same_engines(mut chosen: Engines, found: Engines) -> Result<Engines> {
    if chosen.snapshotter.is_empty() {
        chosen.snapshotter.clone_from(&found.snapshotter);
    }
    if chosen.keep == Keep::default() {
        chosen.keep = found.keep;
    }
    if chosen.stores.is_empty() {
        chosen.stores.clone_from(&found.stores);
    }
    if chosen.registries.is_empty() {
        chosen.registries.clone_from(&found.registries);
    }
    if chosen.remote == RemoteTable::default() {
        chosen.remote.clone_from(&found.remote);
    }
    if chosen.lazy == LazyTable::default() {
        chosen.lazy.clone_from(&found.lazy);
    }
    if chosen.policy == PolicyTable::default() {
        chosen.policy.clone_from(&found.policy);
    }
    if found == chosen {
        return Ok(found);
    }
    let others = [
        ("stores", found.stores == chosen.stores),
        ("registries", found.registries == chosen.registries),
        ("remote", found.remote == chosen.remote),
        ("lazy", found.lazy == chosen.lazy),
        ("policy", found.policy == chosen.policy),
    ];
    let others = others.into_iter().filter(|(_, is_same)| !is_same);
    let mut tables: String = others
        .map(|(table, _)| format!(", and its table [{table}] differs from the requested table"))
        .collect();
    if found.keep != chosen.keep {
        tables.push_str(", and its `keep` differs from the requested value");
    }
    Err(Error::already_exists(format!(
        "this root already uses store {:?} and snapshotter {:?}{tables}; choose another directory",
        found.store, found.snapshotter
    )))
}

/// Refuses a directory that contains an entry which no root has.
///
/// # Errors
/// `InvalidArgument` for such an entry; errors of the file system.
fn refuse_foreign(dir: &Dir) -> Result<()> {
    let ours = [file::NAME, "store", "stores", "snapshots", "local", "run"];
    // Names that begin with a dot are the lock, and temporary files that a crash left.
    let is_ours = |name: &str| ours.contains(&name) || name.starts_with('.');
    if let Some(foreign) = find_foreign(dir, is_ours)? {
        return Err(Error::invalid(format!(
            "the directory is not a root, and not empty: it contains {foreign:?}; choose \
             another directory"
        )));
    }
    Ok(())
}
