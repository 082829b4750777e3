//! The records of leases. A lease keeps blobs, images, ingests and snapshots, even if no name
//! refers to them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::each::each;
use super::retry::retry;
use super::{Batch, Expect, Record, Records, Revision, Table, codec};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::labels::{Labels, check_labels, expiry};
use crate::limit;

/// A lease keeps blobs, images, ingests and snapshots until it ends or expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Labels. `containerd.io/gc.expire` and `containerd.io/gc.flat` have the meaning that
    /// containerd gives them.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The job that made the lease, such as `pull of process 12`. This text is not an
    /// [`Owner`](crate::Owner) of names and blobs. Until the lease expires, no other job may delete
    /// the lease.
    pub owner: String,
    /// The resources that the lease keeps. A lease without the label
    /// [`GC_FLAT`](crate::labels::GC_FLAT) also keeps everything that the resources refer to. Blobs
    /// that a job pins are not listed here. Their records name the lease instead.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub resources: BTreeSet<Resource>,
    /// When the lease was made.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When the lease expires. `None` means never, unless the label `containerd.io/gc.expire`
    /// states a time. If this field and the label state a time, the earlier one counts; see
    /// [`Lease::expiry`].
    #[serde(
        default,
        with = "crate::time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<SystemTime>,
}

impl Lease {
    /// Returns a lease of `owner`, made now, without resources.
    pub fn new(owner: impl Into<String>, expires_at: Option<SystemTime>) -> Self {
        Lease {
            labels: Labels::new(),
            owner: owner.into(),
            resources: BTreeSet::new(),
            created_at: SystemTime::now(),
            expires_at,
        }
    }

    /// Returns when the lease expires: the earlier of the time in `expires_at` and the time in the
    /// label [`GC_EXPIRE`](crate::labels::GC_EXPIRE). An invalid time in the label is ignored.
    /// Returns `None` if the lease never expires.
    pub fn expiry(&self) -> Option<SystemTime> {
        expiry(&self.labels)
            .into_iter()
            .chain(self.expires_at)
            .min()
    }
}

/// A resource that a lease can keep. Its text form is the same as in containerd: `content/DIGEST`,
/// `images/NAME`, `ingests/KEY`, `snapshots/SNAPSHOTTER/KEY`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// A blob.
    Content(Digest),
    /// An image, by name.
    Image(String),
    /// An unfinished ingest, by key.
    Ingest(String),
    /// A snapshot.
    Snapshot {
        /// Its snapshotter.
        snapshotter: String,
        /// Its key.
        key: String,
    },
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::Content(digest) => write!(f, "content/{digest}"),
            Resource::Image(name) => write!(f, "images/{name}"),
            Resource::Ingest(key) => write!(f, "ingests/{key}"),
            Resource::Snapshot { snapshotter, key } => write!(f, "snapshots/{snapshotter}/{key}"),
        }
    }
}

impl FromStr for Resource {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fail = || {
            Error::invalid(
                "expected content/DIGEST, images/NAME, ingests/KEY or snapshots/SNAPSHOTTER/KEY",
            )
            .operation("parse resource")
            .subject(format!("{text:.200}"))
        };
        match text.split_once('/').ok_or_else(fail)? {
            ("content", digest) => digest.parse().map(Resource::Content),
            ("images", name) if !name.is_empty() => Ok(Resource::Image(name.to_owned())),
            ("ingests", key) if !key.is_empty() => Ok(Resource::Ingest(key.to_owned())),
            ("snapshots", rest) => match rest.split_once('/') {
                Some((snapshotter, key)) if !snapshotter.is_empty() && !key.is_empty() => {
                    Ok(Resource::Snapshot {
                        snapshotter: snapshotter.to_owned(),
                        key: key.to_owned(),
                    })
                }
                _ => Err(fail()),
            },
            _ => Err(fail()),
        }
    }
}

impl Serialize for Resource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Resource {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The leases with sound records, and the errors for damaged records.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct LeaseList {
    /// The leases with their ids and revisions, in the order of their ids.
    pub leases: Vec<(String, Lease, Revision)>,
    /// For each damaged record, the error `Corrupt` of reading it.
    pub problems: Vec<Error>,
}

/// The records of leases, with typed access to [`Table::Leases`].
#[derive(Clone)]
pub struct Leases(Arc<dyn Records>);

impl Leases {
    /// Returns the records of leases in `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Leases(records)
    }

