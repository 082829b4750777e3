//! The result of an import or a pull.

use cas_core::{Digest, Image};

/// An image that was imported or pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredImage {
    /// The image.
    pub image: Image,
    /// The key of the image's topmost snapshot, if the image was unpacked and has layers.
    pub snapshot: Option<Digest>,
}
