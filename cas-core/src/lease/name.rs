//! The end of most jobs: names for what is held.

use super::guard::LeaseGuard;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Image;

impl LeaseGuard {
    /// Makes these images, or changes those that exist by the field paths, and ends the lease: all
    /// of them or, as far as that can be had, none.
    ///
    /// # Errors
    /// `Conflict` when something that is held was collected after all, because the lease expired;
    /// those of the image store.
    pub async fn name(mut self, images: Vec<Image>, fieldpaths: &[&str]) -> Result<Vec<Image>> {
        let mut before = Vec::new();
        let named = self.write(images, fieldpaths, &mut before).await;
        let ended = match named {
            Ok(_) => self.end().await,
            Err(_) => Ok(()),
        };
        match (named, ended) {
            (Ok(named), Ok(())) => Ok(named),
            (Err(error), _) | (Ok(_), Err(error)) => {
                self.take_back(before).await;
                // The first error is the one to report; the lease ends by itself where it must.
                let _ = self.end().await;
                Err(error)
            }
        }
    }

    /// As [`LeaseGuard::name`] of one image.
    ///
    /// # Errors
    /// As [`LeaseGuard::name`].
    pub async fn name_one(self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        let mut named = self.name(vec![image], fieldpaths).await?;
        named
            .pop()
            .ok_or_else(|| Error::internal("an image was not named"))
    }

    async fn write(
        &self,
        images: Vec<Image>,
        fieldpaths: &[&str],
        before: &mut Vec<(Image, Option<Image>)>,
    ) -> Result<Vec<Image>> {
        self.confirm().await?;
        let mut named = Vec::with_capacity(images.len());
        for image in images {
            let name = image.name.clone();
            let pointed = self.point(image, fieldpaths, before).await;
            named.push(pointed.during("name image", name)?);
        }
        Ok(named)
    }

    async fn point(
        &self,
        image: Image,
        fieldpaths: &[&str],
        before: &mut Vec<(Image, Option<Image>)>,
    ) -> Result<Image> {
        let images = &self.store.images;
        let found = images.get(&image.name).await?;
        if let Some(found) = &found {
            if found.target == image.target && fieldpaths == ["target"] {
                return Ok(found.clone());
            }
            // It may have to be named again.
            if let Err(error) = self.pin_tree(&found.target).await {
                tracing::debug!(name = %found.name, %error, "a name stood for nothing whole");
            }
        }
        let outcome = match found {
            Some(_) => images.update(image.clone(), fieldpaths).await,
            None => match images.create(image.clone()).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    images.update(image, fieldpaths).await
                }
                outcome => outcome,
            },
        }?;
        before.push((outcome.clone(), found));
        Ok(outcome)
    }

    /// Undoes what was named, latest first; the error that led here is the one to report.
    async fn take_back(&self, before: Vec<(Image, Option<Image>)>) {
        let images = &self.store.images;
        for (made, before) in before.into_iter().rev() {
            let whole = match &before {
                Some(before) => self.pin_tree(&before.target).await.is_ok(),
                None => false,
            };
            let outcome = match before.filter(|_| whole) {
                Some(before) => images.update(before, &[]).await.map(|_| ()),
                None => images.delete(&made.name, Some(&made.target)).await,
            };
            if let Err(error) = outcome {
                tracing::warn!(name = %made.name, %error, "a name of a failed job stays");
            }
        }
    }
}
