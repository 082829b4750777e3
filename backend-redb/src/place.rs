//! The directory of a store, and who owns it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cas_core::{Error, Result};

/// The file of a store.
pub(crate) const FILE: &str = "cas.redb";
/// The same while it is made for the first time.
const NEW: &str = "cas.redb.new";
const OWNER: &str = "owner";
/// What may be in the directory of a store whose making was cut off.
const OURS: [&str; 4] = [FILE, NEW, OWNER, "reserve"];
/// How often a name that cannot be the owner's is read again.
const LOOKS: usize = 20;
/// The time in which a new owner has written his.
const LOOK: Duration = Duration::from_millis(5);

/// A directory that this process owns until it is dropped.
pub(crate) struct Place {
    dir: PathBuf,
    owner: File,
}

impl Place {
    /// Makes the directory where it is absent, and becomes its owner.
    pub(crate) fn own(dir: &Path) -> Result<Self> {
        if dir.is_file() {
            return Err(Error::precondition(
                "expected a directory, found a file; name the directory that holds cas.redb",
            ));
        }
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            sync_parent(dir)?;
        }
        refuse_foreign(dir)?;
        let owner = open(&dir.join(OWNER), true)?;
        match owner.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(&owner)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let place = Place {
            dir: dir.to_owned(),
            owner,
        };
        place.sign(&std::process::id().to_string());
        Ok(place)
    }

    /// The file of the store, locked, or nothing where there is none yet.
    pub(crate) fn file(&self) -> Result<Option<File>> {
        let path = self.dir.join(FILE);
        if path.is_dir() {
            return Err(Error::precondition(format!(
                "expected the file {FILE}, found a directory; choose another place"
            )));
        }
        let file = match open(&path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if file.metadata()?.len() == 0 {
            return Err(Error::corrupt(format!(
                "{FILE} is empty, and no store ever is; restore a copy, or remove the file to \
                 begin anew"
            )));
        }
        lock(&file)?;
        Ok(Some(file))
    }

    /// A file to make a store in; it has its name when [`Place::publish`] was called.
    pub(crate) fn new_file(&self) -> Result<File> {
        let path = self.dir.join(NEW);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let file = open(&path, true)?;
        lock(&file)?;
        Ok(file)
    }

    /// Gives a file that holds a whole store its name.
    pub(crate) fn publish(&self) -> Result<()> {
        fs::rename(self.dir.join(NEW), self.dir.join(FILE))?;
        Ok(File::open(&self.dir)?.sync_all()?)
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Says who the owner is; a remark for people, which a full disk may do without.
    fn sign(&self, text: &str) {
        let _ = self.owner.write_all_at(text.as_bytes(), 0);
        let _ = self.owner.set_len(text.len() as u64);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sign("");
        // Closing is not enough while a child between fork and exec holds a copy.
        let _ = self.owner.unlock();
    }
}

/// Never through a symbolic link to what is not ours.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(path)
}

/// Other programs that read such files heed this lock.
fn lock(file: &File) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::busy(format!(
            "another program has {FILE} open; wait for it to end"
        ))),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// The new name is in the parent; what is above was there, or is as durable as its makers.
fn sync_parent(dir: &Path) -> io::Result<()> {
    match dir.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// A directory with something else in it is never made a store.
fn refuse_foreign(dir: &Path) -> Result<()> {
    if dir.join(FILE).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !OURS.iter().any(|ours| name == *ours) {
            return Err(Error::precondition(format!(
                "it is not empty (there is {name:?}) and no store of redb (there is no {FILE}); \
                 choose another directory"
            )));
        }
    }
    Ok(())
}

/// The lock is held: by whom, says the file. A name that was left by a crash is not that of the
/// new owner, who writes his at once.
fn busy(owner: &File) -> Error {
    for _ in 0..LOOKS {
        if let Some(pid) = signed(owner)
            && Path::new("/proc").join(pid.to_string()).exists()
        {
            return Error::busy(format!(
                "process {pid} has the store open, and one process at a time may; end it or wait"
            ));
        }
        thread::sleep(LOOK);
    }
    Error::busy("another process has the store open, and one at a time may; end it or wait")
}

fn signed(owner: &File) -> Option<u32> {
    let mut text = [0; 10];
    let length = owner.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.parse().ok()
}
