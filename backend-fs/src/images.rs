//! The image store. The names and the targets of images are in `index.json`. The owner, the labels
//! and the times of each image are in a record.
//!
//! The key of a record consists of the name of the image and the digest of its target. If another
//! program gives a name another target in `index.json`, the new target therefore does not get the
//! owner and the labels of the old target.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use cas_core::image::fieldpath::{check_image, check_target, update_image};
use cas_core::image::filter::Filters;
use cas_core::image::{Image, ImageList, Reference, Root, decode_image, encode_image};
use cas_core::layout::INDEX;
use cas_core::records::{Batch, Expect, Record, Table};
use cas_core::{
    Context, Descriptor, DigestPrefix, Error, ImageStore, Owner, Records, Result, pool,
};
use cas_host::Reserve;
use cas_records_sqlite::SqliteRecords;

use crate::index::Index;
use crate::index_file::IndexFile;
use crate::shared::Shared;
use crate::{refs, time};

/// Maximum number of records in one page of a list.
const PAGE: usize = 1000;

/// The image store of a layout.
#[derive(Clone)]
pub(crate) struct FsImages {
    shared: Arc<Shared>,
    index_file: Arc<IndexFile>,
    records: SqliteRecords,
    owner: Option<Owner>,
}

impl FsImages {
    /// Creates the image store for the layout of `shared`.
    pub(crate) fn new(shared: Arc<Shared>, records: SqliteRecords) -> Self {
        FsImages {
            shared,
            index_file: Arc::default(),
            records,
            owner: None,
        }
    }

