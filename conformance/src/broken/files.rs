//! Content stores on files, to test the laws that kill a process at a system call or make the call
//! fail. One store works correctly. Each of the others has one fault. The stores implement only
//! what these laws use. An ingest is never resumed: it always begins at offset 0.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, IngestStatus, Stat, Verified, Version};
use cas_core::records::Batch;
use cas_core::{
    Algorithm, BlobReader, Capabilities, Capability, ContentStore, Digest, Error, ErrorKind,
    Ingest, Result,
};

/// The fault of a [`FileStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFault {
    /// No fault: the store writes, syncs, renames and syncs the directory.
    None,
    /// A publish syncs nothing.
    AcknowledgesBeforeSyncing,
    /// The store does not sync the directory after a rename.
    ForgetsTheDirectorySync,
    /// The store renames the file before it writes the bytes.
    RenamesBeforeItHasWritten,
    /// A publish ignores errors of syncs.
    IgnoresFailedSyncs,
    /// A publish repeats a failed sync, and relies on the second result.
    RetriesFailedSyncs,
    /// The store ignores errors of writes, such as those of a full disk.
    IgnoresAFullDisk,
}

use FileFault as Fault;

/// A content store on files, with at most one fault.
pub struct FileStore {
    dir: PathBuf,
    fault: Fault,
}

impl FileStore {
    /// Opens the store in `dir`, and creates it if there is none. Returns the store.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn open(dir: PathBuf, fault: FileFault) -> Result<Arc<dyn ContentStore>> {
        let store = FileStore { dir, fault };
        fs::create_dir_all(store.dir.join("blobs"))?;
        fs::create_dir_all(store.dir.join("ingests"))?;
        File::open(&store.dir)?.sync_all()?;
        Ok(Arc::new(store))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }
}

/// Returns the value of `outcome`, or `None` if its error is `NotFound`.
fn there<T>(outcome: std::io::Result<T>) -> Result<Option<T>> {
    match outcome.map_err(Error::from) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

#[async_trait]
impl ContentStore for FileStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::of(&[Capability::Durable])
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let found = there(fs::metadata(self.blob(digest)))?;
        Ok(found.map(|found| Stat {
            digest: *digest,
            size: found.len(),
            version: Version(found.ino()),
        }))
    }

    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        let found = there(File::open(self.blob(digest)))?;
        Ok(found.map(|file| Arc::new(Reader(file)) as _))
    }

    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        let name = Digest::sha256(key.as_bytes()).hex();
        let path = self.dir.join("ingests").join(name);
        Ok(Box::new(Writing {
            key: key.to_owned(),
            file: File::create(&path)?,
            path,
            dir: self.dir.join("blobs"),
            held: Vec::new(),
            fault: self.fault,
        }))
    }

    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        Ok(Vec::new())
    }

    async fn discard(&self, _: &str) -> Result<bool> {
        Ok(false)
    }

    async fn remove_version(&self, digest: &Digest, version: Version) -> Result<bool> {
        let found = self.stat(digest).await?;
        if found.is_none_or(|found| found.version != version) {
            return Ok(false);
        }
        fs::remove_file(self.blob(digest))?;
        Ok(true)
    }

    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        let mut page = Vec::new();
        for entry in fs::read_dir(self.dir.join("blobs"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let digest: Digest = format!("{}:{name}", Algorithm::Sha256.name()).parse()?;
            if after.is_none_or(|after| digest > *after) {
                page.extend(self.stat(&digest).await?);
            }
        }
        page.sort_by_key(|stat| stat.digest);
        page.truncate(limit);
        Ok(page)
    }

    async fn flush(&self) -> Result<()> {
        Ok(File::open(self.dir.join("blobs"))?.sync_all()?)
    }
}

struct Reader(File);

#[async_trait]
impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.0.metadata().map_or(0, |found| found.len())
    }

    async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes> {
        let rest = self.size().saturating_sub(offset);
        let mut data = vec![0; length.min(usize::try_from(rest).unwrap_or(length))];
        self.0.read_exact_at(&mut data, offset)?;
        Ok(data.into())
    }
}

struct Writing {
    key: String,
    file: File,
    path: PathBuf,
    dir: PathBuf,
    /// All bytes that were appended since the last rewind.
    held: Vec<u8>,
    fault: Fault,
}

impl Writing {
    fn sync(&self, path: &Path) -> Result<()> {
        if self.fault == Fault::AcknowledgesBeforeSyncing {
            return Ok(());
        }
        match File::open(path)?.sync_all() {
            Err(_) if self.fault == Fault::IgnoresFailedSyncs => Ok(()),
            Err(_) if self.fault == Fault::RetriesFailedSyncs => Ok(File::open(path)?.sync_all()?),
            outcome => Ok(outcome?),
        }
    }
}

#[async_trait]
impl Ingest for Writing {
    fn key(&self) -> &str {
        &self.key
    }

    fn offset(&self) -> u64 {
        self.held.len() as u64
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        match self.fault {
            Fault::RenamesBeforeItHasWritten => {}
            Fault::IgnoresAFullDisk => drop(self.file.write_all(&data)),
            _ => self.file.write_all(&data)?,
        }
        self.held.extend_from_slice(&data);
        Ok(())
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let rest = self.held.iter().skip(usize::try_from(offset).unwrap());
        Ok(rest.take(length).copied().collect())
    }

    async fn rewind(&mut self) -> Result<()> {
        self.held.clear();
        self.file = File::create(&self.path)?;
        Ok(())
    }

    async fn publish(
        mut self: Box<Self>,
        verified: &Verified,
        _: &Batch,
        _: Durability,
    ) -> Result<bool> {
        verified.check(&self.key, self.offset())?;
        let named = self.dir.join(verified.digest().hex());
        if self.fault == Fault::RenamesBeforeItHasWritten {
            fs::rename(&self.path, &named)?;
            self.file.write_all(&self.held)?;
            self.sync(&named)?;
            self.sync(&self.dir)?;
            return Ok(false);
        }
        self.sync(&self.path)?;
        fs::rename(&self.path, &named)?;
        if self.fault != Fault::ForgetsTheDirectorySync {
            self.sync(&self.dir)?;
        }
        Ok(false)
    }
}
