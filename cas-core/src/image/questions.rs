//! Queries about an image, as methods of [`Image`].

use super::{config, rootfs, size};
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::Result;
use crate::image::Image;
use crate::platform::Matcher;

impl Image {
    /// Returns the descriptor of the configuration of the image on a platform; see [`config()`].
    ///
    /// # Errors
    /// Errors of [`config()`].
    pub async fn config(
        &self,
        content: &dyn ContentStore,
        matcher: &dyn Matcher,
    ) -> Result<Descriptor> {
        config(content, &self.target, matcher).await
    }

    /// Returns the diff IDs that the configuration of the image on a platform lists, lowest layer
    /// first.
    ///
    /// # Errors
    /// Errors of [`config()`] and [`rootfs`].
    pub async fn rootfs(
        &self,
        content: &dyn ContentStore,
        matcher: &dyn Matcher,
    ) -> Result<Vec<Digest>> {
        rootfs(content, &self.config(content, matcher).await?).await
    }

    /// Returns the size of the image on a platform; see [`size`].
    ///
    /// # Errors
    /// Errors of [`size`].
    pub async fn size(&self, content: &dyn ContentStore, matcher: &dyn Matcher) -> Result<u64> {
        size(content, &self.target, matcher).await
    }
}
