//! Devices and owners that are left out, because the user who applies a layer has no privileges.
//! They are counted, and there is one warning for each kind.

use cas_core::Result;

use super::Layer;
use super::dirs::Dir;
use super::seen::Fact;
use crate::tar::Excerpt;

/// Members that are left out, or that lose something, for the same reason.
#[derive(Debug, Default)]
pub(super) struct Count {
    number: u64,
    /// The path of the first member.
    first: Vec<u8>,
}

impl Count {
    pub(super) fn add(&mut self, path: &[u8]) {
        if self.number == 0 {
            self.first = path.to_vec();
        }
        self.number += 1;
    }

    /// Returns a text with the number of members and the path of the first, or `None` if there are
    /// none.
    fn describe(&self) -> Option<String> {
        let first = Excerpt(&self.first);
        (self.number > 0).then(|| format!("number: {}, first: {first}", self.number))
    }
}

impl Layer {
    /// Leaves out a device. Still removes what was at its name.
    pub(super) fn leave_out_device(&mut self, dir: &Dir, name: &[u8], path: &[u8]) -> Result<()> {
        self.clear(dir, name)?;
        self.record_hidden(dir, name);
        self.seen.insert(&Fact::LeftOut(dir.inode, name));
        self.devices.add(path);
        Ok(())
    }

    /// Returns whether a member at this name was left out.
    pub(super) fn is_left_out(&self, dir: &Dir, name: &[u8]) -> bool {
        self.seen.contains(&Fact::LeftOut(dir.inode, name))
    }

    /// Adds a warning if devices were left out, and a warning if owners were not kept.
    pub(super) fn warn_of_left_out(&mut self) {
        if let Some(devices) = self.devices.describe() {
            self.warn(&format!(
                "devices of the layer are left out ({devices}): only the superuser can make them, \
                 and only outside of user namespaces and without --rootless"
            ));
        }
        if let Some(owners) = self.owners.describe() {
            self.warn(&format!(
                "owners of the layer are not kept ({owners}): links and pipes cannot have the \
                 attribute that keeps an owner, and some file systems do not support this attribute"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Metadata};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use testkit::archive::{Header, Tar};

    use crate::apply::Tree;
    use crate::tar::Reader;

    /// A device hides what the layers below have at its name, also if it is left out.
    #[test]
    fn a_device_that_is_left_out_hides_what_is_below() {
        let [below, above] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let lower = Tar::new().file("a", "").file("dir/b", "").file("kept", "");
        let device = |name: &str| Header::new(b'3', name).device(1, 3);
        let upper = Tar::new()
            .member(device("a"), "")
            .member(device("dir"), "")
            .member(device("new"), "")
            .hardlink("kept", "new");
        let tree = |at: &tempfile::TempDir| Tree::open(at.path()).unwrap().into_rootless();
        let (lower, upper) = (lower.end(), upper.end());
        let under = tree(&below);
        under.apply(&mut Reader::new(&lower[..])).unwrap();
        let alone = tree(&above);
        let mut reader = Reader::new(&upper[..]);
        let (applied, effects) = alone.apply_standalone(&mut reader).unwrap();
        let warned = |text: &str| applied.warnings.iter().any(|one| one.contains(text));
        assert!(warned("(number: 4, first: a)"), "{:?}", applied.warnings);
        let effects = effects.unwrap();
        assert!(alone.resolve_onto(Some(&under), &effects).unwrap());
        let is_whiteout = |found: Metadata| found.file_type().is_char_device() && found.rdev() == 0;
        for (name, hidden) in [("a", true), ("dir", true), ("kept", true), ("new", false)] {
            let found = fs::symlink_metadata(above.path().join(name));
            assert_eq!(found.is_ok_and(is_whiteout), hidden, "{name}");
        }
        under.apply(&mut Reader::new(&upper[..])).unwrap();
        assert_eq!(fs::read_dir(below.path()).unwrap().count(), 0);
    }
}
