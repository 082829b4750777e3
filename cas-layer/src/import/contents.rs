//! The files of a source, by path, and where their bytes are.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use cas_core::error::REPAIR_BYTES;
use cas_core::{Context, Digest, Error, Result, Store, limit, pool};
use cas_host::Dir;
use cas_host::calls::{self, undisturbed};
use rustix::fs::{Mode, OFlags};

use super::spilled::Spilled;
use crate::codec;

/// Maximum number of links in an archive that are followed for one path.
const LINKS: usize = 16;

/// The files of a source.
pub(super) enum Contents {
    /// A directory. Links in it are followed, because some tools create layouts of links. A blob
    /// that a link leads to is verified by its digest.
    Directory(PathBuf),
    /// An archive, by the clean paths of its members.
    Archive(HashMap<String, Node>),
}

/// A member of an archive.
pub(super) enum Node {
    /// A file.
    File(Part),
    /// The clean path that a link leads to, or `None` if that is outside the archive or not UTF-8.
    Link(Option<String>),
}

/// A file of a source.
#[derive(Clone)]
pub(super) struct Part {
    /// Its size in bytes.
    pub(super) size: u64,
    /// Where its bytes are.
    pub(super) location: Location,
}

/// Where bytes are.
#[derive(Clone)]
pub(super) enum Location {
    /// In a file, starting at this offset.
    File(Arc<File>, u64),
    /// In memory.
    Memory(Bytes),
    /// Among the small files of an archive that are kept together, starting at this offset.
    Spilled(Spilled, u64),
    /// Already in the store.
    Stored(Digest),
}

impl Contents {
    /// Returns the names in the directory `path`, in order. An absent directory is empty.
    ///
    /// # Errors
    /// `OutOfRange` for more than [`limit::DESCRIPTORS`] names; errors of the file system.
    pub(super) fn names(&self, path: &str) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        let mut add = |name: &str| {
            names.insert(name.to_owned());
            match names.len() <= limit::DESCRIPTORS {
                true => Ok(()),
                false => Err(Error::out_of_range(format!(
                    "the directory has more than the {} names allowed; import a layout with fewer \
                     names",
                    limit::DESCRIPTORS
                ))),
            }
        };
        match self {
            Contents::Directory(root) => match Dir::open(root.join(path)) {
                Ok(dir) => {
                    for (name, _) in calls::list(&dir)? {
                        add(&name.to_string_lossy())?;
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error.into()),
            },
            Contents::Archive(nodes) => {
                // A deeper member is listed as the subdirectory of `path` that contains it, as in a
                // file system.
                let inside = |node: &String| {
                    let below = node.strip_prefix(path)?.strip_prefix('/')?;
                    below.split('/').next().map(str::to_owned)
                };
                for name in nodes.keys().filter_map(inside) {
                    add(&name)?;
                }
            }
        }
        Ok(names)
    }

    /// Finds the file at `path`, following links. Returns `None` if there is none.
    pub(super) fn find(&self, path: &str) -> Result<Option<Part>> {
        let Some(path) = clean("", path.as_bytes()) else {
            return Ok(None);
        };
        match self {
            Contents::Directory(root) => open(root.join(&path)),
            Contents::Archive(nodes) => resolve(nodes, path),
        }
    }
}

/// Opens a file. Returns `None` if there is none.
///
/// # Errors
/// `Corrupt` if it is not a regular file; errors of the system.
pub(super) fn open(path: PathBuf) -> Result<Option<Part>> {
    // NONBLOCK, because opening a named pipe would block otherwise.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match cas_host::calls::open(&path, flags, Mode::empty())
        .map_err(std::io::Error::from)
    {
        Ok(file) => File::from(file),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).during("open", path.display()),
    };
    let metadata = undisturbed(|| file.metadata())?;
    if !metadata.is_file() {
        return Err(Error::corrupt(
            "expected a regular file, found something else; replace it, or import another source",
        )
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
    for _ in 0..=LINKS {
        match at.and_then(|path| nodes.get(path)) {
            None => return Ok(None),
            Some(Node::File(part)) => return Ok(Some(part.clone())),
            Some(Node::Link(target)) => at = target.as_ref(),
        }
    }
    Err(Error::corrupt(format!(
        "the path leads through more than {LINKS} links, or through a loop; create the archive \
         with fewer links"
    ))
    .operation("follow links")
    .subject(path))
}

/// Resolves `path` in the directory `base`. Returns the path from the top of the source, without
/// empty, `.` and `..` components. An absolute path starts at the top of the source, because `/` is
/// the root of an archive. Returns `None` if the path leaves the source, leads to its top or is not
/// UTF-8.
pub(super) fn clean(base: &str, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let base = if path.starts_with('/') { "" } else { base };
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
        "the document has {size} bytes; at most {allowed} are allowed; import another source"
    )))
}

