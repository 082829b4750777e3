//! One file with everything: the metadata and the data files, at the offsets that the metadata
//! expects. The file can be mounted, on a loop device or as the disk of a virtual machine.

use std::fs::File;
use std::io::Write;

use cas_core::{Error, Result};
use cas_host::calls::undisturbed;
use cas_host::{copy_data, fill};

use crate::image::Image;
use crate::layers::{ALIGNMENT, DataFile};
use crate::tree::Tree;

/// Number of bytes of a data file that are written to a pipe or a device at once.
const PIECE: usize = 256 << 10;

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
    /// Makes the image of a tree, and writes the image and the data files to `out`: an empty file,
    /// a pipe or a device. Returns the size of what was written.
    ///
    /// # Errors
    /// As [`Image::new`]; errors of the file system.
    pub fn write(tree: &Tree, data: &[DataFile], out: &File) -> Result<Self> {
        Image::new(tree, data)?.write_disk(data, out)
    }

    /// Writes an image and its data files to `out`: an empty file, a pipe or a device. The metadata
    /// of the image is copied from the file `metadata`. The data files must be in the order in
    /// which the image numbers them. Returns the size of what was written.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn join(metadata: &DataFile, data: &[DataFile], out: &File) -> Result<Self> {
        match is_file(out)? {
            true => copy_data(&metadata.file, metadata.length, out, 0)?,
            false => write_data(metadata, out)?,
        }
        append(data, metadata.length, out)
    }
}

/// Returns whether a disk is written to a file. A pipe or a device is written from start to end,
/// and holes are written as zeros.
fn is_file(out: &File) -> Result<bool> {
    Ok(undisturbed(|| out.metadata())?.is_file())
}

/// Writes data files, after `metadata` bytes of metadata. In a file, they share blocks with the
/// data files if the file system supports that.
fn append(data: &[DataFile], metadata: u64, out: &File) -> Result<Disk> {
    let is_file = is_file(out)?;
    let mut length = metadata;
    for data in data {
        let end = length + data.length;
        let aligned = end.next_multiple_of(ALIGNMENT);
        if is_file {
            copy_data(&data.file, data.length, out, length)?;
        } else {
            write_data(data, out)?;
            let mut out = out;
            out.write_all(&[0; ALIGNMENT as usize][..(aligned - end) as usize])?;
        }
        length = aligned;
    }
    if is_file {
        out.set_len(length)?;
    }
    Ok(Disk { length, metadata })
}

/// Writes a data file to a pipe or a device.
fn write_data(data: &DataFile, mut out: &File) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < data.length {
        let most = usize::try_from(data.length - at).map_or(PIECE, |left| left.min(PIECE));
        let piece = &mut buffer[..most];
        if fill(&data.file, piece, at)? < most {
            return Err(Error::precondition(
                "a data file became shorter while it was copied; repeat the command when no \
                 program changes the file",
            ));
        }
        out.write_all(piece)?;
        at += most as u64;
    }
    Ok(())
}

impl Image {
    /// Writes the metadata and the data files to `out`: an empty file, a pipe or a device. Returns
    /// the size of what was written.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn write_disk(&self, data: &[DataFile], out: &File) -> Result<Disk> {
        let mut out = out;
        out.write_all(self.metadata())?;
        append(data, self.metadata().len() as u64, out)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use cas_core::ErrorKind;

    use super::*;

    fn data(bytes: &[u8], length: u64) -> DataFile {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(length).unwrap();
        DataFile { file, length }
    }

    #[test]
    fn a_pipe_gets_the_bytes_of_the_file() {
        let tree = Tree::default();
        // The first file ends with a hole, and neither has a multiple of 4096 bytes.
        let files = [data(&[1; 700], 300_032), data(&[2; 1536], 1536)];
        let mut file = tempfile::tempfile().unwrap();
        let written = Disk::write(&tree, &files, &file).unwrap();
        let mut expected = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut expected).unwrap();
        assert_eq!(expected.len() as u64, written.length);
        let image = Image::new(&tree, &files).unwrap();
        let metadata = data(image.metadata(), image.metadata().len() as u64);
        let write = |joins: bool, out: &File| match joins {
            true => Disk::join(&metadata, &files, out),
            false => Disk::write(&tree, &files, out),
        };
        for joins in [false, true] {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let reading = std::thread::spawn(move || {
                let mut read = Vec::new();
                reader.read_to_end(&mut read).unwrap();
                read
            });
            let writer = File::from(OwnedFd::from(writer));
            assert_eq!(write(joins, &writer).unwrap(), written);
            drop(writer);
            assert!(reading.join().unwrap() == expected);
        }
        let short = [DataFile {
            length: 4096,
            ..data(&[3; 10], 10)
        }];
        let null = File::options().write(true).open("/dev/null").unwrap();
        let error = Disk::write(&tree, &short, &null).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    }
}
