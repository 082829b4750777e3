//! The lease of a job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::pin::{self, BlobRef, Pinned};
use super::publish;
use super::renewer::LeaseRenewer;
use super::store::listed;
use super::swap::lost;
use crate::background::{self, shield};
use crate::content::{Committed, Durability, OwnIngest, Version, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::labels::{GC, Labels};
use crate::records::{LEASE_TTL, Lease, Resource};
use crate::snapshot::Snapshotter;
use crate::store::Store;
use crate::sync::lock;
use crate::unique;

/// A lease that exists for as long as a job. No garbage collection, in any process, removes a blob
/// that is pinned under the lease. A job can pin the key of a snapshot before it creates the
/// snapshot. Then no collection removes the snapshot, either. If a snapshot already existed when it
/// was pinned, a collection that read the leases before the pin may still remove the snapshot. To
/// prevent this, the job also calls [`LeaseGuard::bump_snapshot`].
///
/// A job begins a guard, pins the stored content that it depends on, publishes the content that the
/// store lacks, writes names, and finishes the guard. If the guard is dropped without being
/// finished, a thread in the background ends the lease. If the process ends before that, the lease
/// expires later.
pub struct LeaseGuard {
    pub(super) store: Store,
    pub(super) id: Arc<str>,
    owner: String,
    ttl: Duration,
    renewer: Option<LeaseRenewer>,
    pinned: Mutex<BTreeMap<Digest, Known>>,
    /// The pinned snapshots.
    snapshots: Mutex<Vec<Resource>>,
}

/// What a job has found out about a blob that it has pinned.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    /// Whether its bytes are in the store.
    pub(super) stored: bool,
    /// The version of its bytes, if they were verified and the record does not name this version
    /// yet.
    pub(super) verified: Option<Version>,
    /// The version of its bytes, if they are damaged.
    pub(super) damaged: Option<Version>,
}

impl LeaseGuard {
    /// Begins a lease, which a thread extends until the guard is finished or dropped. Returns the
    /// guard.
    ///
    /// # Errors
    /// `InvalidArgument` if `purpose` contains blanks or control characters, or makes the id of the
    /// lease longer than [`limit::NAME`](crate::limit::NAME) bytes; errors of the records store.
    pub async fn begin(store: &Store, purpose: &str) -> Result<Self> {
        let mut guard = Self::begin_for(store, purpose, LEASE_TTL).await?;
        guard.renewer = Some(LeaseRenewer::start(&store.records, &guard.id, LEASE_TTL));
        Ok(guard)
    }

    /// Begins a lease that is not extended, for a job that ends within `ttl`. Returns the guard.
    ///
    /// # Errors
    /// As [`LeaseGuard::begin`].
    pub async fn begin_for(store: &Store, purpose: &str, ttl: Duration) -> Result<Self> {
        let owner = format!("{purpose} of process {}", std::process::id());
        let guard = LeaseGuard {
            store: store.clone(),
            id: unique::key(purpose).into(),
            owner,
            ttl,
            renewer: None,
            pinned: Mutex::default(),
            snapshots: Mutex::default(),
        };
        // If the caller drops this future, the lease is created, and then ended with the guard.
        shield(async move {
            let lease = Lease::new(&guard.owner, Some(SystemTime::now() + ttl));
            let created = guard.store.leases().create(&guard.id, &lease).await;
            match created {
                Ok(()) => Ok(guard),
                Err(error) => {
                    guard.forget();
                    Err(error)
                }
            }
        })
        .await
    }

    /// Returns the id of the lease.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Pins a blob. If [`BlobRef::size`] is given, the blob need not be stored yet. Returns whether
    /// its bytes are in the store, with the expected size.
    ///
    /// # Errors
    /// `Corrupt` if the record of the blob does not parse; `Conflict` if every attempt lost against
    /// another writer; errors of the store.
    pub async fn pin(&self, blob: BlobRef) -> Result<bool> {
        let pinned = pin::pin(&self.store, Some(&self.id), &blob).await?;
        Ok(self.add_pinned(&blob, pinned.as_ref()))
    }

    /// Pins blobs as [`LeaseGuard::pin`] does, in one batch if possible. Returns for each blob what
    /// [`LeaseGuard::pin`] returns.
    ///
    /// # Errors
    /// As [`LeaseGuard::pin`].
    pub async fn pin_all(&self, blobs: &[BlobRef]) -> Result<Vec<bool>> {
        let pinned = pin::pin_all(&self.store, Some(&self.id), blobs).await?;
        let pairs = blobs.iter().zip(&pinned);
        Ok(pairs
            .map(|(blob, pinned)| self.add_pinned(blob, pinned.as_ref()))
            .collect())
    }

