//! The engines of a root that has lost its `cas.toml`, and the repair of such a root.

use std::io;
use std::path::Path;

use cas_core::check::{Finding, Problem};
use cas_core::{Error, ErrorKind, Location, Opener, Registry, Result, SnapshotterOpener, pool};
use cas_host::Dir;
use cas_host::calls::undisturbed;

use super::engines::Engines;
use super::{Root, file, made, refuse_foreign};

/// The directory of a store in a root.
const STORE: &str = "store";

/// Returns a finding if the root `root` has lost its `cas.toml`. A repair makes the file again.
/// Returns `None` if the file is there, or if something else is in its place.
///
/// # Errors
/// `NotFound` if the directory is not a root; `Corrupt` if the file is lost and the root has stores
/// in other directories than `store`; errors of [`Root::open`].
pub(crate) fn examine(root: &Path, registry: &Registry, repair: bool) -> Result<Option<Finding>> {
    let place = root.join(file::NAME);
    let found = undisturbed(|| place.symlink_metadata());
    if !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    if !is_root(root, registry) {
        let why = "not a root: cas.toml is missing; choose the directory of a root";
        return Err(Error::not_found(why));
    }
    refuse_other_stores(root)?;
    let outcome = match repair {
        true => {
            Root::open(root, registry)?;
            "it was made again with the store and the snapshotter of the root"
        }
        false => "a repair makes it again with the store and the snapshotter of the root",
    };
    Ok(Some(Finding {
        problem: Problem::StoreDamaged,
        subject: place.display().to_string(),
        detail: format!(
            "the file is missing; {outcome}, but without other settings; restore the file from a \
             copy if it had others"
        ),
        repaired: repair,
    }))
}

/// Returns whether a directory without `cas.toml` is a root: it has files of a store or of a
/// snapshotter, and nothing that no root has.
fn is_root(root: &Path, registry: &Registry) -> bool {
    let snapshotters = registry.snapshotters().map(SnapshotterOpener::scheme);
    let places = snapshotters.map(|scheme| root.join("snapshots").join(scheme));
    let mut places = places.chain([root.join(STORE)]);
    let has_files = places.any(|place| !made::has_no_files(&place)) || !made::read(root).is_empty();
    let dir = Dir::open(root).map_err(Error::from);
    has_files && dir.and_then(|dir| refuse_foreign(&dir)).is_ok()
}

/// Refuses a root without `cas.toml` that has stores in other directories than `store`, because
/// only the file had their names and options.
///
/// # Errors
/// `Corrupt` if the root has such a store.
fn refuse_other_stores(root: &Path) -> Result<()> {
    let is_lost = |name: &String| name != STORE && !made::has_no_files(&root.join(name));
    let Some(store) = made::read(root).into_iter().find(is_lost) else {
        return Ok(());
    };
    Err(Error::corrupt(format!(
        "cas.toml is missing, but this root has a store in {}; restore cas.toml from a copy, or \
         run `cas init` with the store and the snapshotter of this root",
        root.join(store).display()
    ))
    .operation("open root")
    .subject(root.display()))
}

/// Checks that the engines chosen for the root `root`, which has no `cas.toml`, include the stores
/// that the root has. With another store, a collection would remove the snapshots of all images.
///
/// # Errors
/// `Corrupt` if a directory in which the root has made a store does not belong to the chosen store,
/// or if the directory `store` has the files of another engine; as [`Registry::parts`].
pub(super) fn check_chosen(root: &Path, engines: &Engines, registry: &Registry) -> Result<()> {
    let parts = registry.parts(&engines.locate(&engines.store, root, registry)?)?;
    let listed: Vec<_> = made::read(root)
        .iter()
        .map(|name| root.join(name))
        .collect();
    for place in listed.iter().chain([&root.join(STORE)]) {
        if made::has_no_files(place) {
            continue;
        }
        let is_right = match parts.iter().find(|part| Path::new(part.place()) == place) {
            Some(part) => engine_of(place, registry).is_none_or(|found| found == part.scheme()),
            // An earlier release did not list the directory. Its files may not be those of a store.
            None => !listed.contains(place),
        };
        if !is_right {
            return Err(Error::corrupt(format!(
                "cas.toml is missing, and the files in {} are not those of the chosen store {}; \
                 restore cas.toml from a copy, name the store of this root with --store, or choose \
                 another directory",
                place.display(),
                engines.store
            )));
        }
    }
    Ok(())
}

/// Returns the scheme of the engine whose store is in the directory `place`, if there is one.
fn engine_of<'a>(place: &Path, registry: &'a Registry) -> Option<&'a str> {
    let mut schemes = registry.openers().map(Opener::scheme);
    schemes.find(|scheme| is_store_of(scheme, place, registry))
}

/// Returns the scheme of a snapshotter that has files in the root, if there is one.
pub(super) fn snapshotter(root: &Path, registry: &Registry) -> Option<String> {
    let mut snapshotters = registry.snapshotters().map(SnapshotterOpener::scheme);
    let has_files = |scheme: &&str| !made::has_no_files(&root.join("snapshots").join(scheme));
    snapshotters.find(has_files).map(str::to_owned)
}

/// Returns the engines of the root `root`, which has no `cas.toml`: the engine of the store in the
/// directory `store`, and a snapshotter that has files. If there are no files, returns the engines
/// of a new root.
///
/// # Errors
/// `Corrupt` if the root has stores in other directories.
pub(super) fn engines(root: &Path, registry: &Registry) -> Result<Engines> {
    refuse_other_stores(root)?;
    let mut engines = Engines::for_registry(registry);
    let place = root.join(STORE);
    if !made::has_no_files(&place)
        && let Some(found) = engine_of(&place, registry)
    {
        engines.store = found.to_owned();
    }
    if let Some(found) = snapshotter(root, registry) {
        engines.snapshotter = found;
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

/// Returns whether the directory `place` is a store of the engine `scheme`, which may be damaged or
/// in use. If the names in such a store are not known, the engine opens the store. Every engine
/// refuses a directory of another one unchanged.
fn is_store_of(scheme: &str, place: &Path, registry: &Registry) -> bool {
    use ErrorKind::{Busy, Corrupt, Denied, Full};
    if let Some((_, names)) = made::NAMES.iter().find(|(known, _)| *known == scheme) {
        let exists = |name: &str| undisturbed(|| place.join(name).symlink_metadata()).is_ok();
        return names.iter().any(|name| exists(name));
    }
    let Ok(location) = Location::of_path(scheme, place) else {
        return false;
    };
    match pool::wait(registry.open(&location)) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), Busy | Corrupt | Denied | Full),
    }
}
