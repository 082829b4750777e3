//! Where an archive goes.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use cas_core::{Context, Error, Result, pool, unique};
use cas_host::Dir;
use rustix::fs::OFlags;

/// What takes the bytes.
pub(super) type Out = Box<dyn Write + Send>;

/// Where an archive goes.
pub enum Target {
    /// A file, written file and renamed over what has its name once it is whole and on the
    /// device. What is no regular file (a pipe, a device) is written as it is.
    Path(PathBuf),
    /// Anything that takes bytes; after an error it has got a part of them.
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
    /// The way out, and the pending that the archive gets when it is whole.
    ///
    /// # Errors
    /// `InvalidArgument` for a path without file name; those of the file system.
    pub(super) async fn open(self) -> Result<(Out, Pending)> {
        match self {
            Target::Stream(out) => Ok((out, Pending(None))),
            Target::Path(path) => pool::run(move || open(path)).await,
        }
    }
}

fn open(path: PathBuf) -> Result<(Out, Pending)> {
    // What a link leads to is replaced, not the link.
    let path = fs::canonicalize(&path).unwrap_or(path);
    let there = fs::metadata(&path).ok();
    if there.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(Error::invalid("is a directory; name a file in it"));
    }
    if there.is_some_and(|there| !there.is_file()) {
        let out = OpenOptions::new().write(true).open(&path)?;
        return Ok((Box::new(out), Pending(None)));
    }
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::invalid("is no path of a file in UTF-8"))?;
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    let dir = Dir::open(parent).during("open", parent.display())?;
    let temporary = format!(".{}", unique::key("cas-export"));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let file = dir.open_file(&temporary, flags, 0o666)?;
    let out = Box::new(file.try_clone()?);
    let file = TemporaryFile {
        dir,
        file,
        temporary,
        name: name.to_owned(),
    };
    Ok((out, Pending(Some(file))))
}

/// The pending of an archive; dropped before it is kept, nothing of it stays.
pub(super) struct Pending(Option<TemporaryFile>);

/// A file file its pending.
struct TemporaryFile {
    dir: Dir,
    file: fs::File,
    temporary: String,
    name: String,
}

impl Pending {
    /// Gives the archive its name, in a way that outlives a crash.
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
    /// After the rename there is nothing to remove.
    fn drop(&mut self) {
        let _ = self.dir.remove(&*self.temporary);
    }
}