    /// Adds a pinned blob to the blobs of the guard. Returns whether its bytes are in the store,
    /// with the expected size.
    pub(super) fn add_pinned(&self, blob: &BlobRef, pinned: Option<&Pinned>) -> bool {
        let stat = pinned.and_then(|pinned| pinned.stat);
        let there = stat.is_some_and(|stat| blob.size.is_none_or(|size| size == stat.size));
        if pinned.is_some() {
            self.lock().entry(blob.digest).or_default().stored = there;
        }
        there
    }

    /// Publishes what `writer` has written, together with the record of the blob, and pins the
    /// blob. Returns what was committed.
    ///
    /// # Errors
    /// Errors of [`Store::publish`].
    pub async fn publish(
        &self,
        mut writer: Writer,
        blob: &BlobRef,
        durability: Durability,
    ) -> Result<Committed> {
        let size = blob.size.unwrap_or(writer.offset());
        writer.expect(blob.digest, size);
        let blob = &BlobRef {
            size: Some(size),
            ..blob.clone()
        };
        self.replace_damaged(&mut writer, &blob.digest).await?;
        let lease = Some(&*self.id);
        let committed = publish::publish(&self.store, lease, writer, blob, durability).await?;
        self.note_published(&blob.digest).await?;
        Ok(committed)
    }

    /// Stores a small blob and its record, and pins the blob. If the blob is a document (an index
    /// or a manifest), its children are recorded with it, as by [`LeaseGuard::record_children`].
    /// Before this call, the guard must have stored or pinned each child that is in the store. A
    /// child that the guard neither stored nor found in the store is recorded as absent, unless an
    /// earlier job recorded it as stored.
    ///
    /// # Errors
    /// Errors of [`Store::put`].
    pub async fn put(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        durability: Durability,
    ) -> Result<()> {
        let mut blob = BlobRef::of(descriptor, listed(descriptor, &data)?);
        self.leave_out_missing(&mut blob);
        self.put_blob(&blob, data, durability).await
    }

    /// Stores a small blob and its record, without children, and pins the blob. The caller records
    /// the children of a document later, with [`LeaseGuard::record_children`].
    ///
    /// # Errors
    /// Errors of [`Store::put`], except `Corrupt` for a document that does not parse.
    pub async fn put_alone(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        durability: Durability,
    ) -> Result<()> {
        let blob = BlobRef::of(descriptor, Vec::new());
        self.put_blob(&blob, data, durability).await
    }

    async fn put_blob(&self, blob: &BlobRef, data: Bytes, durability: Durability) -> Result<()> {
        publish::put(&self.store, Some(&self.id), blob, data, durability).await?;
        self.note_published(&blob.digest).await
    }

    /// Marks a pinned blob as stored. A caller that stores the bytes of the blob without the guard
    /// calls this.
    pub fn stored(&self, digest: &Digest) {
        self.lock().entry(*digest).or_default().stored = true;
    }

    /// Pins the snapshots with these keys, even if they do not exist yet.
    ///
    /// # Errors
    /// `NotFound` if the lease expired and a collection removed it; `Conflict` if every attempt
    /// lost against another writer; errors of the records store.
    pub async fn pin_snapshots(&self, snapshotter: &str, keys: &[String]) -> Result<()> {
        let resource = |key: &String| Resource::Snapshot {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
        };
        let pinned: Vec<Resource> = keys.iter().map(resource).collect();
        self.store
            .leases()
            .update(&self.id, |lease| {
                lease.resources.extend(pinned.iter().cloned());
                Ok(())
            })
            .await?;
        lock(&self.snapshots).extend(pinned);
        Ok(())
    }

