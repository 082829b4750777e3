//! A root: the directory that holds which engines are used, the store, and the snapshots.
//!
//! ```text
//! ROOT/                0700
//!   cas.toml           which engines; never a secret
//!   store/             the fs store, an OCI image layout
//!   snapshots/NAME/    what a snapshotter keeps
//!   local/records.db   records that are always local: of snapshots
//! ```

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cas_core::{Context, Error, Location, Result};
use cas_host::{Dir, Lock};
use serde::{Deserialize, Serialize};

/// The format of `cas.toml` that this version reads and writes.
const FORMAT: u32 = 1;

/// The engines of a root, as `cas.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engines {
    format: u32,
    /// A scheme, for a store inside the root, or the URL of one elsewhere.
    pub store: String,
    /// The snapshotter.
    pub snapshotter: String,
}

impl Default for Engines {
    fn default() -> Self {
        Engines {
            format: FORMAT,
            store: "fs".into(),
            snapshotter: "native".into(),
        }
    }
}

/// An open root directory.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    path: PathBuf,
    pub(crate) engines: Engines,
}

impl Root {
    /// Opens a root, or makes one with the default engines where nothing is there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        match fs::read_to_string(path.join("cas.toml")) {
            Ok(text) => Ok(Root {
                path: absolute(path)?,
                engines: parse(&text, path)?,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::init(path, Engines::default())
            }
            Err(error) => Err(error).during("open root", path.display()),
        }
    }

    /// Makes a root with these engines.
    ///
    /// # Errors
    /// `AlreadyExists` when it is one with other engines; `FailedPrecondition` when the directory
    /// holds something else; `InvalidArgument` for a store with a secret in its URL.
    pub(crate) fn init(path: &Path, engines: Engines) -> Result<Self> {
        refuse_secret(&engines.store)?;
        let root = |engines| {
            Ok(Root {
                path: absolute(path)?,
                engines,
            })
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .during("make root", path.display())?;
        let dir = Dir::open(path).during("init root", path.display())?;
        refuse_foreign(path)?;
        let _alone = Lock::exclusive(&dir, ".lock").during("init root", path.display())?;
        if let Ok(text) = fs::read_to_string(path.join("cas.toml")) {
            let found = parse(&text, path)?;
            if found == engines {
                return root(found);
            }
            return Err(Error::already_exists(format!(
                "this root uses store {:?} and snapshotter {:?}; choose another directory",
                found.store, found.snapshotter
            ))
            .operation("init root")
            .subject(path.display()));
        }
        let text = toml::to_string(&engines)
            .map_err(|error| Error::internal("cas.toml does not serialise").source(error))?;
        dir.replace("cas.toml", text.as_bytes(), 0o600, (&dir, ".cas.toml"))
            .during("init root", path.display())?;
        root(engines)
    }

    /// Where the store is.
    pub(crate) fn store(&self) -> Result<Location> {
        self.locate(&self.engines.store)
    }

    /// The place that `store`, a scheme or a URL, means for this root.
    pub(crate) fn locate(&self, store: &str) -> Result<Location> {
        if store.contains("://") {
            return store.parse();
        }
        Ok(Location::of_path(store, &self.path.join("store")))
    }

    /// Where a snapshotter keeps its files.
    pub(crate) fn snapshots(&self, name: &str) -> PathBuf {
        self.path.join("snapshots").join(name)
    }

    /// Where the local records are; their directory is made.
    pub(crate) fn local(&self) -> Result<PathBuf> {
        let directory = self.path.join("local");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .during("make", directory.display())?;
        Ok(directory.join("records.db"))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).during("open root", path.display())
}

/// A directory with something else in it is never made a root.
fn refuse_foreign(path: &Path) -> Result<()> {
    let ours = ["cas.toml", "store", "snapshots", "local"];
    for entry in fs::read_dir(path).during("init root", path.display())? {
        let name = entry.during("init root", path.display())?.file_name();
        // Names with a dot are our own temporary files, left by a crash in the middle.
        let known = name
            .to_str()
            .is_some_and(|name| ours.contains(&name) || name.starts_with('.'));
        if !known {
            return Err(Error::precondition(format!(
                "the directory is not empty and no root: it has {name:?}; choose another"
            ))
            .operation("init root")
            .subject(path.display()));
        }
    }
    Ok(())
}

/// `cas.toml` may be read by others, and is printed. The error does not repeat the URL either.
fn refuse_secret(store: &str) -> Result<()> {
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
            "the URL of the store holds a secret; give it in the environment, as the store's \
             documentation says",
        )
        .operation("init root"));
    }
    Ok(())
}

fn parse(text: &str, path: &Path) -> Result<Engines> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let fail = |error: toml::de::Error| {
        Error::corrupt(format!("cas.toml does not parse: {}", error.message()))
            .operation("open root")
            .subject(path.display())
    };
    let Format { format } = toml::from_str(text).map_err(fail)?;
    if format != FORMAT {
        return Err(Error::precondition(format!(
            "cas.toml has format {format}, this version knows {FORMAT}; use a newer cas"
        ))
        .operation("open root")
        .subject(path.display()));
    }
    toml::from_str(text).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

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