    /// Creates a lease.
    ///
    /// # Errors
    /// `AlreadyExists` if a lease has this id; `InvalidArgument` if the id is empty, is longer than
    /// [`limit::NAME`] bytes, or contains blanks or control characters; `InvalidArgument` if labels
    /// exceed their bounds; errors of the store.
    pub async fn create(&self, id: &str, lease: &Lease) -> Result<()> {
        let blank = |character: char| character.is_control() || character.is_whitespace();
        if id.is_empty() || id.len() > limit::NAME || id.chars().any(blank) {
            let expected = limit::NAME;
            return Err(Error::invalid(format!(
                "invalid lease id: expected 1 to {expected} bytes without blanks or control \
                 characters"
            ))
            .operation("create lease")
            .subject(format!("{id:.100}")));
        }
        match self.write(id, lease, Expect::Absent).await {
            Err(error) if error.kind() == ErrorKind::Conflict => Err(Error::already_exists(
                "a lease with this id already exists; choose another id",
            )
            .operation("create lease")
            .subject(id)),
            outcome => outcome,
        }
    }

    /// Returns a lease and its revision, or `None` if there is none. The lease may have expired.
    ///
    /// # Errors
    /// `Corrupt` if the record of the lease does not parse; errors of the store.
    pub async fn load(&self, id: &str) -> Result<Option<(Lease, Revision)>> {
        let record = self.0.load(Table::Leases, id).await?;
        record
            .map(|record| decode(&record).map(|lease| (lease, record.revision)))
            .transpose()
    }

    /// Returns all leases with their ids and revisions, in the order of their ids.
    ///
    /// # Errors
    /// As [`Leases::load`].
    pub async fn list(&self) -> Result<Vec<(String, Lease, Revision)>> {
        let LeaseList { leases, problems } = self.list_sound().await?;
        problems.into_iter().next().map_or(Ok(leases), Err)
    }

