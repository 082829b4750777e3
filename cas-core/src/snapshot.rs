//! Snapshots: containerd's verbs and states; a mount is data, so that most of it needs no root.

use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Result;
use crate::labels::Labels;

/// State of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// Read-only, of a committed parent; ends by removal.
    View,
    /// Writable; ends by commit or removal.
    Active,
    /// Fixed; may be a parent.
    Committed,
}

impl SnapshotKind {
    /// The state in words, for messages and lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            SnapshotKind::View => "view",
            SnapshotKind::Active => "active",
            SnapshotKind::Committed => "committed",
        }
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its name; active, view and committed ones share one space of names.
    pub key: String,
    /// Its state.
    pub kind: SnapshotKind,
    /// The committed snapshot it stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it came into this state.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When it was updated last; no two updates have the same time.
    #[serde(with = "crate::time")]
    pub updated_at: SystemTime,
}

/// Space a snapshot takes by itself, without its parents; hard links count once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// How to make a snapshot visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum Mount {
    /// A directory as it is.
    Bind {
        /// The directory.
        source: PathBuf,
        /// Whether writes are refused.
        read_only: bool,
    },
    /// Directories over each other.
    Overlay {
        /// Lower directories, topmost first.
        lower: Vec<PathBuf>,
        /// Where writes go; nothing mounts read-only.
        upper: Option<PathBuf>,
        /// Work directory beside `upper`.
        work: Option<PathBuf>,
        /// Further options of the file system.
        options: Vec<String>,
    },
}

/// How a snapshot is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Labels of the committed snapshot; those of the active one are not inherited.
    pub labels: Labels,
    /// A committed parent for an active snapshot that has none; for layers unpacked side by side,
    /// where the snapshotter [rebases](Snapshotter::rebases).
    pub parent: Option<String>,
    /// The caller has synced the file system of the mounts (`syncfs`) after the last write to
    /// them: one sync for all layers of an image instead of one each.
    pub synced: bool,
    /// What [`Snapshotter::usage`] says of it after the last write, where the caller has asked.
    pub usage: Option<Usage>,
}

/// Makes and keeps snapshots.
///
/// Records live in a home of their own, always local; see [`crate::records`].
#[async_trait]
pub trait Snapshotter: Send + Sync + 'static {
    /// Its scheme: `native`, `overlay`.
    fn name(&self) -> &'static str;

    /// Whether a commit may give a parent to a snapshot that has none, its content then being
    /// what changes on top of that parent. Such a snapshot is shown as one directory, in which
    /// overlayfs's own marks say what is hidden, and which may be a layer of overlays.
    fn rebases(&self) -> bool;

    /// Makes an active snapshot, empty or on a committed parent.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` for the parent; `InvalidArgument` when the parent is not
    /// committed.
    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>>;

    /// Makes a read-only snapshot of a committed parent.
    ///
    /// # Errors
    /// As `prepare`.
    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>>;

    /// The mounts of an active snapshot or a view.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is committed.
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Turns the active snapshot `key` into the committed one `name`; the key is free again.
    /// Its content is durable before this returns.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` for the name; `FailedPrecondition` when `key` is not active;
    /// `InvalidArgument` for another parent than it has; `Unsupported` for a parent where the
    /// snapshotter does not rebase.
    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()>;

    /// Removes a snapshot.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it is the parent of others.
    async fn remove(&self, key: &str) -> Result<()>;

    /// Removes a snapshot where it is as it was seen; false when it is not there, or was updated
    /// since.
    ///
    /// # Errors
    /// `FailedPrecondition` while it is the parent of others.
    async fn remove_seen(&self, seen: &Info) -> Result<bool>;

    /// What is known of it, or nothing.
    async fn stat(&self, key: &str) -> Result<Option<Info>>;

    /// Changes its labels: all, or those that the field paths name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a path that is not `labels` or `labels.<key>`.
    async fn update(&self, key: &str, labels: Labels, fieldpaths: &[&str]) -> Result<Info>;

    /// Space it takes by itself: measured while active, fixed once committed.
    ///
    /// # Errors
    /// `NotFound`.
    async fn usage(&self, key: &str) -> Result<Usage>;

    /// At most `limit` snapshots in the order of their keys, those after `after` only.
    async fn walk(&self, after: Option<&str>, limit: usize) -> Result<Vec<Info>>;

    /// Frees what no record names: leftovers of a crash. Bytes and inodes that came back.
    async fn cleanup(&self) -> Result<Usage>;

    /// Ends its use; later calls fail.
    async fn close(&self) -> Result<()>;
}

/// The chain ids of a stack of layers, lowest first: the name of each layer applied to all below.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => *diff_id,
            Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let layers = [b"a", b"b", b"c"].map(|layer| Digest::sha256(layer));
        let chain = chain_ids(&layers);
        let expected = [
            "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
            "sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676",
            "sha256:2fce7f8ce91bcf0a1428b36e1024639fdbd9469eea762dba98aa749631885106",
        ];
        assert_eq!(
            chain.iter().map(ToString::to_string).collect::<Vec<_>>(),
            expected
        );
        assert!(chain_ids(&[]).is_empty());
    }
}
