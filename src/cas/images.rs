//! Names of images, and queries about images.

use std::sync::Arc;

use cas_core::gc::Removed;
use cas_core::image::{self, Check, FullName, Reference, Resolved};
use cas_core::lease::LeaseGuard;
use cas_core::platform::{Only, Platforms};
use cas_core::progress::Progress;
use cas_core::{Context, Digest, Error, ErrorKind, Image, ImageStoreExt, Result, Store, blob};
use cas_layer::Naming;

use super::arguments::{Given, ImageRef, NewName};
use super::{Cas, lookup};

/// Options of [`Cas::manifest_with`] and [`Cas::check_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct QueryOptions {
    /// The platform to use. `Platforms::All` is an error.
    pub platforms: Platforms,
}

impl QueryOptions {
    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }
}

/// Options of [`Cas::remove_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeleteOptions {
    /// Whether the call also runs [`Cas::gc`] after the name is removed. Otherwise, blobs and
    /// snapshots that only this name referred to stay until the next collection.
    pub synchronous: bool,
    /// Whether the call also succeeds if [`Cas::remove`] returns `NotFound`, usually because the
    /// name does not exist.
    pub skip_absent: bool,
}

impl DeleteOptions {
    /// Sets [`synchronous`](Self::synchronous).
    #[must_use]
    pub fn with_synchronous(mut self, synchronous: bool) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Sets [`skip_absent`](Self::skip_absent).
    #[must_use]
    pub fn with_skip_absent(mut self, skip_absent: bool) -> Self {
        self.skip_absent = skip_absent;
        self
    }
}

