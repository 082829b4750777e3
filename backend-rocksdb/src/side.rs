//! A directory next to a damaged database. The directory has hard links to the table files and the
//! blob files of the database, and copies of the other files. RocksDB opens these links and copies
//! instead of the database itself. RocksDB may change the copies, and add files to the directory.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A directory with the files of a damaged database. It is removed when the value is dropped.
pub(crate) struct SideDir(PathBuf);

impl SideDir {
    /// Makes the directory. It has hard links to the table files and the blob files, which RocksDB
    /// never changes, and copies of all other files.
    ///
    /// # Errors
    /// `AlreadyExists` if the directory exists; errors of the file system.
    pub(crate) fn of(database: &Path) -> io::Result<Self> {
        let path = cas_kv::side_dir(database);
        DirBuilder::new().mode(0o700).create(&path)?;
        let side = SideDir(path);
        for entry in fs::read_dir(database)? {
            let entry = entry?;
            let (file, same) = (entry.path(), side.0.join(entry.file_name()));
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("sst" | "blob") => fs::hard_link(&file, &same)?,
                _ if entry.file_type()?.is_file() => fs::copy(&file, &same).map(drop)?,
                _ => {}
            }
        }
        Ok(side)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SideDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            let path = self.0.display();
            tracing::warn!(
                %error,
                "cannot remove {path}; it is removed when the store is next opened for writing"
            );
        }
    }
}
