//! A lease for the time of a job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::pin::{self, BlobRef, Pinned};
use super::publish;
use super::renewer::{self, LeaseRenewer};
use super::store::listed;
use super::swap::lost;
use crate::content::{Committed, Durability, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::labels::{GC, Labels};
use crate::records::{LEASE_TTL, Lease, Resource};
use crate::snapshot::Snapshotter;
use crate::store::Store;
use crate::sync::lock;
use crate::unique;

/// The lease of a job: what is pinned through it no collection takes, wherever it runs.
///
/// The order of a job is: begin, hold what it counts on and publish the rest, write names, finish.
/// Dropping the guard ends the lease too, in the background, if the process lives long enough.
pub struct LeaseGuard {
    pub(super) store: Store,
    pub(super) id: Arc<str>,
    owner: String,
    ttl: Duration,
    renewer: Option<LeaseRenewer>,
    /// What is pinned, and whether its bytes were seen.
    pinned: Mutex<BTreeMap<Digest, bool>>,
}

impl LeaseGuard {
    /// Begins a lease that is extended for as long as the guard lives, by a thread of its own.
    ///
    /// # Errors
    /// Those of the home of records.
    pub async fn begin(store: &Store, purpose: &str) -> Result<Self> {
        let mut guard = Self::begin_for(store, purpose, LEASE_TTL).await?;
        guard.renewer = Some(LeaseRenewer::start(store.leases(), &guard.id, LEASE_TTL));
        Ok(guard)
    }

    /// Begins a lease that nobody extends: the job ends within `ttl`.
    ///
    /// # Errors
    /// Those of the home of records.
    pub async fn begin_for(store: &Store, purpose: &str, ttl: Duration) -> Result<Self> {
        let owner = format!("{purpose} of process {}", std::process::id());
        let id = unique::key(purpose);
        let lease = Lease::new(&owner, Some(SystemTime::now() + ttl));
        store.leases().create(&id, &lease).await?;
        Ok(LeaseGuard {
            store: store.clone(),
            id: id.into(),
            owner,
            ttl,
            renewer: None,
            pinned: Mutex::default(),
        })
    }

    /// The id of the lease.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Holds a blob, there or yet to be stored; true when its bytes are there.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn pin(&self, blob: BlobRef) -> Result<bool> {
        let pinned = pin::pin(&self.store, Some(&self.id), &blob).await?;
        Ok(self.note(&blob, pinned.as_ref()))
    }

    /// As [`LeaseGuard::hold`] of each; in one step where the home can.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn pin_all(&self, blob: &[BlobRef]) -> Result<Vec<bool>> {
        let pinned = pin::pin_all(&self.store, Some(&self.id), blob).await?;
        let noted = blob.iter().zip(&pinned);
        Ok(noted
            .map(|(blob, pinned)| self.note(blob, pinned.as_ref()))
            .collect())
    }

    /// Whether the bytes are there in the size that is blob.
    pub(super) fn note(&self, blob: &BlobRef, pinned: Option<&Pinned>) -> bool {
        let stat = pinned.and_then(|pinned| pinned.stat);
        let there = stat.is_some_and(|stat| blob.size.is_none_or(|size| size == stat.size));
        if pinned.is_some() {
            self.lock().insert(blob.digest, there);
        }
        there
    }

    /// Publishes what `writer` holds together with its record, pinned from then on.
    ///
    /// # Errors
    /// Those of [`Store::publish`].
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
        let lease = Some(&*self.id);
        let committed = publish::publish(&self.store, lease, writer, blob, durability).await?;
        self.lock().insert(blob.digest, true);
        Ok(committed)
    }

    /// Stores a small blob with its record, pinned from then on. Children of a document that are not
    /// pinned are taken for absent.
    ///
    /// # Errors
    /// Those of [`Store::put`].
    pub async fn put(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        durability: Durability,
    ) -> Result<()> {
        let blob = self.describe(descriptor, listed(descriptor, &data)?);
        publish::put(&self.store, Some(&self.id), &blob, data, durability).await?;
        self.stored(&descriptor.digest);
        Ok(())
    }

    /// A document to be pinned, whose children are absent as far as they are not pinned.
    fn describe(&self, descriptor: &Descriptor, children: Vec<Digest>) -> BlobRef {
        let mut blob = BlobRef::of(descriptor, children);
        let pinned = self.lock();
        let absent = blob
            .children
            .iter()
            .filter(|child| !pinned.contains_key(child));
        blob.absent = absent.copied().collect();
        drop(pinned);
        blob
    }

    /// Says that the bytes of a pinned blob were stored by other means.
    pub fn stored(&self, digest: &Digest) {
        self.lock().insert(*digest, true);
    }

    /// Holds snapshots of these keys, there or yet to be made.
    ///
    /// # Errors
    /// `NotFound` when the lease has expired; those of the home.
    pub async fn pin_snapshots(&self, snapshotter: &str, keys: &[String]) -> Result<()> {
        let resource = |key: &String| Resource::Snapshot {
            snapshotter: snapshotter.to_owned(),
            key: key.clone(),
        };
        self.store
            .leases()
            .update(&self.id, |lease| {
                lease.resources.extend(keys.iter().map(resource));
                Ok(())
            })
            .await
            .map(|_| ())
    }

    /// Touches a snapshot that is pinned, so that a collection that noted it before passes it over;
    /// false when it is not there.
    ///
    /// # Errors
    /// Those of the snapshotter.
    pub async fn bump_snapshot(&self, snapshotter: &dyn Snapshotter, key: &str) -> Result<bool> {
        // The path names no label that exists: only the time of the last change moves.
        let path = format!("labels.{GC}touch");
        match snapshotter.update(key, Labels::new(), &[&path]).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes sure, before names are written, that the lease did not expire on the way.
    ///
    /// # Errors
    /// `Conflict` when it did and something pinned was collected; those of the store.
    pub async fn confirm(&self) -> Result<()> {
        match self.store.leases().extend(&self.id, self.ttl).await {
            Err(error) if error.kind() == ErrorKind::NotFound => self.renew().await,
            outcome => outcome,
        }
    }

    /// Ends the lease, once all that it pinned is referred to.
    ///
    /// # Errors
    /// `Conflict` when the lease expired on the way and something it pinned was collected: the names
    /// that were written stand for content that is not whole, and must be taken back.
    pub async fn finish(mut self) -> Result<()> {
        self.end().await
    }

    /// Ends the lease of a job that came to this outcome.
    ///
    /// # Errors
    /// That of the job; else those of [`LeaseGuard::finish`].
    pub async fn finish_with<T>(mut self, outcome: Result<T>) -> Result<T> {
        let ended = self.end().await;
        let done = outcome?;
        ended.map(|()| done)
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

    /// Makes the lease anew and touches everything once more: each blob either survives the
    /// collection that dropped the lease, or is seen to be gone.
    async fn renew(&self) -> Result<()> {
        let lease = Lease::new(&self.owner, Some(SystemTime::now() + self.ttl));
        match self.store.leases().create(&self.id, &lease).await {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let pinned: Vec<(Digest, bool)> = self.lock().clone().into_iter().collect();
        let blob: Vec<BlobRef> = pinned
            .iter()
            .map(|(one, _)| BlobRef::existing(*one))
            .collect();
        let found = pin::pin_all(&self.store, Some(&self.id), &blob).await?;
        for ((digest, there), found) in pinned.iter().zip(found) {
            if *there && found.is_none_or(|found| found.stat.is_none()) {
                return Err(lost(digest));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, bool>> {
        lock(&self.pinned)
    }
}

impl Drop for LeaseGuard {
    /// Only where the guard was not finished; a lease that stays for want of a thread expires.
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
        renewer::in_background(async move {
            let _ = leases.delete(&id, &owner, SystemTime::now()).await;
        });
    }
}