impl Cas {
    /// Returns all images that have a name, sorted by name. [`Cas::listing`] also returns images
    /// without a name.
    ///
    /// # Errors
    /// `Corrupt` if the record of an image is damaged; errors of the store.
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.opened()?.images.list(&[]).await
    }

    /// Returns the image that the argument stands for (see [`ImageRef`]). An [`Image`] is returned
    /// unchanged, even if the store does not have it.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the image; `InvalidArgument` for text that is neither
    /// a name nor a digest, or that stands for several images; errors of the store.
    pub async fn image(&self, image: impl Into<ImageRef>) -> Result<Image> {
        let store = self.opened()?;
        let mut found = match image.into().0 {
            Given::Image(image) => return Ok(*image),
            Given::Name(name) => lookup::find_name(store, &name?).await?,
            Given::Typed(text) => lookup::find(store, &text).await?,
        };
        Ok(found.swap_remove(0))
    }

    /// Gives an image an additional name. If the name already refers to another image, the name is
    /// moved to this image. Returns the image with the new name.
    ///
    /// # Errors
    /// As [`Cas::image`]; `NotFound` if the store has lost a part of the image; `InvalidArgument`
    /// if the new name is not valid, or has the digest of another image; `Corrupt` if the image is
    /// damaged, unless it is an index of which another manifest is complete; `Corrupt` if the
    /// record of a blob of the image is damaged.
    pub async fn tag(&self, image: impl Into<ImageRef>, name: impl Into<NewName>) -> Result<Image> {
        let (name, full) = name.into().0?;
        let store = self.writable()?;
        let image = Image::new(name, self.image(image).await?.target);
        image.name.check_digest(&image.target.digest)?;
        let guard = LeaseGuard::begin(store, "tag").await?;
        if let Err(error) = guard.pin_to_name(&image.target).await {
            return guard.finish_with(Err(error)).await;
        }
        let image = guard.name_one(image, &["target"]).await?;
        if let Some(full) = &full {
            lookup::drop_other_spellings(store, full).await?;
        }
        Ok(image)
    }

    /// Gives a new name to a manifest or an index that is in the store. The name protects the
    /// document, and all content that the store has below the document, from collections. Returns
    /// the image.
    ///
    /// # Errors
    /// `AlreadyExists` if the name exists, or if it is a [`FullName`] and another spelling of it
    /// exists; `NotFound` if the store does not have `target`, or has lost a part of it;
    /// `InvalidArgument` if `target` is neither a manifest nor an index, for text that is not a
    /// name, or for a name with a digest that is not `target`; `Corrupt` for a damaged image, as
    /// [`Cas::tag`].
    pub async fn create_image(&self, name: impl Into<NewName>, target: &Digest) -> Result<Image> {
        let store = self.writable()?;
        let (name, full) = name.into().0?;
        name.check_digest(target)?;
        if let Some(full) = &full {
            check_unused(store, full).await?;
        }
        let (guard, image) = pinned(store, name, target).await?;
        guard.name_new(image).await
    }

    /// Makes a name refer to another manifest or index in the store. The labels of the name stay.
    /// Returns the image.
    ///
    /// # Errors
    /// `NotFound` if the name does not exist; as [`Cas::create_image`], except `AlreadyExists`.
    pub async fn replace_image(&self, name: impl Into<NewName>, target: &Digest) -> Result<Image> {
        let store = self.writable()?;
        let (name, _) = name.into().0?;
        name.check_digest(target)?;
        let (guard, image) = pinned(store, name, target).await?;
        guard.name_again(image).await
    }

    /// Removes a name. For an [`Image`], removes its name only if the name still refers to the
    /// target of the image. For a string or a [`Reference`], removes exactly this name, or all
    /// other spellings of the name if the store does not have exactly this name. For text that a
    /// person typed ([`ImageRef::typed`]), removes all spellings of the name that refer to the
    /// image.
    ///
    /// # Errors
    /// `NotFound` if the name does not exist, if the name of an [`Image`] refers to something else,
    /// or if the store has only other spellings of the name and these refer to different images;
    /// `InvalidArgument` for text that is not a name, for typed text that stands for several
    /// images, or for the digest of an image with several names.
    pub async fn remove(&self, image: impl Into<ImageRef>) -> Result<()> {
        let store = self.writable()?;
        let found = match image.into().0 {
            Given::Image(image) => vec![*image],
            Given::Name(name) => {
                let name = name?;
                match store.images.delete(&name, None).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        lookup::find_name(store, &name).await.map_err(|_| error)?
                    }
                    deleted => return deleted,
                }
            }
            Given::Typed(text) => match lookup::find(store, &text).await {
                // `index.json` has the name twice, and `remove_spellings` removes both entries.
                Err(error) if error.kind() == ErrorKind::FailedPrecondition => {
                    return lookup::remove_spellings(store, &text).await;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    match lookup::misnamed(store, &text).await? {
                        none if none.is_empty() => return Err(error),
                        misnamed => misnamed,
                    }
                }
                found => found?,
            },
        };
        check_one_name(&found)?;
        for image in found {
            let (name, target) = (&image.name, Some(&image.target));
            store.images.delete(name, target).await?;
        }
        Ok(())
    }

    /// Removes a name with options. If `synchronous` is set, then runs a garbage collection and
    /// returns what the collection removed. Otherwise, returns an empty result.
    ///
    /// # Errors
    /// As [`Cas::remove`] and [`Cas::gc`]. If `skip_absent` is set, `NotFound` from [`Cas::remove`]
    /// is not an error. The name stays removed if the collection fails.
    pub async fn remove_with(
        &self,
        image: impl Into<ImageRef>,
        options: DeleteOptions,
    ) -> Result<Removed> {
        match self.remove(image).await {
            Err(error) if options.skip_absent && error.kind() == ErrorKind::NotFound => {}
            removed => removed?,
        }
        if options.synchronous {
            return self.gc().await;
        }
        Ok(Removed::default())
    }

    /// If `naming` is docker's, removes the other spellings of a name that was written in full.
    /// Warns if other programs that read the store may not find the name.
    pub(super) async fn name_was_written(
        &self,
        name: &Reference,
        naming: Naming,
        progress: &Arc<dyn Progress>,
    ) -> Result<()> {
        let full = FullName::of(name).filter(|full| full.name() == *name);
        if let Some(full) = full.filter(|_| naming == Naming::Docker) {
            lookup::drop_other_spellings(&self.store, &full).await?;
        }
        if let Some(warning) = self.store.images.name_warning(name) {
            progress.warn(&warning);
        }
        Ok(())
    }

    /// Returns which parts of an image are in the store, for the platform of this machine.
    ///
    /// # Errors
    /// As [`Cas::image`]; `Corrupt` if a manifest, an index or a configuration is damaged, or if
    /// content is stored with another size than the image states.
    pub async fn check(&self, image: impl Into<ImageRef>) -> Result<Check> {
        self.check_with(image, QueryOptions::default()).await
    }

    /// Returns which parts of an image are in the store, for the platform of `options`.
    ///
    /// # Errors
    /// As [`Cas::check`]; `InvalidArgument` for `Platforms::All`.
    pub async fn check_with(
        &self,
        image: impl Into<ImageRef>,
        options: QueryOptions,
    ) -> Result<Check> {
        let target = self.image(image).await?.target;
        let platform = Only::new(&options.platforms.single()?);
        image::check(&*self.store.content, &target, &platform).await
    }

    /// Returns the manifest of an image for the platform of this machine.
    ///
    /// # Errors
    /// As [`Cas::image`]; `NotFound` if the image has no manifest for the platform, or if the store
    /// does not have this manifest; `Corrupt` if a manifest, an index or a configuration is
    /// damaged.
    pub async fn manifest(&self, image: impl Into<ImageRef>) -> Result<Resolved> {
        self.manifest_with(image, QueryOptions::default()).await
    }

    /// Returns the manifest of an image for the platform of `options`.
    ///
    /// # Errors
    /// As [`Cas::manifest`]; `InvalidArgument` for `Platforms::All`.
    pub async fn manifest_with(
        &self,
        image: impl Into<ImageRef>,
        options: QueryOptions,
    ) -> Result<Resolved> {
        let image = self.image(image).await?;
        image::manifest_for(&*self.store.content, &image.target, &options.platforms)
            .await
            .map_err(|error| error.within(image.name))
    }
}

/// Checks that no spelling of a new name is in the store.
///
/// # Errors
/// `AlreadyExists`.
pub(super) async fn check_unused(store: &Store, name: &FullName) -> Result<()> {
    match store.images.get_all(&name.spellings()).await?.first() {
        None => Ok(()),
        Some(found) => Err(Error::already_exists(
            "an image with this name exists; update it, or delete it first",
        )
        .operation("create image")
        .subject(&found.name)),
    }
}

/// Pins a manifest or an index, with all its content in the store. Returns the lease, and the image
/// to name.
async fn pinned(store: &Store, name: Reference, target: &Digest) -> Result<(LeaseGuard, Image)> {
    let guard = LeaseGuard::begin(store, "name").await?;
    let found = async {
        let target = blob::document(store, target).await?;
        guard.pin_found_to_name(&target).await.map(|()| target)
    };
    match found.await.during("name image", &name) {
        Ok(target) => Ok((guard, Image::new(name, target))),
        Err(error) => guard.finish_with(Err(error)).await,
    }
}

/// Checks that all images have the same name, in any spelling.
fn check_one_name(images: &[Image]) -> Result<()> {
    let first = images.first().map(lookup::full_name);
    if images
        .iter()
        .all(|image| Some(lookup::full_name(image)) == first)
    {
        return Ok(());
    }
    let why = "the image has several names";
    let one = "the names to remove";
    Err(lookup::ambiguous(why, images.iter(), one).operation("remove image"))
}
