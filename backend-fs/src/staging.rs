//! The files of ingests.
//!
//! Most keys are digests. An ingest with such a key has one file: `ingest/KEY` holds the bytes and
//! is also the lock. An ingest with any other key has two files: `ingest/HASH` holds the bytes, and
//! the key file `ingest/HASH.key` is the lock and contains the key. HASH is the SHA-256 of the key.
//!
//! Bytes that were written before a reboot may be incomplete, so the first opening for writing
//! after the reboot removes the ingests of earlier boots. A key file starts with the ID of the boot
//! in which its ingest began.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use cas_core::content::IngestStatus;
use cas_core::{Digest, Error, Result, limit};
use cas_host::{Dir, Lock, calls};
use rustix::fs::OFlags;

use crate::time;

/// Maximum size in bytes of a key file: a boot ID, a line feed and a key.
const KEY_FILE: u64 = 64 + limit::KEY as u64;
/// The end of the name of a key file.
const SUFFIX: &str = ".key";

/// The open files of an ingest and the lock on them.
pub(crate) struct Staged {
    pub(crate) name: String,
    pub(crate) file: Arc<File>,
    /// Shared with work on the pool, which may outlive its caller.
    pub(crate) lock: Arc<Lock>,
}

impl Staged {
    /// Locks the ingest of `key` in `dir`, and creates it if there is none to resume.
    pub(crate) fn open(dir: &Dir, boot: &str, key: &str) -> Result<Self> {
        let name = name_of(key);
        let (lock, file) = if is_digest(&name) {
            lock_bytes(dir, &name)?
        } else {
            lock_key(dir, &name, boot, key)?
        };
        Ok(Staged {
            name,
            file: Arc::new(file),
            lock: Arc::new(lock),
        })
    }

    /// Removes the files. The lock is held until `self` is dropped.
    pub(crate) fn remove(&self, dir: &Dir) -> Result<()> {
        dir.remove(&*self.name)?;
        self.remove_key_file(dir)
    }

    /// Removes the key file, if the ingest has one.
    pub(crate) fn remove_key_file(&self, dir: &Dir) -> Result<()> {
        if !is_digest(&self.name) {
            dir.remove(&*lock_file(&self.name))?;
        }
        Ok(())
    }
}

/// Discards the ingest of `key`. Returns false if there is none.
pub(crate) fn discard(dir: &Dir, key: &str) -> Result<bool> {
    let name = name_of(key);
    let exists = dir.stat(&*name)?.is_some();
    if exists || dir.stat(&*lock_file(&name))?.is_some() {
        let _lock = lock(dir, &name)?;
        dir.remove(&*name)?;
        dir.remove(&*lock_file(&name))?;
    }
    Ok(exists)
}

/// Returns the ingests in the order of their keys.
pub(crate) fn list(dir: &Dir) -> Result<Vec<IngestStatus>> {
    let mut found = Vec::new();
    for entry in dir.entries()? {
        let entry = entry.name;
        let Some(name) = ingest_of(&entry) else {
            continue;
        };
        // Any file may be removed meanwhile.
        let Some(stat) = dir.stat(name)? else {
            continue;
        };
        let key = if is_digest(name) {
            Some(name.to_owned())
        } else if let Ok(file) = dir.open_file(&*entry, OFlags::RDONLY | OFlags::NONBLOCK, 0) {
            read_key(&file)?.map(|(_, key)| key)
        } else {
            None
        };
        found.extend(key.map(|key| IngestStatus {
            key,
            offset: stat.st_size as u64,
            updated_at: time::modified(&stat),
        }));
    }
    found.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

/// Finds the key files that killed processes have left. Such a key file was written before
/// `before`, is not locked and has no file of bytes. Removes them if `remove` is set. Returns their
/// sizes in bytes.
pub(crate) fn key_files(dir: &Dir, before: SystemTime, remove: bool) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in dir.entries()? {
        let file = entry.name;
        let Some(name) = file.strip_suffix(SUFFIX) else {
            continue;
        };
        let stat = dir.stat(&*file)?;
        let Some(stat) = stat.filter(|stat| time::modified(stat) < before) else {
            continue;
        };
        // A key file is alone before its file of bytes is created, and after a publish has renamed
        // that file. The writer holds the lock at both times, so a locked key file stays.
        let lock = Lock::try_existing(dir, &file)?;
        if lock.is_none() || dir.stat(name)?.is_some() {
            continue;
        }
        if remove {
            dir.remove(&*file)?;
        }
        found.push(stat.st_size as u64);
    }
    Ok(found)
}

