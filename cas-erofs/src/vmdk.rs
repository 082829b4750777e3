//! A virtual disk in several files: the metadata, the data files, and a VMDK descriptor, which
//! joins the metadata and the data files in this order.
//!
//! Source: "Virtual Disk Format 5.0" of VMware. QEMU reads neither extents that are read-only nor
//! extents of the type `ZERO`. Therefore a file of zeros fills the gaps between the other files.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use cas_core::{Digest, Result};
use cas_host::syncfs;

use crate::BLOCK;
use crate::disk::Disk;
use crate::image::Image;
use crate::layers::{ALIGNMENT, DataFile};
use crate::tree::Tree;

const DESCRIPTOR: &str = "disk.vmdk";
const METADATA: &str = "metadata.erofs";
const ZEROS: &str = "zeros";

/// Number of heads, and of sectors of a track, in the geometry that old systems read from the
/// descriptor.
const HEADS: u64 = 16;
const SECTORS: u64 = 63;
/// Maximum number of cylinders in this geometry.
const CYLINDERS: u64 = 16_383;

/// Returns the name of a data file in the directory of a disk.
pub(crate) fn data_name(index: usize) -> String {
    format!("data-{:03}", index + 1)
}

impl Disk {
    /// Writes the image of a tree to `directory`, as a virtual disk in several files. The data
    /// files `data` must be in `directory` already. Use [`Layers::named`](crate::Layers::named) to
    /// make them there. The file `disk.vmdk` lists the other files. The metadata and the data files
    /// are not copied into one file. All files are flushed to the device when this function
    /// returns. Returns the size of the disk.
    ///
    /// # Errors
    /// As [`Image::new`]; `AlreadyExists` if the directory has a file `metadata.erofs`, `zeros` or
    /// `disk.vmdk`; errors of the file system.
    pub fn write_vmdk(tree: &Tree, data: &[DataFile], directory: &Path) -> Result<Self> {
        let image = Image::new(tree, data)?;
        let metadata = image.metadata().len() as u64;
        let write = |name: &str, bytes: &[u8]| -> io::Result<()> {
            File::create_new(directory.join(name))?.write_all(bytes)
        };
        write(METADATA, image.metadata())?;
        write(ZEROS, &[0; ALIGNMENT as usize])?;
        let mut extents = Extents::default();
        extents.add(METADATA, metadata);
        for (index, (data, &start)) in data.iter().zip(image.starts()).enumerate() {
            extents.fill(start);
            // A disk has whole sectors, but some tars end within one.
            let length = data.length.next_multiple_of(BLOCK);
            data.file.set_len(length)?;
            extents.add(&data_name(index), length);
        }
        extents.fill(extents.length.next_multiple_of(ALIGNMENT));
        write(DESCRIPTOR, extents.descriptor(image.metadata()).as_bytes())?;
        syncfs(&File::open(directory)?)?;
        Ok(Disk {
            length: extents.length,
            metadata,
        })
    }
}

/// The files of a disk, one after the other.
#[derive(Default)]
struct Extents {
    lines: String,
    /// Length of all files together in bytes.
    length: u64,
}

impl Extents {
    /// Adds the first `length` bytes of a file.
    fn add(&mut self, name: &str, length: u64) {
        let sectors = length / BLOCK;
        if sectors > 0 {
            let _ = writeln!(self.lines, "RW {sectors} FLAT \"{name}\" 0");
        }
        self.length += length;
    }

    /// Adds zeros up to the offset `end`. They must be fewer than [`ALIGNMENT`].
    fn fill(&mut self, end: u64) {
        self.add(ZEROS, end - self.length);
    }

    fn descriptor(&self, metadata: &[u8]) -> String {
        let digest = Digest::sha256(metadata);
        let cylinders = (self.length / BLOCK / (HEADS * SECTORS)).clamp(1, CYLINDERS);
        format!(
            "# Disk DescriptorFile
version=1
CID={}
parentCID=ffffffff
createType=\"twoGbMaxExtentFlat\"

# Extent description
{}
# The Disk Data Base
#DDB
ddb.virtualHWVersion = \"4\"
ddb.geometry.cylinders = \"{cylinders}\"
ddb.geometry.heads = \"{HEADS}\"
ddb.geometry.sectors = \"{SECTORS}\"
ddb.adapterType = \"ide\"
",
            &digest.hex()[..8],
            self.lines
        )
    }
}
