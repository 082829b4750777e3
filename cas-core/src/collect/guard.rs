//! A lease for the time of a job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::hold::{self, Held, Wanted, lost};
use super::keeper::Keeper;
use super::labels;
use crate::content::{Committed, Durability, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Kind, Result};
use crate::records::{Lease, Resource};
use crate::snapshot::Snapshotter;
use crate::store::{Store, listed};
use crate::unique;

/// How long the lease of a job outlives the job, should that be killed.
pub const JOB: Duration = Duration::from_secs(600);

/// The lease of a job: what is held through it no collection takes, wherever it runs.
///
/// The order of a job is: begin, hold what it counts on and publish the rest, write names, finish.
/// Dropping the guard ends the lease too, in the background, if the process lives long enough.
pub struct Guard {
    pub(super) store: Store,
    pub(super) id: Arc<str>,
    owner: String,
    ttl: Duration,
    keeper: Option<Keeper>,
    /// What is held, and whether its bytes were seen.
    held: Mutex<BTreeMap<Digest, bool>>,
}

impl Guard {
    /// Begins a lease that is extended for as long as the guard lives, by a thread of its own.
    ///
    /// # Errors
    /// Those of the home of records.
    pub async fn begin(store: &Store, purpose: &str) -> Result<Self> {
        let mut guard = Self::begin_for(store, purpose, JOB).await?;
        guard.keeper = Some(Keeper::start(store.leases(), &guard.id, JOB));
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
        Ok(Guard {
            store: store.clone(),
            id: id.into(),
            owner,
            ttl,
            keeper: None,
            held: Mutex::default(),
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
    pub async fn hold(&self, wanted: Wanted) -> Result<bool> {
        let held = hold::hold(&self.store, Some(&self.id), &wanted).await?;
        Ok(self.note(&wanted, held.as_ref()))
    }

    /// As [`Guard::hold`] of each; in one step where the home can.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn hold_all(&self, wanted: &[Wanted]) -> Result<Vec<bool>> {
        let held = hold::hold_all(&self.store, Some(&self.id), wanted).await?;
        let noted = wanted.iter().zip(&held);
        Ok(noted
            .map(|(wanted, held)| self.note(wanted, held.as_ref()))
            .collect())
    }

    /// Whether the bytes are there in the size that is wanted.
    pub(super) fn note(&self, wanted: &Wanted, held: Option<&Held>) -> bool {
        let stat = held.and_then(|held| held.stat);
        let there = stat.is_some_and(|stat| wanted.size.is_none_or(|size| size == stat.size));
        if held.is_some() {
            self.lock().insert(wanted.digest, there);
        }
        there
    }

    /// Publishes what `writer` holds together with its record, held from then on.
    ///
    /// # Errors
    /// Those of [`Store::publish`].
    pub async fn publish(
        &self,
        mut writer: Writer,
        wanted: &Wanted,
        durability: Durability,
    ) -> Result<Committed> {
        let size = wanted.size.unwrap_or(writer.offset());
        writer.expect(wanted.digest, size);
        let wanted = &Wanted {
            size: Some(size),
            ..wanted.clone()
        };
        let lease = Some(&*self.id);
        let committed = hold::publish(&self.store, lease, writer, wanted, durability).await?;
        self.lock().insert(wanted.digest, true);
        Ok(committed)
    }

    /// Stores a small blob with its record, held from then on. Children of a document that are not
    /// held are taken for absent.
    ///
    /// # Errors
    /// Those of [`Store::put`].
    pub async fn put(
        &self,
        descriptor: &Descriptor,
        data: Bytes,
        durability: Durability,
    ) -> Result<()> {
        let wanted = self.describe(descriptor, listed(descriptor, &data)?);
        hold::put(&self.store, Some(&self.id), &wanted, data, durability).await?;
        self.stored(&descriptor.digest);
        Ok(())
    }

    /// A document to be held, whose children are absent as far as they are not held.
    fn describe(&self, descriptor: &Descriptor, children: Vec<Digest>) -> Wanted {
        let mut wanted = Wanted::described(descriptor, children);
        let held = self.lock();
        let absent = wanted
            .children
            .iter()
            .filter(|child| !held.contains_key(child));
        wanted.absent = absent.copied().collect();
        drop(held);
        wanted
    }

    /// Says that the bytes of a held blob were stored by other means.
    pub fn stored(&self, digest: &Digest) {
        self.lock().insert(*digest, true);
    }

    /// Holds snapshots of these keys, there or yet to be made.
    ///
    /// # Errors
    /// `NotFound` when the lease has expired; those of the home.
    pub async fn hold_snapshots(&self, snapshotter: &str, keys: &[String]) -> Result<()> {
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

    /// Touches a snapshot that is held, so that a collection that noted it before passes it over;
    /// false when it is not there.
    ///
    /// # Errors
    /// Those of the snapshotter.
    pub async fn touch_snapshot(&self, snapshotter: &dyn Snapshotter, key: &str) -> Result<bool> {
        let none = crate::Labels::new();
        match snapshotter.update(key, none, &[labels::TOUCH]).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes sure, before names are written, that the lease did not expire on the way.
    ///
    /// # Errors
    /// `Conflict` when it did and something held was collected; those of the store.
    pub async fn confirm(&self) -> Result<()> {
        match self.store.leases().extend(&self.id, self.ttl).await {
            Err(error) if error.kind() == Kind::NotFound => self.renew().await,
            outcome => outcome,
        }
    }

    /// Ends the lease, once all that it held is referred to.
    ///
    /// # Errors
    /// `Conflict` when the lease expired on the way and something it held was collected: the names
    /// that were written stand for content that is not whole, and must be taken back.
    pub async fn finish(mut self) -> Result<()> {
        self.end().await
    }

    /// Ends the lease of a job that came to this outcome.
    ///
    /// # Errors
    /// That of the job; else those of [`Guard::finish`].
    pub async fn settle<T>(mut self, outcome: Result<T>) -> Result<T> {
        let ended = self.end().await;
        let done = outcome?;
        ended.map(|()| done)
    }

    pub(super) async fn end(&mut self) -> Result<()> {
        drop(self.keeper.take());
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
            Err(error) if error.kind() != Kind::AlreadyExists => return Err(error),
            _ => {}
        }
        let held: Vec<(Digest, bool)> = self.lock().clone().into_iter().collect();
        let wanted: Vec<Wanted> = held.iter().map(|(one, _)| Wanted::there(*one)).collect();
        let found = hold::hold_all(&self.store, Some(&self.id), &wanted).await?;
        for ((digest, there), found) in held.iter().zip(found) {
            if *there && found.is_none_or(|found| found.stat.is_none()) {
                return Err(lost(digest));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, bool>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    /// Only where the guard was not finished; a lease that stays for want of a thread expires.
    fn drop(&mut self) {
        if self.id.is_empty() {
            return;
        }
        drop(self.keeper.take());
        let (leases, id, owner) = (
            self.store.leases(),
            Arc::clone(&self.id),
            self.owner.clone(),
        );
        super::keeper::in_background(async move {
            let _ = leases.delete(&id, &owner, SystemTime::now()).await;
        });
    }
}