    /// Changes the time of the last update of a pinned snapshot, so that a garbage collection that
    /// read the snapshot before the change no longer removes it. Returns false if the snapshot does
    /// not exist.
    ///
    /// # Errors
    /// Errors of the snapshotter.
    pub async fn bump_snapshot(&self, snapshotter: &dyn Snapshotter, key: &str) -> Result<bool> {
        // No snapshot has this label, so only the time of the last update changes.
        let path = format!("labels.{GC}touch");
        match snapshotter.update(key, Labels::new(), &[&path]).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Extends the lease. A job calls this before it writes names. If the lease expired and a
    /// collection removed it, creates the lease again and pins everything again.
    ///
    /// # Errors
    /// `Conflict` if the lease has expired and a pinned blob was collected, or if every attempt
    /// lost against another writer; errors of the store.
    pub async fn confirm(&self) -> Result<()> {
        match self.store.leases().extend(&self.id, self.ttl).await {
            Err(error) if error.kind() == ErrorKind::NotFound => self.renew().await,
            outcome => outcome,
        }
    }

    /// Ends the lease. A job calls this once names or other leases refer to everything that it
    /// pinned.
    ///
    /// # Errors
    /// `Conflict` if the lease has expired and a pinned blob was collected; errors of the store.
    /// After a `Conflict`, the names that the job wrote may refer to incomplete content. The caller
    /// must delete these names, or make them refer to their earlier content again.
    pub async fn finish(mut self) -> Result<()> {
        self.end().await
    }

    /// Ends the lease. The stored blobs that the lease pinned are kept for another
    /// [`UNLEASED_TTL`](super::UNLEASED_TTL), as if they had been stored now without a lease.
    ///
    /// # Errors
    /// As [`LeaseGuard::finish`].
    pub async fn finish_kept(mut self) -> Result<()> {
        let stored: Vec<BlobRef> = {
            let pinned = self.lock();
            let stored = pinned.iter().filter(|(_, known)| known.stored);
            stored
                .map(|(digest, _)| BlobRef::existing(*digest))
                .collect()
        };
        pin::pin_all(&self.store, None, &stored).await?;
        self.end().await
    }

    /// Ends the lease. Returns the outcome of the job. If the outcome is a `Full` error, discards
    /// the ingests of the pinned blobs that are not stored, to free their space.
    ///
    /// Damaged bytes of a pinned blob may cause a `Corrupt`, `OutOfRange` or `Unsupported` error.
    /// After such an error, pinned blobs may be damaged: after `Corrupt`, each of them; after
    /// `OutOfRange` or `Unsupported`, those whose digests are in the text of the error. The next
    /// job that has the right bytes of such a blob hashes the stored bytes, and replaces them if
    /// they are damaged.
    ///
    /// # Errors
    /// The error of the job, or else errors of [`LeaseGuard::finish`].
    pub async fn finish_with<T>(mut self, outcome: Result<T>) -> Result<T> {
        let failed = outcome.as_ref().err();
        if failed.is_some_and(|error| error.kind() == ErrorKind::Full) {
            self.discard_ingests().await;
        }
        self.distrust_after(failed).await;
        let ended = self.end().await;
        let done = outcome?;
        ended.map(|()| done)
    }

    /// Discards the ingests of the pinned blobs that are not stored. An ingest that another job has
    /// open stays.
    async fn discard_ingests(&self) {
        let digests: Vec<Digest> = {
            let pinned = self.lock();
            let missing = pinned.iter().filter(|(_, known)| !known.stored);
            missing.map(|(digest, _)| *digest).collect()
        };
        for digest in digests {
            let key = digest.to_string();
            // A last write of this job may be under way. Then the ingest is discarded in the
            // background, once the write has ended. The caller has an error to report already.
            match self.store.content.discard(&key).await {
                Ok(_) => {}
                Err(_) => drop(OwnIngest::of(&self.store.content, key)),
            }
        }
    }

    /// Drops the guard of a lease that does not exist.
    fn forget(mut self) {
        self.id = "".into();
    }

    pub(super) async fn end(&mut self) -> Result<()> {
        drop(self.renewer.take());
        let leases = self.store.leases();
        let now = SystemTime::now();
        if !leases.delete(&self.id, &self.owner, now).await? {
            self.renew().await?;
            leases.delete(&self.id, &self.owner, now).await?;
        }
        self.id = "".into();
        Ok(())
    }

    /// Creates the lease again and pins everything again. Each blob either survives the collection
    /// that removed the lease, or is found to be missing. Missing snapshots are not detected.
    async fn renew(&self) -> Result<()> {
        let mut lease = Lease::new(&self.owner, Some(SystemTime::now() + self.ttl));
        lease
            .resources
            .extend(lock(&self.snapshots).iter().cloned());
        match self.store.leases().create(&self.id, &lease).await {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let pinned: Vec<(Digest, Known)> = self.lock().clone().into_iter().collect();
        let blobs: Vec<BlobRef> = pinned
            .iter()
            .map(|(digest, _)| BlobRef::existing(*digest))
            .collect();
        let found = pin::pin_all(&self.store, Some(&self.id), &blobs).await?;
        for ((digest, known), found) in pinned.iter().zip(found) {
            if known.stored && found.is_none_or(|found| found.stat.is_none()) {
                return Err(lost(digest));
            }
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Known>> {
        lock(&self.pinned)
    }
}

impl Drop for LeaseGuard {
    /// Ends the lease of a guard that was not finished. If no thread can be started, the lease
    /// expires later.
    fn drop(&mut self) {
        if self.id.is_empty() {
            return;
        }
        drop(self.renewer.take());
        let (leases, id, owner) = (
            self.store.leases(),
            Arc::clone(&self.id),
            self.owner.clone(),
        );
        background::run(async move {
            let _ = leases.delete(&id, &owner, SystemTime::now()).await;
        });
    }
}
