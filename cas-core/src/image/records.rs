//! An image store over records: one record for each name, changed by compare-and-swap.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::fieldpath::{check_image, check_target, update_image};
use super::filter::Filters;
use super::targets::Targets;
use super::{Image, ImageList, ImageStore, ImageStoreExt, Reference, Root};
use crate::capability::Capability;
use crate::descriptor::Descriptor;
use crate::digest::DigestPrefix;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::owner::Owner;
use crate::records::{Batch, Expect, Record, Records, Revision, Table, codec, each, retry};

/// Maximum number of names that are deleted in one transaction.
const CHUNK: usize = 256;
/// Maximum number of names that are deleted concurrently, if not in one transaction.
const CONCURRENT: usize = 16;

/// An [`ImageStore`] that keeps its images in [`Table::Images`] of a records store.
#[derive(Clone)]
pub struct RecordImages {
    records: Arc<dyn Records>,
    owner: Option<Owner>,
    /// The small records with which the names of a target are found, if the store keeps them.
    targets: Option<Targets>,
}

impl RecordImages {
    /// Returns the image store in `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        RecordImages {
            records,
            owner: None,
            targets: None,
        }
    }

    /// Returns the image store in `records`, which must have the capability [`Capability::Atomic`].
    /// For each name, the store also keeps a note (a small record), whose key contains the name and
    /// the digest of its target. With these notes, [`ImageStore::find`] does not have to read all
    /// names. If a store that [`RecordImages::new`] returned has written names to `records`, the
    /// caller must first add a note for each of these names to [`Table::Notes`]. The function
    /// [`target_note`](super::target_note) returns the key of the note. The value of the note is
    /// empty.
    ///
    /// # Errors
    /// Errors of [`Notes::new`](crate::records::Notes::new).
    pub fn with_targets(records: Arc<dyn Records>) -> Result<Self> {
        let targets = Some(Targets::new(Arc::clone(&records))?);
        Ok(RecordImages {
            targets,
            ..RecordImages::new(records)
        })
    }

    async fn load(&self, name: &Reference) -> Result<Option<(Image, Revision)>> {
        let record = self.records.load(Table::Images, name.as_str()).await?;
        record
            .map(|record| decode_image(&record).map(|image| (image, record.revision)))
            .transpose()
    }

    /// Returns the image with this name, after checking that it may be changed.
    async fn load_own(&self, name: &Reference) -> Result<(Image, Revision)> {
        let found = self.load(name).await?.ok_or_else(absent)?;
        found.0.check_owner(self.owner.as_ref())?;
        Ok(found)
    }

    /// Returns why a name that exists cannot be created.
    async fn taken(&self, name: &Reference) -> Result<Error> {
        let found = self.load(name).await?;
        let owned = found.map_or(Ok(()), |(image, _)| image.check_owner(self.owner.as_ref()));
        Ok(owned.err().unwrap_or_else(|| {
            Error::already_exists("an image with this name exists; update it, or delete it first")
        }))
    }

    /// Writes an image if its record is in the state `expect`. `before` is the image in that state.
    async fn write(&self, image: &Image, before: Option<&Image>, expect: Expect) -> Result<()> {
        check_image(image)?;
        let key = image.name.as_str();
        let value = encode_image(key, image)?;
        let mut batch = Batch::new();
        batch.put(Table::Images, key, expect, value);
        if let Some(targets) = &self.targets {
            targets.replace(&mut batch, before, image)?;
        }
        self.records.commit(&batch).await
    }

    /// Adds to `batch` the deletion of an image, if its record still has this revision.
    fn delete_in(&self, batch: &mut Batch, image: &Image, revision: Revision) -> Result<()> {
        let expect = Expect::Revision(revision);
        batch.delete(Table::Images, image.name.as_str(), expect);
        match &self.targets {
            Some(targets) => targets.delete(batch, image),
            None => Ok(()),
        }
    }

    async fn update_once(&self, update: &Image, fieldpaths: &[&str]) -> Result<Image> {
        let found = self.load_own(&update.name).await?;
        self.write_update(found, update, fieldpaths).await
    }

    /// Makes one attempt. The inner result is final. A `Conflict` of the outer result means that
    /// another writer was faster, and that the attempt can be repeated.
    async fn swap_once(&self, expected: &Descriptor, image: &Image) -> Result<Result<Image>> {
        let found = self.load_own(&image.name).await?;
        if let Err(error) = check_target(&found.0, expected) {
            return Ok(Err(error));
        }
        self.write_update(found, image, &[]).await.map(Ok)
    }

    async fn write_update(
        &self,
        (before, revision): (Image, Revision),
        update: &Image,
        fieldpaths: &[&str],
    ) -> Result<Image> {
        let mut image = before.clone();
        update_image(&mut image, update, fieldpaths)?;
        image.updated_at = SystemTime::now();
        let expect = Expect::Revision(revision);
        self.write(&image, Some(&before), expect).await?;
        Ok(image)
    }

    async fn delete_once(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        let (image, revision) = self.load_own(name).await?;
        if let Some(expected) = target.filter(|target| target.digest != image.target.digest) {
            let (expected, found) = (expected.digest, image.target.digest);
            return Err(Error::not_found(format!(
                "the name refers to {found}, not to {expected}; read the image again"
            )));
        }
        let mut batch = Batch::new();
        self.delete_in(&mut batch, &image, revision)?;
        self.records.commit(&batch).await
    }

    /// Deletes an image if it is still as it was seen. Returns whether it was deleted.
    async fn delete_seen(&self, seen: &Image) -> Result<bool> {
        retry(|| async {
            let (names, batch) = self.deletion(std::slice::from_ref(seen)).await?;
            if names.is_empty() {
                return Ok(false);
            }
            self.records.commit(&batch).await.map(|()| true)
        })
        .await
    }

    /// Returns the names of the images that are still as they were seen, and the batch that deletes
    /// these images.
    async fn deletion(&self, seen: &[Image]) -> Result<(Vec<Reference>, Batch)> {
        let (mut names, mut batch) = (Vec::with_capacity(seen.len()), Batch::new());
        for image in seen {
            let Some((found, revision)) = self.load(&image.name).await? else {
                continue;
            };
            // This comes before the check of the owner: a name that another owner has created
            // since is skipped, and is not an error.
            if found != *image {
                continue;
            }
            found.check_owner(self.owner.as_ref())?;
            self.delete_in(&mut batch, &found, revision)?;
            names.push(found.name);
        }
        Ok((names, batch))
    }
}

