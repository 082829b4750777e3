//! The engines of a root that has lost its `cas.toml`.

use std::path::Path;

use cas_core::{Error, ErrorKind, Location, Opener, Registry, Result, SnapshotterOpener, pool};

use super::engines::Engines;
use super::made;

/// The directory of a store in a root.
const STORE: &str = "store";

/// Returns the engines of the root `root`, which has no `cas.toml`. The store is the one whose
/// engine takes the directory `store` for its own, and the snapshotter is one that has files. If
/// there are no files, returns the engines of a new root.
///
/// # Errors
/// `Corrupt` if the root has stores in other directories.
pub(super) fn engines(root: &Path, registry: &Registry) -> Result<Engines> {
    let is_lost = |name: &String| name != STORE && !made::has_no_files(&root.join(name));
    if let Some(store) = made::read(root).into_iter().find(is_lost) {
        return Err(Error::corrupt(format!(
            "cas.toml is missing, but this root has a store in {}; restore cas.toml from a copy, \
             or run `cas init` with the store and the snapshotter of this root",
            root.join(store).display()
        ))
        .operation("open root")
        .subject(root.display()));
    }
    let mut engines = Engines::for_registry(registry);
    let place = root.join(STORE);
    if !made::has_no_files(&place) {
        let mut schemes = registry.openers().map(Opener::scheme);
        if let Some(found) = schemes.find(|scheme| is_store_of(scheme, &place, registry)) {
            engines.store = found.to_owned();
        }
    }
    let mut snapshotters = registry.snapshotters().map(SnapshotterOpener::scheme);
    let has_files = |scheme: &&str| !made::has_no_files(&root.join("snapshots").join(scheme));
    if let Some(found) = snapshotters.find(has_files) {
        engines.snapshotter = found.to_owned();
    }
    if !made::has_no_files(&place) {
        tracing::warn!(
            root = %root.display(),
            "cas.toml is missing; a new one gets the store and the snapshotter of the root, but no \
             other setting; restore cas.toml from a copy if it had others"
        );
    }
    Ok(engines)
}

/// Returns whether the engine `scheme` takes the directory `place` for a store of its own, which
/// may be damaged or in use. Every engine refuses a directory of another one unchanged.
fn is_store_of(scheme: &str, place: &Path, registry: &Registry) -> bool {
    use ErrorKind::{Busy, Corrupt, Denied, Full};
    let Ok(location) = Location::of_path(scheme, place) else {
        return false;
    };
    match pool::wait(registry.open(&location)) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), Busy | Corrupt | Denied | Full),
    }
}
