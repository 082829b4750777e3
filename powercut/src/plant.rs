//! Wrong orders of writes, which the checks must find.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;

/// A wrong order. System calls of the worker return success and do nothing, which strace makes them
/// do. So the store believes that it has synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// No sync at all.
    NoSync,
    /// The bytes of blobs are not synced before their name.
    NoDataSync,
    /// The directory of the blobs is not synced after a name was added.
    NoDirectorySync,
    /// Snapshots are recorded before their files are synced.
    SnapshotBeforeSyncfs,
}

impl Plant {
    /// Returns a command that runs `program` with this fault on the root `root`.
    pub(crate) fn command(self, program: &Path, root: &Path) -> Command {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null"]);
        let calls = match self {
            Plant::NoSync => "fsync,fdatasync,syncfs,sync_file_range,msync",
            Plant::NoDataSync => "fdatasync,syncfs",
            Plant::NoDirectorySync => "fsync",
            Plant::SnapshotBeforeSyncfs => "syncfs",
        };
        if self == Plant::NoDirectorySync {
            command.arg("-P").arg(root.join("oci/blobs/sha256"));
        }
        command
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:retval=0")])
            .arg(program);
        command
    }
}
