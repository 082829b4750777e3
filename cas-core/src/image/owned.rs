//! The access of owners to images.

use super::Image;
use crate::error::{Error, ErrorKind, Result};
use crate::owner::Owner;

impl Image {
    /// Returns whether an image store that is opened for `owner` shows this image. A store that is
    /// opened without an owner shows every image.
    pub fn is_shown_to(&self, owner: Option<&Owner>) -> bool {
        owner.is_none() || self.owner.as_ref() == owner
    }

    /// Checks that an image store that is opened for `owner` may change this image.
    ///
    /// # Errors
    /// `Denied` if the image is not shown to `owner`.
    pub fn check_owner(&self, owner: Option<&Owner>) -> Result<()> {
        match owner {
            Some(owner) if !self.is_shown_to(Some(owner)) => Err(Error::new(
                ErrorKind::Denied,
                format!("the name does not belong to the owner {owner}; choose another name"),
            )),
            _ => Ok(()),
        }
    }
}