#[async_trait]
impl ImageStore for RecordImages {
    fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    fn for_owner(&self, owner: &Owner) -> Result<Arc<dyn ImageStore>> {
        Ok(Arc::new(RecordImages {
            owner: Some(owner.clone()),
            ..self.clone()
        }))
    }

    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        let found = self.load(name).await?.map(|(image, _)| image);
        Ok(found.filter(|image| image.is_shown_to(self.owner.as_ref())))
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        let filters = Filters::parse(filters)?;
        let mut images = Vec::new();
        each(&*self.records, Table::Images, "", |record| {
            let image = decode_image(record)?;
            if image.is_shown_to(self.owner.as_ref()) && filters.matches(&image) {
                images.push(image);
            }
            Ok(())
        })
        .await?;
        Ok(images)
    }

    async fn find(&self, prefix: &DigestPrefix) -> Result<Vec<Image>> {
        let mut found = match &self.targets {
            Some(targets) => self.get_all(&targets.names(prefix).await?).await?,
            None => self.list(&[]).await?,
        };
        found.retain(|image| prefix.matches(&image.target.digest));
        Ok(found)
    }

    async fn roots(&self) -> Result<Vec<Root>> {
        let all = RecordImages::new(Arc::clone(&self.records));
        let images = all.list(&[]).await?;
        Ok(images.into_iter().map(Root::from).collect())
    }

    /// Returns no images, because each record has a name.
    async fn unnamed(&self) -> Result<Vec<Image>> {
        Ok(Vec::new())
    }

    async fn list_sound(&self) -> Result<ImageList> {
        let mut found = ImageList::default();
        each(&*self.records, Table::Images, "", |record| {
            let image = found.sound(decode_image(record))?;
            let shown = image.filter(|image| image.is_shown_to(self.owner.as_ref()));
            found.named.extend(shown);
            Ok(())
        })
        .await?;
        Ok(found)
    }

    async fn create(&self, image: Image) -> Result<Image> {
        let mut image = Image {
            labels: image.labels,
            owner: self.owner.clone().or(image.owner),
            ..Image::new(image.name, image.target)
        };
        image.labels.retain(|_, value| !value.is_empty());
        match self.write(&image, None, Expect::Absent).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let taken = self.taken(&image.name).await;
                taken.and_then(|taken| Err(taken.source(error)))
            }
            outcome => outcome.map(|()| image.clone()),
        }
        .during("create image", &image.name)
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        let outcome = retry(|| self.update_once(&image, fieldpaths)).await;
        outcome.during("update image", &image.name)
    }

    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        let outcome = retry(|| self.swap_once(expected, &image)).await.flatten();
        outcome.during("replace image", &image.name)
    }

    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        let outcome = retry(|| self.delete_once(name, target)).await;
        outcome.during("delete image", name)
    }

    async fn delete_unchanged(&self, seen: &[Image]) -> Result<Vec<Reference>> {
        let mut deleted = Vec::with_capacity(seen.len());
        for chunk in seen.chunks(CHUNK) {
            if self.records.capabilities().has(Capability::Atomic) {
                let (names, batch) = self.deletion(chunk).await?;
                if names.is_empty() {
                    continue;
                }
                match self.records.commit(&batch).await {
                    // Another writer has changed one of the images meanwhile.
                    Err(error) if error.kind() == ErrorKind::Conflict => {}
                    outcome => {
                        outcome?;
                        deleted.extend(names);
                        continue;
                    }
                }
            }
            let each = chunk.iter().map(|image| async move {
                let was_seen = self.delete_seen(image).await;
                was_seen.during("delete image", &image.name)
            });
            let each: Vec<_> = each.collect();
            let each: Vec<bool> = stream::iter(each)
                .buffered(CONCURRENT)
                .try_collect()
                .await?;
            let names = chunk.iter().zip(each).filter(|(_, was_seen)| *was_seen);
            deleted.extend(names.map(|(image, _)| image.name.clone()));
        }
        Ok(deleted)
    }
}

fn absent() -> Error {
    Error::not_found("no image with this name in the store; check the name")
}

/// Returns an image as the value of a record, with checksums. The value can be read only under this
/// key of [`Table::Images`].
///
/// # Errors
/// `Internal` if the image cannot be serialized.
pub fn encode_image(key: &str, image: &Image) -> Result<Bytes> {
    codec::encode(Table::Images, key, image)
}

/// Returns the image in a record whose value [`encode_image`] has made. Earlier releases made
/// records without checksums, or without one of the key. Such records are accepted.
///
/// # Errors
/// `Corrupt` if the record has a wrong checksum, was written for another key, or does not parse.
pub fn decode_image(record: &Record) -> Result<Image> {
    codec::decode(Table::Images, record, "read image record")
}
