//! One file with everything: the metadata and the data files, at the offsets that the metadata
//! expects. The file can be mounted, on a loop device or as the disk of a virtual machine.

use std::fs::File;
use std::io::Write;

use cas_core::Result;
use cas_host::copy_data;

use crate::image::Image;
use crate::layers::{ALIGNMENT, DataFile};
use crate::tree::Tree;

/// The size of an image that was written as a disk: as one file, or as several files that a VMDK
/// file lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Length of the disk in bytes.
    pub length: u64,
    /// Length in bytes of the metadata, which is at the beginning of the disk.
    pub metadata: u64,
}

impl Disk {
    /// Makes the image of a tree, and writes the image and the data files to the empty file `out`.
    /// Returns the size of the file.
    ///
    /// # Errors
    /// As [`Image::new`]; errors of the file system.
    pub fn write(tree: &Tree, data: &[DataFile], out: &File) -> Result<Self> {
        Image::new(tree, data)?.write_disk(data, out)
    }

    /// Writes an image and its data files to the empty file `out`. The metadata of the image is
    /// copied from the file `metadata`. The data files must be in the order in which the image
    /// numbers them. Returns the size of the file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn join(metadata: &DataFile, data: &[DataFile], out: &File) -> Result<Self> {
        copy_data(&metadata.file, metadata.length, out, 0)?;
        append(data, metadata.length, out)
    }
}

/// Copies data files to a file, after `metadata` bytes of metadata. The copies share blocks with
/// the data files if the file system supports that.
fn append(data: &[DataFile], metadata: u64, out: &File) -> Result<Disk> {
    let mut length = metadata;
    for data in data {
        copy_data(&data.file, data.length, out, length)?;
        length = (length + data.length).next_multiple_of(ALIGNMENT);
    }
    out.set_len(length)?;
    Ok(Disk { length, metadata })
}

impl Image {
    /// Writes the metadata and the data files to `out`, an empty file. Returns the size of the
    /// file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_disk(&self, data: &[DataFile], out: &File) -> Result<Disk> {
        let mut out = out;
        out.write_all(self.metadata())?;
        append(data, self.metadata().len() as u64, out)
    }
}
