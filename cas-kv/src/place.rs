//! The directory of a store, and who owns it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cas_core::{Error, Result};

use crate::space::RESERVE;

const OWNER: &str = "owner";
/// How often a name that cannot be the owner's is read again.
const LOOKS: usize = 20;
/// The time in which a new owner has written his.
const LOOK: Duration = Duration::from_millis(5);

/// What an engine calls what it keeps.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// The engine.
    pub engine: &'static str,
    /// The file or directory of the database.
    pub database: &'static str,
    /// The same while it is made for the first time.
    pub new: &'static str,
}

/// A directory that this process owns until it is dropped: the database, and beside it `owner`,
/// with the pid of the process that has it open, and `reserve`, the [`Space`](crate::Space) that a
/// removal on a full disk may use.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    names: Names,
    owner: File,
}

impl Place {
    /// Makes the directory where it is absent, and becomes its owner.
    ///
    /// # Errors
    /// `Busy`, naming the owner; `FailedPrecondition` where something else is; those of the file
    /// system.
    pub fn own(dir: &Path, names: Names) -> Result<Self> {
        if dir.is_file() {
            return Err(Error::precondition(format!(
                "expected a directory, found a file; name the directory that holds {}",
                names.database
            )));
        }
        if !dir.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            sync_parent(dir)?;
        }
        refuse_foreign(dir, names)?;
        let owner = open(&dir.join(OWNER), true)?;
        match owner.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(busy(&owner)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let place = Place {
            dir: dir.to_owned(),
            names,
            owner,
        };
        place.sign(&std::process::id().to_string());
        Ok(place)
    }

    /// Gives what holds a whole store its name, durably.
    pub(crate) fn publish(&self) -> io::Result<()> {
        fs::rename(self.dir.join(self.names.new), self.database())?;
        File::open(&self.dir)?.sync_all()
    }

    /// Removes what a making that was cut off has left; where to make the database.
    pub(crate) fn clear(&self) -> io::Result<PathBuf> {
        let new = self.dir.join(self.names.new);
        let cleared = match new.is_dir() {
            true => fs::remove_dir_all(&new),
            false => fs::remove_file(&new),
        };
        match cleared {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(new),
        }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the database is, or will be.
    pub(crate) fn database(&self) -> PathBuf {
        self.dir.join(self.names.database)
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

/// The new name is in the parent; what is above was there, or is as durable as its makers.
fn sync_parent(dir: &Path) -> io::Result<()> {
    match dir.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// A directory with something else in it is never made a store.
fn refuse_foreign(dir: &Path, names: Names) -> Result<()> {
    let Names {
        engine,
        database,
        new,
    } = names;
    if dir.join(database).exists() {
        return Ok(());
    }
    // What may be there where the making of a store was cut off.
    let ours = [new, OWNER, RESERVE];
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !ours.iter().any(|ours| name == *ours) {
            return Err(Error::precondition(format!(
                "it is not empty (there is {name:?}) and no store of {engine} (there is no \
                 {database}); choose another directory"
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
