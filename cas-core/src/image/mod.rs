//! Images: names for content. Also queries that return the properties of an image, such as its
//! manifest, configuration, layers and size.

use std::collections::BTreeMap;
mod candidates;
mod check;
mod configuration;
mod diff_id;
mod ext;
pub mod fieldpath;
pub mod filter;
mod full_name;
mod grammar;
mod owned;
mod platforms;
mod questions;
mod records;
mod reference;
mod resolve;
mod root;
mod targets;
mod uses;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use check::{Check, check, size};
pub use configuration::{
    ImageConfig, config_platform, image_config, layers, not_a_layer, not_a_tar, rootfs,
};
pub use diff_id::{UNCOMPRESSED, diff_id};
pub use ext::ImageStoreExt;
pub use full_name::{FullName, familiar};
pub use platforms::platforms;
pub use records::{RecordImages, decode_image, encode_image};
pub use reference::Reference;
pub use resolve::{Resolved, config, manifest, manifest_for};
pub use root::Root;
pub use targets::{is_target_note, target_note};
pub use uses::{USE_PRECISION, Uses};

use crate::descriptor::Descriptor;
use crate::digest::DigestPrefix;
use crate::error::{Error, ErrorKind, Result};
use crate::labels::Labels;
use crate::owner::Owner;

/// A name, the content that it refers to, and labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The name.
    pub name: Reference,
    /// The owner of the name, if there is one. A name never changes its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Labels of the name. None are inherited from the content.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The content that the name refers to: a manifest or an index.
    pub target: Descriptor,
    /// When the name was created.
    #[serde(with = "crate::time")]
    pub created_at: SystemTime,
    /// When the name was last changed.
    #[serde(with = "crate::time")]
    pub updated_at: SystemTime,
}

impl Image {
    /// Returns an image for a `target` that has no name. The digest of `target` takes the place of
    /// the name.
    pub fn unnamed(target: Descriptor) -> Self {
        Image::new(Reference::from(target.digest), target)
    }

    /// Returns an image with this name and `target`, created now, without an owner or labels.
    pub fn new(name: Reference, target: Descriptor) -> Self {
        let now = SystemTime::now();
        Image {
            name,
            owner: None,
            labels: Labels::new(),
            target,
            created_at: now,
            updated_at: now,
        }
    }
}

/// The images of a store whose records are not damaged.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ImageList {
    /// The images with a name, in the order of their names.
    pub named: Vec<Image>,
    /// The images without a name, in the order of their digests.
    pub unnamed: Vec<Image>,
    /// For each damaged record, the error `Corrupt` of reading it.
    pub problems: Vec<Error>,
}

impl ImageList {
    /// Returns the image that was read. If its record is damaged, adds the error to
    /// [`problems`](Self::problems), and returns `None`.
    ///
    /// # Errors
    /// The error of reading the image, if it is not `Corrupt`.
    pub fn sound(&mut self, read: Result<Image>) -> Result<Option<Image>> {
        match read {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.problems.push(error);
                Ok(None)
            }
            read => read.map(Some),
        }
    }
}

