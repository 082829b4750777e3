//! Temporary files of an image store.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cas_core::error::excerpt;
use cas_core::{Context, Error, Result, limit, unique};

use super::AciStore;

/// A temporary file. It is removed when this value is dropped.
#[derive(Debug)]
pub struct TempFile {
    /// The file, open for reading and writing.
    pub file: File,
    path: PathBuf,
}

impl TempFile {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // If this fails, a later sweep removes the file.
        let _ = fs::remove_file(&self.path);
    }
}

impl AciStore {
    /// Creates an empty directory for temporary files. Returns its path. The caller must remove the
    /// directory. If nothing was created, renamed or removed directly in the directory for more
    /// than a day, an [`AciStore::sweep`] removes the directory with all files in it.
    ///
    /// # Errors
    /// `Unsupported` if the image store was opened without a directory; `FailedPrecondition` after
    /// `close`; errors of the file system.
    pub fn tmp_dir(&self) -> Result<PathBuf> {
        let path = self.directory()?.join(unique::key("dir"));
        fs::create_dir(&path).during("make directory", path.display())?;
        Ok(path)
    }

    /// Creates an empty temporary file. Returns the file.
    ///
    /// # Errors
    /// As [`AciStore::tmp_dir`].
    pub fn tmp_file(&self) -> Result<TempFile> {
        let path = self.directory()?.join(unique::key("file"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options.open(&path).during("make file", path.display())?;
        Ok(TempFile { file, path })
    }

    /// Opens the temporary file `name` for reading and writing, at its end, so that a download can
    /// continue. Creates the file if it is absent. Returns the file and its path. The file stays
    /// until the caller removes it. If nothing was written to the file for more than a day, an
    /// [`AciStore::sweep`] removes it.
    ///
    /// # Errors
    /// `InvalidArgument` if `name` is not a file name, has control characters or is longer than
    /// [`limit::COMPONENT`] bytes; as [`AciStore::tmp_dir`].
    pub fn tmp_named_file(&self, name: &str) -> Result<(File, PathBuf)> {
        let unfit = |character: char| character == '/' || character.is_control();
        let is_name = !matches!(name, "" | "." | "..") && !name.contains(unfit);
        if !is_name || name.len() > limit::COMPONENT {
            let longest = limit::COMPONENT;
            return Err(Error::invalid(format!(
                "expected a file name of 1 to {longest} bytes without slashes and control \
                 characters; use another name"
            ))
            .operation("make file")
            .subject(excerpt(name)));
        }
        let path = self.directory()?.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).during("make file", path.display())?;
        file.seek(SeekFrom::End(0)).during("seek", path.display())?;
        Ok((file, path))
    }

    /// Returns the directory for temporary files. Creates it if it is absent.
    fn directory(&self) -> Result<&Path> {
        self.catalogue.check_open()?;
        let directory = self.directory.as_deref().ok_or_else(|| {
            Error::unsupported(
                "the image store has no directory for temporary files; open it with a directory",
            )
        })?;
        fs::create_dir_all(directory).during("make directory", directory.display())?;
        Ok(directory)
    }
}
