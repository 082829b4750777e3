//! Bytes on their way in. Where the key is a digest, as it is for most, `ingest/KEY` holds them and
//! is the lock: what a blob costs is one file. Else `ingest/HASH` holds them, and `ingest/HASH.key`,
//! the lock, says whose they are.
//!
//! Bytes of an earlier run of the kernel may be torn. The first opening in another drops them; a
//! key file begins with the run in which the ingest was begun.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::content::{Durability, IngestStatus, Verified};
use cas_core::records::Batch;
use cas_core::{Context, Digest, Error, Ingest, Result, limit, pool};
use cas_host::{Dir, Lock, begin_write, copy_range};
use rustix::fs::OFlags;

use crate::publish::Pending;
use crate::reader::{self, INLINE};
use crate::shared::Shared;

/// Longest key file: a boot id, a line feed and a key.
const KEY_FILE: u64 = 64 + limit::KEY as u64;
const SUFFIX: &str = ".key";
/// Bytes from which on the device is set to work before the publish.
const LARGE: usize = 256 << 10;

/// One ingest, locked by this process.
pub(crate) struct FsIngest {
    shared: Arc<Shared>,
    staged: Staged,
    key: String,
    offset: u64,
    poisoned: bool,
}

/// The files of an ingest and the lock on them.
pub(crate) struct Staged {
    pub(crate) name: String,
    pub(crate) file: Arc<File>,
    /// Released when all is done, by work on the pool that nobody waits for any more as well.
    lock: Arc<Lock>,
}

impl FsIngest {
    /// Begins the ingest or resumes it.
    pub(crate) fn begin(shared: Arc<Shared>, key: &str) -> Result<Self> {
        let dir = shared.ingests()?;
        let name = name_of(key);
        let (lock, file) = match says_its_key(&name) {
            true => lock_bytes(dir, &name)?,
            false => lock_key(dir, &name, &shared.boot, key)?,
        };
        let offset = file.metadata()?.len();
        let staged = Staged {
            name,
            file: Arc::new(file),
            lock: Arc::new(lock),
        };
        Ok(FsIngest {
            shared,
            staged,
            key: key.to_owned(),
            offset,
            poisoned: false,
        })
    }

    /// Adds what `write` puts behind the bytes that are there, at most `length`; how much that is.
    async fn grow<F>(&mut self, length: usize, write: F) -> Result<usize>
    where
        F: FnOnce(&File, u64) -> io::Result<usize> + Send + 'static,
    {
        self.check_usable()?;
        // Until all is written: a dropped future leaves an end that nobody knows.
        self.poisoned = true;
        let (file, offset) = (Arc::clone(&self.staged.file), self.offset);
        let lock = Arc::clone(&self.staged.lock);
        let work = move || {
            let _held = lock;
            let written = write(&file, offset).map_err(|error| {
                // What was written of it would only hold space that is missing.
                let _ = file.set_len(offset);
                Error::from(error)
            })?;
            if written >= LARGE {
                begin_write(&*file, offset, written as u64);
            }
            Ok(written)
        };
        let written = match length <= INLINE {
            true => work(),
            false => pool::run(work).await,
        };
        let written = written.during("append to ingest", &self.key)?;
        self.offset += written as u64;
        self.poisoned = false;
        Ok(written)
    }

    fn check_usable(&self) -> Result<()> {
        match self.poisoned {
            false => Ok(()),
            true => Err(
                Error::precondition("an earlier write failed; begin the ingest anew")
                    .subject(&self.key),
            ),
        }
    }
}

#[async_trait]
impl Ingest for FsIngest {
    fn key(&self) -> &str {
        &self.key
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let length = data.len();
        let write = move |file: &File, offset| {
            file.write_all_at(&data, offset)?;
            Ok(length)
        };
        self.grow(length, write).await.map(|_| ())
    }

    async fn adopt(&mut self, from: &Arc<File>, at: u64, length: usize) -> Result<usize> {
        let from = Arc::clone(from);
        let share = move |file: &File, offset| copy_range(&from, at, file, offset, length);
        self.grow(length, share).await
    }

    async fn read_back(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let left = self.offset.saturating_sub(offset);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        let file = Arc::clone(&self.staged.file);
        pool::run(move || reader::read(&file, offset, length))
            .await
            .during("read ingest", &self.key)
    }

    async fn rewind(&mut self) -> Result<()> {
        self.check_usable()?;
        self.staged.file.set_len(0).during("rewind", &self.key)?;
        self.offset = 0;
        Ok(())
    }

    async fn publish(
        self: Box<Self>,
        verified: &Verified,
        _batch: &Batch,
        durability: Durability,
    ) -> Result<bool> {
        self.check_usable()?;
        verified.check(&self.key, self.offset)?;
        let pending = Pending {
            staged: self.staged,
            digest: *verified.digest(),
            size: self.offset,
        };
        let shared = self.shared;
        let published = match durability {
            Durability::Batched => shared.publish_with_others(pending).await,
            Durability::Full => pool::run(move || shared.publish(&pending)).await,
            Durability::Relaxed => pool::run(move || shared.publish_unsynced(&pending)).await,
        };
        // The records have their own file: cas-core commits the batch there.
        published
            .during("publish", verified.digest())
            .map(|()| false)
    }
}

impl Staged {
    /// Removes the files; the lock is held until the end.
    pub(crate) fn remove(&self, dir: &Dir) -> Result<()> {
        dir.remove(&*self.name)?;
        self.forget(dir)
    }

    /// Removes the key file of an ingest whose bytes have a new name.
    pub(crate) fn forget(&self, dir: &Dir) -> Result<()> {
        if !says_its_key(&self.name) {
            dir.remove(&*lock_name(&self.name))?;
        }
        Ok(())
    }
}

