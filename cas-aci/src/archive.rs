//! The archive of an ACI: a tar that has the member `manifest` and the tree `rootfs`, and nothing
//! else.

use std::io::{BufRead, Read};

use bytes::Bytes;
use cas_core::error::excerpt;
use cas_core::{Context, Error, ErrorKind, Result};
use cas_layer::tar::{Entry, EntryKind, Reader};

use crate::manifest::check_size;

/// The part of an ACI that a member of its archive belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The top of the archive itself.
    Top,
    /// The manifest.
    Manifest,
    /// The path of the member in the file system of the image, without empty names and `.`. The
    /// root has the empty path.
    Rootfs(Vec<u8>),
}

/// Reads an archive to its end. Returns the bytes of its manifest.
///
/// # Errors
/// As [`first_entry`]; `Corrupt` if the archive does not have exactly one manifest and a rootfs, or
/// if the manifest is too large or is not a regular file; errors of [`place_of`] and of [`Reader`].
pub(crate) fn read_manifest(archive: impl BufRead) -> Result<Bytes> {
    let mut reader = Reader::new(archive);
    let (mut manifest, mut rootfs) = (None, false);
    let mut next = first_entry(&mut reader).map(Some)?;
    while let Some(entry) = next {
        match place_of(&entry)? {
            Place::Top => {}
            Place::Rootfs(_) => rootfs = true,
            Place::Manifest => {
                let found = body_of_manifest(&mut reader, &entry).during("read", "manifest")?;
                if manifest.replace(found).is_some() {
                    return Err(Error::corrupt(
                        "the ACI has two manifests; build it again with one manifest",
                    ));
                }
            }
        }
        next = reader.next_entry()?;
    }
    let missing = |what: &str| {
        Error::corrupt(format!(
            "the archive has no member {what:?}, so it is not an ACI; build it again"
        ))
    };
    if !rootfs {
        return Err(missing("rootfs"));
    }
    manifest.ok_or_else(|| missing("manifest"))
}

/// Returns the first member of an archive.
///
/// # Errors
/// `InvalidArgument` if there is none, or if it cannot be read, because then the source is hardly
/// an archive; errors of [`Reader`].
fn first_entry(reader: &mut Reader<impl BufRead>) -> Result<Entry> {
    let foreign = || {
        Error::invalid(
            "expected the archive of an ACI: a tar (plain, or compressed with gzip, bzip2, xz or \
             zstd) with a manifest and a rootfs; name another source",
        )
    };
    match reader.next_entry() {
        Ok(found) => found.ok_or_else(foreign),
        Err(error) if error.kind() == ErrorKind::Corrupt => Err(foreign().source(error)),
        Err(error) => Err(error),
    }
}

/// Returns the part of the ACI that a member belongs to. Checks the target of a hard link, too.
///
/// # Errors
/// `Corrupt` if the member is neither the top, the manifest nor in the rootfs, if a path is
/// absolute or contains `..`, if the top or the rootfs is not a directory, or if a hard link or its
/// target is not in the rootfs.
pub(crate) fn place_of(entry: &Entry) -> Result<Place> {
    let place = place(&entry.path)?;
    let is_root = place == Place::Top || place == Place::Rootfs(Vec::new());
    if is_root && entry.kind != EntryKind::Directory {
        let message = "expected a directory, found another type of member; build the ACI again";
        return Err(misplaced(message, &entry.path));
    }
    if let EntryKind::Hardlink(target) = &entry.kind {
        if !matches!(place, Place::Rootfs(_)) {
            let message = "a hard link is outside of the rootfs; build the ACI again";
            return Err(misplaced(message, &entry.path));
        }
        rootfs_path(target)?;
    }
    Ok(place)
}

/// Returns the path that the target of a hard link, `path`, has in the file system of the image.
///
/// # Errors
/// `Corrupt` if the target is not in the rootfs, is absolute or contains `..`.
pub(crate) fn rootfs_path(path: &[u8]) -> Result<Vec<u8>> {
    match place(path)? {
        Place::Rootfs(path) => Ok(path),
        _ => Err(outside(path)),
    }
}

fn place(path: &[u8]) -> Result<Place> {
    if path.starts_with(b"/") || path.split(|&byte| byte == b'/').any(|name| name == b"..") {
        let message = "expected a relative path without `..`; build the ACI again";
        return Err(misplaced(message, path));
    }
    let names = path.split(|&byte| byte == b'/');
    let mut names = names.filter(|name| !name.is_empty() && *name != b".");
    match (names.next(), names.next()) {
        (None, _) => Ok(Place::Top),
        (Some(b"manifest"), None) => Ok(Place::Manifest),
        (Some(b"rootfs"), first) => {
            let all: Vec<&[u8]> = first.into_iter().chain(names).collect();
            Ok(Place::Rootfs(all.join(&b'/')))
        }
        _ => Err(outside(path)),
    }
}

fn outside(path: &[u8]) -> Error {
    let message =
        "a member or the target of a hard link is outside of the rootfs; build the ACI again";
    misplaced(message, path)
}

fn misplaced(message: &'static str, path: &[u8]) -> Error {
    Error::corrupt(message).subject(excerpt(&String::from_utf8_lossy(path)))
}

fn body_of_manifest(reader: &mut Reader<impl BufRead>, entry: &Entry) -> Result<Bytes> {
    if entry.kind != EntryKind::File || entry.regions.is_some() {
        return Err(Error::corrupt(
            "the manifest is not a regular file, or is sparse; build the ACI again",
        ));
    }
    check_size(entry.size)?;
    let mut body = Vec::new();
    reader.read_to_end(&mut body)?;
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_the_manifest_or_in_the_rootfs() {
        for (path, expected) in [
            ("", Place::Top),
            ("./", Place::Top),
            ("manifest", Place::Manifest),
            ("./manifest", Place::Manifest),
            ("rootfs", Place::Rootfs(Vec::new())),
            ("./rootfs/", Place::Rootfs(Vec::new())),
            ("rootfs/./a//b", Place::Rootfs(b"a/b".to_vec())),
            ("rootfs/manifest", Place::Rootfs(b"manifest".to_vec())),
        ] {
            assert_eq!(place(path.as_bytes()).unwrap(), expected, "{path}");
        }
        for (bad, reason) in [
            ("/manifest", "expected a relative path"),
            ("/rootfs/a", "expected a relative path"),
            ("rootfs/../a", "expected a relative path"),
            ("../rootfs", "expected a relative path"),
            ("etc", "outside"),
            ("manifest/a", "outside"),
        ] {
            let error = place(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::Corrupt, "{bad}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
