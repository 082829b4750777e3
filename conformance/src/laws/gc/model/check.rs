//! Compares the store with the oracle (the expected state), or updates the oracle after a failed
//! step.

use std::collections::BTreeSet;

use bytes::Bytes;
use cas_core::content::{Expected, Writer};
use cas_core::records::Resource;
use cas_core::{Descriptor, Digest};

use super::oracle::{Named, State, blobs};
use super::run::Run;
use crate::material::{assert_absent, assert_has, digests, read};

impl Run<'_> {
    /// Compares all blobs, names, leases and ingests of the store with the oracle.
    pub(super) async fn check(&self) {
        for (Descriptor { digest, .. }, data, _) in blobs() {
            self.check_blob(digest, data).await;
        }
        let listed = digests(&*self.store.content).await;
        let known = |digest: &Digest| blobs().iter().any(|(one, ..)| one.digest == *digest);
        assert!(
            listed.iter().all(known),
            "the content store lists blobs that no step stored"
        );
        let images = self.store.images.list(&[]).await.unwrap();
        let found = images.iter().map(|image| {
            let (target, labels) = (image.target.digest, image.labels.clone());
            (image.name.as_str(), Named { target, labels })
        });
        let wanted = &self.oracle.names;
        let wanted = wanted.iter().map(|(name, named)| (*name, named.clone()));
        assert_eq!(
            found.collect::<Vec<_>>(),
            wanted.collect::<Vec<_>>(),
            "the names, targets and labels of the images"
        );
        let leases = self.store.leases().list().await.unwrap();
        let found: Vec<_> = leases
            .into_iter()
            .map(|(id, lease, _)| (id, lease.resources))
            .collect();
        let wanted = self.oracle.leases.iter();
        let wanted: Vec<_> = wanted
            .map(|(id, kept)| ((*id).to_owned(), resources(kept)))
            .collect();
        assert_eq!(found, wanted, "the leases and their resources");
        let ingests = self.store.content.ingests().await.unwrap();
        // Ingests without bytes may or may not be listed.
        let found = ingests.iter().filter(|one| one.offset > 0);
        let found: Vec<_> = found.map(|one| (one.key.as_str(), one.offset)).collect();
        let wanted = self.oracle.ingests.iter();
        let wanted: Vec<_> = wanted
            .map(|(key, data)| (*key, data.len() as u64))
            .collect();
        assert_eq!(found, wanted, "unfinished ingests");
    }

    async fn check_blob(&self, digest: &Digest, data: &Bytes) {
        let content = &*self.store.content;
        let record = self.store.blobs().load(digest).await.unwrap();
        match self.oracle.state(digest) {
            State::Live(labels) => {
                assert_has(content, digest, data).await;
                let record = record.map(|(record, _)| record);
                let record = record.expect("a blob must have a record");
                assert_eq!(record.tombstone, None, "{digest} has a tombstone");
                assert_eq!(record.labels, *labels, "labels of {digest}");
            }
            State::Gone => {
                assert_absent(content, digest).await;
                assert_eq!(
                    record, None,
                    "the blob {digest} must not exist, but has a record"
                );
            }
            State::Unknown => {
                let found = read(content, digest).await;
                assert!(
                    found.is_none_or(|found| found == *data),
                    "{digest} does not have the bytes that were stored"
                );
            }
        }
    }

    /// Sets a blob in the oracle to its state in the store.
    pub(super) async fn adopt(&mut self, digest: Digest) {
        let stat = self.store.content.stat(&digest).await.unwrap();
        let record = self.store.blobs().load(&digest).await.unwrap();
        let state = match (stat, record) {
            (None, None) => State::Gone,
            (Some(_), Some((record, _))) if record.tombstone.is_none() => {
                State::Live(record.labels)
            }
            _ => State::Unknown,
        };
        self.oracle.set(digest, state);
    }

    /// Sets an ingest in the oracle to its bytes in the store. They must be a prefix of the bytes
    /// before the step, or of `data`.
    pub(super) async fn adopt_ingest(&mut self, key: &'static str, data: &Bytes) {
        let writer = Writer::begin(&*self.store.content, key, Expected::ANY).await;
        let mut writer = writer.expect("the ingest must be resumable");
        let length = usize::try_from(writer.offset()).unwrap();
        let found = writer.digest().await.unwrap();
        let before = self.oracle.ingest(key);
        let held = [data, &before].into_iter().find(|whole| {
            let beginning = whole.get(..length);
            beginning.is_some_and(|beginning| Digest::sha256(beginning) == found)
        });
        let held = held.expect("an ingest must contain a prefix of what was written");
        self.oracle.set_ingest(key, held.slice(..length));
    }

    /// Sets a name in the oracle to its state in the store. The oracle already has the state after
    /// the step, and `before` is the state before the step. The store must have one of the two.
    pub(super) async fn adopt_name(&mut self, name: &'static str, before: Option<Named>) {
        let found = self.store.images.get(&name.parse().unwrap()).await;
        let found = found.unwrap().map(|image| Named {
            target: image.target.digest,
            labels: image.labels,
        });
        let after = self.oracle.names.remove(name);
        assert!(
            found == before || found == after,
            "a failed step must leave the name {name} in its old or its new state, found {found:?}"
        );
        self.oracle.names.extend(found.map(|found| (name, found)));
    }

    /// Sets a lease in the oracle to its state in the store. In the store, the lease may list only
    /// blobs that it also lists in the oracle.
    pub(super) async fn adopt_lease(&mut self, lease: &'static str) {
        let found = self.store.leases().load(lease).await.unwrap();
        let wanted = self.oracle.leases.remove(lease).unwrap_or_default();
        let Some((found, _)) = found else { return };
        let listed = |digest: &Digest| found.resources.contains(&Resource::Content(*digest));
        let kept: BTreeSet<Digest> = wanted.into_iter().filter(listed).collect();
        assert_eq!(found.resources, resources(&kept), "{lease}");
        self.oracle.leases.insert(lease, kept);
    }
}

fn resources(kept: &BTreeSet<Digest>) -> BTreeSet<Resource> {
    kept.iter().copied().map(Resource::Content).collect()
}
