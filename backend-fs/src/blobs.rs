//! The files under `blobs/`: names, status, listing.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::OnceLock;

use cas_core::content::{Stat, Version};
use cas_core::{Algorithm, Digest, Result};
use cas_host::Dir;
use rustix::fs::{FileType, OFlags};

use crate::listing::Listing;

/// What opening a symbolic link fails with here.
const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// The directories of blobs, held open; that of SHA-512 is made when it is needed.
pub(crate) struct Blobs {
    root: Dir,
    sha256: Dir,
    sha512: OnceLock<Dir>,
    /// In the order of [`Algorithm::ALL`].
    listings: [Listing; Algorithm::ALL.len()],
}

impl Blobs {
    /// Opens `blobs/` and `blobs/sha256/`.
    pub(crate) fn open(root: Dir) -> io::Result<Self> {
        let sha256 = root.make_dir(Algorithm::Sha256.name(), 0o755)?;
        Ok(Blobs {
            root,
            sha256,
            sha512: OnceLock::new(),
            listings: Default::default(),
        })
    }

    /// The directory of an algorithm, if there is one.
    fn directory(&self, algorithm: Algorithm) -> io::Result<Option<&Dir>> {
        if algorithm == Algorithm::Sha256 {
            return Ok(Some(&self.sha256));
        }
        if let Some(dir) = self.sha512.get() {
            return Ok(Some(dir));
        }
        match self.root.open_dir(algorithm.name()) {
            Ok(dir) => Ok(Some(self.sha512.get_or_init(|| dir))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory that a blob of `algorithm` is published in.
    pub(crate) fn directory_for(&self, algorithm: Algorithm) -> io::Result<&Dir> {
        match self.directory(algorithm)? {
            Some(dir) => Ok(dir),
            None => {
                let dir = self.root.make_dir(algorithm.name(), 0o755)?;
                Ok(self.sha512.get_or_init(|| dir))
            }
        }
    }

    /// Makes all names outlive a crash.
    pub(crate) fn sync(&self) -> io::Result<()> {
        for algorithm in Algorithm::ALL {
            if self.directory(algorithm)?.is_some() {
                self.sync_names(algorithm)?;
            }
        }
        Ok(())
    }

    /// Makes the names of the blobs of `algorithm` outlive a crash.
    pub(crate) fn sync_names(&self, algorithm: Algorithm) -> io::Result<()> {
        self.directory_for(algorithm)?.sync()?;
        match algorithm {
            Algorithm::Sha256 => Ok(()),
            // Whoever made the directory may have been killed before its own name was synced.
            Algorithm::Sha512 => self.root.sync(),
        }
    }

    /// The status of a blob; a name that is no plain file is no blob.
    pub(crate) fn status(&self, digest: &Digest) -> io::Result<Option<rustix::fs::Stat>> {
        let Some(dir) = self.directory(digest.algorithm())? else {
            return Ok(None);
        };
        Ok(dir.stat(Name::of(digest).as_c_str())?.filter(is_file))
    }

    /// The size of a blob.
    pub(crate) fn stat(&self, digest: &Digest) -> io::Result<Option<Stat>> {
        Ok(self.status(digest)?.map(|stat| Stat {
            digest: *digest,
            size: stat.st_size as u64,
            version: version(&stat),
        }))
    }

    /// The blob as a file, and its size.
    pub(crate) fn open_blob(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        let Some(dir) = self.directory(digest.algorithm())? else {
            return Ok(None);
        };
        // A foreign pipe under the name of a blob must not make us wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match dir.open_file(Name::of(digest).as_c_str(), flags, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            // A symbolic link is no blob, wherever it leads.
            Err(error) if error.raw_os_error() == Some(LOOP) => return Ok(None),
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&file)?;
        Ok(is_file(&stat).then_some((file, stat.st_size as u64)))
    }

    /// Removes a version of a blob; false when it is absent, or another. Whoever takes a name
    /// away holds the lock of removals meanwhile; whoever gives one takes only what is free.
    pub(crate) fn remove(&self, digest: &Digest, seen: Version) -> io::Result<bool> {
        let Some(dir) = self.directory(digest.algorithm())? else {
            return Ok(false);
        };
        match self.status(digest)? {
            Some(stat) if version(&stat) == seen => dir.remove(Name::of(digest).as_c_str()),
            _ => Ok(false),
        }
    }

    /// A page of blobs in digest order. Names that are no digests, and directories, are passed over.
    pub(crate) fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let mut page = Vec::new();
        for (algorithm, listing) in Algorithm::ALL.into_iter().zip(&self.listings) {
            let Some(dir) = self.directory(algorithm)? else {
                continue;
            };
            // Digests are in the order of their algorithms first.
            if after.is_some_and(|after| after.algorithm() > algorithm) {
                continue;
            }
            let mut after = after.copied();
            while page.len() < limit {
                let left = limit - page.len();
                let digests = listing.page(dir, algorithm, after.as_ref(), left)?;
                after = digests.last().copied();
                if after.is_none() {
                    break;
                }
                // One that was removed meanwhile leaves room for another.
                for digest in digests {
                    page.extend(self.stat(&digest)?);
                }
            }
        }
        Ok(page)
    }
}

/// The inode alone may be given again; with the time of its last change it is not.
fn version(stat: &rustix::fs::Stat) -> Version {
    let nanos = (stat.st_ctime as u64).wrapping_mul(1_000_000_000) + stat.st_ctime_nsec;
    Version(nanos ^ stat.st_ino.rotate_left(40))
}

fn is_file(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// The file name of a blob, made without the heap: `stat` is called for every blob of a pull.
pub(crate) struct Name {
    text: [u8; 129],
    length: usize,
}

impl Name {
    /// The name of the file of `digest`.
    pub(crate) fn of(digest: &Digest) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 129];
        let hash = digest.as_bytes();
        for (pair, byte) in text.chunks_exact_mut(2).zip(hash) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Name {
            text,
            length: 2 * hash.len(),
        }
    }

    /// The digest whose file has this name.
    pub(crate) fn read(algorithm: Algorithm, name: &str) -> Option<Digest> {
        let mut hash = [0; 64];
        let hash = hash.get_mut(..algorithm.size())?;
        if name.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(name.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Digest::from_bytes(algorithm, hash)
    }

    /// The name for a system call.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.text[..=self.length]).unwrap_or_default()
    }
}

/// Other programs know a blob by lower case alone.
fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => Some(text - b'0'),
        b'a'..=b'f' => Some(text - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_hexadecimal_of_the_digest() {
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"x");
            assert_eq!(Name::of(&digest).as_c_str().to_str(), Ok(&*digest.hex()));
            assert_eq!(Name::read(algorithm, &digest.hex()), Some(digest));
            for other in [
                &*digest.hex().to_uppercase(),
                &digest.hex()[1..],
                "",
                "lock",
            ] {
                assert_eq!(Name::read(algorithm, other), None);
            }
        }
    }
}
