//! Which snapshotter a root uses.

use std::path::Path;

use cas_core::{Error, Location, Registry, Result};

/// Returns the scheme of the first snapshotter of `registry` that works in the directory
/// `snapshots`, or an empty text if `registry` has no snapshotters. If the preferred snapshotter,
/// which is the first of `registry`, does not work, but another one does, also returns the error of
/// the preferred one.
///
/// # Errors
/// The error of the preferred snapshotter, if none works.
pub(super) fn first_usable(
    snapshots: &Path,
    registry: &Registry,
) -> Result<(String, Option<Error>)> {
    let mut refused = None;
    for opener in registry.snapshotters() {
        match opener.probe(&snapshots.join(opener.scheme())) {
            Ok(()) => return Ok((opener.scheme().to_owned(), refused)),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        // The root works without a snapshotter, until something is unpacked into snapshots.
        None => Ok((String::new(), None)),
        Some(error) => Err(error),
    }
}

/// Parses the choice of a snapshotter: a scheme, or a scheme with options,
/// `overlay://?NAME=VALUE`.
///
/// # Errors
/// `InvalidArgument` if a URL does not parse, or has a host or a path, because a directory cannot
/// be chosen.
pub(crate) fn parse(text: &str) -> Result<Location> {
    if !text.contains("://") {
        return Location::of_path(text, Path::new(""));
    }
    let location: Location = text.parse()?;
    if !location.place().is_empty() {
        let message = "a snapshotter keeps its files below the root; remove the path after `://`";
        return Err(Error::invalid(message)
            .operation("open snapshotter")
            .subject(text));
    }
    Ok(location)
}
