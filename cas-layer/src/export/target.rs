//! Where an archive is written.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use cas_core::{Result, pool};
use cas_host::Output;

/// A writer for the bytes of an archive.
pub(super) type Out = Box<dyn Write + Send>;

/// Where an archive is written.
pub enum Target {
    /// A file. It is written under a temporary name, and renamed when it is complete and synced. A
    /// path that is not a regular file, such as a pipe or a device, is written directly.
    Path(PathBuf),
    /// A stream. After an error, it may have received a part of the archive.
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
    let output = Output::open(&path)?;
    let out = Box::new(output.file().try_clone()?);
    Ok((out, Pending(Some(output))))
}

/// An archive that is not published yet. Dropping it removes the new file.
pub(super) struct Pending(Option<Output>);

impl Pending {
    /// Syncs the file and gives it its name, so that it survives a crash.
    pub(super) async fn publish(self) -> Result<()> {
        match self.0 {
            Some(output) => pool::run(move || output.publish()).await,
            None => Ok(()),
        }
    }
}
