//! The file, pipe or device that a command writes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cas_core::Result;
use rustix::fs::OFlags;

use crate::NewFile;
use crate::calls::undisturbed;

/// What a command writes to a path. A regular file is replaced when its successor is complete. A
/// pipe or a device stays in its place, and is written directly.
pub struct Output {
    kind: Kind,
    directory: PathBuf,
}

enum Kind {
    New(NewFile),
    Direct(File),
}

impl Output {
    /// Opens the output at `path`. If a symbolic link at `path` leads to something that exists, the
    /// link stays, and what it leads to is replaced or written. A pipe is opened when another
    /// process reads it. A block device that is mounted is not opened.
    ///
    /// # Errors
    /// `InvalidArgument` if the path is a directory or does not end in a UTF-8 file name, or if its
    /// parent is not a directory; `NotFound` if its parent does not exist; errors of the file
    /// system.
    pub fn open(path: &Path) -> Result<Self> {
        let there = undisturbed(|| path.metadata()).ok();
        let resolved = undisturbed(|| path.canonicalize()).ok();
        // A link in /proc leads to an open file or a pipe that has no path.
        let is_direct = there
            .as_ref()
            .is_some_and(|there| resolved.is_none() || !there.is_file() && !there.is_dir());
        if is_direct {
            let is_block_device = there.is_some_and(|there| there.file_type().is_block_device());
            let flags = match is_block_device {
                true => OFlags::EXCL,
                false => OFlags::empty(),
            };
            let file = OpenOptions::new()
                .write(true)
                .truncate(true)
                .custom_flags(flags.bits().cast_signed())
                .open(path)?;
            return Ok(Output {
                kind: Kind::Direct(file),
                directory: std::env::temp_dir(),
            });
        }
        let path = resolved.unwrap_or_else(|| path.to_owned());
        let new = NewFile::begin(&path)?;
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        Ok(Output {
            kind: Kind::New(new),
            directory: parent.unwrap_or(Path::new(".")).to_owned(),
        })
    }

    /// Returns the file, pipe or device, open for writing. A file is empty.
    pub fn file(&self) -> &File {
        match &self.kind {
            Kind::New(new) => new.file(),
            Kind::Direct(file) => file,
        }
    }

    /// Returns the directory for temporary files: the one of the new file, or for a pipe or a
    /// device, the system's directory for temporary files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Syncs the new file and gives it its name, durably. Syncs a block device. Does nothing for a
    /// pipe or another device.
    ///
    /// # Errors
    /// As [`NewFile::publish`].
    pub fn publish(self) -> Result<()> {
        match self.kind {
            Kind::New(new) => new.publish(),
            Kind::Direct(file) => {
                if undisturbed(|| file.metadata())?
                    .file_type()
                    .is_block_device()
                {
                    file.sync_all()?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn write(path: &Path) {
        let output = Output::open(path).unwrap();
        output.file().write_all(b"new").unwrap();
        output.publish().unwrap();
    }

    #[test]
    fn a_link_stays_and_its_file_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let (file, link) = (temp.path().join("file"), temp.path().join("link"));
        fs::write(&file, "older").unwrap();
        symlink("file", &link).unwrap();
        write(&link);
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("file"));
        assert_eq!(
            Output::open(&file).unwrap().directory(),
            temp.path().canonicalize().unwrap()
        );
        assert!(Output::open(temp.path()).is_err());
    }

    #[test]
    fn a_pipe_and_a_device_are_written_and_stay() {
        let temp = tempfile::tempdir().unwrap();
        let pipe = temp.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                let mut read = Vec::new();
                File::open(pipe).unwrap().read_to_end(&mut read).unwrap();
                read
            })
        };
        write(&pipe);
        assert_eq!(reader.join().unwrap(), b"new");
        assert!(pipe.metadata().unwrap().file_type().is_fifo());
        // The check before the write keeps an error from replacing the device.
        let null = temp.path().join("null");
        symlink("/dev/null", &null).unwrap();
        let output = Output::open(&null).unwrap();
        assert!(matches!(output.kind, Kind::Direct(_)));
        write(&null);
        assert_eq!(fs::read_link(&null).unwrap(), Path::new("/dev/null"));
        assert!(null.metadata().unwrap().file_type().is_char_device());
    }
}
