//! Methods of every image store, built on the methods that a backend implements.

use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::{Image, ImageStore, Reference};
use crate::descriptor::Descriptor;
use crate::error::{Error, ErrorKind, Result};
use crate::records::retry;

/// Methods of every [`ImageStore`]. A job that was interrupted can call them again.
#[async_trait]
pub trait ImageStoreExt: ImageStore {
    /// Creates an image. If the name exists already, replaces its target and its labels. If the
    /// store has the same image already, nothing changes. Returns the image as stored.
    ///
    /// # Errors
    /// `InvalidArgument` for a target or labels that [`ImageStore::create`] refuses; `Conflict` if
    /// every attempt lost against another writer; errors of the store.
    async fn put(&self, image: Image) -> Result<Image> {
        retry(|| put_once(self, &image)).await
    }

    /// Creates an image, unless the name has the same target and labels already. Returns the image
    /// as stored.
    ///
    /// # Errors
    /// `AlreadyExists` if the name has another target or other labels; `InvalidArgument` as for
    /// [`ImageStoreExt::put`]; errors of the store.
    async fn put_new(&self, image: Image) -> Result<Image> {
        match self.create(image.clone()).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                find_same(self, &image).await?.ok_or(error)
            }
            outcome => outcome,
        }
    }

    /// Returns the images that have one of these names, in the order of `names`.
    ///
    /// # Errors
    /// Errors of the store.
    async fn get_all(&self, names: &[Reference]) -> Result<Vec<Image>> {
        let found = try_join_all(names.iter().map(|name| self.get(name))).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Deletes a name. Returns false if the store does not have it.
    ///
    /// # Errors
    /// Errors of the store.
    async fn remove(&self, name: &Reference) -> Result<bool> {
        match self.delete(name, None).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Replaces the target and the labels of a stored image by those of `image`, which has the same
    /// name. Fails if the name does not refer to the digest of `expected`. If the store has the new
    /// image already, nothing changes, whatever `expected` is. Returns the image as stored.
    ///
    /// # Errors
    /// `Conflict` if the name refers to another digest; `NotFound` if the name does not exist;
    /// `InvalidArgument` as for [`ImageStoreExt::put`]; errors of the store.
    async fn replace(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        if let Some(found) = find_same(self, &image).await? {
            return Ok(found);
        }
        match self.compare_and_swap(expected, image.clone()).await {
            // Another caller may have stored the same image since.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                find_same(self, &image).await?.ok_or(error)
            }
            outcome => outcome,
        }
    }
}

impl<S: ImageStore + ?Sized> ImageStoreExt for S {}

async fn put_once<S: ImageStore + ?Sized>(images: &S, image: &Image) -> Result<Image> {
    let (outcome, lost) = match images.get(&image.name).await? {
        Some(found) if is_same(&found, image) => return Ok(found),
        Some(_) => (images.update(image.clone(), &[]).await, ErrorKind::NotFound),
        None => (images.create(image.clone()).await, ErrorKind::AlreadyExists),
    };
    outcome.map_err(|error| {
        if error.kind() == lost {
            Error::conflict("other jobs keep creating and deleting the name; retry later")
                .operation("put image")
                .subject(&image.name)
        } else {
            error
        }
    })
}

/// Returns the image that the store has, if it is the same as `image`.
async fn find_same<S: ImageStore + ?Sized>(images: &S, image: &Image) -> Result<Option<Image>> {
    let found = images.get(&image.name).await?;
    Ok(found.filter(|found| is_same(found, image)))
}

/// Returns whether storing `image` would change nothing. A store does not keep empty labels.
fn is_same(found: &Image, image: &Image) -> bool {
    let labels = image.labels.iter().filter(|(_, value)| !value.is_empty());
    found.target == image.target && found.labels.iter().eq(labels)
}
