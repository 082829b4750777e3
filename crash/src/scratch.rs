//! The files of a trial.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// A directory that is removed when this value is dropped. At first, it contains the empty
/// directories `disk`, `mounted`, `material` and `view`, and the empty file `marks`.
pub(crate) struct Scratch {
    directory: TempDir,
}

impl Scratch {
    /// Makes the directory in memory.
    pub(crate) fn in_memory() -> Result<Self> {
        Self::at(Path::new("/dev/shm"))
    }

    /// Makes the directory in memory. For `erofs`, makes it in the directory for temporary files,
    /// because the kernel does not mount an EROFS image from a file in memory.
    pub(crate) fn for_snapshotter(name: &str) -> Result<Self> {
        match name {
            "erofs" => Self::at(&std::env::temp_dir()),
            _ => Self::in_memory(),
        }
    }

    fn at(place: &Path) -> Result<Self> {
        let directory = tempfile::tempdir_in(place);
        let directory =
            directory.with_context(|| format!("cannot make a directory in {}", place.display()))?;
        for name in ["disk", "mounted", "material", "view"] {
            fs::create_dir(directory.path().join(name))?;
        }
        File::create(directory.path().join("marks"))?;
        Ok(Scratch { directory })
    }

    /// Returns a path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the path of the root, which the caller makes.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("mounted").join("root")
    }
}
