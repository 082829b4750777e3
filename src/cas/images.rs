//! Names of images, and queries about images.

use cas_core::image::{self, Check, Resolved};
use cas_core::lease::LeaseGuard;
use cas_core::platform::{Only, Platform, Platforms};
use cas_core::{Error, Image, Result};

use super::Cas;
use super::arguments::{Given, ImageRef};

/// Options of [`Cas::manifest_with`] and [`Cas::check_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct QueryOptions {
    /// The platform. `Platforms::All` is refused.
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

impl Cas {
    /// Returns all images, sorted by name.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn images(&self) -> Result<Vec<Image>> {
        self.opened()?.images.list(&[]).await
    }

    /// Returns the image of this name. An [`Image`] is returned as it is.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for text that is not a name.
    pub async fn image(&self, image: impl Into<ImageRef>) -> Result<Image> {
        let store = self.opened()?;
        let name = match image.into().0 {
            Given::Name(name) => name?,
            Given::Image(image) => return Ok(*image),
        };
        store.images.get(&name).await?.ok_or_else(|| {
            Error::not_found(
                "the store does not have an image of this name; `cas images` lists them",
            )
            .operation("find image")
            .subject(name)
        })
    }

    /// Gives an image another name. A name that exists refers to it afterwards. Returns the image
    /// with the new name.
    ///
    /// # Errors
    /// `NotFound` for the image; `InvalidArgument` for text that is not a name.
    pub async fn tag(&self, image: impl Into<ImageRef>, name: impl AsRef<str>) -> Result<Image> {
        let name = name.as_ref().parse()?;
        let store = self.writable()?;
        let image = Image::new(name, self.image(image).await?.target);
        let guard = LeaseGuard::begin(store, "tag").await?;
        if let Err(error) = guard.pin_tree(&image.target).await {
            return guard.finish_with(Err(error)).await;
        }
        guard.name_one(image, &["target"]).await
    }

    /// Removes a name. The name of an [`Image`] is removed only if it refers to the image's target.
    ///
    /// # Errors
    /// `NotFound` if the name does not exist or refers to something else.
    pub async fn remove(&self, image: impl Into<ImageRef>) -> Result<()> {
        let images = &self.writable()?.images;
        match image.into().0 {
            Given::Name(name) => images.delete(&name?, None).await,
            Given::Image(image) => images.delete(&image.name, Some(&image.target)).await,
        }
    }

    /// Returns which parts of an image are in the store, for the platform of this machine.
    ///
    /// # Errors
    /// `NotFound` for the image; `Corrupt` for a damaged document.
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
        let platform = options.platforms.single()?.cloned();
        let platform = Only::new(&platform.unwrap_or_else(Platform::host));
        image::check(&*self.store.content, &target, &platform).await
    }

    /// Returns the manifest of an image for the platform of this machine.
    ///
    /// # Errors
    /// `NotFound` for the image, or if it has no manifest for the platform.
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
        let platform = options.platforms.single()?;
        image::manifest_for(&*self.store.content, &image.target, platform)
            .await
            .map_err(|error| error.within(image.name))
    }
}
