//! One file with everything: the metadata and the data files, at the offsets that the metadata
//! expects. The file can be mounted, on a loop device or as the disk of a virtual machine.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use cas_core::Result;
use cas_host::{NewFile, copy_data};

use crate::image::Image;
use crate::layers::{ALIGNMENT, DataFile};
use crate::tree::Tree;

/// The size of an image that was written as a disk: as one file, or as several files that a
/// descriptor joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Length of the disk in bytes.
    pub length: u64,
    /// Length in bytes of the metadata, which is at the beginning of the disk.
    pub metadata: u64,
}

impl Disk {
    /// Writes the image of a tree and its data files to `path`. The new file gets the name when it
    /// is complete and flushed to the device. It then replaces a file that had the name. Returns
    /// the size of the new file.
    ///
    /// # Errors
    /// As [`Image::new`] and [`NewFile::begin`]; errors of the file system.
    pub fn write(tree: &Tree, data: &[DataFile], path: &Path) -> Result<Self> {
        let new = NewFile::begin(path)?;
        let disk = Image::new(tree, data)?.write_disk(data, new.file())?;
        new.publish()?;
        Ok(disk)
    }
}

impl Image {
    /// Writes the metadata and the data files to `out`, an empty file. The kernel copies the data
    /// files, or lets them share blocks with `out`, if the file system supports that. Returns the
    /// size of the file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_disk(&self, data: &[DataFile], out: &File) -> Result<Disk> {
        let mut out = out;
        out.write_all(self.metadata())?;
        let metadata = self.metadata().len() as u64;
        let mut length = metadata;
        for (data, &start) in data.iter().zip(self.starts()) {
            copy_data(&data.file, data.length, out, start)?;
            length = (start + data.length).next_multiple_of(ALIGNMENT);
        }
        out.set_len(length)?;
        Ok(Disk { length, metadata })
    }
}
