//! The small files in `manifests/`, next to the directories of the snapshots.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use cas_core::error::{Context, Result};
use cas_core::snapshot::Usage;
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;

use super::{DIRECTORY, SnapshotDirs, number};
use crate::calls::{self, undisturbed};
use crate::remove;
use crate::tree::usage_of;

/// The end of the name of a `.kept` file.
const KEPT: &str = ".kept";

impl SnapshotDirs {
    /// Returns the numbers for which there is a file in `manifests/`, but no directory, for example
    /// because someone has removed the directory by hand.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn without_directory(&self) -> Result<BTreeSet<u64>> {
        let names = self.names_beside().during("list", self.manifests.display());
        let ids = names?.into_iter();
        let mut found: BTreeSet<u64> = ids
            .filter_map(|name| number(name.split('.').next()?))
            .collect();
        // A directory is made before its manifest, and no number is used twice.
        for id in self.ids()? {
            found.remove(&id);
        }
        Ok(found)
    }

    /// Returns whether the tree of `id` has a manifest with which [`Self::check`] compares it.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub(crate) fn has_manifest(&self, id: u64) -> Result<bool> {
        let path = self.manifest(id);
        match undisturbed(|| path.symlink_metadata()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => Ok(found.during("open", path.display())?.is_file()),
        }
    }

    /// Creates the `.kept` file of `id`, which states that the snapshot in the directory of `id`
    /// may have the only copy of files. As long as the file exists, the directory does not count as
    /// a leftover, even if the record of the snapshot is lost. The file is not synced, so a loss of
    /// power may undo the write.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn keep(&self, id: u64) -> Result<()> {
        let path = self.kept_file(id);
        let make = || {
            calls::make_dirs(&self.manifests)?;
            undisturbed(|| File::create(&path)).map(drop)
        };
        make().during("make", path.display())
    }

    /// Removes the `.kept` file of `id` durably. Callers do this before they remove the record of
    /// the snapshot. So if a kill or a loss of power leaves the directory without a record, the
    /// directory counts as a leftover, and a cleanup removes it. Returns whether the file existed.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn end_keep(&self, id: u64) -> Result<bool> {
        let path = self.kept_file(id);
        match calls::unlinkat(CWD, &path, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(false),
            removed => {
                let sync = || undisturbed(|| File::open(&self.manifests))?.sync_all();
                let removed = removed.map_err(io::Error::from).and_then(|()| sync());
                removed.during("remove", path.display())?;
                Ok(true)
            }
        }
    }

    /// Returns the numbers of the directories that have a `.kept` file.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn kept(&self) -> Result<BTreeSet<u64>> {
        let names = match self.names_beside() {
            // Something else is in the place of `manifests/`.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Vec::new(),
            names => names.during("list", self.manifests.display())?,
        };
        let ids = names.iter().filter_map(|name| name.strip_suffix(KEPT));
        Ok(ids.filter_map(number).collect())
    }

    /// Returns the disk usage of the files of `id` in `manifests/`.
    ///
    /// # Errors
    /// Errors of the file system, with the path.
    pub fn measure_beside(&self, id: u64) -> Result<Usage> {
        let mut usage = Usage::default();
        for path in self.files_beside(id) {
            match calls::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                found => {
                    let found = found.map_err(io::Error::from);
                    usage += usage_of(&found.during("measure", path.display())?);
                }
            }
        }
        Ok(usage)
    }

    /// Removes the files of `id` in `manifests/`. If a directory is in the place of such a file,
    /// removes the directory with everything in it. Returns the freed space, without what was in
    /// such a directory.
    ///
    /// # Errors
    /// `Busy` if something is mounted in a directory that is in the place of a file; errors of the
    /// file system, with the path.
    pub fn remove_beside(&self, id: u64) -> Result<Usage> {
        let usage = self.measure_beside(id)?;
        for path in self.files_beside(id) {
            let removed = match calls::unlinkat(CWD, &path, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(Errno::ISDIR) => remove::remove_all(&path, true),
                Err(error) => Err(error.into()),
            };
            removed.during("remove", path.display())?;
        }
        Ok(usage)
    }

    fn files_beside(&self, id: u64) -> [PathBuf; 4] {
        let replaced = self.replaced(id);
        let new = replaced.with_extension("new");
        [self.manifest(id), self.kept_file(id), new, replaced]
    }

    fn kept_file(&self, id: u64) -> PathBuf {
        self.manifests.join(format!("{id}{KEPT}"))
    }

    /// Returns the names in `manifests/` that are UTF-8.
    fn names_beside(&self) -> io::Result<Vec<String>> {
        let dir = match calls::open(&self.manifests, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            opened => opened?,
        };
        let names = calls::list(&dir)?.into_iter();
        Ok(names
            .filter_map(|(name, _)| name.into_string().ok())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_directory_in_the_place_of_a_small_file_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let dirs = SnapshotDirs::open(temp.path()).unwrap();
        for name in ["7", "7.kept", "7.replaced"] {
            fs::create_dir_all(temp.path().join("manifests").join(name).join("below")).unwrap();
        }
        fs::write(temp.path().join("manifests/7/below/file"), "text").unwrap();
        assert_eq!(dirs.without_directory().unwrap(), BTreeSet::from([7]));
        assert_eq!(dirs.remove_beside(7).unwrap().inodes, 3);
        assert_eq!(dirs.without_directory().unwrap(), BTreeSet::new());
        assert_eq!(dirs.remove_beside(7).unwrap(), Usage::default());
    }

    #[test]
    fn a_kept_file_is_found_until_it_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let dirs = SnapshotDirs::open(temp.path()).unwrap();
        assert_eq!(dirs.kept().unwrap(), BTreeSet::new());
        dirs.keep(8).unwrap();
        dirs.keep(8).unwrap();
        assert_eq!(dirs.kept().unwrap(), BTreeSet::from([8]));
        assert!(dirs.end_keep(8).unwrap());
        assert!(!dirs.end_keep(8).unwrap());
        assert_eq!(dirs.kept().unwrap(), BTreeSet::new());
    }
}