    /// Returns the same leases as [`Leases::list`], but without those whose records are damaged.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn list_sound(&self) -> Result<LeaseList> {
        let mut found = LeaseList::default();
        each(&*self.0, Table::Leases, "", |record| {
            match decode(record) {
                Ok(lease) => {
                    let lease = (record.key.clone(), lease, record.revision.clone());
                    found.leases.push(lease);
                }
                Err(error) => found.problems.push(error),
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Changes a lease, and retries if another writer was faster. Returns the lease as written.
    ///
    /// # Errors
    /// `NotFound` if no lease has this id; `InvalidArgument` for labels that exceed their
    /// bounds; `Corrupt` if the record of the lease does not parse; `Conflict` if every attempt
    /// lost against another writer; errors of `change` and of the store.
    pub async fn update<F>(&self, id: &str, change: F) -> Result<Lease>
    where
        F: Fn(&mut Lease) -> Result<()> + Send + Sync,
    {
        let change = &change;
        retry(|| async move {
            let (mut lease, revision) = self.load(id).await?.ok_or_else(|| ended(id))?;
            change(&mut lease)?;
            let written = self.write(id, &lease, Expect::Revision(revision)).await;
            written.map(|()| lease)
        })
        .await
    }

    /// Makes a lease expire `ttl` from now.
    ///
    /// # Errors
    /// As [`Leases::update`].
    pub async fn extend(&self, id: &str, ttl: Duration) -> Result<()> {
        let until = SystemTime::now() + ttl;
        let extended = self.update(id, |lease| {
            lease.expires_at = Some(until);
            Ok(())
        });
        extended.await.map(|_| ())
    }

    /// Deletes a lease that belongs to `owner`, or that expired before `now` (see
    /// [`Lease::expiry`]). Returns false if the lease had ended already.
    ///
    /// # Errors
    /// `FailedPrecondition` if the lease has another owner and did not expire before `now`;
    /// `Corrupt` if its record does not parse; `Conflict` if every attempt lost against another
    /// writer; errors of the store.
    pub async fn delete(&self, id: &str, owner: &str, now: SystemTime) -> Result<bool> {
        retry(|| async move {
            let Some((lease, revision)) = self.load(id).await? else {
                return Ok(false);
            };
            let expiry = lease.expiry();
            let expired = expiry.is_some_and(|at| at < now);
            if lease.owner != owner && !expired {
                let or = match expiry {
                    Some(_) => "wait until the lease expires",
                    None => {
                        "end the lease with `cas lease rm --force`, because the lease never expires"
                    }
                };
                return Err(Error::precondition(format!(
                    "the lease belongs to {}, which may still be at work; end that job, or {or}",
                    lease.owner
                ))
                .operation("delete lease")
                .subject(id));
            }
            self.remove(id, revision).await.map(|()| true)
        })
        .await
    }

    /// Deletes a lease if its record still has the revision `seen`.
    ///
    /// # Errors
    /// `Conflict` if the lease was changed or deleted since; errors of the store.
    pub(crate) async fn remove(&self, id: &str, seen: Revision) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete(Table::Leases, id, Expect::Revision(seen));
        self.0.commit(&batch).await
    }

    /// Adds a write of the lease to `batch`, so that the caller can commit the lease together with
    /// other records.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that exceed their bounds.
    pub fn put(batch: &mut Batch, id: &str, lease: &Lease, expect: Expect) -> Result<()> {
        check_labels(&lease.labels)?;
        let value = codec::encode(Table::Leases, id, lease)?;
        batch.put(Table::Leases, id, expect, value);
        Ok(())
    }

    async fn write(&self, id: &str, lease: &Lease, expect: Expect) -> Result<()> {
        let mut batch = Batch::new();
        Self::put(&mut batch, id, lease, expect)?;
        self.0.commit(&batch).await
    }
}

fn ended(id: &str) -> Error {
    Error::not_found("no such lease: it has ended or expired, or never existed; create a lease")
        .subject(id)
}

fn decode(record: &Record) -> Result<Lease> {
    codec::decode(Table::Leases, record, "read lease")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;
    use crate::labels::GC_EXPIRE;
    use crate::pool::wait;
    use crate::testing::memory::MemoryStore;

    #[test]
    fn a_refused_deletion_says_what_can_be_done() {
        let leases = Leases::new(Arc::new(MemoryStore::new()));
        let now = SystemTime::now();
        for (ends, advice, other) in [
            (None, "`cas lease rm --force`", "wait"),
            (Some(now + Duration::from_mins(1)), "wait until", "never"),
        ] {
            let lease = Lease::new("job", ends);
            wait(leases.create("id", &lease)).unwrap();
            let error = wait(leases.delete("id", "another", now)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            let text = error.to_string();
            assert!(text.contains(advice) && !text.contains(other), "{text}");
            assert!(wait(leases.delete("id", "job", now)).unwrap());
        }
    }

    #[test]
    fn the_earlier_of_the_time_in_the_label_and_the_time_in_the_field_counts() {
        let leases = Leases::new(Arc::new(MemoryStore::new()));
        let at = |text| humantime::parse_rfc3339(text).unwrap();
        let (past, future) = ("2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z");
        for (label, field, expiry, advice) in [
            (past, None, Some(past), None),
            (past, Some(future), Some(past), None),
            (future, Some(past), Some(past), None),
            (future, None, Some(future), Some("wait until")),
            ("no time", None, None, Some("`cas lease rm --force`")),
        ] {
            let mut lease = Lease::new("job", field.map(at));
            lease.labels.insert(GC_EXPIRE.to_owned(), label.to_owned());
            assert_eq!(lease.expiry(), expiry.map(at), "{label} {field:?}");
            wait(leases.create("id", &lease)).unwrap();
            let deleted = wait(leases.delete("id", "another", at("2026-01-01T00:00:00Z")));
            match advice {
                None => assert!(deleted.unwrap(), "{label} {field:?}"),
                Some(advice) => {
                    let text = deleted.unwrap_err().to_string();
                    assert!(text.contains(advice), "{text}");
                    assert!(wait(leases.delete("id", "job", at(past))).unwrap());
                }
            }
        }
    }
}
