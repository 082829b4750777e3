//! The end of most jobs: writing names for the pinned content.

use super::guard::LeaseGuard;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Image;

/// Which names a job may write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Any,
    New,
    Existing,
}

impl LeaseGuard {
    /// Creates these images, and ends the lease. If a name exists, its image is changed as by
    /// [`ImageStore::update`](crate::image::ImageStore::update) with these field paths. After an
    /// error, the names that were written are restored or deleted as far as possible. Returns the
    /// images as stored.
    ///
    /// # Errors
    /// `Conflict` if the lease expired and a pinned blob was collected, or if every attempt lost
    /// against another writer; `NotFound` if another job deleted a name meanwhile; `AlreadyExists`
    /// if another job created a name before this job could, and the name was deleted before this
    /// job could read it; `InvalidArgument` for an unknown field path, or for an image that
    /// [`check_image`](crate::image::fieldpath::check_image) refuses; errors of the store.
    pub async fn name(self, images: Vec<Image>, fieldpaths: &[&str]) -> Result<Vec<Image>> {
        self.name_if(Names::Any, images, fieldpaths).await
    }

    /// As [`LeaseGuard::name`], for one image.
    ///
    /// # Errors
    /// As [`LeaseGuard::name`].
    pub async fn name_one(self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        only(self.name_if(Names::Any, vec![image], fieldpaths).await?)
    }

    /// Creates the image as [`LeaseGuard::name_one`] does, but fails if the name exists already.
    ///
    /// # Errors
    /// `AlreadyExists` if the name exists; otherwise as [`LeaseGuard::name`].
    pub async fn name_new(self, image: Image) -> Result<Image> {
        only(self.name_if(Names::New, vec![image], &[]).await?)
    }

    /// Replaces the target of an existing image, and ends the lease. The labels of the image stay.
    /// After an error, the old target is restored as far as possible. If a part of its content is
    /// gone, the name is deleted instead. Returns the image as stored.
    ///
    /// # Errors
    /// `NotFound` if the name does not exist; otherwise as [`LeaseGuard::name`].
    pub async fn name_again(self, image: Image) -> Result<Image> {
        only(
            self.name_if(Names::Existing, vec![image], &["target"])
                .await?,
        )
    }

    async fn name_if(
        mut self,
        names: Names,
        images: Vec<Image>,
        fieldpaths: &[&str],
    ) -> Result<Vec<Image>> {
        let mut before = Vec::new();
        let named = self.write(names, images, fieldpaths, &mut before).await;
        let ended = match named {
            Ok(_) => self.end().await,
            Err(_) => Ok(()),
        };
        match (named, ended) {
            (Ok(named), Ok(())) => Ok(named),
            (Err(error), _) | (Ok(_), Err(error)) => {
                self.take_back(before).await;
                // Only the first error is reported. If the lease cannot be ended, it expires.
                let _ = self.end().await;
                Err(error)
            }
        }
    }

    async fn write(
        &self,
        names: Names,
        images: Vec<Image>,
        fieldpaths: &[&str],
        before: &mut Vec<(Image, Option<Image>)>,
    ) -> Result<Vec<Image>> {
        self.confirm().await?;
        let mut named = Vec::with_capacity(images.len());
        for image in images {
            let name = image.name.clone();
            let pointed = self.point(names, image, fieldpaths, before).await;
            named.push(pointed.during("name image", name)?);
        }
        Ok(named)
    }

    async fn point(
        &self,
        names: Names,
        image: Image,
        fieldpaths: &[&str],
        before: &mut Vec<(Image, Option<Image>)>,
    ) -> Result<Image> {
        let images = &self.store.images;
        let found = match images.get(&image.name).await? {
            Some(found) if names != Names::New => found,
            None if names == Names::Existing => {
                return Err(Error::not_found(
                    "no such image; create it, or check the name",
                ));
            }
            _ => match images.create(image.clone()).await {
                // Another job has created the name since.
                Err(error) if names == Names::Any && error.kind() == ErrorKind::AlreadyExists => {
                    images.get(&image.name).await?.ok_or(error)?
                }
                created => {
                    let made = created?;
                    before.push((made.clone(), None));
                    return Ok(made);
                }
            },
        };
        if found.target == image.target && fieldpaths == ["target"] {
            return Ok(found);
        }
        // The name may have to be restored.
        if let Err(error) = self.pin_tree(&found.target).await {
            tracing::debug!(
                name = %found.name, %error,
                "the old content of a name could not be pinned"
            );
        }
        let made = images.update(image, fieldpaths).await?;
        before.push((made.clone(), Some(found)));
        Ok(made)
    }

    /// Restores or deletes the names that were written, in reverse order. A name is deleted if it
    /// is new, or if a part of its old content is gone. Failures are only logged, because the
    /// caller has an error to report already.
    async fn take_back(&self, before: Vec<(Image, Option<Image>)>) {
        let images = &self.store.images;
        for (made, before) in before.into_iter().rev() {
            let outcome = match self.restorable(before).await {
                // Another job may have changed the name since.
                Some(before) => images
                    .compare_and_swap(&made.target, before)
                    .await
                    .map(|_| ()),
                None => images.delete(&made.name, Some(&made.target)).await,
            };
            if let Err(error) = outcome {
                tracing::warn!(
                    name = %made.name, %error,
                    "a name that a failed job wrote could not be restored or deleted; check where \
                     the name points"
                );
            }
        }
    }

    /// Returns the image that a name had before, or `None` if there was none or a part of it is
    /// gone. After any other error, the image is returned, so that the user does not lose the name.
    async fn restorable(&self, before: Option<Image>) -> Option<Image> {
        let before = before?;
        match self.pin_tree(&before.target).await {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(
                    name = %before.name, %error,
                    "the old content of a name could not be pinned; the name is restored, and may \
                     refer to incomplete content"
                );
                Some(before)
            }
            Ok(()) => Some(before),
        }
    }
}

fn only(mut named: Vec<Image>) -> Result<Image> {
    named
        .pop()
        .ok_or_else(|| Error::internal("the image store returned no image; please report it"))
}
