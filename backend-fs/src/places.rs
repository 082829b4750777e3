//! Which entries of a store must be files, and which must be directories.

use std::io;
use std::path::Path;

use cas_core::check::{Finding, Problem};
use cas_core::{Error, ErrorKind, Result};
use cas_host::{Dir, Misplaced, Place, if_directory};

/// The private directory.
pub(crate) const CAS_DIR: &str = ".cas";
/// The directory of the blobs.
pub(crate) const BLOBS: &str = "blobs";

/// The places in each directory of a store. `format.json`, the records and the files that other
/// programs read are not in this list, because renaming them does not repair them.
const PLACES: [(&str, &[Place<'static>]); 3] = [
    (".", &[Place::Directory(CAS_DIR), Place::Directory(BLOBS)]),
    (
        BLOBS,
        &[Place::Directory("sha256"), Place::Directory("sha512")],
    ),
    (
        CAS_DIR,
        &[
            Place::Directory("ingest"),
            Place::Directory("unsynced"),
            Place::File("lock"),
            Place::File("index.lock"),
            Place::File("remove.lock"),
            Place::File("boot"),
            Place::File("reserve"),
            Place::File("index.new"),
            Place::File("mark.new"),
            Place::File("format.new"),
            Place::File("boot.new"),
        ],
    ),
];

/// Returns a finding for each misplaced entry, and a finding if the directory of the blobs is
/// missing. If `repair` is set, renames the misplaced entries, and makes the directory of the blobs
/// again. Other entries are made again when they are needed.
pub(crate) fn examine(root: &Dir, repair: bool) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    each_place(root, |dir, place, path| {
        findings.extend(place.examine(dir, path, repair)?);
        Ok(())
    })?;
    if root.stat(BLOBS)?.is_none() {
        if repair {
            root.make_dir(BLOBS, 0o755)?;
        }
        let outcome = match repair {
            true => "it was made again, and is empty",
            false => {
                "a repair makes it again, and then fetches the blobs that a registry or the \
                 `--from` source has"
            }
        };
        let detail = format!("the directory of the blobs is missing; {outcome}");
        findings.push(finding(BLOBS, detail, repair));
    }
    Ok(findings)
}

/// Returns a finding about a file or a directory of a store.
pub(crate) fn finding(file: &str, detail: String, repaired: bool) -> Finding {
    Finding {
        problem: Problem::StoreDamaged,
        subject: file.to_owned(),
        detail,
        repaired,
    }
}

/// Returns an error that names a misplaced entry of the store, if there is one and it may have
/// caused `error`. Otherwise returns `error`.
pub(crate) fn explain(root: &Dir, error: Error) -> Error {
    use ErrorKind::{FailedPrecondition, NotFound, Unavailable};
    let may_be_of_a_place =
        |cause: Error| matches!(cause.kind(), FailedPrecondition | NotFound | Unavailable);
    if !Error::of_system(&error).is_some_and(may_be_of_a_place) {
        return error;
    }
    match first_misplaced(root) {
        Ok(Some((path, what))) => what.error(Path::new(&path)).source(error),
        // If the search for a cause fails, the first error is more useful.
        Ok(None) | Err(_) => error,
    }
}

/// Returns the path of the first misplaced entry of the store, or `None` if there is none.
fn first_misplaced(root: &Dir) -> io::Result<Option<(String, Misplaced)>> {
    let mut first = None;
    each_place(root, |dir, place, path| {
        if first.is_none() {
            first = place.misplaced(dir)?.map(|what| (path.to_owned(), what));
        }
        Ok(())
    })?;
    Ok(first)
}

/// Calls `visit` with each place of the store: its directory, the place and its path in the store.
fn each_place(
    root: &Dir,
    mut visit: impl FnMut(&Dir, Place<'_>, &str) -> io::Result<()>,
) -> io::Result<()> {
    for (within, places) in PLACES {
        let Some(dir) = if_directory(root.open_dir(within))? else {
            continue;
        };
        for place in places {
            let path = match within {
                "." => place.name().to_owned(),
                within => format!("{within}/{}", place.name()),
            };
            visit(&dir, *place, &path)?;
        }
    }
    Ok(())
}

/// Returns the error for a lost directory of blobs.
pub(crate) fn blobs_lost() -> Error {
    Error::corrupt(format!(
        "the directory {BLOBS} is missing; restore it, or run `cas fsck --repair`, which makes it \
         again and fetches the blobs that a registry or the `--from` source has"
    ))
}
