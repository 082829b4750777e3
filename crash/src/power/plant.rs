//! Wrong orders of writes in a root, which the checks must find.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;

/// A wrong order of writes. To cause it, strace makes certain sync calls of the worker return
/// success without syncing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// No sync at all.
    NoSync,
    /// The bytes of a blob are not synced before the blob gets its name.
    NoDataSync,
    /// In the store `fs`, the directory of the blobs is not synced after a blob was added to it.
    NoDirectorySync,
    /// Snapshots are recorded before their files are synced.
    SnapshotBeforeSyncfs,
    /// In the store `fs`, records are not synced, including those with a tombstone (the mark of a
    /// blob that is being removed).
    NoRecordSync,
}

impl Plant {
    /// Returns a command that runs `program` under strace with this wrong order in the root `root`,
    /// whose store must exist. The caller adds the arguments of the program.
    pub(crate) fn command(self, program: &Path, root: &Path) -> Command {
        let (calls, only) = match self {
            Plant::NoSync => ("fsync,fdatasync,syncfs", None),
            Plant::NoDataSync => ("fdatasync,syncfs", None),
            Plant::NoDirectorySync => ("fsync", Some("store/blobs/sha256")),
            Plant::SnapshotBeforeSyncfs => ("syncfs", None),
            Plant::NoRecordSync => ("fsync,fdatasync", Some("store/.cas/records.db-wal")),
        };
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null"]);
        if let Some(path) = only {
            command.arg("-P").arg(root.join(path));
        }
        command
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:retval=0")])
            .arg(program);
        command
    }
}
