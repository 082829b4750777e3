//! EROFS images over the uncompressed tars of layers. Nothing is mounted, and no privileges are
//! needed.
//!
//! [`Layers`] copies the tar of each layer to a file, unless the tar is already in a file, and
//! merges the members of the tars into a [`Tree`]. The data of all sparse files is in one more
//! file. The tars and this file are the data files. [`Image`] is the metadata of the tree, and
//! refers to the data files for the data of files. [`Image::write_disk`] makes one file of the
//! metadata and the data files. [`Disk::write_vmdk`] keeps the data files separate, and writes a
//! VMDK file that lists all files. The same layers always give the same bytes.
//! [`check_image`] checks images that other programs have made.
//!
//! The tree is the same as after the superuser has unpacked the layers one after the other, with
//! three differences. Times and values of extended attributes are kept even if other file systems
//! could not store them. Extended attributes that EROFS cannot store are left out, with a warning.
//! A sparse file does not report its holes.

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
