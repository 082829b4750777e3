//! Where an archive is written.

use std::fmt;
use std::fs::{self, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use cas_core::{Context, Error, Result, pool, unique};
use cas_host::{Dir, no_directory};
use rustix::fs::OFlags;

/// What the names of temporary files begin with, after a dot.
const PURPOSE: &str = "cas-export";

/// A writer for the bytes of an archive.
pub(super) type Out = Box<dyn Write + Send>;

/// Where an archive is written.
pub enum Target {
    /// A file. It is written under a temporary name, and renamed when it is complete and synced. A
    /// path that is not a regular file, such as a pipe or a device, is written directly.
    Path(PathBuf),
    /// A stream. After an error it has received a part of the archive.
    Stream(Box<dyn Write + Send>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Path(path) => write!(f, "{}", path.display()),
            Target::Stream(_) => f.write_str("stream"),
        }
    }
}

impl Target {
    /// Opens the target. Returns a writer, and what to publish when the archive is complete.
    ///
    /// # Errors
    /// `InvalidArgument` for a directory or a path without a UTF-8 file name; errors of the file
    /// system.
    pub(super) async fn open(self) -> Result<(Out, Pending)> {
        match self {
            Target::Stream(out) => Ok((out, Pending(None))),
            Target::Path(path) => pool::run(move || open(path)).await,
        }
    }
}

fn open(path: PathBuf) -> Result<(Out, Pending)> {
    // If the path is a link to something that exists, that is replaced, not the link.
    let path = fs::canonicalize(&path).unwrap_or(path);
    let there = fs::metadata(&path).ok();
    if there.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(Error::invalid("the path is a directory; name a file in it"));
    }
    if there.is_some_and(|there| !there.is_file()) {
        let out = OpenOptions::new().write(true).open(&path)?;
        return Ok((Box::new(out), Pending(None)));
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| {
        Error::invalid("the path does not end in a UTF-8 file name; name another file")
    })?;
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    let dir = Dir::open(parent).map_err(|error| no_directory(error, parent));
    let dir = dir.during("open", parent.display())?;
    remove_leftovers(&dir, parent);
    let (file, temporary) = create_temporary(&dir)?;
    let out = Box::new(file.try_clone()?);
    let file = TemporaryFile {
        dir,
        file,
        temporary,
        name: name.to_owned(),
    };
    Ok((out, Pending(Some(file))))
}

/// Creates a temporary file, and locks it if the file system can lock files. Returns the file and
/// its name.
fn create_temporary(dir: &Dir) -> Result<(fs::File, String)> {
    loop {
        let name = format!(".{}", unique::key(PURPOSE));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = dir.open_file(&name, flags, 0o666)?;
        // Another export may have taken it for a leftover before it was locked.
        let is_locked = !matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        if is_locked && dir.stat(&*name)?.is_some() {
            return Ok((file, name));
        }
    }
}

/// Removes what killed exports left in the directory: temporary files that nobody has locked. What
/// cannot be removed stays.
fn remove_leftovers(dir: &Dir, path: &Path) {
    let prefix = format!(".{PURPOSE}-");
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name.starts_with(&prefix)) {
        let opened = dir.open_file(&*name, OFlags::WRONLY | OFlags::NONBLOCK, 0);
        if opened.is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = dir.remove(&*name);
        }
    }
}

/// An archive that is not published yet. Dropping it removes the file.
pub(super) struct Pending(Option<TemporaryFile>);

/// A file under a temporary name.
struct TemporaryFile {
    dir: Dir,
    file: fs::File,
    temporary: String,
    name: String,
}

impl Pending {
    /// Syncs the file and gives it its name, so that it survives a crash.
    pub(super) async fn publish(mut self) -> Result<()> {
        let Some(file) = self.0.take() else {
            return Ok(());
        };
        pool::run(move || {
            let TemporaryFile { dir, .. } = &file;
            file.file.sync_all()?;
            dir.rename(&*file.temporary, dir, &*file.name)?;
            Ok(dir.sync()?)
        })
        .await
    }
}

impl Drop for TemporaryFile {
    /// Removes the file. After the rename there is nothing to remove.
    fn drop(&mut self) {
        let _ = self.dir.remove(&*self.temporary);
    }
}