/// A store of image names.
///
/// A store that is [opened for an owner](ImageStore::for_owner) shows only the names of this owner.
/// A change of any other existing name fails with `Denied`. Every asynchronous method may also
/// return errors of the backend, in addition to the errors that its documentation lists.
#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    /// Returns the owner that the store is opened for, or `None` if it is not opened for an owner.
    fn owner(&self) -> Option<&Owner> {
        None
    }

    /// Returns a handle of the store for `owner`. The handle shows only the names of `owner`, and
    /// the names that are created through the handle belong to `owner`.
    ///
    /// # Errors
    /// `Unsupported` if the store does not keep owners.
    fn for_owner(&self, owner: &Owner) -> Result<Arc<dyn ImageStore>> {
        Err(
            Error::unsupported("this image store does not keep owners; open it without an owner")
                .subject(owner),
        )
    }

    /// Returns a warning if other programs that read the store might fail to find an image by this
    /// name, and `None` otherwise. The default implementation returns `None`. It is for stores that
    /// no other program reads.
    fn name_warning(&self, _name: &Reference) -> Option<String> {
        None
    }

    /// Returns the image with this name, or `None` if there is none.
    async fn get(&self, name: &Reference) -> Result<Option<Image>>;

    /// Returns the images that match at least one of the filters, in the order of their names. An
    /// empty list of filters matches every image. The [`filter`] module describes the grammar,
    /// which is containerd's.
    ///
    /// # Errors
    /// `InvalidArgument` if a filter does not parse.
    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>>;

    /// Returns the images whose targets have digests that begin with `prefix`: first the images
    /// with a name, in the order of [`ImageStore::list`], and then [images without a
    /// name](ImageStore::unnamed).
    ///
    /// # Errors
    /// Errors of the store.
    async fn find(&self, prefix: &DigestPrefix) -> Result<Vec<Image>> {
        let mut found = self.list(&[]).await?;
        found.extend(self.unnamed().await?);
        found.retain(|image| prefix.matches(&image.target.digest));
        Ok(found)
    }

    /// Returns the gc roots that the store lists: its images and, if the store also lists content
    /// without a name, this content. A store that is opened for an owner returns the gc roots of
    /// all owners. A store that wraps another store returns the gc roots of the wrapped store.
    ///
    /// The default implementation returns only the images that [`ImageStore::list`] returns.
    ///
    /// # Errors
    /// Errors of the store.
    async fn roots(&self) -> Result<Vec<Root>> {
        let images = self.list(&[]).await?;
        Ok(images.into_iter().map(Root::from).collect())
    }

    /// Returns the content that [`ImageStore::roots`] lists without a name, as one image for each
    /// digest. The name of the image is this digest. The images are in the order of their digests.
    ///
    /// The default implementation reads all roots. A store that can find this content faster, or
    /// that never has any, overrides it.
    ///
    /// # Errors
    /// Errors of the store.
    async fn unnamed(&self) -> Result<Vec<Image>> {
        let mut found = BTreeMap::new();
        for root in self.roots().await? {
            let digest = root.target.digest;
            if root.name.is_none() && !found.contains_key(&digest) {
                let image = self.get(&Reference::from(digest)).await?;
                found.insert(digest, image.unwrap_or_else(|| Image::unnamed(root.target)));
            }
        }
        Ok(found.into_values().collect())
    }

    /// Returns the same images as [`ImageStore::list`] without filters and [`ImageStore::unnamed`],
    /// but without those whose records are damaged. A damaged record does not show its owner, so a
    /// store that is opened for an owner reports the damaged records of all owners.
    ///
    /// In the default implementation, a damaged record is an error.
    ///
    /// # Errors
    /// Errors of the store.
    async fn list_sound(&self) -> Result<ImageList> {
        Ok(ImageList {
            named: self.list(&[]).await?,
            unnamed: self.unnamed().await?,
            problems: Vec::new(),
        })
    }

    /// Creates a name. The store sets the times of the image, and leaves out labels with an empty
    /// value. If the store is opened for an owner, the name belongs to this owner. Otherwise, it
    /// belongs to the owner that `image` states, if any. Returns the image as stored.
    ///
    /// # Errors
    /// `AlreadyExists` if the name exists; `InvalidArgument` if [`fieldpath::check_image`] refuses
    /// the image.
    async fn create(&self, image: Image) -> Result<Image>;

    /// Replaces fields of a stored image by those of `image`, which has the same name. `fieldpaths`
    /// selects the fields. If `fieldpaths` is empty, replaces the target and the labels. The valid
    /// field paths are `target`, `labels` and `labels.<key>`, and for annotations of the target,
    /// `annotations` and `annotations.<key>`. The name, its owner and `created_at` stay. A label
    /// with an empty value is removed. Returns the image as stored.
    ///
    /// # Errors
    /// `NotFound` if the name does not exist; `InvalidArgument` if a field path is not valid, or if
    /// [`fieldpath::check_image`] refuses the new image.
    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image>;

    /// Replaces the target and the labels of a stored image by those of `image`, which has the same
    /// name. Does this in one step, and only if the name refers to the digest of `expected`. The
    /// name, its owner and `created_at` stay. A label with an empty value is removed. Returns the
    /// image as stored.
    ///
    /// # Errors
    /// `Conflict` if the name refers to another digest; `NotFound` if the name does not exist;
    /// `InvalidArgument` if [`fieldpath::check_image`] refuses the new image.
    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image>;

    /// Deletes a name. If `target` is given, deletes the name only if it refers to the digest of
    /// `target`.
    ///
    /// # Errors
    /// `NotFound` if the name does not exist or refers to another digest.
    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()>;

    /// Deletes the names of those images in `seen` that have not changed since `seen` was read.
    /// Returns the deleted names. If the call fails, some of the names may have been deleted.
    ///
    /// # Errors
    /// `Denied` if the store is opened for an owner, and an unchanged name does not belong to this
    /// owner (a store may skip the name instead); errors of the store.
    async fn delete_unchanged(&self, seen: &[Image]) -> Result<Vec<Reference>> {
        let mut deleted = Vec::new();
        for image in seen {
            if self.get(&image.name).await?.as_ref() != Some(image) {
                continue;
            }
            match self.delete(&image.name, Some(&image.target)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                outcome => outcome.map(|()| deleted.push(image.name.clone()))?,
            }
        }
        Ok(deleted)
    }

    /// Removes records of names that the store no longer has, and records of earlier targets of
    /// names. Such records remain if a process is killed, or if another program changes the store.
    /// A garbage collection of a whole store calls this method. The default implementation does
    /// nothing.
    async fn cleanup(&self) -> Result<()> {
        Ok(())
    }
}
