//! Which entries of a root must be files, and which must be directories. The store of the root is
//! checked elsewhere.
//!
//! A repair renames what is misplaced. The directories are then made again when they are needed,
//! and lost snapshots are unpacked again.

use std::io;
use std::path::{Path, PathBuf};

use cas_core::check::{Finding, Problem};
use cas_core::{Context, Error, ErrorKind, Registry, Result};
use cas_host::{Dir, Misplaced, Place};
use rustix::io::Errno;

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
        self.each_misplaced(registry, |dir, place, path, what| {
            let outcome = match repair {
                true => place.clear(dir)?.map(|aside| {
                    format!("it was renamed to {aside}; the entry is made again when it is needed")
                }),
                false => Some("a repair renames it".to_owned()),
            };
            findings.extend(outcome.map(|outcome| Finding {
                problem: Problem::StoreDamaged,
                subject: path.display().to_string(),
                detail: format!("{what}; {outcome}"),
                repaired: repair,
            }));
            Ok(())
        })?;
        Ok(findings)
    }

    /// If `error` may come from a misplaced entry of this root, returns an error that names the
    /// entry. Otherwise returns `error`.
    pub(crate) fn explain(&self, registry: &Registry, error: Error) -> Error {
        let mut found = None;
        if Error::of_system(&error).is_some_and(|cause| may_be_of_a_place(cause.kind())) {
            // If the search fails, the first error is more helpful than the error of the search.
            let _ = self.each_misplaced(registry, |_, _, path, what| {
                found.get_or_insert_with(|| (path.to_owned(), what));
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

    /// Calls `visit` with each place where something is misplaced: its directory, the place, its
    /// path and what is wrong.
    fn each_misplaced(
        &self,
        registry: &Registry,
        mut visit: impl FnMut(&Dir, Place<'_>, &Path, Misplaced) -> io::Result<()>,
    ) -> Result<()> {
        let mut examine = |within: PathBuf, places: &[Place<'_>]| {
            let mut examined = || {
                let dir = match Dir::open(&within) {
                    // The directory is absent, or was already found to be misplaced.
                    Err(error) if is_absent(&error) => return Ok(()),
                    dir => dir?,
                };
                for place in places {
                    if let Some(what) = place.misplaced(&dir)? {
                        visit(&dir, *place, &within.join(place.name()), what)?;
                    }
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

/// Returns whether a misplaced file may cause a system error of this kind.
fn may_be_of_a_place(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, FailedPrecondition, NotFound, Unavailable};
    matches!(
        kind,
        AlreadyExists | FailedPrecondition | NotFound | Unavailable
    )
}

fn is_absent(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}
