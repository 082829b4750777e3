//! Which entries of a root must be files, and which must be directories. The store of the root is
//! checked elsewhere.
//!
//! A misplaced entry is an entry of the wrong type. A repair renames it. The next command that
//! needs the entry makes an empty entry of the right type. If the new entry is a directory of
//! snapshots, the old snapshots are lost. A lost snapshot of a layer is unpacked again with its
//! image, if the store has the layer. Other snapshots stay lost.

use std::io;
use std::path::{Path, PathBuf};

use cas_core::check::Finding;
use cas_core::{Context, Error, ErrorKind, Registry, Result};
use cas_host::{Dir, Place, if_directory};

use super::{LOCK, Root, made};

/// The places in a root. A user may move the large directories to another disk.
const IN_ROOT: [Place<'static>; 4] = [
    Place::File(LOCK),
    Place::MovableDirectory(made::DIRECTORY),
    Place::MovableDirectory("snapshots"),
    Place::Directory("run"),
];
/// The places in the directory of local records, except those of the database.
const IN_LOCAL: [Place<'static>; 3] = [
    Place::File(made::NAME),
    Place::File(made::STAGING),
    Place::File("reserve"),
];
/// The places in the directory of a snapshotter.
const IN_SNAPSHOTTER: [Place<'static>; 4] = [
    Place::MovableDirectory("snapshots"),
    Place::Directory("manifests"),
    Place::Directory("locks"),
    Place::MovableDirectory("jobs"),
];

impl Root {
    /// Returns a finding for each misplaced entry. If `repair` is set, renames these entries.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn examine_places(&self, registry: &Registry, repair: bool) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        self.each_place(registry, |dir, place, path| {
            findings.extend(place.examine(dir, &path.to_string_lossy(), repair)?);
            Ok(())
        })?;
        Ok(findings)
    }

    /// If `error` may come from a misplaced entry, and this root has one, returns an error that
    /// names the entry. Otherwise returns `error`.
    pub(crate) fn explain(&self, registry: &Registry, error: Error) -> Error {
        let mut found = None;
        if Error::of_system(&error).is_some_and(|cause| may_be_of_a_place(cause.kind())) {
            // If the search fails, `error` is more helpful than the error of the search.
            let _ = self.each_place(registry, |dir, place, path| {
                if found.is_none() {
                    found = place.misplaced(dir)?.map(|what| (path.to_owned(), what));
                }
                Ok(())
            });
        }
        match found {
            None => error,
            Some((path, what)) => Error::corrupt(format!(
                "{what}; run `cas fsck --repair`, which sets it aside"
            ))
            .operation("use root")
            .subject(path.display())
            .source(error),
        }
    }

    /// Calls `visit` with each place of this root: its directory, the place and its path.
    fn each_place(
        &self,
        registry: &Registry,
        mut visit: impl FnMut(&Dir, Place<'_>, &Path) -> io::Result<()>,
    ) -> Result<()> {
        let mut examine = |within: PathBuf, places: &[Place<'_>]| {
            let mut examined = || {
                // The directory may be absent, or was already found to be misplaced.
                let Some(dir) = if_directory(Dir::open(&within))? else {
                    return Ok(());
                };
                for place in places {
                    visit(&dir, *place, &within.join(place.name()))?;
                }
                Ok(())
            };
            let examined: io::Result<()> = examined();
            examined.during("examine", within.display())
        };
        let snapshots = self.path.join("snapshots");
        examine(self.path.clone(), &IN_ROOT)?;
        examine(self.path.join(made::DIRECTORY), &IN_LOCAL)?;
        for opener in registry.snapshotters() {
            let own = snapshots.join(opener.scheme());
            examine(
                snapshots.clone(),
                &[Place::MovableDirectory(opener.scheme())],
            )?;
            examine(own, &IN_SNAPSHOTTER)?;
        }
        Ok(())
    }
}

/// Returns whether a misplaced entry may cause a system error of this kind.
fn may_be_of_a_place(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, FailedPrecondition, NotFound, Unavailable};
    matches!(
        kind,
        AlreadyExists | FailedPrecondition | NotFound | Unavailable
    )
}
