//! The files under `blobs/`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use cas_core::content::{Stat, Version};
use cas_core::{Algorithm, Digest};
use cas_host::{Dir, Place};
use rustix::fs::{FileType, OFlags};

use crate::blob_name::BlobName;
use crate::listing::{Listing, Page};
use crate::places::BLOBS;

/// The system's error code for opening a symbolic link.
const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// The directories of blobs, one for each algorithm. Each is opened when it is first used. The
/// directory of SHA-256 is created with the store. An absent directory is created when a blob is
/// published to it.
pub(crate) struct Blobs {
    root: Dir,
    sha256: OnceLock<Dir>,
    sha512: OnceLock<Dir>,
    /// One list for each algorithm, in the order of [`Algorithm::ALL`].
    listings: [Listing; Algorithm::ALL.len()],
}

impl Blobs {
    /// Returns the blobs in `root`, which is the directory `blobs/`.
    pub(crate) fn new(root: Dir) -> Self {
        Blobs {
            root,
            sha256: OnceLock::new(),
            sha512: OnceLock::new(),
            listings: Default::default(),
        }
    }

    fn opened(&self, algorithm: Algorithm) -> &OnceLock<Dir> {
        match algorithm {
            Algorithm::Sha256 => &self.sha256,
            Algorithm::Sha512 => &self.sha512,
        }
    }

    /// Returns the directory of an algorithm, or `None` if it is absent.
    fn directory(&self, algorithm: Algorithm) -> io::Result<Option<&Dir>> {
        let opened = self.opened(algorithm);
        if let Some(dir) = opened.get() {
            return Ok(Some(dir));
        }
        match self.root.open_dir(algorithm.name()) {
            Ok(dir) => Ok(Some(opened.get_or_init(|| dir))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => match Place::Directory(algorithm.name()).misplaced(&self.root) {
                Ok(Some(what)) => {
                    let path = format!("{BLOBS}/{}", algorithm.name());
                    Err(what.error(Path::new(&path)).into())
                }
                Ok(None) | Err(_) => Err(error),
            },
        }
    }

    /// Returns the directory of an algorithm, and creates it if it is absent.
    pub(crate) fn directory_for(&self, algorithm: Algorithm) -> io::Result<&Dir> {
        match self.directory(algorithm)? {
            Some(dir) => Ok(dir),
            None => {
                let dir = self.root.make_dir(algorithm.name(), 0o755)?;
                Ok(self.opened(algorithm).get_or_init(|| dir))
            }
        }
    }

    /// Makes the names of all blobs durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        for algorithm in Algorithm::ALL {
            if self.directory(algorithm)?.is_some() {
                self.sync_names(algorithm)?;
            }
        }
        Ok(())
    }

    /// Makes the names of the blobs of `algorithm` durable.
    pub(crate) fn sync_names(&self, algorithm: Algorithm) -> io::Result<()> {
        self.directory_for(algorithm)?.sync()?;
        match algorithm {
            // The creation of the store has synced the name of this directory.
            Algorithm::Sha256 => Ok(()),
            // A process that created the directory may have died before it synced the name.
            Algorithm::Sha512 => self.root.sync(),
        }
    }

    /// Returns the status of a blob, or `None` if no regular file has its name.
    pub(crate) fn status(&self, digest: &Digest) -> io::Result<Option<rustix::fs::Stat>> {
        let Some(dir) = self.directory(digest.algorithm())? else {
            return Ok(None);
        };
        Ok(dir.stat(BlobName::of(digest).as_c_str())?.filter(is_file))
    }

    /// Returns the size and version of a blob, or `None` if it is absent.
    pub(crate) fn stat(&self, digest: &Digest) -> io::Result<Option<Stat>> {
        Ok(self.status(digest)?.map(|stat| Stat {
            digest: *digest,
            size: stat.st_size as u64,
            version: version(&stat),
        }))
    }

    /// Opens a blob. Returns the file and its size, or `None` if the blob is absent.
    pub(crate) fn open_blob(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        let Some(dir) = self.directory(digest.algorithm())? else {
            return Ok(None);
        };
        // Without NONBLOCK a pipe with the name of a blob would block until it has a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match dir.open_file(BlobName::of(digest).as_c_str(), flags, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A symbolic link is not a blob.
            Err(error) if error.raw_os_error() == Some(LOOP) => return Ok(None),
            opened => opened?,
        };
        let stat = cas_host::calls::fstat(&file)?;
        Ok(is_file(&stat).then_some((file, stat.st_size as u64)))
    }

    /// Removes a version of a blob. Returns false if the blob is absent or has another version. The
    /// caller holds the lock on removals, or runs the recovery of the store, so that no other
    /// process replaces the file meanwhile.
    pub(crate) fn remove(&self, digest: &Digest, seen: Version) -> io::Result<bool> {
        let Some(dir) = self.directory(digest.algorithm())? else {
            return Ok(false);
        };
        match self.status(digest)? {
            Some(stat) if version(&stat) == seen => dir.remove(BlobName::of(digest).as_c_str()),
            _ => Ok(false),
        }
    }

    /// Returns the first `limit` digests after `after` that are names in the directories. Skips
    /// names that are not digests. If the page is untyped, some digests may be the names of entries
    /// that are not blobs.
    pub(crate) fn digests(&self, after: Option<&Digest>, limit: usize) -> io::Result<Page> {
        let mut page = Page::default();
        for (algorithm, listing) in Algorithm::ALL.into_iter().zip(&self.listings) {
            // Digests are ordered by algorithm first.
            let left = limit - page.digests.len();
            if left == 0 || after.is_some_and(|after| after.algorithm() > algorithm) {
                continue;
            }
            if let Some(dir) = self.directory(algorithm)? {
                let mut own = listing.page(dir, algorithm, after, left)?;
                page.digests.append(&mut own.digests);
                page.is_untyped |= own.is_untyped;
            }
        }
        Ok(page)
    }

    /// Returns the same as [`Blobs::digests`], or `None` if that would require reading a directory.
    pub(crate) fn known_digests(&self, after: &Digest, limit: usize) -> Option<Page> {
        let listings = Algorithm::ALL.into_iter().zip(&self.listings);
        let mut own = listings.filter(|(algorithm, _)| *algorithm == after.algorithm());
        own.next()?.1.kept_page(after, limit)
    }
}

/// Returns the version of a file: its inode and the time of its last change, because an inode alone
/// may be reused.
fn version(stat: &rustix::fs::Stat) -> Version {
    let nanos = (stat.st_ctime as u64).wrapping_mul(1_000_000_000) + stat.st_ctime_nsec;
    Version(nanos ^ stat.st_ino.rotate_left(40))
}

fn is_file(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}
