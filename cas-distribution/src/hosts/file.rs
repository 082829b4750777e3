//! Reads the files of a configuration, and reports mistakes with file and line.

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cas_core::{Context, Error, Result, limit};
use serde::de::DeserializeOwned;

use crate::bounded::{self, found};

/// A file of TOML.
pub(super) struct Text<'a> {
    path: &'a Path,
    text: String,
}

impl<'a> Text<'a> {
    /// Reads a file. Returns `None` if it is absent.
    ///
    /// # Errors
    /// `OutOfRange` if it is larger than [`limit::HOSTS_FILE`]; `InvalidArgument` if it is not
    /// UTF-8; errors of the file system.
    pub(super) fn read(path: &'a Path) -> Result<Option<Self>> {
        let Some(data) = bytes(path)? else {
            return Ok(None);
        };
        let text = String::from_utf8(data);
        let text = text.map_err(|_| mistake(path, None, "expected UTF-8, found other bytes"))?;
        Ok(Some(Text { path, text }))
    }

    #[cfg(test)]
    pub(super) fn of(path: &'a Path, text: &str) -> Self {
        let text = text.to_owned();
        Text { path, text }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Parses the file. Keys that the type does not have are ignored.
    ///
    /// # Errors
    /// `InvalidArgument` if it does not parse.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|error| {
            let line = error.span().map(|span| self.line(&span));
            mistake(self.path, line, error.message())
        })
    }

    /// Returns the error for a mistake at these bytes of the file.
    pub(super) fn mistake(&self, at: &Range<usize>, what: impl fmt::Display) -> Error {
        mistake(self.path, Some(self.line(at)), what)
    }

    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..at.start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// Returns the error for a mistake in a file.
pub(super) fn mistake(path: &Path, line: Option<usize>, what: impl fmt::Display) -> Error {
    let line = line.map_or(String::new(), |line| format!("line {line}: "));
    let what = what.to_string();
    Error::invalid(format!("{line}{}; correct the file", what.trim_end()))
        .operation("read")
        .subject(path.display())
}

/// Returns the bytes of a file, or `None` if it is absent.
///
/// # Errors
/// `OutOfRange` if it is larger than [`limit::HOSTS_FILE`]; errors of the file system.
pub(super) fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    bounded::read(path, "the file", limit::HOSTS_FILE).during("read", path.display())
}

/// Returns the paths of the files in a directory whose names end with one of `ends`, in
/// alphabetical order, or `None` if the directory is absent.
///
/// # Errors
/// `OutOfRange` if it has more entries than [`limit::HOSTS_FILES`]; errors of the file system.
pub(super) fn list(directory: &Path, ends: &[&str]) -> Result<Option<Vec<PathBuf>>> {
    let names = bounded::names(directory, "the unneeded ones");
    let names = names.during("read", directory.display())?;
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| ends.iter().any(|end| name.ends_with(end)))
            && !found(path).is_some_and(|found| found.is_dir())
    };
    let paths = |names: Vec<OsString>| {
        let paths = names.into_iter().map(|name| directory.join(name));
        paths.filter(is_wanted).collect()
    };
    Ok(names.map(paths))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn a_directory_has_as_many_entries_as_are_allowed_and_no_more() {
        let temp = tempfile::tempdir().unwrap();
        for number in 0..limit::HOSTS_FILES {
            fs::write(temp.path().join(format!("{number}.toml")), "").unwrap();
        }
        let found = list(temp.path(), &[".toml"]).unwrap().unwrap();
        assert_eq!(found.len(), limit::HOSTS_FILES);
        fs::write(temp.path().join("README"), "").unwrap();
        let error = list(temp.path(), &[".toml"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    }
}