/// Forgets an ingest; false when there is none.
pub(crate) fn discard(dir: &Dir, key: &str) -> Result<bool> {
    let name = name_of(key);
    let there = dir.stat(&*name)?.is_some();
    if there || dir.stat(&*lock_name(&name))?.is_some() {
        let _lock = lock(dir, &name)?;
        dir.remove(&*name)?;
        dir.remove(&*lock_name(&name))?;
    }
    Ok(there)
}

/// The ingests in the order of their keys.
pub(crate) fn list(dir: &Dir) -> Result<Vec<IngestStatus>> {
    let mut found = Vec::new();
    for entry in dir.entries()? {
        let entry = entry?.name;
        let Some(name) = ingest_of(&entry) else {
            continue;
        };
        // Any of the files may go while we look.
        let Some(stat) = dir.stat(name)? else {
            continue;
        };
        let key = match says_its_key(name) {
            true => Some(name.to_owned()),
            false => match dir.open_file(&*entry, OFlags::RDONLY, 0) {
                Ok(file) => read_key(&file)?.map(|(_, key)| key),
                Err(_) => None,
            },
        };
        found.extend(key.map(|key| IngestStatus {
            key,
            offset: stat.st_size as u64,
            updated_at: time(stat.st_mtime, stat.st_mtime_nsec),
        }));
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// Removes what other runs of the kernel left; nobody can hold it.
pub(crate) fn clean(dir: &Dir, boot: &str) -> Result<()> {
    let names: Vec<String> = dir
        .entries()?
        .map(|entry| entry.map(|entry| entry.name))
        .collect::<Result<_, _>>()?;
    for name in names.iter().filter_map(|name| ingest_of(name)) {
        let Ok(lock) = lock(dir, name) else { continue };
        if says_its_key(name) || read_key(lock.file())?.is_none_or(|(of, _)| of != boot) {
            dir.remove(name)?;
            dir.remove(&*lock_name(name))?;
        }
    }
    Ok(())
}

fn lock(dir: &Dir, name: &str) -> Result<Lock> {
    Lock::try_exclusive(dir, &lock_name(name))?
        .ok_or_else(|| Error::busy("another writer holds this ingest; wait for it to end"))
}

/// Locks an ingest that is named by its key, made where it is absent.
fn lock_bytes(dir: &Dir, name: &str) -> Result<(Lock, File)> {
    let mut held = lock(dir, name)?;
    if is_blob(held.file())? {
        dir.remove(name)?;
        drop(held);
        held = lock(dir, name)?;
    }
    let file = held.file().try_clone()?;
    Ok((held, file))
}

/// Locks the key file of an ingest, and makes it anew where it is another's or of another run.
fn lock_key(dir: &Dir, name: &str, boot: &str, key: &str) -> Result<(Lock, File)> {
    let lock = lock(dir, name)?;
    let ours = Some((boot.to_owned(), key.to_owned()));
    if read_key(lock.file())? == ours {
        let file = dir.open_file(name, OFlags::RDWR | OFlags::CREATE, 0o600)?;
        if !is_blob(&file)? {
            return Ok((lock, file));
        }
    }
    let remark = format!("{boot}\n{key}");
    let file = claim(dir, name, lock.file(), &remark).inspect_err(|_| {
        // Without its remark nobody would find it again.
        let _ = dir.remove(&*lock_name(name));
    })?;
    Ok((lock, file))
}

/// Makes the ingest empty, and says in the key file whose it is; its bytes.
fn claim(dir: &Dir, name: &str, key_file: &File, remark: &str) -> io::Result<File> {
    dir.remove(name)?;
    key_file.set_len(0)?;
    key_file.write_all_at(remark.as_bytes(), 0)?;
    dir.open_file(name, OFlags::RDWR | OFlags::CREATE, 0o600)
}

/// Whether the bytes have a second name: a publish by links was cut off before it took away the
/// first, and who wrote on would write to a blob.
fn is_blob(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.nlink() > 1)
}

/// The boot and the key in a key file; nothing when it was cut off.
fn read_key(file: &File) -> Result<Option<(String, String)>> {
    let mut data = Vec::new();
    let mut file = file;
    std::io::Seek::rewind(&mut file)?;
    file.take(KEY_FILE).read_to_end(&mut data)?;
    let text = String::from_utf8(data).unwrap_or_default();
    let parts = text.split_once('\n').filter(|(_, key)| !key.is_empty());
    Ok(parts.map(|(boot, key)| (boot.to_owned(), key.to_owned())))
}

/// Keys have any characters, and their hash is a file name; a digest is one itself.
fn name_of(key: &str) -> String {
    match says_its_key(key) {
        true => key.to_owned(),
        false => Digest::sha256(key.as_bytes()).hex(),
    }
}

/// Whether an ingest has its key for a name.
fn says_its_key(name: &str) -> bool {
    name.parse::<Digest>().is_ok()
}

/// The file that is locked for an ingest.
fn lock_name(name: &str) -> String {
    match says_its_key(name) {
        true => name.to_owned(),
        false => format!("{name}{SUFFIX}"),
    }
}

/// The ingest whose lock a file is.
fn ingest_of(file: &str) -> Option<&str> {
    match says_its_key(file) {
        true => Some(file),
        false => file.strip_suffix(SUFFIX),
    }
}

pub(crate) fn time(seconds: i64, nanos: u64) -> SystemTime {
    let since = Duration::new(seconds.max(0) as u64, nanos.min(999_999_999) as u32);
    SystemTime::UNIX_EPOCH + since
}
