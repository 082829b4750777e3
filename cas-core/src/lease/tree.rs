//! Pinning a whole image, from its index or manifest down.

use std::collections::{BTreeSet, VecDeque};

use super::guard::LeaseGuard;
use super::pin::{self, BlobRef, Pinned};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::gc;
use crate::media_type::MediaType;

impl LeaseGuard {
    /// Pins an image and everything below it except snapshots. Children that are recorded as absent
    /// are skipped, as in a collection.
    ///
    /// # Errors
    /// `NotFound` if the image, or a child that is not recorded as absent, is missing; errors of
    /// the store.
    pub async fn pin_tree(&self, root: &Descriptor) -> Result<()> {
        let mut seen = BTreeSet::from([root.digest]);
        let mut waiting =
            VecDeque::from([(BlobRef::existing(root.digest), Some(root.clone()), false)]);
        while let Some((blob, descriptor, optional)) = waiting.pop_front() {
            let pinned = pin::pin(&self.store, Some(&self.id), &blob).await?;
            let stored = self.add_pinned(&blob, pinned.as_ref());
            if !stored && !optional {
                return Err(gone(&blob.digest, root));
            }
            let Some(pinned) = pinned.filter(|_| stored) else {
                continue;
            };
            let listed = self.listed(&pinned, descriptor.as_ref()).await?;
            for child in listed.children {
                if seen.insert(child.digest) {
                    let optional = listed.optional.contains(&child.digest);
                    let digest = child.digest;
                    waiting.push_back((BlobRef::existing(digest), child.descriptor, optional));
                }
            }
        }
        Ok(())
    }

    /// Returns what a pinned blob refers to, from its record, or from the document itself if the
    /// record lists no children.
    async fn listed(&self, pinned: &Pinned, descriptor: Option<&Descriptor>) -> Result<Listed> {
        let record = &pinned.record;
        let lists = MediaType::is_document;
        let children = match descriptor.filter(|own| lists(&own.media_type)) {
            Some(own) if record.children.is_empty() => self.read(own).await?,
            _ => {
                let children = record.children.iter().copied();
                let stored = children.filter(|child| !record.absent.contains(child));
                stored.map(Child::of).collect()
            }
        };
        let mut listed = Listed {
            children,
            optional: BTreeSet::new(),
        };
        let required: BTreeSet<Digest> = listed.children.iter().map(|child| child.digest).collect();
        let referenced = gc::referenced_content(&record.labels);
        for digest in referenced.filter(|digest| !required.contains(digest)) {
            listed.optional.insert(digest);
            listed.children.push(Child::of(digest));
        }
        Ok(listed)
    }

    /// Reads a document whose record lists no children, and adds them to the record. Returns those
    /// that are in the store.
    async fn read(&self, own: &Descriptor) -> Result<Vec<Child>> {
        let children = dispatch::children(&*self.store.content, own).await?;
        let mut blob = BlobRef::of(own, Vec::new());
        for child in &children {
            blob.children.push(child.digest);
            if self.store.content.stat(&child.digest).await?.is_none() {
                blob.absent.insert(child.digest);
            }
        }
        pin::pin(&self.store, Some(&self.id), &blob).await?;
        let child = |descriptor: Descriptor| Child {
            digest: descriptor.digest,
            descriptor: Some(descriptor),
        };
        let stored = children.into_iter();
        let stored = stored.filter(|child| !blob.absent.contains(&child.digest));
        Ok(stored.map(child).collect())
    }
}

struct Listed {
    children: Vec<Child>,
    /// Blobs among them that labels refer to, and that may be missing.
    optional: BTreeSet<Digest>,
}

struct Child {
    digest: Digest,
    descriptor: Option<Descriptor>,
}

impl Child {
    fn of(digest: Digest) -> Self {
        Child {
            digest,
            descriptor: None,
        }
    }
}

fn gone(digest: &Digest, root: &Descriptor) -> Error {
    Error::not_found("part of the image is missing or was collected; import the image again")
        .operation("pin")
        .subject(digest)
        .within(root.digest)
}
