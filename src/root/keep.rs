//! What a root keeps of a layer that it has unpacked: the key `keep` of `cas.toml`.

use std::path::Path;

use cas_core::{Error, Location, Registry, Result};
use serde::{Deserialize, Serialize};

use super::Engines;
use super::snapshotter;

/// The snapshotter that keeps layers as tars.
const KEEPS_TARS: &str = "erofs";

/// What a root keeps of a layer that it has unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Keep {
    /// The blob in the store, and the snapshot.
    #[default]
    Blob,
    /// The uncompressed tar in the snapshotter `erofs`. The blob is removed from the store.
    Tar,
}

impl Engines {
    /// Checks that a root at `path` with these engines can keep what `keep` states. [`Keep::Blob`]
    /// is always allowed.
    ///
    /// # Errors
    /// For [`Keep::Tar`], `InvalidArgument` if the snapshotter does not keep tars, or if the store
    /// is not in the root, because another root with the same store would not have the tars; as
    /// [`Engines::locate`] and [`Registry::parts`].
    pub(crate) fn check_keep(&self, path: &Path, registry: &Registry) -> Result<()> {
        if self.keep == Keep::Blob {
            return Ok(());
        }
        let refuse = |why: String| Err(Error::invalid(why).operation("open root"));
        let chosen = snapshotter::parse(&self.snapshotter)?;
        if chosen.scheme() != KEEPS_TARS {
            return refuse(format!(
                "`keep = \"tar\"` needs the snapshotter {KEEPS_TARS}, found {:?}; change the \
                 snapshotter, or leave `keep` out",
                self.snapshotter
            ));
        }
        let store = self.locate(&self.store, path, registry)?;
        let is_inside = |part: &Location| Path::new(part.place()).starts_with(path);
        if !registry.parts(&store)?.iter().all(is_inside) {
            return refuse(format!(
                "`keep = \"tar\"` needs a store in the root, found {:?}, which other roots may \
                 use; choose another store, or leave `keep` out",
                self.store
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{parse, text};
    use super::*;

    fn engines(store: &str, snapshotter: &str, keep: &str) -> Result<Engines> {
        let text = format!(
            "format = 1\nstore = {store:?}\nsnapshotter = {snapshotter:?}\nkeep = {keep:?}\n"
        );
        parse(&text, Path::new("/root"))
    }

    #[test]
    fn the_key_is_written_as_it_is_read() {
        let tar = engines("fs", "erofs", "tar").unwrap();
        let written = text(&tar).unwrap();
        assert!(written.contains("keep = \"tar\""), "{written}");
        assert_eq!(parse(&written, Path::new("/root")).unwrap(), tar);
        let blob = engines("fs", "erofs", "blob").unwrap();
        assert!(!text(&blob).unwrap().contains("keep"));
        let said = engines("fs", "erofs", "zip").unwrap_err().to_string();
        assert!(said.contains("zip") && said.contains("tar"), "{said}");
    }

    #[cfg(all(feature = "fs", feature = "erofs"))]
    #[test]
    fn only_erofs_over_a_store_in_the_root_may_keep_tars() {
        let checked = |store: &str, snapshotter: &str| {
            let engines = engines(store, snapshotter, "tar").unwrap();
            engines.check_keep(Path::new("/root"), &crate::registry())
        };
        checked("fs", "erofs").unwrap();
        checked("fs", "erofs://?immutable=true").unwrap();
        for (store, snapshotter, word) in [
            ("fs", "overlay", "snapshotter"),
            ("fs", "", "snapshotter"),
            ("fs:///srv/shared", "erofs", "store in the root"),
            (
                "by-size://?small=fs&large=fs:///x",
                "erofs",
                "store in the root",
            ),
        ] {
            let error = checked(store, snapshotter).unwrap_err();
            assert_eq!(error.kind(), cas_core::ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
