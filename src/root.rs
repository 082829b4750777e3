//! A root: the directory that holds which engines are used, the store, and the snapshots.
//!
//! ```text
//! ROOT/                0700
//!   cas.toml           which engines, and what registries are allowed; never a secret
//!   store/             what the store keeps; that of fs is an OCI image layout
//!   stores/NAME/       a store of the table NAME of cas.toml, or of a composition of that scheme;
//!                      members of a composition are below it
//!   snapshots/NAME/    what a snapshotter keeps
//!   local/records.db   records that are always local: of snapshots
//!   run/               bundles of `cas run`, while they run
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cas_core::{Context, Error, Location, Opener, Registry, Result};
use cas_host::{Dir, Lock, find_foreign, make_private_dir};
use serde::{Deserialize, Serialize};

use crate::registries::RegistryTable;

/// The format of `cas.toml` that this version reads and writes.
const FORMAT: u32 = 1;

/// The engines of a root, as `cas.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engines {
    format: u32,
    /// A scheme, for a store inside the root; the URL of one elsewhere; or the name of a table.
    pub store: String,
    /// The snapshotter; empty for a new root is what fits: overlay where it can be had, else native.
    pub snapshotter: String,
    /// Stores by name, for what a scheme alone does not say: compositions above all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stores: BTreeMap<String, Table>,
    /// Registries by host, with the port if their references have one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<String, RegistryTable>,
}

/// A store as a table of `cas.toml`: `[stores.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its scheme.
    pub kind: String,
    /// Its options, all of them texts. A member of a composition is a scheme, a URL or the name of another table.
    #[serde(flatten)]
    pub options: BTreeMap<String, String>,
}

impl Table {
    /// The store of this table in the directory `place`.
    fn location(&self, place: &Path) -> Location {
        let location = Location::of_path(&self.kind, place);
        let options = self.options.iter();
        options.fold(location, |all, (option, value)| {
            all.with_option(option, value)
        })
    }
}

impl Default for Engines {
    fn default() -> Self {
        Engines {
            format: FORMAT,
            store: "fs".into(),
            snapshotter: String::new(),
            stores: BTreeMap::new(),
            registries: BTreeMap::new(),
        }
    }
}

impl Engines {
    /// Returns the engines of a new root: the store `fs`, or the first backend of `registry` if
    /// that is not in it.
    pub(crate) fn for_registry(registry: &Registry) -> Self {
        let schemes: Vec<&str> = registry.openers().map(Opener::scheme).collect();
        let mut engines = Engines::default();
        if let Some(first) = schemes.first()
            && !schemes.contains(&engines.store.as_str())
        {
            engines.store = (*first).to_owned();
        }
        engines
    }

    /// The place that `store`, a scheme, a URL or the name of a table, means in the root `path`.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none of these, has a name that is no directory's, or is a
    /// member of itself.
    pub(crate) fn locate(&self, store: &str, path: &Path, registry: &Registry) -> Result<Location> {
        let location = match self.stores.get(store) {
            Some(table) => {
                check_name(store)?;
                table.location(&path.join("stores").join(store))
            }
            None if store.contains("://") => store.parse()?,
            None => Location::of_path(store, &path.join("store")),
        };
        let Some(composer) = registry.composer(location.scheme()) else {
            return Ok(location.or_path(&path.join("store")));
        };
        let place = path.join("stores").join(composer.scheme());
        self.resolve(location.or_path(&place), registry, self.stores.len())
    }

    /// Puts the store for each member that is the name of a table, at most `depth` tables deep.
    fn resolve(&self, mut whole: Location, registry: &Registry, depth: usize) -> Result<Location> {
        let members = registry.composer(whole.scheme()).map(|one| one.members());
        for member in members.unwrap_or_default() {
            let name = whole.options().get(*member);
            let Some(table) = name.and_then(|name| self.stores.get(name)) else {
                continue;
            };
            let place = whole.path()?.join(member);
            let depth = depth.checked_sub(1).ok_or_else(|| {
                Error::invalid("a store of cas.toml is a member of itself; name another")
                    .operation("open store")
                    .subject(&whole)
            })?;
            let part = self.resolve(table.location(&place), registry, depth)?;
            whole = whole.with_member(member, part);
        }
        Ok(whole)
    }
}

