//! Checks the blobs that images, leases and labels keep.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::reader::{MISSING, damage};
use super::{Checker, Problem, RECOVERED, Use};
use crate::complete::is_of_document;
use crate::content::ContentExt;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::error::{ErrorKind, Result};
use crate::gc;
use crate::image::{Image, ImageStoreExt, Root, decode_image};
use crate::labels::GC_FLAT;
use crate::records::{Batch, BlobRecord, Blobs, Expect, Resource, Table, each, retry};
use crate::store::Store;

/// The blobs that leases list.
#[derive(Default)]
struct Leased {
    /// Those of leases that also keep what the blobs need.
    full: Vec<Use>,
    /// Those of flat leases ([`GC_FLAT`]).
    flat: Vec<Use>,
}

impl Checker<'_> {
    /// Walks all images, and then what leases and labels keep. A repair fetches a missing or
    /// damaged document again before it checks the blobs that the document lists.
    pub(super) async fn check_images(&mut self) -> Result<()> {
        let recorded = self.recorded_targets().await?;
        let roots = self.roots().await?;
        // If no image has a record, the records may be lost.
        let is_own = |root: &Root| recorded.is_empty() || recorded.contains(&root.target.digest);
        let (own, foreign): (Vec<Root>, Vec<Root>) = roots.iter().cloned().partition(is_own);
        self.check_roots(own).await?;
        let before: BTreeSet<Digest> = self.uses.keys().copied().collect();
        self.is_foreign = true;
        self.check_roots(foreign).await?;
        self.is_foreign = false;
        let all: BTreeSet<Digest> = self.uses.keys().copied().collect();
        self.foreign = &all - &before;
        let leased = self.leased().await?;
        for blob in leased.full {
            self.check_tree(blob).await?;
        }
        self.check_labelled(&roots).await?;
        for blob in leased.flat {
            self.check_alone(&blob).await?;
        }
        Ok(())
    }

    /// Returns the targets of the images that have a record.
    async fn recorded_targets(&self) -> Result<BTreeSet<Digest>> {
        let mut targets = BTreeSet::new();
        each(&*self.store.records, Table::Images, "", |record| {
            // `check_records` has reported a damaged record.
            targets.extend(decode_image(record).ok().map(|image| image.target.digest));
            Ok(())
        })
        .await?;
        Ok(targets)
    }

    async fn check_roots(&mut self, roots: Vec<Root>) -> Result<()> {
        for root in roots {
            self.report.images += 1;
            self.check_name(&root).await?;
            let target = Use {
                descriptor: root.target,
                image: root.name,
            };
            let descriptor = target.descriptor.clone();
            let is_new = !self.uses.contains_key(&descriptor.digest);
            self.check_tree(target).await?;
            if is_new {
                self.check_manifests(&descriptor).await?;
            }
        }
        Ok(())
    }

    /// Reports the target of an image if it is an index, the store has none of its manifests, and
    /// no record states which of them were stored. A repair may have fetched such an index, but
    /// does not know which platforms the image had.
    async fn check_manifests(&mut self, index: &Descriptor) -> Result<()> {
        // Another program may have stored an index alone.
        if self.is_foreign || !index.media_type.is_index() {
            return Ok(());
        }
        let listed = self.children(index).await?;
        if listed.is_empty() || listed.iter().any(|one| self.uses.contains_key(one)) {
            return Ok(());
        }
        let detail = format!(
            "the store has none of the manifests that this index lists ({}), and no record states \
             which of them were stored; pull or import the image again",
            listed.len()
        );
        self.add(Problem::BlobMissing, index.digest, detail, false);
        Ok(())
    }

    /// Checks that the name of an image does not state another digest, as a name of an earlier
    /// release may. No lookup finds the image by such a name. A repair gives the image its digest
    /// as its name instead, and keeps its labels and its owner.
    async fn check_name(&mut self, root: &Root) -> Result<()> {
        let (name, target) = (root.name.as_ref(), &root.target);
        let Some(name) = name.filter(|name| !name.allows(&target.digest)) else {
            return Ok(());
        };
        let repairs = self.options.repair.is_some();
        if repairs {
            let image = Image {
                owner: root.owner.clone(),
                labels: root.labels.clone(),
                ..Image::unnamed(target.clone())
            };
            self.store.images.put(image).await?;
            match self.store.images.delete(name, Some(target)).await {
                // Another job has changed the name since.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                deleted => deleted?,
            }
        }
        let outcome = match repairs {
            true => "the image was renamed to its own digest",
            false => {
                "a repair renames the image to its own digest; if you need the image with the \
                 digest in the name, pull or import it"
            }
        };
        let detail = format!(
            "the name states another digest than the digest of the image, {}; {outcome}",
            target.digest
        );
        self.add(Problem::NameWrong, name, detail, repairs);
        Ok(())
    }

    /// Checks a blob and all blobs that it needs, each once.
    pub(super) async fn check_tree(&mut self, root: Use) -> Result<()> {
        let mut pending = vec![root];
        while let Some(blob) = pending.pop() {
            if !self.uses.contains_key(&blob.descriptor.digest) {
                pending.extend(self.check_use(&blob).await?);
            }
        }
        Ok(())
    }

    /// Checks a blob, but not the blobs that it needs.
    async fn check_alone(&mut self, blob: &Use) -> Result<()> {
        let digest = &blob.descriptor.digest;
        let is_checked = self.uses.contains_key(digest) || self.hashed.contains(digest);
        if !is_checked && let Some((problem, why)) = self.what_is_wrong(&blob.descriptor).await? {
            self.heal(problem, blob, &why).await?;
        }
        Ok(())
    }

    /// Returns the blobs that leases list, except those of expired leases and the doubtful blobs of
    /// this repair. A blob of which the store has neither the bytes nor a record is reported
    /// instead. Returns nothing if a lease does not parse.
    async fn leased(&mut self) -> Result<Leased> {
        let mut leased = Leased::default();
        let leases = match gc::live_leases(self.store, SystemTime::now(), true).await {
            // `check_records` has reported a damaged lease.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(leased),
            leases => leases?,
        };
        for (id, lease) in leases {
            let blobs = match lease.labels.contains_key(GC_FLAT) {
                true => &mut leased.flat,
                false => &mut leased.full,
            };
            for resource in lease.resources {
                let Resource::Content(digest) = resource else {
                    continue;
                };
                if id == RECOVERED && self.doubtful.contains(&digest) {
                    continue;
                }
                if let Some(descriptor) = self.known(&digest).await? {
                    blobs.push(Use {
                        descriptor,
                        image: None,
                    });
                } else {
                    let detail = format!(
                        "the lease {id} lists this blob, but the store does not have the blob; \
                         pull or import an image with the blob, or end the lease"
                    );
                    self.add(Problem::BlobMissing, digest, detail, false);
                }
            }
        }
        Ok(leased)
    }

    async fn roots(&mut self) -> Result<Vec<Root>> {
        match self.store.images.roots().await {
            Err(error) if is_of_document(&error) => {
                self.add(Problem::StoreDamaged, "images", error.to_string(), false);
                Ok(Vec::new())
            }
            roots => roots,
        }
    }

    /// Checks a blob that an image or a lease needs. Returns the blobs that are needed because of
    /// this blob: children and referrers.
    async fn check_use(&mut self, blob: &Use) -> Result<Vec<Use>> {
        let descriptor = &blob.descriptor;
        self.uses.insert(descriptor.digest, blob.clone());
        if let Some((problem, why)) = self.what_is_wrong(descriptor).await?
            && !self.heal(problem, blob, &why).await?
        {
            return Ok(Vec::new());
        }
        if !descriptor.media_type.is_document() {
            return Ok(Vec::new());
        }
        let children = match dispatch::children(&*self.store.content, descriptor).await {
            // The document is too large to be read, or it was already malformed when it was stored:
            // `what_is_wrong` has found its bytes intact.
            Err(error) if is_of_document(&error) => return Ok(Vec::new()),
            children => children?,
        };
        let blobs = self.store.blobs();
        let record = blobs.load_sound(&descriptor.digest).await?;
        if let Some(record) = &record {
            self.check_children(descriptor, &children, record).await?;
        }
        let corrected = match descriptor.media_type.is_index() {
            true => self.find_left_out(blob, &children, record.as_ref()).await?,
            false => self.find_unpacked(blob, &children, record.as_ref()).await?,
        };
        let record = corrected.or(record);
        let (mut needed, lost) = match &record {
            Some(record) => (
                self.referrers_of(blob, record).await?,
                self.lost_tars(descriptor, record).await?,
            ),
            None => (Vec::new(), BTreeSet::new()),
        };
        self.unstored.extend(&lost);
        for child in children {
            if lost.contains(&child.digest)
                || is_needed(self.store, descriptor, &child, record.as_ref()).await?
            {
                needed.push(Use {
                    descriptor: child,
                    image: blob.image.clone(),
                });
            }
        }
        Ok(needed)
    }

    /// Returns what is wrong with the bytes of a blob, or `None` if nothing is. Only documents are
    /// read.
    async fn what_is_wrong(
        &mut self,
        descriptor: &Descriptor,
    ) -> Result<Option<(Problem, String)>> {
        if descriptor.data.is_some() {
            return Ok(None);
        }
        let Some(stat) = self.store.content.stat(&descriptor.digest).await? else {
            return Ok(Some((Problem::BlobMissing, MISSING.to_owned())));
        };
        if stat.size != descriptor.size {
            let (expected, found) = (descriptor.size, stat.size);
            let why = format!("expected {expected} bytes, found {found}");
            return Ok(Some((Problem::BlobDamaged, why)));
        }
        if !descriptor.media_type.is_document() {
            return Ok(None);
        }
        match dispatch::read(&*self.store.content, descriptor).await {
            Ok(_) => {
                self.hashed.insert(descriptor.digest);
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let hashed = self.store.content.hash(&descriptor.digest).await;
                let why = damage(hashed, &descriptor.digest)?;
                Ok(why.map(|why| (Problem::BlobDamaged, why)))
            }
            Err(error) if error.kind() == ErrorKind::OutOfRange => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Checks that the record of a document lists the same blobs as the document. A record without
    /// children is not reported, because another program, or a job that did not end, made it. A
    /// collection then reads the document.
    async fn check_children(
        &mut self,
        document: &Descriptor,
        children: &[Descriptor],
        record: &BlobRecord,
    ) -> Result<()> {
        let listed: Vec<Digest> = children.iter().map(|child| child.digest).collect();
        let set = |digests: &[Digest]| digests.iter().copied().collect::<BTreeSet<_>>();
        if record.children.is_empty() || set(&record.children) == set(&listed) {
            return Ok(());
        }
        let repairs = self.options.repair.is_some();
        if repairs {
            retry(|| set_children(self.store, document, children)).await?;
        }
        let detail = format!(
            "the record does not list the same blobs as the document: {} in the record, {} in \
             the document; {}",
            record.children.len(),
            listed.len(),
            match repairs {
                true => "the record was corrected",
                false => "a repair corrects the record",
            }
        );
        self.add(Problem::ChildrenWrong, document.digest, detail, repairs);
        Ok(())
    }
}

/// Returns whether an image needs a child of one of its documents. An image needs every child that
/// was not left out on purpose. A missing layer that may not be distributed counts as left out. A
/// missing child of an index counts as left out, too, if the record of the index does not list the
/// child or was lost.
async fn is_needed(
    store: &Store,
    document: &Descriptor,
    child: &Descriptor,
    record: Option<&BlobRecord>,
) -> Result<bool> {
    if record.is_some_and(|record| record.absent.contains(&child.digest)) {
        return Ok(false);
    }
    let listed = record.is_some_and(|record| record.children.contains(&child.digest));
    let optional = document.media_type.is_index() && !listed;
    if !optional && !child.media_type.is_non_distributable() {
        return Ok(true);
    }
    Ok(store.content.stat(&child.digest).await?.is_some())
}

/// Corrects the children in the record of a document. A missing child that the image needs is not
/// recorded as absent, because the check then fetches the child, and a collection must keep it.
async fn set_children(store: &Store, document: &Descriptor, children: &[Descriptor]) -> Result<()> {
    let Some((mut record, revision)) = store.blobs().load(&document.digest).await? else {
        return Ok(());
    };
    let mut absent = BTreeSet::new();
    for child in children {
        if !is_needed(store, document, child, Some(&record)).await? {
            absent.insert(child.digest);
        }
    }
    record.children = children.iter().map(|child| child.digest).collect();
    record.absent = absent;
    let (mut batch, expect) = (Batch::new(), Expect::Revision(revision));
    Blobs::put(&mut batch, &document.digest, &record, expect)?;
    store.records.commit(&batch).await
}