/// Removes the ingests that began before the boot `boot`. The caller is the first opening in that
/// boot, so an ingest without a key file is from an earlier boot.
pub(crate) fn remove_stale(dir: &Dir, boot: &str) -> Result<()> {
    let entries = dir.entries()?;
    for name in entries.iter().filter_map(|entry| ingest_of(&entry.name)) {
        let Ok(lock) = lock(dir, name) else { continue };
        if is_digest(name) || read_key(lock.file())?.is_none_or(|(of, _)| of != boot) {
            dir.remove(name)?;
            dir.remove(&*lock_file(name))?;
        }
    }
    Ok(())
}

fn lock(dir: &Dir, name: &str) -> Result<Lock> {
    Lock::try_exclusive(dir, &lock_file(name))?
        .ok_or_else(|| Error::busy("another writer holds this ingest; wait until that writer ends"))
}

/// Locks an ingest whose name is its key. Creates the ingest if it is absent, and starts it again
/// if its file is hard-linked. Returns the lock and the file for the bytes.
fn lock_bytes(dir: &Dir, name: &str) -> Result<(Lock, File)> {
    let mut held = lock(dir, name)?;
    if is_hard_linked(held.file())? {
        dir.remove(name)?;
        drop(held);
        held = lock(dir, name)?;
    }
    let file = held.file().try_clone()?;
    Ok((held, file))
}

/// Locks the key file of an ingest. Resets the ingest if it has another key, is from another boot,
/// or has a hard-linked file. Returns the lock and the file for the bytes.
fn lock_key(dir: &Dir, name: &str, boot: &str, key: &str) -> Result<(Lock, File)> {
    let lock = lock(dir, name)?;
    let ours = Some((boot.to_owned(), key.to_owned()));
    if read_key(lock.file())? == ours {
        let file = dir.open_file(name, OFlags::RDWR | OFlags::CREATE, 0o600)?;
        if !is_hard_linked(&file)? {
            return Ok((lock, file));
        }
    }
    let content = format!("{boot}\n{key}");
    let file = reset(dir, name, lock.file(), &content).inspect_err(|_| {
        // A key file without its key would belong to no ingest.
        let _ = dir.remove(&*lock_file(name));
    })?;
    Ok((lock, file))
}

/// Empties an ingest and writes its key file. Returns the file for the bytes.
fn reset(dir: &Dir, name: &str, key_file: &File, content: &str) -> io::Result<File> {
    dir.remove(name)?;
    key_file.set_len(0)?;
    key_file.write_all_at(content.as_bytes(), 0)?;
    dir.open_file(name, OFlags::RDWR | OFlags::CREATE, 0o600)
}

/// Returns whether the file is hard-linked. A publish was then interrupted between link and unlink,
/// so writing would modify a blob.
fn is_hard_linked(file: &File) -> io::Result<bool> {
    Ok(calls::fstat(file)?.st_nlink > 1)
}

/// Reads the boot and the key from a key file. Returns `None` if the file is incomplete.
fn read_key(file: &File) -> Result<Option<(String, String)>> {
    let mut data = Vec::new();
    let mut file = file;
    std::io::Seek::rewind(&mut file)?;
    file.take(KEY_FILE).read_to_end(&mut data)?;
    let text = String::from_utf8(data).unwrap_or_default();
    let parts = text.split_once('\n').filter(|(_, key)| !key.is_empty());
    Ok(parts.map(|(boot, key)| (boot.to_owned(), key.to_owned())))
}

/// Returns the file name of an ingest. A key may have any characters, so a key that is not a digest
/// is hashed.
fn name_of(key: &str) -> String {
    if is_digest(key) {
        key.to_owned()
    } else {
        Digest::sha256(key.as_bytes()).hex()
    }
}

/// Returns whether the name of an ingest is its key.
fn is_digest(name: &str) -> bool {
    name.parse::<Digest>().is_ok()
}

/// Returns the name of the file that is locked for the ingest `name`.
fn lock_file(name: &str) -> String {
    if is_digest(name) {
        name.to_owned()
    } else {
        format!("{name}{SUFFIX}")
    }
}

/// Returns the name of the ingest whose lock is `file`, or `None` if `file` is not a lock.
fn ingest_of(file: &str) -> Option<&str> {
    if is_digest(file) {
        Some(file)
    } else {
        file.strip_suffix(SUFFIX)
    }
}
