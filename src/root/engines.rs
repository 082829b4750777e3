//! The engines of a root, and the locations of its stores.

use std::collections::BTreeMap;
use std::path::Path;

use cas_core::{Error, Location, Opener, Registry, Result};
use serde::{Deserialize, Serialize};

use super::keep::Keep;
use super::lazy::LazyTable;
use super::registries::RegistryTable;
use super::remote::{PolicyTable, RemoteTable};

/// The format of `cas.toml` that this version reads and writes.
pub(super) const FORMAT: u32 = 1;

/// The content of `cas.toml`, except the table `[pull_modes]`: the store and the snapshotter of a
/// root (its engines), what the root keeps of layers, the settings of registries and of layers that
/// are read on demand, and the rules for images that a pull accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engines {
    format: u32,
    /// The store: a scheme, a URL or the name of a table in `stores`. A URL with a host or a path,
    /// such as `fs:///srv/store`, means a store outside of the root. Any other text means a store
    /// in the root. A composition is a store that is made of other stores, its members. A
    /// composition in the root may have members outside of the root. Each of these members is a URL
    /// with a host or a path.
    pub store: String,
    /// The snapshotter: a scheme, or a URL with options, as in `overlay://?NAME=VALUE`. If this
    /// text is empty, a new root gets the first snapshotter that works on this machine: `overlay`
    /// if overlayfs can be used, otherwise `native`.
    pub snapshotter: String,
    /// What the root keeps of a layer that it has unpacked. [`Keep::Tar`] needs the snapshotter
    /// `erofs`, and a store in the root.
    #[serde(default, skip_serializing_if = "is_default")]
    pub keep: Keep,
    /// The tables `[stores.NAME]`, by name. A composition or a store with options can be described
    /// by a table instead of a URL.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stores: BTreeMap<String, Table>,
    /// The tables `[registries."HOST[:PORT]"]`. The key of each table is the host and port of a
    /// registry, as they are written in the names of images.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub registries: BTreeMap<String, RegistryTable>,
    /// How all registries are reached: the table `[remote]`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub remote: RemoteTable,
    /// How layers that are read on demand are served: the table `[lazy]`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lazy: LazyTable,
    /// Which images a pull accepts: the table `[policy]`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: PolicyTable,
}

fn is_default<T: Default + PartialEq>(table: &T) -> bool {
    *table == T::default()
}

/// A store as a table of `cas.toml`: `[stores.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The scheme of the store, such as `by-size`.
    pub kind: String,
    /// The options of the store, all as text. The members of a composition are options, too. The
    /// value of such an option is a scheme, a URL or the name of another table.
    #[serde(flatten)]
    pub options: BTreeMap<String, String>,
}

impl Table {
    /// Returns the store of this table in the directory `place`.
    fn location(&self, place: &Path) -> Result<Location> {
        let location = Location::of_path(&self.kind, place)?;
        let options = self.options.iter();
        Ok(options.fold(location, |all, (option, value)| {
            all.with_option(option, value)
        }))
    }
}

impl Default for Engines {
    fn default() -> Self {
        Engines {
            format: FORMAT,
            store: "fs".into(),
            snapshotter: String::new(),
            keep: Keep::default(),
            stores: BTreeMap::new(),
            registries: BTreeMap::new(),
            remote: RemoteTable::default(),
            lazy: LazyTable::default(),
            policy: PolicyTable::default(),
        }
    }
}

impl Engines {
    /// Returns the engines of a new root: the store `fs`, or if `registry` does not have it, the
    /// first backend of `registry`.
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

    /// Returns the location of `store` for the root `path`. `store` is a scheme, a URL or the name
    /// of a table.
    ///
    /// # Errors
    /// `InvalidArgument` if a URL does not parse, if the table's name cannot name a directory, if a
    /// store is a member of itself, or if the store is in the root and `path` is not UTF-8. A
    /// scheme that `registry` does not have is not an error.
    pub(crate) fn locate(&self, store: &str, path: &Path, registry: &Registry) -> Result<Location> {
        let location = match self.stores.get(store) {
            Some(table) => {
                check_name(store)?;
                table.location(&path.join("stores").join(store))?
            }
            None if store.contains("://") => store.parse()?,
            None => Location::of_path(store, &path.join("store"))?,
        };
        let Some(composer) = registry.composer(location.scheme()) else {
            return location.or_path(&path.join("store"));
        };
        let place = path.join("stores").join(composer.scheme());
        self.resolve(location.or_path(&place)?, registry, self.stores.len())
    }

    /// Replaces each member that is the name of a table by the store of that table, at most `depth`
    /// tables deep.
    fn resolve(&self, mut whole: Location, registry: &Registry, depth: usize) -> Result<Location> {
        let members = registry.composer(whole.scheme()).map(|one| one.members());
        for member in members.unwrap_or_default() {
            let name = whole.options().get(*member);
            let Some(table) = name.and_then(|name| self.stores.get(name)) else {
                continue;
            };
            let place = whole.path()?.join(member);
            let depth = depth.checked_sub(1).ok_or_else(|| {
                Error::invalid("a store of cas.toml is a member of itself; choose another member")
                    .operation("open store")
                    .subject(&whole)
            })?;
            let part = self.resolve(table.location(&place)?, registry, depth)?;
            whole = whole.with_member(member, part);
        }
        Ok(whole)
    }
}

/// Checks the name of a table of `stores`, which is also the name of a directory.
fn check_name(name: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(good) {
        let why = "expected only letters, digits, - and _ in the name of a table [stores.NAME]; \
                   rename the table";
        return Err(Error::invalid(why).operation("open store").subject(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::file::{TABLES, parse};
    use super::*;

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
}
