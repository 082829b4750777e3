//! The record of a snapshot.

use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::records::{Record, Table, codec};
use crate::snapshot::{Info, SnapshotKind, Usage};

/// A snapshot that is to be created.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// Its key.
    pub key: &'a str,
    /// Active or view.
    pub kind: SnapshotKind,
    /// Its parent, a committed snapshot.
    pub parent: Option<&'a str>,
    /// Its labels.
    pub labels: &'a Labels,
}

/// The content with which a snapshot is committed, or with which a committed snapshot is replaced.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotContent {
    /// The space that the content takes, without the parents of the snapshot.
    pub usage: Usage,
    /// The id of the directory with the content, or `None` if the content is in the directory of
    /// the active snapshot.
    pub id: Option<u64>,
    /// The id of the active snapshot that has this content. The commit or the replacement fails if
    /// the key of the active snapshot now belongs to another snapshot. With `None`, this is not
    /// checked.
    pub of: Option<u64>,
}

impl SnapshotContent {
    /// Checks that this is the content of the active snapshot `key`.
    pub(super) fn check_of(&self, key: &str, active: &SnapshotRecord) -> Result<()> {
        if self.of.is_none_or(|id| id == active.id) {
            return Ok(());
        }
        let message =
            "another snapshot was created under this key meanwhile; commit or remove that snapshot";
        Err(Error::conflict(message).subject(key))
    }
}

impl From<Usage> for SnapshotContent {
    /// Returns the content of the active snapshot's directory.
    fn from(usage: Usage) -> Self {
        SnapshotContent {
            usage,
            id: None,
            of: None,
        }
    }
}

/// What is stored about a snapshot besides its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The name of its directory. No two directories of a snapshotter ever have the same name.
    pub id: u64,
    /// Its state.
    pub kind: SnapshotKind,
    /// Its parent, a committed snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// When it entered this state.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When it entered this state, or was last updated since.
    #[serde(with = "crate::time")]
    pub updated_at: SystemTime,
    /// The space that its content takes, without its parents; set by the commit and by a
    /// replacement of the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The number of its children.
    #[serde(default)]
    pub children: u64,
}

impl SnapshotRecord {
    /// Returns the record of a snapshot that is made now.
    pub(super) fn new(new: &New<'_>, id: u64) -> Self {
        let now = SystemTime::now();
        SnapshotRecord {
            id,
            kind: new.kind,
            parent: new.parent.map(str::to_owned),
            labels: new.labels.clone(),
            created_at: now,
            updated_at: now,
            usage: None,
            children: 0,
        }
    }

    /// Returns the record without its internal fields, for
    /// [`Snapshotter::stat`](crate::Snapshotter::stat). `key` is the key of the snapshot.
    pub fn info(&self, key: &str) -> Info {
        Info {
            key: key.to_owned(),
            kind: self.kind,
            parent: self.parent.clone(),
            labels: self.labels.clone(),
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }

    /// Returns the record as bytes. `row` is the key of the record.
    pub(super) fn encode(&self, row: &str) -> Result<Bytes> {
        codec::encode(Table::Snapshots, row, self)
    }

    pub(super) fn decode(found: &Record) -> Result<Self> {
        codec::decode(Table::Snapshots, found, "read snapshot record")
    }
}
