//! The directory of a store. Either one process owns the directory, or several processes that
//! cannot write to the directory share it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cas_core::{Error, Result};
use cas_host::calls::undisturbed;
use cas_host::{Dir, OwnerFile};

use crate::head::{Head, remove_any, side_dir};
use crate::space::RESERVE;

/// The locked file with the pid of the owner.
pub(crate) const OWNER: &str = "owner";

/// The names that an engine uses in the directory and in messages.
#[derive(Clone, Copy, Debug)]
pub struct FileNames {
    /// The name of the engine, for messages.
    pub engine: &'static str,
    /// The name of the file or directory of the database.
    pub database: &'static str,
    /// The temporary name of a database that is being created.
    pub new: &'static str,
}

/// A directory that this process has claimed until the value is dropped. If this process can write
/// to the directory, it is the owner, and no other process can open the store in the directory.
/// Otherwise, it shares the directory with other processes that cannot write to it.
///
/// The directory contains the database; its [`Head`], once the database was closed; `owner`, a
/// locked file with the pid of the owner; and the files `reserve` and `reserve.N`, with which
/// [`Space`](crate::Space) keeps disk space and inodes for removals on a full disk.
#[derive(Debug)]
pub struct OwnedDir {
    path: PathBuf,
    names: FileNames,
    owner: OwnerFile,
}

impl OwnedDir {
    /// Makes this process the owner of the directory `path`, which is created if it does not exist.
    /// On a read-only file system, or without the permission to write, makes this process a reader
    /// of the directory, together with other readers. Returns the directory.
    ///
    /// # Errors
    /// `Busy` if another process or another `OwnedDir` of this process owns the directory (the
    /// message names the pid of the owner if the pid is known), or if the directory has readers and
    /// this process can write to it; `FailedPrecondition` if `path` is a file, if the directory has
    /// no database but has files that no store creates, or if the file `owner` in the directory is
    /// a symbolic link; errors of the file system.
    pub fn claim(path: &Path, names: FileNames) -> Result<Self> {
        if path.is_file() {
            return Err(Error::precondition(format!(
                "expected a directory, found a file; give the directory that contains {}",
                names.database
            )));
        }
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            sync_parent(path)?;
        }
        refuse_foreign(path, names)?;
        Ok(OwnedDir {
            path: path.to_owned(),
            names,
            owner: OwnerFile::claim(&path.join(OWNER))?,
        })
    }

    /// Returns whether a directory has a database, or has a file `reserve` or a [`Head`] of a
    /// database that was lost. Changes nothing.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn has_store(path: &Path, names: FileNames) -> io::Result<bool> {
        let database = path.join(names.database);
        let head = Head::of(&database);
        Ok(exists(&database)? || exists(&path.join(RESERVE))? || exists(head.path())?)
    }

    /// Renames the new database to its final name, durably. Removes the head of a database that was
    /// lost, because it does not fit the new database.
    pub(crate) fn publish(&self) -> io::Result<()> {
        remove_any(Head::of(&self.database()).path())?;
        fs::rename(self.path.join(self.names.new), self.database())?;
        File::open(&self.path)?.sync_all()
    }

    /// Gives the new database the name of the old database, durably, and gives the old database and
    /// its head other names. Returns the new name of the old database.
    ///
    /// The new database first gets the name that the old database will have. So a kill never leaves
    /// the old database under the temporary name. The next opening removes what has that name.
    pub(crate) fn replace_database(&self) -> io::Result<String> {
        let FileNames { database, new, .. } = self.names;
        let dir = Dir::open(&self.path)?;
        let mut number = 1;
        let aside = loop {
            let aside = format!("{database}.damaged-{number}");
            if dir.stat(&*aside)?.is_none() {
                break aside;
            }
            number += 1;
        };
        dir.rename(new, &dir, &*aside)?;
        if let Err(error) = dir.exchange(&*aside, database) {
            dir.rename(&*aside, &dir, new)?;
            return Err(error);
        }
        dir.sync()?;
        let aside_head = Head::of(&self.path.join(&aside));
        match fs::rename(Head::of(&self.database()).path(), aside_head.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => dir.sync()?,
        }
        Ok(aside)
    }

    /// Removes a database whose creation was interrupted, and the files of a killed repair. Returns
    /// the path for a new database.
    pub(crate) fn remove_unfinished(&self) -> io::Result<PathBuf> {
        let new = self.path.join(self.names.new);
        remove_any(&new)?;
        remove_any(&side_dir(&self.database()))?;
        Ok(new)
    }

    /// Returns whether the database is absent although there was one. A reserve or a head shows
    /// that, because they are made only after a database was opened.
    pub(crate) fn has_lost_database(&self) -> io::Result<bool> {
        Ok(!exists(&self.database())? && Self::has_store(&self.path, self.names)?)
    }

    /// Returns whether the process can write to the directory.
    pub(crate) fn is_writable(&self) -> bool {
        self.owner.is_writable()
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the database, which may not exist yet.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(self.names.database)
    }
}

fn exists(path: &Path) -> io::Result<bool> {
    undisturbed(|| path.try_exists())
}

/// Syncs the parent directory, which has the new entry. Does not sync the directories above it.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Refuses to create a store in a directory that contains other files.
fn refuse_foreign(path: &Path, names: FileNames) -> Result<()> {
    let FileNames {
        engine, database, ..
    } = names;
    if exists(&path.join(database))? {
        return Ok(());
    }
    // The names that an interrupted creation leaves, the names next to a database that was lost,
    // and the names of what a repair has set aside.
    let beside = format!("{database}.");
    let owner_aside = format!("{OWNER}.damaged-");
    let is_reserve = |name: &str| name == RESERVE || name.starts_with(&format!("{RESERVE}."));
    let is_owner = |name: &str| name == OWNER || name.starts_with(&owner_aside);
    let is_ours = |name: &str| is_owner(name) || is_reserve(name) || name.starts_with(&beside);
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if !name.to_str().is_some_and(is_ours) {
            return Err(Error::precondition(format!(
                "the directory is not a {engine} store: found {name:?}, but not {database}; \
                 choose another directory"
            )));
        }
    }
    Ok(())
}
