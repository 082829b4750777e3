//! Sizes and numbers of the EROFS format. All sizes are in bytes.

/// Offset of the superblock in bytes.
pub(crate) const SUPERBLOCK: u64 = 1024;
/// Offset of the table of data files, directly after the superblock.
pub(super) const DEVICES: u64 = SUPERBLOCK + 128;
/// Size of a slot of the table.
pub(crate) const DEVICE: u64 = 128;
/// The number of an inode is its offset in units of this size.
pub(crate) const SLOT: u64 = 32;
/// Size of an inode of the extended form.
pub(crate) const INODE: u64 = 64;
/// Size of the header of an inode's attributes.
pub(super) const ATTRIBUTES: u64 = 12;
/// Size of an entry of a directory, without its name.
pub(super) const ENTRY: usize = 12;

pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum.
pub(crate) const CHECKSUM: u32 = 1;
/// The superblock has a checksum, and inodes have their own times.
pub(super) const COMPATIBLE: u32 = CHECKSUM | 2;
/// There is a table of data files.
pub(super) const DEVICE_TABLE: u32 = 8;

/// How the data of an inode is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// In blocks.
    Plain = 0,
    /// In blocks, and the last incomplete block after the inode.
    Inline = 2,
}

/// Types of directory entries.
pub(super) mod kind {
    pub(in crate::image) const FILE: u8 = 1;
    pub(in crate::image) const DIRECTORY: u8 = 2;
    pub(in crate::image) const CHAR: u8 = 3;
    pub(in crate::image) const BLOCK: u8 = 4;
    pub(in crate::image) const FIFO: u8 = 5;
    pub(in crate::image) const SYMLINK: u8 = 7;
}

/// Returns the CRC-32C of bytes without the final inversion.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let polynomial = 0x82f6_3b78 & (crc & 1).wrapping_neg();
            crc = crc >> 1 ^ polynomial;
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_has_the_known_value() {
        assert_eq!(!super::crc32c(b"123456789"), 0xe306_9283);
    }
}