    async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&FsImages) -> Result<T> + Send + 'static,
    {
        let images = self.clone();
        pool::run(move || work(&images)).await
    }

    fn index(&self) -> Result<Arc<Index>> {
        let layout = &self.shared.layout;
        // An old read-only layout may have names in `refs/` instead. A writable layout gets its
        // `index.json` when it is opened.
        if !layout.writable
            && layout.root.stat(INDEX)?.is_none()
            && let Some(index) = refs::read(&layout.root)?
        {
            return Ok(Arc::new(index));
        }
        self.index_file.read(&layout.root)
    }

    fn change<T>(&self, work: impl Fn(&mut Index) -> Result<T>) -> Result<T> {
        let directories = (&self.shared.layout.root, self.shared.cas_dir()?);
        let changed = self.index_file.change(directories, work);
        changed.map_err(|error| self.shared.explain(error))
    }

    /// Returns the image of a name whose entry has this target.
    fn image(&self, name: Reference, target: Descriptor) -> Result<Image> {
        let Shared { blobs, facts, .. } = &*self.shared;
        let target = facts.complete(blobs, target)?;
        match self
            .records
            .load_blocking(Table::Images, &key(&name, &target))?
        {
            Some(record) => {
                let image = decode_image(&record)?;
                Ok(Image {
                    name,
                    target,
                    ..image
                })
            }
            None => {
                // Another program made the name, or the record was lost, so the times of the image
                // are unknown. Use the time when the blob of the target was written.
                let stat = self.shared.blobs.status(&target.digest)?;
                let made = stat.as_ref().map_or(SystemTime::UNIX_EPOCH, time::modified);
                Ok(Image {
                    created_at: made,
                    updated_at: made,
                    ..Image::new(name, target)
                })
            }
        }
    }

    fn load(&self, index: &Index, name: &Reference) -> Result<Option<Image>> {
        let target = index.get(name)?;
        target
            .map(|target| self.image(name.clone(), target))
            .transpose()
    }

    /// Returns the image with this name, or `None` if there is none. Fails if the store is opened
    /// for an owner, and the image does not belong to this owner.
    fn load_own(&self, index: &Index, name: &Reference) -> Result<Option<Image>> {
        let found = self.load(index, name)?;
        if let Some(image) = &found {
            image.check_owner(self.owner.as_ref())?;
        }
        Ok(found)
    }

    fn write_record(&self, image: &Image) -> Result<()> {
        let mut batch = Batch::new();
        let key = key(&image.name, &image.target);
        let value = encode_image(&key, image)?;
        batch.put(Table::Images, key, Expect::Any, value);
        self.records.commit_blocking(&batch)
    }

    fn remove_record(&self, name: &Reference, target: &Descriptor) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete(Table::Images, key(name, target), Expect::Any);
        self.records.commit_blocking(&batch)
    }

    fn create_now(&self, mut image: Image) -> Result<Image> {
        image.labels.retain(|_, value| !value.is_empty());
        check_image(&image)?;
        self.change(|index| {
            if self.load_own(index, &image.name)?.is_some() {
                return Err(Error::already_exists(
                    "an image of this name exists; update it, or delete it first",
                ));
            }
            index.set(&image.name, &image.target)?;
            // The record is written before `index.json`, so that no name is ever without its
            // labels. A record without a name has no effect.
            self.write_record(&image)
        })?;
        Ok(image)
    }

    /// Updates an image. Fails if `expected` is set and is not the target of the image. Returns the
    /// new image.
    fn update_now(
        &self,
        update: &Image,
        fieldpaths: &[&str],
        expected: Option<&Descriptor>,
    ) -> Result<Image> {
        let (before, after) = self.change(|index| {
            let before = self.load_own(index, &update.name)?.ok_or_else(absent)?;
            if let Some(expected) = expected {
                check_target(&before, expected)?;
            }
            let mut after = before.clone();
            update_image(&mut after, update, fieldpaths)?;
            after.updated_at = SystemTime::now();
            check_image(&after)?;
            // The entry may have fields of other programs, so it is replaced only if the target
            // changes.
            if after.target != before.target {
                index.set(&after.name, &after.target)?;
            }
            self.write_record(&after)?;
            Ok((before, after))
        })?;
        if before.target.digest != after.target.digest {
            self.remove_record(&before.name, &before.target)?;
        }
        Ok(after)
    }

    fn delete_now(&self, name: &Reference, expected: Option<&Descriptor>) -> Result<()> {
        let remove = |index: &mut Index| {
            let found = index.targets(name)?;
            if found.is_empty() {
                return Err(absent());
            }
            for target in &found {
                let image = self.image(name.clone(), target.clone())?;
                image.check_owner(self.owner.as_ref())?;
            }
            if let Some(expected) = expected
                && let Some(other) = found.iter().find(|one| one.digest != expected.digest)
            {
                return Err(Error::not_found(format!(
                    "expected the target {}, found {}; read the image again and retry",
                    expected.digest, other.digest
                )));
            }
            index.remove(name);
            Ok(found)
        };
        let found = Reserve(self.shared.cas_dir()?).remove_with(|| self.change(remove))?;
        found
            .iter()
            .try_for_each(|target| self.remove_record(name, target))
    }

    /// Deletes the images that have not changed since the caller read them as `seen`. Returns the
    /// names of the deleted images.
    fn delete_unchanged_now(&self, seen: &[Image]) -> Result<Vec<Reference>> {
        let remove = |index: &mut Index| {
            let mut unchanged = Vec::new();
            for image in seen {
                let targets = index.targets(&image.name)?;
                let [target] = &targets[..] else {
                    continue;
                };
                let found = self.image(image.name.clone(), target.clone())?;
                // An image that has another owner by now is not equal to `image`, so it is skipped.
                if found == *image {
                    found.check_owner(self.owner.as_ref())?;
                    unchanged.push(image.clone());
                }
            }
            let names: Vec<&Reference> = unchanged.iter().map(|image| &image.name).collect();
            index.remove_all(&names.into_iter().collect());
            Ok(unchanged)
        };
        let deleted = Reserve(self.shared.cas_dir()?).remove_with(|| self.change(remove))?;
        if deleted.is_empty() {
            return Ok(Vec::new());
        }
        let mut batch = Batch::new();
        for image in &deleted {
            let key = key(&image.name, &image.target);
            batch.delete(Table::Images, key, Expect::Any);
        }
        self.records.commit_blocking(&batch)?;
        Ok(deleted.into_iter().map(|image| image.name).collect())
    }

    /// Returns the names that lead to nothing: their entries in the index do not have a valid
    /// digest, or have another digest than the name states, or the store does not have the content.
    /// A changed bit in `index.json` can cause this. Then only the records still state the targets
    /// of these names.
    fn lost(&self, index: &Index) -> Result<Lost> {
        let mut names: HashSet<Reference> = index.without_target().collect();
        for (name, target) in index.list() {
            if self.shared.blobs.status(&target.digest)?.is_none() {
                names.insert(name);
            }
        }
        Ok(match index.has_list() {
            true => Lost::Names(names),
            false => Lost::All,
        })
    }

    /// Calls `visit` with each record of an image.
    async fn each_record(&self, mut visit: impl FnMut(&Record) -> Result<()> + Send) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let page = self.records.scan(Table::Images, "", after.as_deref(), PAGE);
            let page = page.await?;
            page.iter().try_for_each(&mut visit)?;
            match page.into_iter().nth(PAGE - 1) {
                Some(last) => after = Some(last.key),
                None => return Ok(()),
            }
        }
    }

    /// Removes the records with the keys `found`, except records whose names are in the index with
    /// the same targets by now, and records of names that lead to nothing.
    fn remove_strays(&self, found: &[String]) -> Result<()> {
        let directories = (&self.shared.layout.root, self.shared.cas_dir()?);
        let tidied = self.index_file.tidy(directories, |index| {
            let mut batch = Batch::new();
            batch.set_reclaims();
            let lost = match found.is_empty() {
                true => Lost::Names(HashSet::new()),
                false => self.lost(index)?,
            };
            let is_removed = |key: &&String| is_stray(index, key) && !lost.has_key(key);
            for key in found.iter().filter(is_removed) {
                batch.delete(Table::Images, key.as_str(), Expect::Any);
            }
            self.records.commit_blocking(&batch)
        });
        tidied.map_err(|error| self.shared.explain(error))
    }
}

