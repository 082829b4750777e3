//! Decides what a member of a layer does, by its path and type.

use cas_core::{Error, Result};

use super::path::split;
use super::whiteout::Whiteout;
use crate::tar::{Entry, EntryKind};

/// The warning about the character device 0:0, which is left out.
pub const WHITEOUT_DEVICE: &str =
    "the character device 0:0 is left out: an overlay would take it for a whiteout";

/// What a member does.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Describes the root directory.
    Root,
    /// Hides something in the directory at `parent`.
    Hide {
        /// The path of the directory.
        parent: &'a [u8],
        /// What is hidden.
        whiteout: Whiteout<'a>,
    },
    /// Adds something, or describes a directory that exists.
    Add {
        /// The path of the parent directory.
        parent: &'a [u8],
        /// The name in the parent directory.
        name: &'a [u8],
    },
}

impl<'a> Action<'a> {
    /// Returns what a member at `path` does. [`clean`](super::path::clean) must have returned the
    /// path.
    ///
    /// # Errors
    /// `Corrupt` for a whiteout that [`Whiteout::parse`] refuses, and for a member that is at the
    /// root but is not a directory.
    pub fn of(entry: &Entry, path: &'a [u8]) -> Result<Self> {
        if path.is_empty() {
            return match entry.kind {
                EntryKind::Directory => Ok(Action::Root),
                _ => Err(Error::corrupt(
                    "the layer replaces the root of the tree, which must be a directory; build \
                     the image again",
                )),
            };
        }
        let (parent, name) = split(path);
        Ok(match Whiteout::parse(name)? {
            Some(whiteout) => Action::Hide { parent, whiteout },
            None => Action::Add { parent, name },
        })
    }
}
