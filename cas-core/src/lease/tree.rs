//! Pinning a whole image, from its index or manifest down.

use std::collections::{BTreeSet, VecDeque};

use super::guard::LeaseGuard;
use super::pin::{self, BlobRef, Pinned};
use crate::complete::{
    completeness, incomplete_children, is_damage, is_of_document, sound_completeness,
};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::error::{Error, FETCH_AGAIN, Result};
use crate::gc;
use crate::records::BlobRecord;

impl LeaseGuard {
    /// Pins an image and all blobs below it. The children of a document are taken from its record.
    /// Children that are recorded as absent (see [`BlobRecord::absent`]) are skipped, as in a
    /// garbage collection. Content that only labels refer to may be missing.
    ///
    /// If the record of `root` lists no children, `root` is read and its children are recorded. A
    /// child that is not in the store is recorded as absent. A child of an index is also recorded
    /// as absent if the store lacks a blob that the child needs. Then these rules apply to each
    /// document that `root` lists and that is not recorded as absent, and so on. The documents
    /// below a document whose record lists children are not read.
    ///
    /// There are two exceptions. In both, a record that lists no children is left without children,
    /// because a child that is recorded as absent counts as left out on purpose:
    ///
    /// - the record of a manifest, if the store lacks a child of the manifest. A job may have
    ///   failed to store this child. The exception does not apply if registries do not distribute
    ///   the missing child, or if the manifest contains the bytes of the child.
    /// - the record of an index, if the store has an incomplete manifest below the index, and no
    ///   record lists the children of this manifest. The record may be lost. If it stated that a
    ///   snapshotter keeps the layers, the manifest must keep their snapshots.
    ///
    /// # Errors
    /// `NotFound` if `root`, or a child that was recorded as stored, is missing; `Corrupt` for a
    /// damaged document or record; `OutOfRange` for a document that is too large to be read;
    /// `Conflict` if every attempt lost against another writer; errors of the store.
    pub async fn pin_tree(&self, root: &Descriptor) -> Result<()> {
        self.pin_below(root, Absent::Skip, Unreadable::Fail).await
    }

    /// As [`LeaseGuard::pin_tree`], but skips everything below `root` that is missing or damaged. A
    /// job that reads only a part of an image calls this.
    ///
    /// # Errors
    /// `NotFound` if `root` is missing; `Corrupt` if `root` or its record is damaged; `OutOfRange`
    /// if `root` is too large to be read; `Conflict` if every attempt lost against another writer;
    /// errors of the store.
    pub(super) async fn pin_readable(&self, root: &Descriptor) -> Result<()> {
        self.pin_below(root, Absent::Skip, Unreadable::Skip).await
    }

    /// As [`LeaseGuard::pin_tree`], but also pins each child that is recorded as absent and was
    /// stored since, and records the child as stored. A child of an index stays absent for as long
    /// as the store lacks a blob that the child needs. A job calls this before it names an image
    /// whose blobs other jobs have stored one by one.
    ///
    /// # Errors
    /// As [`LeaseGuard::pin_tree`].
    pub async fn pin_tree_found(&self, root: &Descriptor) -> Result<()> {
        self.pin_below(root, Absent::LookUp, Unreadable::Fail).await
    }

    /// Pins an image as [`LeaseGuard::pin_tree`] does, for a job that gives it a name and did not
    /// store it. Checks that the store has every blob that the image needs (see [`completeness`]).
    /// If the bytes of something below `root` are damaged or unsupported, but another manifest of
    /// the index is complete, this is not an error. The method then logs a warning.
    ///
    /// # Errors
    /// `NotFound` if a blob is missing; `Corrupt` if `root` or a record is damaged, or if damage
    /// leaves no manifest complete; otherwise as [`LeaseGuard::pin_tree`] and [`completeness`].
    pub async fn pin_to_name(&self, root: &Descriptor) -> Result<()> {
        self.pin_below(root, Absent::Skip, Unreadable::SkipDamaged)
            .await?;
        self.check_whole(root).await
    }

    /// As [`LeaseGuard::pin_to_name`], but treats children that are recorded as absent in the same
    /// way as [`LeaseGuard::pin_tree_found`].
    ///
    /// # Errors
    /// As [`LeaseGuard::pin_to_name`].
    pub async fn pin_found_to_name(&self, root: &Descriptor) -> Result<()> {
        self.pin_below(root, Absent::LookUp, Unreadable::SkipDamaged)
            .await?;
        self.check_whole(root).await
    }

    async fn check_whole(&self, root: &Descriptor) -> Result<()> {
        let damage = match completeness(&self.store, root).await {
            Err(error) if is_damage(&error) => error,
            found => {
                let missing = found?.missing;
                return missing.map_or(Ok(()), |missing| Err(gone(&missing, root)));
            }
        };
        let sound = sound_completeness(&self.store, root).await?;
        if sound.missing.is_some() {
            return Err(damage);
        }
        tracing::warn!("a part of the image cannot be read: {damage}");
        Ok(())
    }

