//! EROFS images over the uncompressed tars of layers. Nothing is mounted, and no privileges are
//! needed.
//!
//! Bytes flow one way: [`Layers`] copies the tar of each layer to a file, unless the tar is in a
//! file already, and merges the members of the tars into a [`Tree`]; [`Image`] is the metadata of
//! the tree, whose files point into the tars; and [`Image::write_disk`] makes one file of the
//! metadata and the tars. [`Disk::write_vmdk`] leaves the tars in files of their own, and writes a
//! VMDK file that lists all files. The same layers always give the same bytes. [`check_image`] looks
//! at images that others have made.
//!
//! The tree is the same as after unpacking the layers one after the other, with these differences:
//! directories that no member describes belong to the superuser; times and values of extended
//! attributes are kept even if other file systems could not store them; and a sparse file does not
//! report its holes.

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