#[async_trait]
impl ImageStore for FsImages {
    fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    fn for_owner(&self, owner: &Owner) -> Result<Arc<dyn ImageStore>> {
        Ok(Arc::new(FsImages {
            owner: Some(owner.clone()),
            ..self.clone()
        }))
    }

    fn name_warning(&self, name: &Reference) -> Option<String> {
        (!name.is_layout_name()).then(|| {
            format!(
                "the OCI image-spec does not allow the name {name} in an image layout: skopeo and \
                 umoci list the image, but may refuse to select it by this name; choose another \
                 name if you use these programs"
            )
        })
    }

    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        let cached = self.index_file.cached(&self.shared.layout.root);
        let found = match cached {
            Ok(Some(index)) => self.load(&index, name),
            _ => {
                let wanted = name.clone();
                let load = move |images: &FsImages| images.load(&*images.index()?, &wanted);
                self.run(load).await
            }
        };
        let found = found.during("get image", name)?;
        Ok(found.filter(|image| image.is_shown_to(self.owner.as_ref())))
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        let filters = Filters::parse(filters)?;
        self.run(move |images| {
            let mut found = Vec::new();
            for (name, target) in images.index()?.list() {
                let image = images.image(name, target)?;
                if image.is_shown_to(images.owner.as_ref()) && filters.matches(&image) {
                    found.push(image);
                }
            }
            Ok(found)
        })
        .await
    }

    async fn find(&self, prefix: &DigestPrefix) -> Result<Vec<Image>> {
        let prefix = prefix.clone();
        self.run(move |images| {
            let (named, mut unnamed) = images.index()?.find(&prefix);
            let mut found = Vec::new();
            for (name, target) in named {
                found.push(images.image(name, target)?);
            }
            found.retain(|image| image.is_shown_to(images.owner.as_ref()));
            unnamed.dedup_by_key(|target| target.digest);
            for target in unnamed {
                found.push(images.image(target.digest.into(), target)?);
            }
            Ok(found)
        })
        .await
    }

    async fn roots(&self) -> Result<Vec<Root>> {
        let owner = None;
        let all = FsImages {
            owner,
            ..self.clone()
        };
        let listed = all.run(|images| {
            let index = images.index()?;
            let mut roots = Vec::new();
            for (name, target) in index.list() {
                roots.push(Root::from(images.image(name, target)?));
            }
            roots.extend(index.unnamed().into_iter().map(Root::unnamed));
            let Shared { blobs, facts, .. } = &*images.shared;
            for root in &mut roots {
                root.target = facts.correct(blobs, root.target.clone())?;
            }
            Ok((roots, images.lost(&index)?))
        });
        let (mut roots, lost) = listed.await?;
        if lost.is_empty() {
            return Ok(roots);
        }
        // Content that only a record still names must not be collected.
        let blobs = &self.shared.blobs;
        let recorded = self.each_record(|record| {
            let Image { name, target, .. } = decode_image(record)?;
            if lost.has(&name) && blobs.status(&target.digest)?.is_some() {
                roots.push(Root::unnamed(target));
            }
            Ok(())
        });
        recorded.await?;
        Ok(roots)
    }

    async fn unnamed(&self) -> Result<Vec<Image>> {
        self.run(|images| {
            let unnamed = unnamed_targets(&*images.index()?).into_iter();
            let image = |target: Descriptor| images.image(target.digest.into(), target);
            unnamed.map(image).collect()
        })
        .await
    }

    async fn list_sound(&self) -> Result<ImageList> {
        self.run(|images| {
            let (index, mut found) = (images.index()?, ImageList::default());
            for (name, target) in index.list() {
                let image = found.sound(images.image(name, target))?;
                let shown = image.filter(|image| image.is_shown_to(images.owner.as_ref()));
                found.named.extend(shown);
            }
            for target in unnamed_targets(&index) {
                let image = found.sound(images.image(target.digest.into(), target))?;
                found.unnamed.extend(image);
            }
            Ok(found)
        })
        .await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        let name = image.name.clone();
        let fresh = Image {
            labels: image.labels,
            owner: self.owner.clone().or(image.owner),
            ..Image::new(image.name, image.target)
        };
        self.run(move |images| images.create_now(fresh))
            .await
            .during("create image", name)
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        let name = image.name.clone();
        let paths: Vec<String> = fieldpaths.iter().map(|path| (*path).to_owned()).collect();
        self.run(move |images| {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            images.update_now(&image, &paths, None)
        })
        .await
        .during("update image", name)
    }

    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        let (name, expected) = (image.name.clone(), expected.clone());
        self.run(move |images| images.update_now(&image, &[], Some(&expected)))
            .await
            .during("replace image", name)
    }

    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        let (wanted, target) = (name.clone(), target.cloned());
        self.run(move |images| images.delete_now(&wanted, target.as_ref()))
            .await
            .during("delete image", name)
    }

    async fn delete_unchanged(&self, seen: &[Image]) -> Result<Vec<Reference>> {
        if seen.is_empty() {
            return Ok(Vec::new());
        }
        let seen = seen.to_vec();
        self.run(move |images| images.delete_unchanged_now(&seen))
            .await
            .map_err(|error| error.operation("delete images"))
    }

    /// Removes each record whose name is not in `index.json`, or has another target there. Such a
    /// record is left behind if a process is killed, or if another program removes a name or
    /// changes its target. Keeps the records of a name that leads to nothing. Also removes the file
    /// `.cas/index.new` that a killed change left behind.
    async fn cleanup(&self) -> Result<()> {
        let index = self.run(FsImages::index).await?;
        let mut found = Vec::new();
        let recorded = self.each_record(|record| {
            if is_stray(&index, &record.key) {
                found.push(record.key.clone());
            }
            Ok(())
        });
        recorded.await?;
        self.run(move |images| images.remove_strays(&found)).await
    }
}

