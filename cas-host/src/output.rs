//! The file, pipe or device that a command writes, and where it may be.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use cas_core::{Error, Result};
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
    /// `InvalidArgument` if the path is a directory, is a symbolic link that leads to nothing, or
    /// does not end in a UTF-8 file name, or if its parent is not a directory; `NotFound` if its
    /// parent does not exist; errors of the file system.
    pub fn open(path: &Path) -> Result<Self> {
        let there = undisturbed(|| path.metadata()).ok();
        // `cp` refuses such a link, too. A write through it would make a file at a place that
        // nobody has named, and a new file in its place would remove the link.
        if there.is_none() && is_link(path) {
            return Err(Error::invalid(
                "the path is a symbolic link that leads to nothing; remove the link, or name \
                 another file",
            ));
        }
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

fn is_link(path: &Path) -> bool {
    undisturbed(|| path.symlink_metadata()).is_ok_and(|found| found.is_symlink())
}

/// Checks that the path of an output is not in `place`, such as the directory of a root: what a
/// command writes there could replace files that the root needs. `what` is the word for `place` in
/// the message, such as `root`.
///
/// # Errors
/// `InvalidArgument` if the path leads into `place` or to `place` itself.
pub fn check_outside(output: &Path, place: &Path, what: &str) -> Result<()> {
    let place = resolved(place);
    match resolved(output).starts_with(&place) {
        true => Err(Error::invalid(format!(
            "the path is in the {what} {}, and what is written there could replace files of the \
             {what}; name a path outside of it",
            place.display()
        ))),
        false => Ok(()),
    }
}

/// Returns where a path leads: an absolute path without symbolic links, `.` and `..`. If nothing is
/// there, only the part of the path that exists can have symbolic links, and only these are
/// resolved.
pub fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for part in path.ancestors() {
        let Ok(mut real) = undisturbed(|| part.canonicalize()) else {
            continue;
        };
        let absent = path.strip_prefix(part).unwrap_or(Path::new(""));
        for component in absent.components() {
            match component {
                Component::ParentDir => {
                    real.pop();
                }
                component => real.push(component),
            }
        }
        return real;
    }
    path
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use cas_core::ErrorKind;
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
    fn a_link_that_leads_to_nothing_is_refused_and_stays() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::write(at("file"), "").unwrap();
        let absolute = at("absent");
        let links = [
            ("dangling", Path::new("absent")),
            ("deeper", Path::new("absent/file")),
            ("below-a-file", Path::new("file/x")),
            ("loop", Path::new("loop")),
            ("of-a-link", Path::new("dangling")),
            ("absolute", &absolute),
        ];
        for (link, target) in links {
            symlink(target, at(link)).unwrap();
        }
        for (link, target) in links {
            let error = Output::open(&at(link)).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{link}: {error}");
            assert!(error.to_string().contains("leads to nothing"), "{error}");
            assert_eq!(fs::read_link(at(link)).unwrap(), target);
        }
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), links.len() + 1);
    }

    #[test]
    fn a_path_that_leads_into_a_place_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir_all(at("root/store")).unwrap();
        fs::create_dir(at("beside")).unwrap();
        fs::write(at("root/store/index.json"), "").unwrap();
        symlink("root", at("to-root")).unwrap();
        symlink("../root/store/index.json", at("beside/to-file")).unwrap();
        for inside in [
            "root",
            "root/",
            "root/.",
            "root/new",
            "root/store/index.json",
            "root/absent/x/y",
            "beside/../root/store/new",
            "absent/../root/new",
            "to-root/new",
            "to-root/store/index.json",
            "beside/to-file",
        ] {
            let error = check_outside(&at(inside), &at("root"), "root").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{inside}");
            // The place itself may be named through a link.
            check_outside(&at(inside), &at("to-root"), "root").unwrap_err();
        }
        for outside in [
            "new",
            "root-2",
            "beside/new",
            "root/../new",
            "to-root/../new",
            "absent/x",
        ] {
            check_outside(&at(outside), &at("root"), "root").unwrap();
            check_outside(&at(outside), &at("absent-root"), "root").unwrap();
        }
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