/// Returns the error for a source that is not an image and begins with the bytes `magic`.
pub(super) fn unrecognised(magic: &[u8]) -> Error {
    let found = codec::foreign(magic);
    let found = found.map_or(String::new(), |found| format!("; found {found}"));
    Error::invalid(format!(
        "unrecognized image format: expected an OCI layout directory, a directory of skopeo, or a \
         tar archive (plain, or compressed with gzip, zstd, xz or bzip2) with an OCI layout or \
         with docker's manifest.json{found}; name another source"
    ))
}

impl Part {
    /// Creates a part in memory.
    pub(super) fn in_memory(data: Bytes) -> Self {
        Part {
            size: data.len() as u64,
            location: Location::Memory(data),
        }
    }

    /// Returns all bytes of the part, which is a document.
    ///
    /// # Errors
    /// `OutOfRange` over [`limit::DOCUMENT_READ`]; `Corrupt` if it ends early; `NotFound` if it was
    /// removed from the store; errors of the file system and of the store.
    pub(super) async fn document(&self, store: &Store) -> Result<Bytes> {
        check_document_size(self.size)?;
        self.head(store, self.size as usize).await
    }

    /// Returns the first `length` bytes of the part, or all bytes if the part is shorter.
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
            Location::Spilled(spilled, offset) => {
                let mut data = Vec::with_capacity(length);
                while data.len() < length {
                    let (at, left) = (offset + data.len() as u64, length - data.len());
                    data.extend_from_slice(&spilled.read(at, left).await?);
                }
                Ok(data.into())
            }
            Location::Stored(digest) => {
                let reader = store.content.open(digest).await?;
                let reader = reader.ok_or_else(|| {
                    Error::not_found(
                        "the blob was removed from the store during the import; import again",
                    )
                    .subject(digest)
                })?;
                let mut data = Vec::with_capacity(length);
                while data.len() < length {
                    let piece = reader
                        .read_at(data.len() as u64, length - data.len())
                        .await?;
                    if piece.is_empty() {
                        return Err(Error::corrupt("the stored blob ends too early")
                            .advice(REPAIR_BYTES)
                            .subject(digest));
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
            ("", "/a/b", Some("a/b")),
            ("a", "/b", Some("b")),
            ("a", "//./b/", Some("b")),
            ("a", "/../b", None),
            ("", "/", None),
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
    fn as_many_links_as_allowed_are_followed_and_no_more() {
        let part = || Part {
            size: 1,
            location: Location::File(Arc::new(File::open("/dev/null").unwrap()), 0),
        };
        for (links, is_found) in [(LINKS, true), (LINKS + 1, false)] {
            let link = |number: usize| {
                let target = Some((number + 1).to_string());
                (number.to_string(), Node::Link(target))
            };
            let mut nodes: HashMap<String, Node> = (0..links).map(link).collect();
            nodes.insert(links.to_string(), Node::File(part()));
            let found = Contents::Archive(nodes).find("0");
            assert_eq!(found.is_ok_and(|part| part.is_some()), is_found, "{links}");
        }
    }

    #[test]
    fn an_archive_has_the_names_that_a_directory_has() {
        let root = tempfile::tempdir().unwrap();
        let members = ["refs/one", "refs/team/a", "refs/team/b/c", "other/two"];
        let mut nodes = HashMap::new();
        for member in members {
            let path = root.path().join(member);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
            nodes.insert(member.to_owned(), Node::Link(None));
        }
        let directory = Contents::Directory(root.path().to_owned());
        for contents in [directory, Contents::Archive(nodes)] {
            let names = contents.names("refs").unwrap();
            assert_eq!(Vec::from_iter(names), ["one", "team"]);
            assert!(contents.names("absent").unwrap().is_empty());
        }
    }

    #[test]
    fn circles_of_links_end() {
        let link = |to: &str| Node::Link(Some(to.to_owned()));
        let nodes = HashMap::from([("a".to_owned(), link("b")), ("b".to_owned(), link("a"))]);
        let error = Contents::Archive(nodes).find("a").err().unwrap();
        assert_eq!(error.kind(), cas_core::error::ErrorKind::Corrupt);
    }
}
