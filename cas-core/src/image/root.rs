//! The gc roots that an image store lists.

use super::{Image, Reference};
use crate::descriptor::Descriptor;
use crate::labels::Labels;
use crate::owner::Owner;

/// A gc root. A garbage collection keeps the content of a gc root, and everything that this content
/// refers to. A collection ignores a gc root whose name has expired.
///
/// Most gc roots are the targets of images. An OCI image layout may also list content without a
/// name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Root {
    /// The name of the image, or `None` if the content is listed without a name.
    pub name: Option<Reference>,
    /// The owner of the name, if it has one.
    pub owner: Option<Owner>,
    /// The labels of the name. Labels that begin with `containerd.io/gc.` keep further content or
    /// make the name expire. A gc root without a name has no labels.
    pub labels: Labels,
    /// The content.
    pub target: Descriptor,
}

impl Root {
    /// Returns a gc root without a name. It never expires.
    pub fn unnamed(target: Descriptor) -> Self {
        Root {
            name: None,
            owner: None,
            labels: Labels::new(),
            target,
        }
    }
}

impl From<Image> for Root {
    fn from(image: Image) -> Self {
        Root {
            name: Some(image.name),
            owner: image.owner,
            labels: image.labels,
            target: image.target,
        }
    }
}
