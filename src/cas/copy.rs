//! Copies images from one store into another.

use std::path::Path;
use std::sync::Arc;

use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::transfer::StoreRepository;
use cas_core::{Error, Image, Location, Result, transfer};
use cas_layer::Naming;

use super::Cas;
use super::arguments::{ImageRef, NewName};

/// Options of [`Cas::copy_with`].
#[non_exhaustive]
pub struct CopyOptions {
    /// The name of the copy. By default the name of the image.
    pub name: Option<NewName>,
    /// The platforms to copy, by default all that the source has.
    pub platforms: Platforms,
    /// Receives the progress, and a warning for each part of the image that is not copied because
    /// the source does not have it. By default, neither is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        CopyOptions {
            name: None,
            platforms: Platforms::All,
            progress: Arc::new(Silent),
        }
    }
}

impl CopyOptions {
    /// Sets [`name`](Self::name).
    #[must_use]
    pub fn with_name(mut self, name: impl Into<NewName>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

impl Cas {
    /// Copies an image from the store of this handle (the source) into the store of `to`, with the
    /// referrers of the image that the source has. Leaves out manifests that an index lists and
    /// that the source has never had completely, for example those of platforms that were not
    /// pulled, and non-distributable layers that the source does not have. Blobs that the store of
    /// `to` already has are not copied. Returns the image in the store of `to`.
    ///
    /// # Errors
    /// `NotFound` if the source does not have the image, if all manifests of the image are
    /// incomplete there, if the source has lost a blob that its records state as stored, or if it
    /// lacks a layer that a pull discarded after the layer was unpacked; `Corrupt` for damaged
    /// content; `InvalidArgument` if `to` has the same store, and the name stays the same; as
    /// [`transfer::copy`]. The name is written last. On an error, the copied blobs stay until a
    /// garbage collection, and the next attempt does not copy them again.
    pub async fn copy(&self, image: impl Into<ImageRef>, to: &Cas) -> Result<Image> {
        self.copy_with(image, to, CopyOptions::default()).await
    }

    /// Copies with options. If both handles have the same store, no blobs are copied, and only a
    /// new name is written. Returns the image in the store of `to`.
    ///
    /// # Errors
    /// As [`Cas::copy`]; `InvalidArgument` if [`CopyOptions::name`] is text that is not a name, or
    /// has the digest of another image; `NotFound` for a platform that the image does not have.
    pub async fn copy_with(
        &self,
        image: impl Into<ImageRef>,
        to: &Cas,
        options: CopyOptions,
    ) -> Result<Image> {
        let image = self.image(image).await?;
        let store = to.writable()?;
        let (name, full) = match options.name {
            Some(name) => name.0?,
            None => (image.name.clone(), None),
        };
        name.check_digest(&image.target.digest)?;
        if name == image.name && identity(&self.location) == identity(&to.location) {
            return Err(Error::invalid(
                "source and destination are the same image of the same store; give the copy \
                 another name, or choose another store",
            )
            .operation("copy")
            .subject(name));
        }
        let naming = match full {
            Some(_) => Naming::Docker,
            None => Naming::default(),
        };
        let from = image.name.clone();
        self.note_use(&from);
        let named = Image { name, ..image };
        let copy = transfer::CopyOptions::default()
            .with_platforms(options.platforms)
            .with_progress(Arc::clone(&options.progress));
        let copied = if identity(&self.location) == identity(&to.location) {
            transfer::copy(&self.store, store, &named, &copy).await
        } else {
            let copy_one = async |images: Vec<Image>| match images.first() {
                Some(whole) => transfer::copy(&self.store, store, whole, &copy).await,
                None => Err(Error::internal(
                    "expected an image to copy, found none; please report it",
                )),
            };
            self.with_whole(vec![named], &copy.platforms, &options.progress, copy_one)
                .await
        };
        let copied = copied.map_err(|error| error.operation("copy").within(from))?;
        to.note_use(&copied.name);
        to.name_was_written(&copied.name, naming, &options.progress)
            .await?;
        Ok(copied)
    }

    /// Returns a repository for a name in this store. The name may have a digest: `name@sha256:…`.
    /// Another store pulls from the repository with [`transfer::pull`], and pushes to the
    /// repository with [`transfer::push`].
    ///
    /// # Errors
    /// `InvalidArgument` for text that is not a name.
    pub fn repository(&self, name: impl Into<NewName>) -> Result<StoreRepository> {
        let store = self.opened()?;
        let (name, _) = name.into().0?;
        Ok(StoreRepository::new(store, &name))
    }
}

/// Returns a location to compare stores by: handles with equal locations have the same store. The
/// location of a store in the file system contains the path without symbolic links.
fn identity(location: &Location) -> Location {
    let place = Path::new(location.place());
    let real = if place.is_absolute() {
        place.canonicalize().ok()
    } else {
        None
    };
    let real = real.and_then(|path| location.clone().with_path(&path).ok());
    real.unwrap_or_else(|| location.clone())
}
