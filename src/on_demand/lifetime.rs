//! How long a session serves new mounts, and when it ends by itself.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use cas_host::calls::undisturbed;
use cas_host::mount::{self, UnmountMode};
use cas_host::{Dir, TREE};
use cas_lazy::StoredTable;
use rustix::fs::OFlags;

/// The name of the file that is locked for as long as a process holds the session. It is in the
/// directory of the snapshotter.
pub(super) const LOCK: &str = "lazy.lock";

/// Time between two checks whether the session is still needed.
const STEP: Duration = Duration::from_secs(1);
/// Time without layers after which the root needs no session. A command that needs a session starts
/// it before it makes lost snapshots of layers again.
const GRACE: Duration = Duration::from_secs(60);

/// The session of a root, and whether it is still needed.
pub(super) struct Lifetime {
    /// The directory of the snapshotter.
    directory: PathBuf,
    /// The file that the holder of the session has locked. While this process has it open, no other
    /// file has its inode. `None` if the file was gone when this process began to serve.
    lock: Option<File>,
}

/// Which root is at the path of the root for which the session began.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Same,
    /// None, or one that never had a session.
    Gone,
    /// One with another session.
    Other,
}

impl Lifetime {
    /// Returns the lifetime of a session that a process holds.
    pub(super) fn of_session(directory: &Path) -> Self {
        let opened = Dir::open(directory);
        let lock = opened.and_then(|dir| dir.open_file(LOCK, OFlags::RDONLY | OFlags::NONBLOCK, 0));
        Lifetime {
            directory: directory.to_owned(),
            lock: lock.ok(),
        }
    }

    /// Returns whether the root for which the session began is still at its path. After `rm -rf` of
    /// a root, the directory at which the session is mounted stays, and a new root can have the
    /// same path.
    pub(super) fn is_valid(&self) -> bool {
        self.found() == Found::Same
    }

    fn found(&self) -> Found {
        let Ok(dir) = Dir::open(&self.directory) else {
            return Found::Gone;
        };
        match (&self.lock, dir.stat(LOCK)) {
            (_, Ok(None)) => Found::Gone,
            (Some(lock), Ok(Some(_))) if dir.is_file(LOCK, lock).unwrap_or(false) => Found::Same,
            _ => Found::Other,
        }
    }

    /// Unmounts the file system of the session when no mounted image uses it, and the root is gone.
    /// If `ends_without_layers` is true, also does so when no mounted image uses it, and the root
    /// has had no layers that are read on demand for the time [`GRACE`]. Returns when `ended` is
    /// disconnected.
    pub(super) fn end_when_unused(&self, ends_without_layers: bool, ended: &Receiver<()>) {
        let mut needed = Instant::now();
        while ended.recv_timeout(STEP) == Err(RecvTimeoutError::Timeout) {
            if !ends_without_layers || has_layers(&self.directory) {
                needed = Instant::now();
            }
            let is_over = match self.found() {
                Found::Same => needed.elapsed() > GRACE,
                Found::Gone => true,
                // Another session is mounted at the path.
                Found::Other => false,
            };
            if is_over {
                self.end();
            }
        }
    }

    /// Unmounts the file system of the session, unless it is in use.
    fn end(&self) {
        let served = self.directory.join(snapshot_erofs::SERVED);
        let unmounted = mount::unmount(&served, UnmountMode::default());
        // A copy of the mount in another namespace may keep this session alive. It must not keep
        // the next session from beginning. As the root has no layers, the two share none.
        if unmounted.is_ok() && self.found() == Found::Same {
            let _ = Dir::open(&self.directory).and_then(|dir| dir.remove(LOCK));
        }
    }
}

/// Returns whether a snapshot has a layer that is read on demand, complete or not. `directory` is
/// the directory of the snapshotter. If its snapshots cannot be listed, returns true.
fn has_layers(directory: &Path) -> bool {
    let entries = match undisturbed(|| fs::read_dir(directory.join("snapshots"))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(_) => return true,
        Ok(entries) => entries,
    };
    entries.flatten().any(|snapshot| {
        let description = snapshot.path().join(TREE).join(StoredTable::FILE);
        undisturbed(|| fs::symlink_metadata(&description)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_valid_for_as_long_as_the_root_is_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let lock = temp.path().join(LOCK);
        fs::write(&lock, "").unwrap();
        let session = Lifetime::of_session(temp.path());
        assert!(session.is_valid());
        fs::remove_file(&lock).unwrap();
        assert!(!session.is_valid() && session.found() == Found::Gone);
        fs::write(&lock, "").unwrap();
        assert!(!session.is_valid() && session.found() == Found::Other);
        assert!(Lifetime::of_session(temp.path()).is_valid());
    }

    #[test]
    fn a_description_in_a_snapshot_is_a_layer_that_is_read_on_demand() {
        let temp = tempfile::tempdir().unwrap();
        let tree = temp.path().join("snapshots/7").join(TREE);
        assert!(!has_layers(temp.path()));
        fs::create_dir_all(&tree).unwrap();
        assert!(!has_layers(temp.path()));
        fs::write(tree.join(StoredTable::FILE), "").unwrap();
        assert!(has_layers(temp.path()));
    }
}
