//! The types of arguments that stand for an image.

use cas_core::image::{FullName, Reference};
use cas_core::{Image, Result};

/// An image as an argument of a verb. A string or a [`Reference`] is the name of an image in the
/// store. If the store does not have exactly this name, the verb looks for other spellings that
/// mean the same name in docker, such as `docker.io/library/app:1` for `app:1`. If a string is not
/// a name, the verb returns an error. A [`FullName`] has the same effect as [`ImageRef::typed`]
/// with the text of the name. An [`Image`] stands for its target, even if its name now refers to
/// something else.
pub struct ImageRef(pub(super) Given);

pub(super) enum Given {
    Name(Result<Reference>),
    Image(Box<Image>),
    Typed(String),
}

impl ImageRef {
    /// Returns the argument for text that a person typed: a digest, the first digits of a digest,
    /// or a name as in docker, such as `app` for `docker.io/library/app:latest`. A name that docker
    /// would not accept must be exactly as the store has it.
    pub fn typed(text: impl Into<String>) -> Self {
        ImageRef(Given::Typed(text.into()))
    }
}

impl From<&FullName> for ImageRef {
    fn from(name: &FullName) -> Self {
        ImageRef::typed(name.to_string())
    }
}

impl From<FullName> for ImageRef {
    fn from(name: FullName) -> Self {
        ImageRef::from(&name)
    }
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

/// A name that a verb gives to an image. A string or a [`Reference`] is stored unchanged. If a
/// string is not a name, the verb returns an error. A [`FullName`] is stored in full.
///
/// If the store has other spellings of a [`FullName`], the verbs differ:
/// [`Cas::tag`](crate::Cas::tag), [`Cas::copy_with`](crate::Cas::copy_with) and `Cas::convert_soci`
/// remove the other spellings. [`Cas::create_image`](crate::Cas::create_image) and
/// [`Cas::ingest_image`](crate::Cas::ingest_image) return an error, as they do if the store has the
/// full name. [`Cas::replace_image`](crate::Cas::replace_image) leaves the other spellings as they
/// are.
pub struct NewName(pub(super) Result<(Reference, Option<FullName>)>);

impl From<&str> for NewName {
    fn from(name: &str) -> Self {
        NewName(name.parse().map(|name| (name, None)))
    }
}

impl From<&String> for NewName {
    fn from(name: &String) -> Self {
        name.as_str().into()
    }
}

impl From<String> for NewName {
    fn from(name: String) -> Self {
        name.as_str().into()
    }
}

impl From<&Reference> for NewName {
    fn from(name: &Reference) -> Self {
        name.clone().into()
    }
}

impl From<Reference> for NewName {
    fn from(name: Reference) -> Self {
        NewName(Ok((name, None)))
    }
}

impl From<&FullName> for NewName {
    fn from(name: &FullName) -> Self {
        name.clone().into()
    }
}

impl From<FullName> for NewName {
    fn from(name: FullName) -> Self {
        NewName(Ok((name.name(), Some(name))))
    }
}

/// An image in a registry as an argument of a verb: a [`FullName`], or text that a person typed. If
/// docker would not accept the text, the verb returns an error.
#[cfg(feature = "registry")]
pub struct RegistryRef(pub(super) Result<FullName>);

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
impl From<&FullName> for RegistryRef {
    fn from(reference: &FullName) -> Self {
        reference.clone().into()
    }
}

#[cfg(feature = "registry")]
impl From<FullName> for RegistryRef {
    fn from(reference: FullName) -> Self {
        RegistryRef(Ok(reference))
    }
}
