//! Reads layers: their tars become data files, and their members are merged.

use std::fs::File;
use std::io::{BufRead, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cas_core::{Error, Result};
use cas_layer::tar::{Entry, EntryKind, Excerpt, Reader, Region};

use crate::BLOCK;
use crate::headers::HeaderReader;
use crate::stored::StoredReader;
use crate::tree::{Content, Tree};
use crate::vmdk::data_name;
use cas_host::calls::undisturbed;

/// Alignment in bytes of each file in the data file for sparse files, and of each data file in an
/// image. File systems can share blocks of this size between files.
pub(crate) const ALIGNMENT: u64 = 4096;

/// Size in bytes of the buffer for the data of sparse files.
const PIECE: usize = 64 << 10;

/// The layers of one image. The lowest layer must be added first.
pub struct Layers {
    directory: PathBuf,
    /// Whether the data files have names.
    named: bool,
    tree: Tree,
    data: Vec<DataFile>,
    /// Index of the data file for sparse files.
    sparse: Option<usize>,
}

/// A file with the data of files of the tree: the tar of a layer, or the content of all sparse
/// files. For a layer that [`Layers::add_members`] has added, the data file is the file that the
/// caller passed, which need not be a tar.
pub struct DataFile {
    /// The open file. A file that [`Layers`] has made has a name in a directory only if the caller
    /// used [`Layers::named`].
    pub file: File,
    /// Length of the data in bytes.
    pub length: u64,
}

/// A file of a layer that is applied when its data has been read.
struct Pending {
    entry: Entry,
    content: Content,
    /// Number of bytes of the file in its last block, which the file does not fill.
    rest: usize,
}

impl Layers {
    /// Returns an empty list of layers. [`Layers::add`] makes data files in the file system of
    /// `directory`, without names, so that a killed process leaves no files behind.
    pub fn new(directory: &Path) -> Self {
        Layers {
            directory: directory.to_owned(),
            named: false,
            tree: Tree::default(),
            data: Vec::new(),
            sparse: None,
        }
    }

    /// Returns an empty list of layers. [`Layers::add`] makes data files in `directory`, for
    /// [`Disk::write_vmdk`](crate::Disk::write_vmdk). The caller must remove them after an error.
    pub fn named(directory: &Path) -> Self {
        Layers {
            named: true,
            ..Layers::new(directory)
        }
    }

    /// Reads the next layer, an uncompressed tar, to its end. Returns warnings about what was
    /// unusual or left out. Their number is bounded as in
    /// [`Applied::warnings`](cas_layer::apply::Applied::warnings).
    ///
    /// # Errors
    /// `Corrupt` for a malformed archive or a member that cannot be applied; `OutOfRange` if a
    /// bound of [`limit`](cas_core::limit) is exceeded, or if all sparse files together need 2^63
    /// bytes or more; errors of `input` and of the file system. A caller must not use the layers
    /// after an error.
    pub fn add(&mut self, input: &mut dyn BufRead) -> Result<Vec<String>> {
        let source = self.begin_data()?;
        self.tree.begin_layer();
        let tar = self.data[source].file.try_clone()?;
        let mut reader = Reader::new(StoredReader::new(input, &tar));
        let mut pending: Option<Pending> = None;
        loop {
            // This also reads what follows the data of the pending file.
            let next = reader.next_entry()?;
            if let Some(mut file) = pending.take() {
                file.content.tail = tail(reader.get_ref().kept_block(), file.rest);
                self.tree.apply(&file.entry, file.content)?;
            }
            let Some(entry) = next else {
                break;
            };
            let content = match (&entry.kind, &entry.regions) {
                (EntryKind::File, Some(regions)) => {
                    self.store_sparse(entry.size, regions, &mut reader)?
                }
                (EntryKind::File, None) => Content {
                    size: entry.size,
                    source,
                    offset: reader.get_ref().position(),
                    tail: None,
                },
                _ => Content::default(),
            };
            let rest = match entry.regions {
                None => (content.size % BLOCK) as usize,
                // Zeros follow each file in the data file for sparse files.
                Some(_) => 0,
            };
            if rest == 0 {
                self.tree.apply(&entry, content)?;
                continue;
            }
            let last = content.offset + content.size - rest as u64;
            reader.get_mut().keep_block(last);
            pending = Some(Pending {
                entry,
                content,
                rest,
            });
        }
        let mut warnings = self.tree.take_warnings();
        warnings.extend(reader.warnings());
        self.data[source].length = reader.into_inner().finish()?;
        Ok(warnings)
    }

    /// Reads the next layer, an uncompressed tar, from `file`. Starts at the beginning of the file,
    /// whatever its current position is. The file itself becomes a data file. Of each member that
    /// is not a sparse file, only the headers and the incomplete last block are needed, and most of
    /// the other data is not read. The data of sparse files is copied to the data file for sparse
    /// files. Returns warnings about what was unusual or left out.
    ///
    /// # Errors
    /// As [`Layers::add`].
    pub fn add_file(&mut self, file: File) -> Result<Vec<String>> {
        let length = undisturbed(|| file.metadata())?.len();
        let headers = file.try_clone()?;
        let source = self.data.len();
        self.data.push(DataFile { file, length });
        self.tree.begin_layer();
        let mut reader = Reader::new(HeaderReader::new(&headers));
        while let Some(entry) = reader.next_entry()? {
            let content = match (&entry.kind, &entry.regions) {
                (EntryKind::File, Some(regions)) => {
                    self.store_sparse(entry.size, regions, &mut reader)?
                }
                (EntryKind::File, None) => {
                    let offset = reader.skip_body_seek()?;
                    self.locate(source, offset, entry.size, reader.get_mut())?
                }
                _ => Content::default(),
            };
            self.tree.apply(&entry, content)?;
        }
        for warning in reader.warnings() {
            self.tree.warn(&warning);
        }
        Ok(self.tree.take_warnings())
    }

    /// Adds the next layer from a list of its members, without reading a tar. `file` is the data
    /// file of the layer, and `length` is the length of the data file in bytes. Neither this method
    /// nor [`Image::new`](crate::Image::new) reads `file`, so a caller that does not make a
    /// [`Disk`] may pass any file. Returns warnings about what was unusual or left out.
    ///
    /// Each member comes with the offset of its content in the data file, a multiple of 512. The
    /// content must be followed by zeros up to the next multiple of 512. No member may be a sparse
    /// file.
    ///
    /// # Errors
    /// As [`Entry::check`] for the values of a member; `Corrupt` for a member that cannot be
    /// applied, for a sparse file, and for content that is not within the data file or whose offset
    /// is not a multiple of 512; `OutOfRange` if a bound of [`limit`](cas_core::limit) is exceeded.
    /// A caller must not use the layers after an error.
    ///
    /// [`Disk`]: crate::Disk
    pub fn add_members<'a>(
        &mut self,
        file: File,
        length: u64,
        members: impl Iterator<Item = (&'a Entry, u64)>,
    ) -> Result<Vec<String>> {
        let source = self.data.len();
        self.data.push(DataFile { file, length });
        self.tree.begin_layer();
        for (entry, offset) in members {
            entry.check()?;
            let end = offset.checked_add(entry.size);
            let is_inside = offset % BLOCK == 0 && end.is_some_and(|end| end <= length);
            if entry.kind == EntryKind::File && (entry.regions.is_some() || !is_inside) {
                return Err(Error::corrupt(
                    "a member is a sparse file, or its content is not in blocks of the data file; \
                     build the image again",
                )
                .subject(Excerpt(&entry.path)));
            }
            let content = match entry.kind {
                EntryKind::File => Content {
                    size: entry.size,
                    source,
                    offset,
                    tail: None,
                },
                _ => Content::default(),
            };
            self.tree.apply(entry, content)?;
        }
        Ok(self.tree.take_warnings())
    }

    /// Returns the content of a file whose data is in a stored tar.
    fn locate(
        &self,
        source: usize,
        offset: u64,
        size: u64,
        tar: &mut HeaderReader<'_>,
    ) -> Result<Content> {
        let length = self.data[source].length;
        let end = offset.checked_add(size).filter(|end| *end <= length);
        let end = end.ok_or_else(|| {
            Error::corrupt("the archive ends within the data of a member; get an intact copy")
        })?;
        let rest = (size % BLOCK) as usize;
        let tail = match rest {
            0 => None,
            // The headers of the next member follow, and are read with the block.
            _ => tail(tar.block(end - rest as u64)?, rest),
        };
        Ok(Content {
            size,
            source,
            offset,
            tail,
        })
    }

    /// Returns the index of the data file with the content of all sparse files, or `None` if no
    /// layer has sparse files.
    pub fn sparse(&self) -> Option<usize> {
        self.sparse
    }

    /// Returns the merged tree and the data files.
    pub fn finish(self) -> (Tree, Vec<DataFile>) {
        (self.tree, self.data)
    }

    /// Makes the next data file. Returns its index.
    fn begin_data(&mut self) -> Result<usize> {
        let index = self.data.len();
        let file = match self.named {
            true => File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(self.directory.join(data_name(index)))?,
            false => tempfile::tempfile_in(&self.directory)?,
        };
        self.data.push(DataFile { file, length: 0 });
        Ok(index)
    }

    /// Stores a sparse file in the data file for sparse files. Only its regions are written. The
    /// holes between them take no space. Returns where the sparse file is.
    fn store_sparse(
        &mut self,
        size: u64,
        regions: &[Region],
        data: &mut impl Read,
    ) -> Result<Content> {
        let source = match self.sparse {
            Some(source) => source,
            None => self.begin_data()?,
        };
        self.sparse = Some(source);
        let DataFile { file, length } = &mut self.data[source];
        let offset = length.next_multiple_of(ALIGNMENT);
        let mut buffer = vec![0; PIECE];
        for region in regions {
            let (mut at, end) = (region.offset, region.offset + region.length);
            while at < end {
                let amount = PIECE.min((end - at) as usize);
                let piece = &mut buffer[..amount];
                data.read_exact(piece)?;
                file.write_all_at(piece, offset + at)?;
                at += amount as u64;
            }
        }
        *length = offset
            .checked_add(size.next_multiple_of(BLOCK))
            .filter(|&length| i64::try_from(length).is_ok())
            .ok_or_else(|| {
                Error::out_of_range(
                    "the sparse files have more than 2^63 - 1 bytes together; build the image with \
                     smaller files",
                )
            })?;
        file.set_len(*length)?;
        Ok(Content {
            size,
            source,
            offset,
            tail: None,
        })
    }
}

/// Returns the last `rest` bytes of a file, or `None` if an image can use the block that contains
/// them. An image cannot use a block that is incomplete, or in which anything but zeros follows the
/// bytes.
fn tail(block: &[u8], rest: usize) -> Option<Box<[u8]>> {
    let (data, padding) = block.split_at(rest.min(block.len()));
    let is_usable = block.len() as u64 == BLOCK && padding.iter().all(|&byte| byte == 0);
    (!is_usable).then(|| data.into())
}

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn a_block_that_an_image_cannot_use_is_kept() {
        let mut block = vec![0; 512];
        block[0] = b'x';
        assert_eq!(tail(&block, 1), None);
        assert_eq!(tail(&block[..10], 1).as_deref(), Some(&b"x"[..]));
        block[511] = 1;
        assert_eq!(tail(&block, 1).as_deref(), Some(&b"x"[..]));
        assert_eq!(tail(&block, 511).as_deref(), Some(&block[..511]));
    }

    /// Returns the metadata of one layer with these members, whose data file has 1024 bytes.
    fn add(members: &[(Entry, u64)]) -> Result<Vec<u8>> {
        let mut layers = Layers::new(Path::new("."));
        let members = members.iter().map(|(entry, offset)| (entry, *offset));
        layers.add_members(tempfile::tempfile()?, 1024, members)?;
        let (tree, data) = layers.finish();
        Ok(crate::Image::new(&tree, &data)?.metadata().to_vec())
    }

    #[test]
    fn members_that_no_image_can_store_are_refused() {
        let file = |name: usize, size| Entry::plain(vec![b'n'; name], EntryKind::File, 0o644, size);
        let metadata = add(&[(file(255, 512), 512)]).unwrap();
        assert!(metadata.windows(255).any(|bytes| bytes == [b'n'; 255]));
        for length in [256, 600, 4000] {
            let error = add(&[(file(length, 0), 0)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        }
        let link = |target| {
            let kind = EntryKind::Symlink(vec![b't'; target]);
            Entry::plain("link", kind, 0o777, 0)
        };
        assert!(add(&[(link(4095), 0)]).is_ok());
        for target in [0, 4096] {
            let error = add(&[(link(target), 0)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        let sparse = Entry {
            regions: Some(Vec::new()),
            ..file(1, 512)
        };
        for (entry, offset) in [
            (file(1, 513), 512),
            (file(1, 1), 100),
            (file(1, 1), u64::MAX - 511),
            (sparse, 0),
        ] {
            let error = add(&[(entry, offset)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{offset}: {error}");
        }
    }
}
