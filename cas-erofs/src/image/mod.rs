//! The metadata of a tree in the format of EROFS: the superblock, a table of the data files, and
//! all inodes with their names, attributes, and targets of links. The data of files stays in the
//! data files. If the incomplete last block of a file is not padded with zeros in the data file,
//! the metadata contains a copy of the bytes of the file in this block.
//!
//! Source: fs/erofs/erofs_fs.h of Linux 6.12. All numbers are little-endian.

mod attributes;
mod directory;
pub(crate) mod format;
mod layout;
mod write;

use cas_core::{Error, Result};

use crate::BLOCK;
use crate::layers::{ALIGNMENT, DataFile};
use crate::tree::Tree;
use layout::Layout;

/// Maximum number of blocks of an image, because their addresses have 32 bits.
const BLOCKS: u64 = u32::MAX as u64;

/// The metadata of a merged tree, and the offsets of the data files in the image.
pub struct Image {
    metadata: Vec<u8>,
    /// Offsets of the data files in bytes, from the beginning of the metadata.
    starts: Vec<u64>,
}

impl Image {
    /// Makes the metadata of a tree. The contents of its files are in `data`. Returns the image.
    ///
    /// # Errors
    /// `OutOfRange` if the image would have at least 2^32 blocks, each of 512 bytes, or if the
    /// extended attributes of a file take more bytes than the format allows.
    pub fn new(tree: &Tree, data: &[DataFile]) -> Result<Self> {
        let layout = Layout::new(tree, data.len())?;
        let mut starts = Vec::with_capacity(data.len());
        let mut end = layout.length;
        for file in data {
            starts.push(end);
            end = end.saturating_add(file.length).next_multiple_of(ALIGNMENT);
        }
        if end / BLOCK > BLOCKS {
            return Err(Error::out_of_range(format!(
                "the image has {end} bytes; at most {} are possible; build it with smaller layers",
                BLOCKS * BLOCK
            )));
        }
        let metadata = write::metadata(tree, &layout, data, &starts);
        Ok(Image { metadata, starts })
    }

    /// Returns the metadata. Its length in bytes is a multiple of 4096.
    pub fn metadata(&self) -> &[u8] {
        &self.metadata
    }

    /// Returns the offset of each data file in bytes, from the beginning of the metadata. Each
    /// offset is a multiple of 4096.
    pub fn starts(&self) -> &[u64] {
        &self.starts
    }
}