/// Returns the first snapshotter of `registry` that works in the root `path`, and why those before
/// it do not.
fn first_usable(path: &Path, registry: &Registry) -> Result<(String, Option<Error>)> {
    let mut refused = None;
    for opener in registry.snapshotters() {
        match opener.probe(&path.join("snapshots").join(opener.scheme())) {
            Ok(()) => return Ok((opener.scheme().to_owned(), refused)),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        // The root works without one, until something is unpacked into snapshots.
        None => Ok((String::new(), None)),
        Some(error) => Err(error),
    }
}

/// An open root directory.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    path: PathBuf,
    pub(crate) engines: Engines,
}

impl Root {
    /// Opens a root, and makes one with the default engines if there is none.
    pub(crate) fn open(path: &Path, registry: &Registry) -> Result<Self> {
        match fs::read_to_string(path.join("cas.toml")) {
            Ok(text) => Ok(Root {
                path: absolute(path)?,
                engines: parse(&text, path)?,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let engines = Engines::for_registry(registry);
                Self::init(path, engines, registry).map(|(root, _)| root)
            }
            Err(error) => Err(error).during("open root", path.display()),
        }
    }

    /// Makes a root with these engines. Returns it, and if no snapshotter was chosen, why the
    /// preferred one does not work here.
    ///
    /// # Errors
    /// `AlreadyExists` when it is one with other engines; `FailedPrecondition` when the directory
    /// holds something else; `InvalidArgument` for a store with a secret in its URL.
    pub(crate) fn init(
        path: &Path,
        mut engines: Engines,
        registry: &Registry,
    ) -> Result<(Self, Option<Error>)> {
        refuse_secret(&engines.store)?;
        let root = |engines| {
            Ok::<_, Error>(Root {
                path: absolute(path)?,
                engines,
            })
        };
        make_private_dir(path).during("make root", path.display())?;
        let dir = Dir::open(path).during("init root", path.display())?;
        refuse_foreign(&dir).during("init root", path.display())?;
        let _alone = Lock::exclusive(&dir, ".lock").during("init root", path.display())?;
        if let Ok(text) = fs::read_to_string(path.join("cas.toml")) {
            let found = parse(&text, path)?;
            if engines.snapshotter.is_empty() {
                engines.snapshotter.clone_from(&found.snapshotter);
            }
            if engines.registries.is_empty() {
                engines.registries.clone_from(&found.registries);
            }
            if found == engines {
                return Ok((root(found)?, None));
            }
            return Err(Error::already_exists(format!(
                "this root uses store {:?} and snapshotter {:?}; choose another directory",
                found.store, found.snapshotter
            ))
            .operation("init root")
            .subject(path.display()));
        }
        let mut why = None;
        if engines.snapshotter.is_empty() {
            (engines.snapshotter, why) = first_usable(path, registry)?;
        }
        let text = toml::to_string(&engines)
            .map_err(|error| Error::internal("cas.toml does not serialise").source(error))?;
        dir.replace("cas.toml", text.as_bytes(), 0o600, (&dir, ".cas.toml"))
            .during("init root", path.display())?;
        Ok((root(engines)?, why))
    }

    /// Where the root's own store is.
    pub(crate) fn store(&self, registry: &Registry) -> Result<Location> {
        self.locate(&self.engines.store, registry)
    }

    /// The place that `store`, a scheme, a URL or the name of a table, means for this root.
    pub(crate) fn locate(&self, store: &str, registry: &Registry) -> Result<Location> {
        self.engines.locate(store, &self.path, registry)
    }

    /// Returns the hosts of token services that `cas.toml` names for the registry at `host`.
    ///
    /// # Errors
    /// `InvalidArgument` if it names something that is not a host.
    #[cfg(feature = "registry")]
    pub(crate) fn token_hosts(&self, host: &str) -> Result<Vec<cas_distribution::Host>> {
        let file = self.path.join("cas.toml");
        crate::registries::token_hosts(&self.engines.registries, host, &file)
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

/// Reads what names a snapshotter: a scheme, or a scheme with options, `overlay://?NAME=VALUE`.
///
/// # Errors
/// `InvalidArgument` if it is neither; a directory cannot be chosen.
pub(crate) fn snapshotter(text: &str) -> Result<Location> {
    if !text.contains("://") {
        return Ok(Location::of_path(text, Path::new("")));
    }
    let location: Location = text.parse()?;
    if !location.place().is_empty() {
        let message = "a snapshotter keeps its files below the root; leave the path out";
        return Err(Error::invalid(message)
            .operation("open snapshotter")
            .subject(text));
    }
    Ok(location)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).during("open root", path.display())
}

/// Refuses a directory that has other files in it.
fn refuse_foreign(dir: &Dir) -> Result<()> {
    let ours = ["cas.toml", "store", "stores", "snapshots", "local", "run"];
    // Names that begin with a dot are temporary files that a crash left.
    let is_ours = |name: &str| ours.contains(&name) || name.starts_with('.');
    if let Some(foreign) = find_foreign(dir, is_ours)? {
        return Err(Error::precondition(format!(
            "the directory is not empty and not a root: it has {foreign:?}; choose another"
        )));
    }
    Ok(())
}

/// The name of a table is that of a directory.
fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(good) {
        return Err(
            Error::invalid("a table of stores has letters, digits, - and _ in its name")
                .operation("open store")
                .subject(name),
        );
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

    const TABLES: &str = r#"
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

    fn locate(text: &str, store: &str) -> Result<Location> {
        let engines = parse(text, Path::new("/root"))?;
        engines.locate(store, Path::new("/root"), &crate::registry())
    }

    #[test]
    fn members_live_below_the_composition() {
        let mixed = locate(TABLES, "mixed").unwrap();
        #[cfg(feature = "fs")]
        crate::registry().check(&mixed).unwrap();
        assert_eq!(
            mixed.member("large").unwrap().place(),
            "/root/stores/mixed/large"
        );
        let nested = mixed.member("small").unwrap();
        assert_eq!(nested.size_option("threshold").unwrap(), Some(4096));
        assert_eq!(nested.member("small").unwrap().place(), "/elsewhere");
        let large = nested.member("large").unwrap();
        assert_eq!(large.place(), "/root/stores/mixed/small/large");
    }

    #[test]
    fn a_url_means_the_same_as_a_table() {
        let url = locate(TABLES, "by-size://?small=fs&large=nested").unwrap();
        assert_eq!(url.place(), "/root/stores/by-size");
        assert_eq!(url.member("large").unwrap().scheme(), "by-size");
        let away = locate(TABLES, "by-size:///x?small=fs&large=fs").unwrap();
        assert_eq!(away.member("small").unwrap().place(), "/x/small");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let itself = TABLES.replace("fs:///elsewhere", "mixed");
        let said = locate(&itself, "mixed").unwrap_err().to_string();
        assert!(said.contains("member of itself"), "{said}");
        let outside = TABLES.replace("stores.mixed", "stores.\"../x\"");
        let said = locate(&outside, "../x").unwrap_err().to_string();
        assert!(said.contains("letters"), "{said}");
        let number = TABLES.replace("\"4KiB\"", "4096");
        let said = locate(&number, "mixed").unwrap_err().to_string();
        assert!(said.contains("expected a string"), "{said}");
    }

    #[test]
    fn tables_are_written_as_they_are_read() {
        let engines = parse(TABLES, Path::new("/root")).unwrap();
        let text = toml::to_string(&engines).unwrap();
        assert_eq!(parse(&text, Path::new("/root")).unwrap(), engines);
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