    async fn pin_below(
        &self,
        root: &Descriptor,
        absent: Absent,
        unreadable: Unreadable,
    ) -> Result<()> {
        let mut seen = BTreeSet::from([root.digest]);
        let mut waiting =
            VecDeque::from([(BlobRef::existing(root.digest), Some(root.clone()), false)]);
        while let Some((blob, descriptor, optional)) = waiting.pop_front() {
            let is_below = blob.digest != root.digest;
            let may_skip = is_below && unreadable == Unreadable::Skip;
            let pinned = match self.pin_one(&blob).await {
                Err(error) if may_skip && is_of_document(&error) => continue,
                pinned => pinned?,
            };
            let Some(pinned) = pinned else {
                if optional || may_skip {
                    continue;
                }
                return Err(gone(&blob.digest, root));
            };
            let listed = self.listed(&pinned, &blob.digest, descriptor, absent);
            let listed = match listed.await {
                Err(error) if is_below && unreadable.is_skipped(&error) => continue,
                listed => listed?,
            };
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

    /// Pins a blob. Returns `None` if the store does not have it.
    async fn pin_one(&self, blob: &BlobRef) -> Result<Option<Pinned>> {
        let pinned = pin::pin(&self.store, Some(&self.id), blob).await?;
        let stored = self.add_pinned(blob, pinned.as_ref());
        Ok(pinned.filter(|_| stored))
    }

    /// Returns what a pinned blob refers to, from its record. Reads the document itself if
    /// `descriptor` is given and the record lists no children, or if the record lists absent
    /// children and `absent` is [`Absent::LookUp`].
    async fn listed(
        &self,
        pinned: &Pinned,
        digest: &Digest,
        descriptor: Option<Descriptor>,
        absent: Absent,
    ) -> Result<Listed> {
        let record = &pinned.record;
        let look_up = absent == Absent::LookUp && !record.absent.is_empty();
        let recorded = record.media_type.clone().filter(|_| look_up);
        let recorded = recorded.map(|known| Descriptor::new(known, *digest, record.size));
        let own = descriptor.or(recorded);
        let children = match own.filter(|own| own.media_type.is_document()) {
            Some(own) if record.children.is_empty() || look_up => self.read(&own, record).await?,
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

    /// Reads a document, and records which of its children are in the store, except in the cases
    /// that [`LeaseGuard::pin_tree`] lists. A manifest of an index counts only if it is complete,
    /// or if the children of the index are not recorded. Returns these children, and the children
    /// that were lost since they were recorded as stored.
    async fn read(&self, own: &Descriptor, record: &BlobRecord) -> Result<Vec<Child>> {
        let children = dispatch::children(&*self.store.content, own).await?;
        let mut blob = BlobRef::of(own, Vec::new());
        let is_unrecorded = record.children.is_empty();
        let mut may_be_lost = false;
        if own.media_type.is_index() {
            blob.absent = incomplete_children(&self.store, own).await?;
            may_be_lost = is_unrecorded && self.stores_unlisted(&blob.absent).await?;
            if may_be_lost {
                blob.absent.clear();
            }
        }
        let is_unrecorded_manifest = is_unrecorded && own.media_type.is_manifest();
        for child in &children {
            blob.children.push(child.digest);
            if self.store.content.stat(&child.digest).await?.is_none() {
                blob.absent.insert(child.digest);
                let is_missing = child.data.is_none() && !child.media_type.is_non_distributable();
                may_be_lost |= is_unrecorded_manifest && is_missing;
            }
        }
        if !may_be_lost {
            pin::pin(&self.store, Some(&self.id), &blob).await?;
        }
        let was_stored =
            |child: &Digest| record.children.contains(child) && !record.absent.contains(child);
        let child = |descriptor: Descriptor| Child {
            digest: descriptor.digest,
            descriptor: Some(descriptor),
        };
        let kept = children.into_iter();
        let kept = kept.filter(|one| !blob.absent.contains(&one.digest) || was_stored(&one.digest));
        Ok(kept.map(child).collect())
    }

    /// Returns whether the store has one of these documents, but no record that lists its children.
    async fn stores_unlisted(&self, documents: &BTreeSet<Digest>) -> Result<bool> {
        for digest in documents {
            let record = self.store.blobs().load_sound(digest).await?;
            let is_listed = record.is_some_and(|record| !record.children.is_empty());
            if !is_listed && self.store.content.stat(digest).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// How children that are recorded as absent are treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    Skip,
    /// They are looked up, and pinned if they were stored since.
    LookUp,
}

/// How missing and damaged content below the root is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    /// The job fails.
    Fail,
    /// The job skips damaged and unsupported documents. It fails if content is missing, or if a
    /// record is damaged, because the blob of the record cannot be pinned.
    SkipDamaged,
    /// The job skips all of this.
    Skip,
}

impl Unreadable {
    /// Returns whether a document that cannot be read because of `error` is skipped.
    fn is_skipped(self, error: &Error) -> bool {
        match self {
            Unreadable::Fail => false,
            Unreadable::SkipDamaged => is_damage(error),
            Unreadable::Skip => is_of_document(error),
        }
    }
}

struct Listed {
    children: Vec<Child>,
    /// The children that only labels refer to. These may be missing.
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
    Error::not_found("part of the image is missing or was collected")
        .advice(FETCH_AGAIN)
        .operation("pin")
        .subject(digest)
        .within(root.digest)
}
