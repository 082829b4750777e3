//! Writes a tar archive, once, from start to end.

use bytes::Bytes;
use cas_core::{Error, Hasher, Result, pool};
use tar::{EntryType, Header};

use super::target::Out;

/// The block size of tar in bytes. Files are padded to whole blocks.
const BLOCK: u64 = 512;
/// Maximum length in bytes of a name in a header. A longer one needs a pax record.
const NAME: usize = 100;
/// Maximum size of a file in bytes that a header can have: eleven octal digits. A larger size needs
/// a pax record.
const OCTAL: u64 = 0o777_7777_7777;

/// An archive that is being written.
pub(super) struct Archive {
    /// `None` after a failed or cancelled write.
    out: Option<Out>,
}

impl Archive {
    /// Begins an archive.
    pub(super) fn new(out: Out) -> Self {
        Archive { out: Some(out) }
    }

    /// Adds a small file.
    pub(super) async fn file(&mut self, path: &str, data: Bytes) -> Result<()> {
        let size = data.len() as u64;
        self.begin(path, size).await?;
        self.write(move |out| Ok(out.write_all(&data)?)).await?;
        self.end(size).await
    }

    /// Begins a file of `size` bytes. [`Archive::piece`] adds bytes, and [`Archive::end`] ends it.
    pub(super) async fn begin(&mut self, path: &str, size: u64) -> Result<()> {
        let head = head(path, size);
        self.write(move |out| Ok(out.write_all(&head)?)).await
    }

    /// Adds bytes to the file, and hashes them. Returns the hasher.
    pub(super) async fn piece(&mut self, data: Bytes, mut hasher: Hasher) -> Result<Hasher> {
        self.write(move |out| {
            hasher.update(&data);
            out.write_all(&data)?;
            Ok(hasher)
        })
        .await
    }

    /// Ends a file of `size` bytes.
    pub(super) async fn end(&mut self, size: u64) -> Result<()> {
        let padding = vec![0; padding(size)];
        self.write(move |out| Ok(out.write_all(&padding)?)).await
    }

    /// Ends the archive.
    pub(super) async fn finish(mut self) -> Result<()> {
        self.write(|out| {
            out.write_all(&[0; 2 * BLOCK as usize])?;
            Ok(out.flush()?)
        })
        .await
    }

    /// Runs `work` on the pool, because writing may block. Returns its result.
    async fn write<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Out) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let out = self.out.take();
        let mut out =
            out.ok_or_else(|| Error::cancelled("an earlier write was not finished; export again"))?;
        let (out, done) = pool::run(move || {
            let done = work(&mut out).map_err(|error| error.operation("write archive"))?;
            Ok((out, done))
        })
        .await?;
        self.out = Some(out);
        Ok(done)
    }
}

/// Returns the header blocks of a file. What does not fit into its header is in a pax header
/// before it.
fn head(path: &str, size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    if path.len() > NAME {
        records.extend(record("path", path));
    }
    if size > OCTAL {
        records.extend(record("size", &size.to_string()));
    }
    let mut head = Vec::new();
    if !records.is_empty() {
        head = header("pax", EntryType::XHeader, records.len() as u64);
        head.extend_from_slice(&records);
        head.resize(head.len() + padding(records.len() as u64), 0);
    }
    let size = if size > OCTAL { 0 } else { size };
    head.extend(header(path, EntryType::Regular, size));
    head
}

/// Returns a header block. If the path is too long for it, the header has the beginning of the
/// path.
fn header(path: &str, kind: EntryType, size: u64) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let name = &path.as_bytes()[..path.len().min(NAME)];
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Returns a pax record: its own length, a space, key and value.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK) as usize
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;
    use crate::tar::Reader;

    #[test]
    fn sizes_beyond_octal_are_read_back() {
        for (size, blocks) in [(0, 1), (OCTAL, 1), (OCTAL + 1, 3), (64 << 30, 3)] {
            let head = head("blobs/sha256/ab", size);
            assert_eq!(head.len() as u64, blocks * BLOCK, "{size}");
            let mut reader = Reader::new(BufReader::new(&head[..]));
            let entry = reader.next_entry().unwrap().unwrap();
            assert_eq!(
                (entry.size, &entry.path[..]),
                (size, &b"blobs/sha256/ab"[..])
            );
        }
    }

    #[test]
    fn long_names_are_read_back() {
        for (length, blocks) in [(1, 1), (NAME, 1), (NAME + 1, 3), (141, 3), (255, 3)] {
            for (size, more) in [(7, 0), (OCTAL + 1, u64::from(blocks == 1) * 2)] {
                let path = "n".repeat(length);
                let head = head(&path, size);
                assert_eq!(
                    head.len() as u64,
                    (blocks + more) * BLOCK,
                    "{length} {size}"
                );
                let mut reader = Reader::new(BufReader::new(&head[..]));
                let entry = reader.next_entry().unwrap().unwrap();
                assert_eq!((entry.size, entry.path), (size, path.into_bytes()));
                assert!(reader.warnings().is_empty());
            }
        }
    }

    #[test]
    fn files_end_on_blocks() {
        for (size, expected) in [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)] {
            assert_eq!(padding(size), expected, "{size}");
        }
    }
}
