//! The nodes of a tree.

use std::collections::BTreeMap;

use cas_layer::tar::Time;

use crate::attributes::{self, SetId};

/// Identifies a node of a tree.
pub(crate) type Id = u32;

/// The identity of the root directory.
pub(crate) const ROOT: Id = 0;

const EPOCH: Time = Time {
    seconds: 0,
    nanoseconds: 0,
};

/// A file, a directory or anything else in a tree.
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) attributes: SetId,
    /// Number of names. The root has none.
    pub(crate) links: u32,
}

/// The type of a node, with the content of that type.
pub(crate) enum Kind {
    Directory(Directory),
    File(Content),
    Symlink(Box<[u8]>),
    /// The number of the device, as the kernel encodes it.
    Char(u32),
    Block(u32),
    Fifo,
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Number of bytes.
    pub(crate) size: u64,
    /// Index of the data file.
    pub(crate) source: usize,
    /// Offset in the data file in bytes, a multiple of the block size.
    pub(crate) offset: u64,
    /// The bytes of the file in its last block, if an image cannot use this block of the data file.
    /// An image cannot use the block if the data file ends within it, or if anything but zeros
    /// follows these bytes in it.
    pub(crate) tail: Option<Box<[u8]>>,
}

pub(crate) struct Directory {
    /// Sorted by name.
    pub(crate) children: BTreeMap<Box<[u8]>, Child>,
    /// The root is its own parent.
    pub(crate) parent: Id,
    /// Number of directories above it; 0 for the root.
    pub(crate) depth: usize,
    /// The last layer that has a member at the directory or below it.
    pub(crate) kept: u32,
    /// The last layer that removed everything that lower layers added below the directory.
    pub(crate) purged: u32,
}

#[derive(Clone, Copy)]
pub(crate) struct Child {
    pub(crate) id: Id,
    /// The layer that added the name.
    pub(crate) added: u32,
}

impl Directory {
    pub(crate) fn new(parent: Id, depth: usize) -> Self {
        Directory {
            children: BTreeMap::new(),
            parent,
            depth,
            kept: 0,
            purged: 0,
        }
    }
}

impl Node {
    /// Returns a directory that no member describes.
    pub(crate) fn implied(directory: Directory) -> Self {
        Node {
            kind: Kind::Directory(directory),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: EPOCH,
            attributes: attributes::NONE,
            links: 0,
        }
    }
}
