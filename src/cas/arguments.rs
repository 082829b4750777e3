//! What verbs accept for an image.

use cas_core::image::Reference;
use cas_core::{Image, Result};
#[cfg(feature = "registry")]
use cas_distribution::RemoteRef;

/// An image as an argument of a verb: its name in the store, or an [`Image`].
///
/// Text that is not a name is an error of the verb. An [`Image`] means its target, even if its name
/// refers to something else by now.
pub struct ImageRef(pub(super) Given);

pub(super) enum Given {
    Name(Result<Reference>),
    Image(Box<Image>),
}

impl From<Image> for ImageRef {
    fn from(image: Image) -> Self {
        ImageRef(Given::Image(Box::new(image)))
    }
}

impl From<&Image> for ImageRef {
    fn from(image: &Image) -> Self {
        image.clone().into()
    }
}

impl From<&str> for ImageRef {
    fn from(name: &str) -> Self {
        ImageRef(Given::Name(name.parse()))
    }
}

impl From<&String> for ImageRef {
    fn from(name: &String) -> Self {
        name.as_str().into()
    }
}

impl From<String> for ImageRef {
    fn from(name: String) -> Self {
        name.as_str().into()
    }
}

impl From<&Reference> for ImageRef {
    fn from(name: &Reference) -> Self {
        name.clone().into()
    }
}

impl From<Reference> for ImageRef {
    fn from(name: Reference) -> Self {
        ImageRef(Given::Name(Ok(name)))
    }
}

/// An image in a registry as an argument of a verb: a [`RemoteRef`], or its text. Text that is not
/// a reference is an error of the verb.
#[cfg(feature = "registry")]
pub struct RegistryRef(pub(super) Result<RemoteRef>);

#[cfg(feature = "registry")]
impl From<&str> for RegistryRef {
    fn from(text: &str) -> Self {
        RegistryRef(text.parse())
    }
}

#[cfg(feature = "registry")]
impl From<&String> for RegistryRef {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

#[cfg(feature = "registry")]
impl From<String> for RegistryRef {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

#[cfg(feature = "registry")]
impl From<&RemoteRef> for RegistryRef {
    fn from(reference: &RemoteRef) -> Self {
        reference.clone().into()
    }
}

#[cfg(feature = "registry")]
impl From<RemoteRef> for RegistryRef {
    fn from(reference: RemoteRef) -> Self {
        RegistryRef(Ok(reference))
    }
}
