//! What a check finds.

use std::fmt;

use serde::Serialize;

use crate::gc::Leftover;
use crate::snapshot::Usage;

/// What is wrong with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// A file, a directory or an SQLite database of the root directory of `cas` or of the store is
    /// missing, does not open or parse, or has the wrong type.
    StoreDamaged,
    /// The database of a store in a key-value engine, such as redb, is missing, does not open, or
    /// has rows that cannot be read. A repair copies the readable rows to a new database. Names in
    /// the unreadable rows are lost.
    DatabaseDamaged,
    /// A record does not parse, has a wrong checksum or was written for another key, the parents of
    /// a snapshot lack records or form a circle, or the counter for snapshot ids is damaged.
    RecordDamaged,
    /// The record of a name does not parse, so the target of the name is lost.
    NameLost,
    /// A name states another digest than that of its image. Earlier releases have stored such
    /// names.
    NameWrong,
    /// A blob has no record, and it is not certain that another program stored it (see
    /// [`Report::unrecorded`]). Also reported by a repair for each blob that it keeps because a
    /// label in a lost record may have referred to the blob.
    RecordMissing,
    /// The record of a document does not list the same blobs as the document. Also reported by a
    /// repair if the record of an index stated a stored manifest as absent.
    ChildrenWrong,
    /// An image, a lease or a label keeps a blob that the store does not have. An image does not
    /// need the blob of a layer if a snapshotter keeps the tar of the layer, or if the layer was
    /// unpacked and not stored. But if the record of the manifest does not state this, or the
    /// record of the configuration does not keep the snapshot of the layer, the blob is reported,
    /// and a repair corrects the record. Also reported for an index that is the target of an image
    /// if the store has none of its manifests, and no record states which of them it had.
    BlobMissing,
    /// The bytes of a blob do not have its digest, do not have the size that an image states, or
    /// cannot be read.
    BlobDamaged,
    /// Damaged bytes of a blob were set aside, the blob is still missing, and the lease
    /// [`QUARANTINE`](super::QUARANTINE) keeps the damaged bytes.
    Quarantined,
    /// A document is a referrer of another document, its subject, but the record of the subject
    /// lacks the label that keeps the referrer.
    ReferrerUnlinked,
    /// No name and no lease reaches a document. Reported only if the document had no record, or if
    /// the store lost names.
    NameMissing,
    /// An ingest that no job has open, and that no later job continues.
    IngestLeft,
    /// The directory of a snapshot is missing.
    SnapshotMissing,
    /// The files of a snapshot differ from the files that were committed.
    SnapshotDamaged,
    /// A snapshotter has files or directories that no record names. Also reported for a directory
    /// that may have the only copy of files, because the record of its snapshot was lost.
    SnapshotLeft,
    /// A snapshot that was made for a mount, and that is not mounted.
    MountLeft,
    /// Files of a job, for example a run or an unpack, that has ended or was killed, and that no
    /// later job continues.
    JobLeft,
}

impl Problem {
    /// Returns the problem in words, for lists.
    pub const fn as_str(self) -> &'static str {
        match self {
            Problem::StoreDamaged => "store damaged",
            Problem::DatabaseDamaged => "database damaged",
            Problem::RecordDamaged => "record damaged",
            Problem::NameLost => "name lost",
            Problem::NameWrong => "name wrong",
            Problem::RecordMissing => "record missing",
            Problem::ChildrenWrong => "children wrong",
            Problem::BlobMissing => "blob missing",
            Problem::BlobDamaged => "blob damaged",
            Problem::Quarantined => "quarantined",
            Problem::ReferrerUnlinked => "referrer unlinked",
            Problem::NameMissing => "name missing",
            Problem::IngestLeft => "ingest left",
            Problem::SnapshotMissing => "snapshot missing",
            Problem::SnapshotDamaged => "snapshot damaged",
            Problem::SnapshotLeft => "snapshot left",
            Problem::MountLeft => "mount left",
            Problem::JobLeft => "job left",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub problem: Problem,
    /// The digest, name, key or path of the resource.
    pub subject: String,
    /// What was expected and found, and what to do if the problem was not repaired.
    pub detail: String,
    /// Whether the problem was repaired.
    pub repaired: bool,
}

impl Finding {
    /// Returns the finding for files that a killed or failed job has left. `repaired` states
    /// whether a repair has removed these files.
    pub fn left(leftover: &Leftover, repaired: bool) -> Self {
        let Usage { bytes, inodes } = leftover.usage;
        let outcome = match repaired {
            true => "they were removed",
            false => "a collection or a repair removes them",
        };
        Finding {
            problem: Problem::JobLeft,
            subject: leftover.place.clone(),
            detail: format!(
                "a killed or failed job left files that take {bytes} bytes on disk (inodes: \
                 {inodes}); {outcome}"
            ),
            repaired,
        }
    }
}

/// What a check did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// Number of images that were checked.
    pub images: u64,
    /// Number of blobs in the store.
    pub blobs: u64,
    /// Number of bytes of the selected blobs that were read and hashed. Documents that were already
    /// hashed because images or leases need them are not counted.
    pub bytes_read: u64,
    /// Number of snapshots that were checked.
    pub snapshots: u64,
    /// Number of these snapshots whose files were not compared, because the list of files that a
    /// commit records is missing. This is not damage: earlier releases recorded no list, and a loss
    /// of power can undo its write.
    pub unlisted: u64,
    /// Keys, and sizes in bytes, of the ingests that interrupted jobs have left and that a later
    /// pull can continue. These ingests are not damage. A collection removes an ingest that has not
    /// grown for [`UNLEASED_TTL`](crate::records::UNLEASED_TTL).
    pub resumable: Vec<(String, u64)>,
    /// Number of blobs without a record that are needed only by images that another program has
    /// named. These blobs are not damage. A repair makes their records. Without a record, no
    /// collection removes a blob. If no image of the store has a record, the number is 0: all
    /// records may be lost, so each blob without a record is reported as
    /// [`Problem::RecordMissing`].
    pub unrecorded: u64,
}

impl Report {
    /// Returns whether nothing was wrong, or everything was repaired.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired)
    }
}