/// The names whose entries in `index.json` lead to nothing.
enum Lost {
    Names(HashSet<Reference>),
    /// All names, because the document has no list of entries.
    All,
}

impl Lost {
    fn is_empty(&self) -> bool {
        matches!(self, Lost::Names(names) if names.is_empty())
    }

    fn has(&self, name: &Reference) -> bool {
        match self {
            Lost::Names(names) => names.contains(name),
            Lost::All => true,
        }
    }

    /// Returns whether the key of a record begins with such a name.
    fn has_key(&self, key: &str) -> bool {
        let name = key.split(' ').next().unwrap_or_default();
        name.parse::<Reference>().is_ok_and(|name| self.has(&name))
    }
}

/// Returns whether the index does not have an entry for the name and the target in the key of a
/// record. Returns false if the key does not parse, or if an entry of the name does not have a
/// valid digest.
fn is_stray(index: &Index, key: &str) -> bool {
    let parsed = key
        .split_once(' ')
        .map(|(name, digest)| (name.parse(), digest.parse()));
    let Some((Ok(name), Ok(digest))) = parsed else {
        return false;
    };
    let targets = index.targets(&name);
    targets.is_ok_and(|targets| targets.iter().all(|target| target.digest != digest))
}

/// Returns the targets of the entries without a name, each once, in the order of their digests.
fn unnamed_targets(index: &Index) -> Vec<Descriptor> {
    let mut targets = index.unnamed();
    targets.sort_by_key(|target| target.digest);
    targets.dedup_by_key(|target| target.digest);
    targets
}

/// Returns the key of the record of a name with this target. Names contain no spaces.
pub(crate) fn key(name: &Reference, target: &Descriptor) -> String {
    format!("{name} {}", target.digest)
}

fn absent() -> Error {
    Error::not_found("the store does not have an image of this name; check the name")
}
