//! Checks the superblock of an image that another program made, before the kernel mounts the image.
//!
//! Only the superblock, the list of data files and the inode of the root directory are checked. All
//! other metadata is unchecked, so this check does not protect the kernel from hostile images.

use std::fs::File;
use std::os::unix::fs::FileExt;

use cas_core::{Error, Result};

use crate::image::format::{CHECKSUM, DEVICE, INODE, MAGIC, SLOT, SUPERBLOCK, crc32c};
use cas_host::calls::undisturbed;

/// Length of the superblock in bytes.
const LENGTH: usize = 128;
/// The block sizes that the format allows, as exponents of two.
const BLOCK_BITS: std::ops::RangeInclusive<u8> = 9..=16;
/// The known features that a reader of an image must support: compressed and chunked files, tables
/// of data files, tails of files in inodes, fragments, and prefixes of attributes.
const KNOWN: u32 = 0x7f;
const FRAGMENTS: u32 = 0x20;
const PREFIXES: u32 = 0x40;
/// The length of an inode of the compact form in bytes.
const COMPACT: u64 = 32;
/// The bits of an inode's mode that hold the type of the inode, and their value for a directory.
const TYPE: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;

/// The superblock of an image.
struct Superblock([u8; LENGTH]);

impl Superblock {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }

    fn u16(&self, at: usize) -> u64 {
        u16::from_le_bytes(self.bytes(at)).into()
    }

    fn u32(&self, at: usize) -> u64 {
        u32::from_le_bytes(self.bytes(at)).into()
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

/// Checks the superblock of an EROFS image. The features of the image must be known, and all its
/// data must be in this file. Everything that the superblock refers to must be within the image,
/// and the image must be within the file. The root must be a directory.
///
/// # Errors
/// `Corrupt` for a file that is not an image or that is damaged; `Unsupported` for features that
/// are not known, or if the image needs other files; errors of the file system.
pub fn check_image(file: &File) -> Result<()> {
    let length = undisturbed(|| file.metadata())?.len();
    let mut found = Superblock([0; LENGTH]);
    if length < SUPERBLOCK + LENGTH as u64 {
        return Err(corrupt("the file is too short"));
    }
    file.read_exact_at(&mut found.0, SUPERBLOCK)?;
    if found.u32(0) != u64::from(MAGIC) {
        return Err(corrupt("the file does not have the magic number of EROFS"));
    }
    let bits = found.0[12];
    if !BLOCK_BITS.contains(&bits) {
        return Err(corrupt("its block size is below 512 or above 65536 bytes"));
    }
    let (compatible, features) = (found.u32(8) as u32, found.u32(80) as u32);
    let unknown = features & !KNOWN;
    if unknown != 0 || found.0[90] != 0 {
        return Err(Error::unsupported(format!(
            "expected an EROFS image with the directory block shift 0 and only the supported \
             feature bits {KNOWN:#x}, found the shift {} and the unsupported bits {unknown:#x}; \
             build the image without these features",
            found.0[90]
        )));
    }
    let block = 1 << bits;
    check_devices(file, &found, block, length)?;
    let size = found.u32(36) * block;
    if size > length || size < SUPERBLOCK + LENGTH as u64 + u64::from(found.0[13]) * 16 {
        return Err(corrupt(
            "the size in its superblock is larger than the file, or too small for the superblock",
        ));
    }
    if compatible & CHECKSUM != 0 && !has_checksum(file, &found, block.min(size))? {
        return Err(corrupt("the checksum of its superblock is wrong"));
    }
    let inode = |number: u64| {
        let offset = number.checked_mul(SLOT);
        offset.and_then(|offset| offset.checked_add(found.u32(40) * block))
    };
    let is_within = |at: Option<u64>, length: u64| {
        let end = at.and_then(|at| at.checked_add(length));
        end.is_some_and(|end| end <= size)
    };
    let root = inode(found.u16(14));
    let packed = inode(found.u64(96));
    if !is_within(root, COMPACT)
        || !is_within(Some(found.u32(44) * block), 0)
        || features & FRAGMENTS != 0 && !is_within(packed, COMPACT)
        || features & PREFIXES != 0 && !is_within(Some(found.u32(92) * 4), 0)
    {
        return Err(corrupt("its superblock refers to places outside the image"));
    }
    check_root(file, root.unwrap_or_default(), size)
}

/// Checks that each data file that an image lists is a part of the image's own file, which has
/// `length` bytes. A mount of such an image names no other files, so the kernel reads all data from
/// this file.
fn check_devices(file: &File, found: &Superblock, block: u64, length: u64) -> Result<()> {
    let table = found.u16(88) * DEVICE;
    for index in 0..found.u16(86) {
        let at = table + index * DEVICE;
        if at + DEVICE > length {
            return Err(corrupt("its list of data files is outside the file"));
        }
        // `blocks` and `start` follow the name of the data file. The name has 64 bytes.
        let mut slot = Superblock([0; LENGTH]);
        file.read_exact_at(&mut slot.0, at)?;
        let (blocks, start) = (slot.u32(64), slot.u32(68));
        if start == 0 || (start + blocks) * block > length {
            return Err(Error::unsupported(
                "the EROFS image needs other files for its data; build it as one file",
            ));
        }
    }
    Ok(())
}

/// Checks that the inode at the offset `at` of an image of `size` bytes is a directory.
fn check_root(file: &File, at: u64, size: u64) -> Result<()> {
    let mut inode = [0; 6];
    file.read_exact_at(&mut inode, at)?;
    let [format, mode] = [0, 4].map(|field| u16::from_le_bytes([inode[field], inode[field + 1]]));
    let length = match format & 1 {
        0 => COMPACT,
        _ => INODE,
    };
    if mode & TYPE != DIRECTORY || at + length > size {
        return Err(corrupt("its root is not a directory"));
    }
    Ok(())
}

/// Returns whether the checksum that the superblock states is correct. `end` is the end of the
/// first block. The checksum covers the bytes from the superblock to `end`. If the superblock does
/// not begin in the first block, the checksum covers as many bytes as a block has.
fn has_checksum(file: &File, found: &Superblock, end: u64) -> Result<bool> {
    let length = if end > SUPERBLOCK {
        end - SUPERBLOCK
    } else {
        end
    };
    let mut block = vec![0; length as usize];
    file.read_exact_at(&mut block, SUPERBLOCK)?;
    block[4..8].fill(0);
    Ok(u64::from(crc32c(&block)) == found.u32(4))
}

fn corrupt(why: &str) -> Error {
    Error::corrupt(format!(
        "expected an EROFS image, but {why}; get an intact copy or build it again"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cas_core::ErrorKind;
    use testkit::archive::Tar;

    use super::*;
    use crate::{Disk, Layers};

    /// Returns an image without data files: it has only an empty directory and a link.
    fn image(directory: &Path) -> Vec<u8> {
        let mut layers = Layers::new(directory);
        let tar = Tar::new().dir("dir/").symlink("link", "dir").end();
        layers.add(&mut &tar[..]).unwrap();
        let (tree, _) = layers.finish();
        crate::Image::new(&tree, &[]).unwrap().metadata().to_vec()
    }

    fn check(directory: &Path, bytes: &[u8]) -> Result<()> {
        let path = directory.join("image");
        std::fs::write(&path, bytes).unwrap();
        check_image(&File::open(path).unwrap())
    }

    #[test]
    fn each_field_that_can_be_checked_is_checked() {
        let temp = tempfile::tempdir().unwrap();
        let whole = image(temp.path());
        check(temp.path(), &whole).unwrap();
        check(temp.path(), &[&whole[..], b"more"].concat()).unwrap();
        for (field, bytes, kind) in [
            (0, &b"x"[..], ErrorKind::Corrupt),
            // The checksum, and what only the checksum covers.
            (4, b"x", ErrorKind::Corrupt),
            (48, b"uuid", ErrorKind::Corrupt),
            (12, &[8], ErrorKind::Corrupt),
            (12, &[63], ErrorKind::Corrupt),
            (36, &[0xff; 4], ErrorKind::Corrupt),
            (36, &[0; 4], ErrorKind::Corrupt),
            (80, &[0x80], ErrorKind::Unsupported),
            (83, &[0x80], ErrorKind::Unsupported),
            (86, &[1, 0], ErrorKind::Unsupported),
            (90, &[1], ErrorKind::Unsupported),
        ] {
            let error = refusal(temp.path(), &whole, field, bytes);
            assert_eq!(error.kind(), kind, "{field}: {error}");
        }
        for length in [0, 1023, 1024, 1151, 1152, whole.len() - 1] {
            let error = check(temp.path(), &whole[..length]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}");
        }
    }

    /// Returns the error of an image with these bytes in a field of the superblock.
    fn refusal(directory: &Path, whole: &[u8], field: usize, bytes: &[u8]) -> Error {
        let mut changed = whole.to_vec();
        let at = SUPERBLOCK as usize + field;
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        check(directory, &changed).unwrap_err()
    }

    #[test]
    fn what_the_superblock_refers_to_is_within_the_image() {
        let temp = tempfile::tempdir().unwrap();
        let mut whole = image(temp.path());
        // Without a checksum, the fields alone decide.
        whole[SUPERBLOCK as usize + 8] &= !1;
        check(temp.path(), &whole).unwrap();
        for (field, bytes) in [
            (14, &[0xff, 0xff][..]),
            // A slot in which no inode begins.
            (14, &[1, 0]),
            (40, &[0xff; 4]),
            (44, &[0xff; 4]),
        ] {
            let error = refusal(temp.path(), &whole, field, bytes);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{field}: {error}");
        }
        for (feature, field) in [(FRAGMENTS, 96), (PREFIXES, 92)] {
            let mut changed = whole.clone();
            let at = SUPERBLOCK as usize;
            changed[at + 80] |= feature as u8;
            check(temp.path(), &changed).unwrap();
            changed[at + field..at + field + 4].fill(0xff);
            let error = check(temp.path(), &changed).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{field}: {error}");
        }
    }

    /// The check may accept a changed image, but it must not panic.
    #[test]
    fn every_byte_of_the_superblock_may_have_any_value() {
        let temp = tempfile::tempdir().unwrap();
        let mut whole = image(temp.path());
        whole[SUPERBLOCK as usize + 8] &= !1;
        let mut refused = 0;
        for at in SUPERBLOCK as usize..SUPERBLOCK as usize + LENGTH {
            for value in [0, 0x7f, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                refused += usize::from(check(temp.path(), &changed).is_err());
            }
        }
        assert!(refused > 50, "{refused}");
    }

    #[test]
    fn data_files_are_parts_of_the_image_or_it_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let mut layers = Layers::new(temp.path());
        let tar = Tar::new().file("file", "content").end();
        layers.add(&mut &tar[..]).unwrap();
        let (tree, data) = layers.finish();
        let metadata = crate::Image::new(&tree, &data).unwrap().metadata().to_vec();
        let path = temp.path().join("disk");
        let file = std::fs::File::create(&path).unwrap();
        Disk::write(&tree, &data, &file).unwrap();
        let disk = std::fs::read(&path).unwrap();
        check(temp.path(), &disk).unwrap();
        for part in [&metadata[..], &disk[..metadata.len() + 512]] {
            let error = check(temp.path(), part).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
        let mut far = disk.clone();
        far[SUPERBLOCK as usize + 88..][..2].fill(0xff);
        let error = check(temp.path(), &far).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
