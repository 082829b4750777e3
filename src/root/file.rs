//! The file `cas.toml`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use cas_core::{Context, Error, Result};
use cas_host::calls::{self, undisturbed};
use cas_host::{Dir, Place, no_directory};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::PULL_MODES;
use super::engines::{Engines, FORMAT};

/// The name of the file in a root.
pub(super) const NAME: &str = "cas.toml";

/// Reads `cas.toml` of the root `path`. Returns `None` if there is none. A user may have moved the
/// file elsewhere and left a symbolic link. Does not wait if a pipe is in its place.
///
/// # Errors
/// `Corrupt` if something else, such as a directory, is in the place of the file; `InvalidArgument`
/// if `path` is not a directory; errors of the file system.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    let read = || -> Result<Option<String>> {
        let file = path.join(NAME);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match calls::open(file.as_path(), flags, Mode::empty()) {
            Err(Errno::NOENT) if undisturbed(|| file.symlink_metadata()).is_err() => {
                return Ok(None);
            }
            // A symbolic link that leads nowhere, or a socket.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Err(misplaced(path)?),
            Err(error) => return Err(no_directory(error.into(), path)),
            Ok(opened) => opened,
        };
        let mut opened = File::from(opened);
        if !undisturbed(|| opened.metadata())?.is_file() {
            return Err(misplaced(path)?);
        }
        let mut text = String::new();
        opened.read_to_string(&mut text)?;
        Ok(Some(text))
    };
    read().during("open root", path.display())
}

/// Returns the error for something else in the place of `cas.toml`. A repair does not set it aside,
/// because the settings cannot be made again.
///
/// # Errors
/// Errors of the file system.
fn misplaced(root: &Path) -> Result<Error> {
    let what = Place::MovableFile(NAME).misplaced(&Dir::open(root)?)?;
    let file = root.join(NAME);
    let why = match what {
        Some(what) => format!("{what} at {}", file.display()),
        None => format!("{} was replaced during the read", file.display()),
    };
    Ok(Error::corrupt(why).advice(
        "move it away, and restore cas.toml from a copy, or run `cas init` with the store and the \
         snapshotter of this root",
    ))
}

/// Parses `cas.toml` of the root `path`.
///
/// # Errors
/// `Corrupt` if the text does not parse; `FailedPrecondition` if its `format` is not [`FORMAT`];
/// as [`LazyTable::bytes_per_second`](super::lazy::LazyTable::bytes_per_second).
pub(crate) fn parse(text: &str, path: &Path) -> Result<Engines> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let refused = |why: &str| {
        Error::corrupt(format!("cas.toml does not parse: {why}; correct it"))
            .operation("open root")
            .subject(path.display())
    };
    let fail = |error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        match before.map(|before| before.matches('\n').count() + 1) {
            Some(line) => refused(&format!("line {line}: {}", error.message())),
            None => refused(error.message()),
        }
    };
    let Format { format } = toml::from_str(text).map_err(fail)?;
    if format != FORMAT {
        return Err(Error::precondition(format!(
            "cas.toml has format {format}, but this version of cas reads format {FORMAT}; use a \
             version that reads format {format}"
        ))
        .operation("open root")
        .subject(path.display()));
    }
    let mut table: toml::Table = toml::from_str(text).map_err(fail)?;
    // The pull modes are read when an image is pulled.
    table.remove(PULL_MODES);
    // This error has no line, but its text has the name of the key.
    let engines: Engines = table.try_into().map_err(|error: toml::de::Error| {
        let why = error.to_string();
        let words: Vec<&str> = why.split_whitespace().collect();
        refused(&words.join(" "))
    })?;
    // Otherwise only a mount would find a wrong value, after a pull that needs the mount.
    engines.lazy.bytes_per_second()?;
    Ok(engines)
}

/// Returns the text of a `cas.toml` with the settings in `engines`.
pub(crate) fn text(engines: &Engines) -> Result<String> {
    toml::to_string(engines).map_err(|error| {
        Error::internal("cas.toml could not be serialized; please report it").source(error)
    })
}

/// Refuses a store with a secret in its URL, because the URL is written to `cas.toml` and printed.
/// The error does not repeat the URL.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn refuse_secret(store: &str) -> Result<()> {
    let named = ["secret", "password", "token", "access_key", "credential"];
    let in_authority = |url: &str| {
        let (_, rest) = url.split_once("://").unwrap_or_default();
        let end = rest.find(['/', '?', '&']).unwrap_or(rest.len());
        rest[..end].contains('@')
    };
    let options = store.split_once('?').map_or("", |(_, options)| options);
    let in_option = |option: &str| {
        let name = option.split('=').next().unwrap_or_default();
        let name = name.to_ascii_lowercase();
        in_authority(option) || named.iter().any(|word| name.contains(word))
    };
    if in_authority(store) || options.split('&').any(in_option) {
        return Err(Error::invalid(
            "the URL of the store contains a secret; pass the secret in the environment, as the \
             documentation of the store says",
        )
        .operation("init root"));
    }
    Ok(())
}

#[cfg(test)]
pub(super) const TABLES: &str = r#"
    format = 1
    store = "mixed"
    snapshotter = "native"
    [stores.mixed]
    kind = "by-size"
    small = "nested"
    large = "fs"
    [stores.nested]
    kind = "by-size"
    small = "fs:///elsewhere"
    large = "fs"
    threshold = "4KiB"
"#;

#[cfg(test)]
mod tests {
    use cas_core::ErrorKind;

    use super::*;

    #[test]
    fn tables_are_written_as_they_are_read() {
        let engines = parse(TABLES, Path::new("/root")).unwrap();
        let text = toml::to_string(&engines).unwrap();
        assert_eq!(parse(&text, Path::new("/root")).unwrap(), engines);
    }

    #[test]
    fn a_wrong_speed_is_refused_with_the_name_of_the_setting() {
        let text = |lazy: &str| format!("{TABLES}\n[lazy]\n{lazy}");
        parse(&text("speed = \"20MiB\""), Path::new("/root")).unwrap();
        for wrong in ["20MB", "abc", "-1", "0"] {
            let text = text(&format!("speed = \"{wrong}\""));
            let error = parse(&text, Path::new("/root")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            let said = error.to_string();
            assert!(said.contains("speed of [lazy] in cas.toml"), "{said}");
        }
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for store in [
            "s3://key:hush@bucket/p",
            "s3://b?secret_access_key=hush",
            "s3://b/p?endpoint=http://key:hush@host/x",
        ] {
            let error = refuse_secret(store).unwrap_err();
            assert!(!format!("{error:?}").contains("hush"));
        }
        for store in [
            "fs",
            "fs:///srv/a@b",
            "s3://b/p@q?endpoint=http://host:1&region=r",
        ] {
            refuse_secret(store).unwrap();
        }
    }
}
