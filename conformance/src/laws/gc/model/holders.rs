//! The steps that change labels, names and leases.

use std::time::SystemTime;

use cas_core::records::{Lease, Resource};
use cas_core::{Digest, Image, Labels};

use super::oracle::{Named, State, blobs};
use super::run::Run;
use super::step::Label;
use crate::sample::Sample;

/// The owner of the leases.
const OWNER: &str = "conformance";

impl Run<'_> {
    pub(super) async fn label(&mut self, blob: usize, label: Label, value: u8) {
        let digest = blobs()[blob].0.digest;
        let Some(before) = self.oracle.live(&digest).cloned() else {
            return;
        };
        let mut after = before.clone();
        match value {
            0 => after.remove(label.key()),
            value => after.insert(label.key().to_owned(), value.to_string()),
        };
        let blobs = self.faulty.blobs();
        let labelled = blobs.update(&digest, |found| {
            let mut record = found.expect("a live blob must have a record");
            record.labels.clone_from(&after);
            Ok(record)
        });
        if self.result_of(labelled.await).is_some() {
            return self.oracle.set(digest, State::Live(after));
        }
        self.adopt(digest).await;
        let found = self
            .oracle
            .live(&digest)
            .expect("the blob must still exist");
        assert!(
            [&before, &after].contains(&found),
            "a failed update must keep the old labels or set the new labels, found {found:?}"
        );
    }

    /// Imports an image. No call of the import is made to fail, because a failed job ends its lease
    /// in the background. This would keep the store open during the next step.
    pub(super) async fn import(&mut self, name: &'static str, image: u64) {
        let image = Sample::of(image);
        image.import(&self.store, name).await.unwrap();
        for digest in image.digests() {
            self.stored(digest).await;
        }
        self.target(name, image.root().digest);
    }

    /// In the oracle, points a name to another blob. Keeps the labels of the name.
    fn target(&mut self, name: &'static str, target: Digest) {
        let before = self.oracle.names.get(name);
        let labels = before.map_or_else(Labels::new, |before| before.labels.clone());
        self.oracle.names.insert(name, Named { target, labels });
    }

    pub(super) async fn set_name(&mut self, name: &'static str, blob: usize) {
        let descriptor = &blobs()[blob].0;
        if self.oracle.live(&descriptor.digest).is_none() {
            return;
        }
        let image = Image::new(name.parse().unwrap(), descriptor.clone());
        let outcome = if self.oracle.names.contains_key(name) {
            self.faulty.images.update(image, &["target"]).await
        } else {
            self.faulty.images.create(image).await
        };
        let before = self.oracle.names.get(name).cloned();
        self.target(name, descriptor.digest);
        if self.result_of(outcome).is_none() {
            self.adopt_name(name, before).await;
        }
    }

    pub(super) async fn relabel(&mut self, name: &'static str, value: u8) {
        let Some(before) = self.oracle.names.get(name).cloned() else {
            return;
        };
        let known = blobs().iter().find(|(one, ..)| one.digest == before.target);
        let mut image = Image::new(name.parse().unwrap(), known.unwrap().0.clone());
        if value > 0 {
            let label = (Label::Plain.key().to_owned(), value.to_string());
            image.labels.extend([label]);
        }
        let after = Named {
            target: before.target,
            labels: image.labels.clone(),
        };
        self.oracle.names.insert(name, after);
        let outcome = self.faulty.images.update(image, &["labels"]).await;
        if self.result_of(outcome).is_none() {
            self.adopt_name(name, Some(before)).await;
        }
    }

    pub(super) async fn delete_name(&mut self, name: &'static str) {
        let Some(before) = self.oracle.names.remove(name) else {
            return;
        };
        let reference = name.parse().unwrap();
        let outcome = self.faulty.images.delete(&reference, None).await;
        if self.result_of(outcome).is_none() {
            self.adopt_name(name, Some(before)).await;
        }
    }

    pub(super) async fn add_to_lease(&mut self, lease: &'static str, blob: usize) {
        let digest = blobs()[blob].0.digest;
        if self.oracle.live(&digest).is_none() {
            return;
        }
        let (leases, is_new) = (
            self.faulty.leases(),
            !self.oracle.leases.contains_key(lease),
        );
        let outcome = async {
            if is_new {
                leases.create(lease, &Lease::new(OWNER, None)).await?;
            }
            let added = leases.update(lease, |lease| {
                lease.resources.insert(Resource::Content(digest));
                Ok(())
            });
            added.await
        };
        let outcome = outcome.await;
        self.oracle.leases.entry(lease).or_default().insert(digest);
        if self.result_of(outcome).is_none() {
            self.adopt_lease(lease).await;
        }
    }

    pub(super) async fn end_lease(&mut self, lease: &'static str) {
        if !self.oracle.leases.contains_key(lease) {
            return;
        }
        let leases = self.faulty.leases();
        let outcome = leases.delete(lease, OWNER, SystemTime::now()).await;
        match self.result_of(outcome) {
            Some(there) => {
                assert!(there, "the lease {lease} is lost");
                self.oracle.leases.remove(lease);
            }
            None => self.adopt_lease(lease).await,
        }
    }
}
