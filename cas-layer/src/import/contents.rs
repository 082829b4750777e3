//! What a source holds: files under their paths, wherever their bytes are.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cas_core::{Context, Digest, Error, Result, Store, limit, pool};
use rustix::fs::{Mode, OFlags};

use crate::layout::blob_path;

/// Links that are followed one after the other.
const LINKS: usize = 16;

/// The files of a source.
pub(super) enum Contents {
    /// A directory; links in it are followed, for tools make layouts of links, and digests tell
    /// what is at their ends.
    Directory(PathBuf),
    /// An archive, by the clean paths of its members.
    Archive(HashMap<String, Node>),
}

/// A member of an archive.
pub(super) enum Node {
    /// A file.
    File(Part),
    /// Another path, made clean; nothing when it leaves the archive.
    Link(Option<String>),
}

/// Bytes of a source.
#[derive(Clone)]
pub(super) struct Part {
    /// How many.
    pub(super) size: u64,
    /// Where they are.
    pub(super) location: Location,
}

/// Where bytes are.
#[derive(Clone)]
pub(super) enum Location {
    /// In a file from this offset on.
    File(Arc<File>, u64),
    /// In memory.
    Memory(Bytes),
    /// In the store already.
    Stored(Digest),
}

impl Contents {
    /// The file at `path`, links followed; nothing when there is none.
    pub(super) fn find(&self, path: &str) -> Result<Option<Part>> {
        let Some(path) = clean("", path.as_bytes()) else {
            return Ok(None);
        };
        match self {
            Contents::Directory(root) => open(root.join(&path)),
            Contents::Archive(nodes) => resolve(nodes, path),
        }
    }

    /// The blob `digest` of a layout.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<Part>> {
        self.find(&blob_path(digest))
    }
}

fn open(path: PathBuf) -> Result<Option<Part>> {
    // Without NONBLOCK a named pipe would hold us up before we can see what it is.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(&path, flags, Mode::empty()).map_err(std::io::Error::from) {
        Ok(file) => File::from(file),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).during("open", path.display()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(Error::corrupt("expected a regular file")
            .operation("open")
            .subject(path.display()));
    }
    Ok(Some(Part {
        size: metadata.len(),
        location: Location::File(Arc::new(file), 0),
    }))
}

fn resolve(nodes: &HashMap<String, Node>, path: String) -> Result<Option<Part>> {
    let mut at = Some(&path);
    for _ in 0..LINKS {
        match at.and_then(|path| nodes.get(path)) {
            None => return Ok(None),
            Some(Node::File(part)) => return Ok(Some(part.clone())),
            Some(Node::Link(target)) => at = target.as_ref(),
        }
    }
    Err(Error::corrupt(format!(
        "leads through more than {LINKS} links, or in a circle"
    ))
    .operation("follow links")
    .subject(path))
}

/// `path`, relative to the directory `base`, without empty, `.` and `..` components; nothing
/// when it is absolute, leaves the source, names nothing or is no UTF-8.
pub(super) fn clean(base: &str, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    if path.starts_with('/') {
        return None;
    }
    let mut components: Vec<&str> = base.split('/').filter(|name| !name.is_empty()).collect();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop()?;
            }
            name => components.push(name),
        }
    }
    (!components.is_empty()).then(|| components.join("/"))
}

/// Refuses a document that is too large to be read into memory.
///
/// # Errors
/// `OutOfRange` over [`limit::DOCUMENT_READ`].
pub(super) fn check_document_size(size: u64) -> Result<()> {
    if size <= limit::DOCUMENT_READ {
        return Ok(());
    }
    let allowed = limit::DOCUMENT_READ;
    Err(Error::out_of_range(format!(
        "the document has {size} bytes; at most {allowed} are allowed"
    )))
}

/// The error for a source that is not an image.
pub(super) fn unrecognised() -> Error {
    Error::invalid(
        "unrecognised image format: expected an OCI layout directory, or a tar archive (plain, \
         gzip or zstd) with an OCI layout or with docker's manifest.json",
    )
}

impl Part {
    /// A part in memory.
    pub(super) fn in_memory(data: Bytes) -> Self {
        Part {
            size: data.len() as u64,
            location: Location::Memory(data),
        }
    }

    /// All of it, for a document.
    ///
    /// # Errors
    /// `OutOfRange` over [`limit::DOCUMENT_READ`]; `Corrupt` when it ends early.
    pub(super) async fn document(&self, store: &Store) -> Result<Bytes> {
        check_document_size(self.size)?;
        self.head(store, self.size as usize).await
    }

    /// Its first `length` bytes; fewer where it is shorter.
    pub(super) async fn head(&self, store: &Store, length: usize) -> Result<Bytes> {
        let length = self.size.min(length as u64) as usize;
        match &self.location {
            Location::Memory(data) => Ok(data.slice(..length)),
            Location::File(file, offset) => {
                let (file, offset) = (Arc::clone(file), *offset);
                pool::run(move || {
                    let mut data = vec![0; length];
                    file.read_exact_at(&mut data, offset)?;
                    Ok(data.into())
                })
                .await
            }
            Location::Stored(digest) => {
                let reader = store.content.open(digest).await?;
                let reader = reader.ok_or_else(|| {
                    Error::not_found("went from the store during the import; import again")
                        .subject(digest)
                })?;
                let mut data = Vec::with_capacity(length);
                while data.len() < length {
                    let piece = reader
                        .read_at(data.len() as u64, length - data.len())
                        .await?;
                    if piece.is_empty() {
                        return Err(
                            Error::corrupt("is shorter than the store says").subject(digest)
                        );
                    }
                    data.extend_from_slice(&piece);
                }
                Ok(data.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for (base, path, expected) in [
            ("", "a/b", Some("a/b")),
            ("", "./a//b/", Some("a/b")),
            ("a", "../b", Some("b")),
            ("a", "../../b", None),
            ("", "a/../../b", None),
            ("", "/etc/passwd", None),
            ("", "..", None),
            ("", ".", None),
        ] {
            assert_eq!(
                clean(base, path.as_bytes()).as_deref(),
                expected,
                "{base} {path}"
            );
        }
        assert_eq!(clean("", b"a\xff"), None);
    }

    #[test]
    fn circles_of_links_end() {
        let link = |to: &str| Node::Link(Some(to.to_owned()));
        let nodes = HashMap::from([("a".to_owned(), link("b")), ("b".to_owned(), link("a"))]);
        let error = Contents::Archive(nodes).find("a").err().unwrap();
        assert_eq!(error.kind(), cas_core::error::ErrorKind::Corrupt);
    }
}
