//! The pathWhitelist of a manifest.

use std::collections::BTreeSet;

use crate::manifest::ImageManifest;

/// The only paths that the layer of an ACI may have, and the directories above them.
#[derive(Debug, Default)]
pub(super) struct Whitelist {
    paths: BTreeSet<Vec<u8>>,
    parents: BTreeSet<Vec<u8>>,
}

impl Whitelist {
    /// Returns the whitelist of a manifest, or `None` if it has none.
    pub(super) fn of(manifest: &ImageManifest) -> Option<Self> {
        let mut list = Whitelist::default();
        for path in &manifest.path_whitelist {
            let names = path.split('/').filter(|name| !matches!(*name, "" | "."));
            let names: Vec<&str> = names.collect();
            for depth in 0..names.len() {
                list.parents.insert(names[..depth].join("/").into_bytes());
            }
            list.paths.insert(names.join("/").into_bytes());
        }
        (!list.paths.is_empty()).then_some(list)
    }

    /// Returns whether the layer may have a member at `path`. The member is a directory if
    /// `is_directory` is set. `path` must not have empty names or `.`.
    pub(super) fn allows(&self, path: &[u8], is_directory: bool) -> bool {
        self.paths.contains(path)
            || is_directory && (path.is_empty() || self.parents.contains(path))
    }
}
