//! Which entries of a store must be files, and which must be directories.

use std::io;

use cas_core::check::{Finding, Problem};
use cas_core::{Error, ErrorKind, Result};
use cas_host::{Dir, Misplaced, Place};
use rustix::io::Errno;

/// The private directory.
pub(crate) const CAS_DIR: &str = ".cas";
/// The directory of the blobs.
pub(crate) const BLOBS: &str = "blobs";

/// The places in each directory of a store. The files that other programs read and the records are
/// not in this list, because renaming them does not repair them.
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
    for (within, places) in PLACES {
        let Some(dir) = open(root, within)? else {
            continue;
        };
        for place in places {
            let Some(what) = place.misplaced(&dir)? else {
                continue;
            };
            let outcome = match repair {
                true => place
                    .clear(&dir)?
                    .map(|aside| format!("it was renamed to {aside}")),
                false => Some("a repair renames it".to_owned()),
            };
            let subject = path_of(within, *place);
            let detail = outcome.map(|outcome| format!("{what}; {outcome}"));
            findings.extend(detail.map(|detail| finding(&subject, detail, repair)));
        }
    }
    if root.stat(BLOBS)?.is_none() {
        if repair {
            root.make_dir(BLOBS, 0o755)?;
        }
        let outcome = match repair {
            true => "it was made again, and is empty",
            false => "a repair makes it again, and then fetches the blobs that a source has",
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
        Ok(Some((path, what))) => misplaced(&path, &what).source(error),
        // If the search for a cause fails, the first error is more useful.
        Ok(None) | Err(_) => error,
    }
}

/// Returns the error for a misplaced entry at `path`.
pub(crate) fn misplaced(path: &str, what: &Misplaced) -> Error {
    Error::corrupt(format!(
        "{what} at {path}; run `cas fsck --repair`, which sets it aside"
    ))
}

/// Returns the path of the first misplaced entry of the store, or `None` if there is none.
fn first_misplaced(root: &Dir) -> Result<Option<(String, Misplaced)>> {
    for (within, places) in PLACES {
        let Some(dir) = open(root, within)? else {
            continue;
        };
        for place in places {
            if let Some(what) = place.misplaced(&dir)? {
                return Ok(Some((path_of(within, *place), what)));
            }
        }
    }
    Ok(None)
}

/// Returns the error for a lost directory of blobs.
pub(crate) fn blobs_lost() -> Error {
    Error::corrupt(format!(
        "the directory {BLOBS} is missing; restore it, or run `cas fsck --repair`, which makes it \
         again and fetches the blobs that a source has"
    ))
}

/// Opens a directory of the store. Returns `None` if it is absent or something else is in its
/// place.
fn open(root: &Dir, name: &str) -> io::Result<Option<Dir>> {
    let is_absent = |error: &io::Error| {
        let number = error.raw_os_error().map(Errno::from_raw_os_error);
        matches!(number, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
    };
    match root.open_dir(name) {
        Err(error) if is_absent(&error) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Returns the path of a place in the store.
fn path_of(within: &str, place: Place<'_>) -> String {
    match within {
        "." => place.name().to_owned(),
        within => format!("{within}/{}", place.name()),
    }
}
