//! EROFS images over the uncompressed tars of layers. Nothing is mounted, and no privileges are
//! needed.
//!
//! [`Layers`] copies the tar of each layer to a file, unless the tar is already in a file, and
//! merges the members of the tars into a [`Tree`]. The data of all sparse files is in one more
//! file. The tars and this file are the data files. [`Image`] is the metadata of the tree. The
//! metadata states where in the data files the content of each file is. [`Image::write_disk`]
//! writes the metadata and the data files to one file. [`Disk::write_vmdk`] keeps the data files
//! separate. It writes the metadata to another file, and lists the metadata file and the data files
//! in a VMDK file. The same layers always give the same bytes. [`check_image`] checks images that
//! other programs have made.
//!
//! The tree is the same as after the superuser has unpacked the layers one after the other, with
//! three differences:
//! - The time of a file or the value of an extended attribute is kept even if other file systems
//!   could not store it.
//! - Extended attributes that EROFS cannot store are left out, with a warning.
//! - The kernel does not report the holes of sparse files to programs that seek for holes.

mod acl;
mod attributes;
mod disk;
mod headers;
mod image;
mod layers;
mod stored;
mod superblock;
mod tree;
mod vmdk;

pub use disk::Disk;
pub use image::Image;
pub use layers::{DataFile, Layers};
pub use superblock::check_image;
pub use tree::Tree;

/// Size of a block of the images in bytes. It is the size of a block of a tar, because the data of
/// a file can begin at any block of its tar.
const BLOCK: u64 = 512;
