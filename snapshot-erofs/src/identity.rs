//! Checks that the file of a committed layer has the right digest. The file is an EROFS image if
//! the layer is native, and a tar otherwise.
//!
//! A layer that was unpacked is committed under its chain ID. The chain ID is computed from the
//! chain ID of the parent and the diff ID, which is the digest of the file. If this crate has
//! packed a tar from the files of a snapshot, the digest of the tar is recorded in a file beside
//! the tree of the committed snapshot.

use std::fs::File;
use std::io::{self, Write};

use cas_core::records::SnapshotRecord;
use cas_core::snapshot::{Condition, chain_ids};
use cas_core::{Algorithm, Context, Digest, ErrorKind, Result};
use cas_host::{LockedDir, Pace, SnapshotDirs, calls, digest_of, erofs};
use rustix::fs::{Mode, OFlags};

use crate::ready;

/// The name of the file in which the digest of a packed tar is recorded.
const DIGEST: &str = "layer.digest";

/// What identifies the bytes of the file of a layer.
pub(crate) enum Identity {
    /// The digest of the file.
    Digest(Digest),
    /// The chain ID of the layer, and the chain ID of its parent.
    Chain(Digest, Option<Digest>),
}

impl Identity {
    /// Returns the identity of the file of a committed layer. Returns `None` if the snapshot has no
    /// such file, or if neither its name nor a file identifies the bytes.
    pub(crate) fn of(dirs: &SnapshotDirs, key: &str, snapshot: &SnapshotRecord) -> Option<Self> {
        let directory = dirs.path(snapshot.id);
        ready::stored(dirs, snapshot.id)?;
        let recorded = erofs::open_file(&directory.join(DIGEST));
        if let Ok(text) = recorded.and_then(|file| Ok(io::read_to_string(file)?)) {
            return text.parse().ok().map(Identity::Digest);
        }
        let parent = snapshot.parent.as_deref().map(str::parse).transpose();
        Some(Identity::Chain(key.parse().ok()?, parent.ok()?))
    }

    /// Reads the file of the layer with the number `id`, at most `per_second` bytes per second.
    /// Returns `Sound` if it has the expected digest, otherwise `Damaged`.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn check(
        &self,
        dirs: &SnapshotDirs,
        id: u64,
        per_second: Option<u64>,
    ) -> Result<Condition> {
        let Some((name, path)) = ready::stored(dirs, id) else {
            return Ok(ready::missing());
        };
        let file = match erofs::open_file(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                return Ok(Condition::Damaged(format!("{name}: {error}")));
            }
            file => file.during("open", path.display())?,
        };
        let mut pace = Pace::new(per_second);
        let algorithms: &[Algorithm] = match self {
            Identity::Digest(digest) | Identity::Chain(digest, None) => &[digest.algorithm()],
            // A chain ID does not show the algorithm of the diff ID.
            Identity::Chain(..) => &Algorithm::ALL,
        };
        for algorithm in algorithms {
            let found = digest_of(&file, *algorithm, &mut pace).during("read", path.display())?;
            if self.is_of(found) {
                return Ok(Condition::Sound);
            }
        }
        Ok(Condition::Damaged(format!(
            "{name} does not have the digest of the layer"
        )))
    }

    /// Returns whether a file with this digest has this identity.
    fn is_of(&self, found: Digest) -> bool {
        match self {
            Identity::Digest(digest) => *digest == found,
            // The chain ID is computed from the chain ID of the parent and the diff ID.
            Identity::Chain(own, parent) => {
                let layers: Vec<Digest> = parent.iter().copied().chain([found]).collect();
                chain_ids(&layers).last() == Some(own)
            }
        }
    }
}

/// Records the digest of the tar that was packed into a new directory. Does not sync the file.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn record(new: &LockedDir, digest: &Digest) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let created = calls::openat(new, DIGEST, flags, Mode::RUSR | Mode::WUSR);
    let written = created.map_err(io::Error::from).and_then(|file| {
        let mut file = File::from(file);
        file.write_all(digest.to_string().as_bytes())
    });
    written.during("write", DIGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_is_identified_by_its_digest_or_by_its_place_in_a_chain() {
        let layers = [b"a", b"b", b"c"].map(|layer| Digest::sha256(layer));
        let [a, b, c] = layers;
        let chain = chain_ids(&layers);
        assert!(Identity::Digest(a).is_of(a) && !Identity::Digest(a).is_of(b));
        assert!(Identity::Chain(chain[0], None).is_of(a));
        let top = Identity::Chain(chain[2], Some(chain[1]));
        assert!(top.is_of(c));
        assert!(!top.is_of(b) && !top.is_of(chain[2]));
        assert!(!Identity::Chain(chain[2], Some(chain[0])).is_of(c));
        assert!(!Identity::Chain(chain[2], None).is_of(c));
    }
}
