//! Temporary directories. If a process is killed, its directory stays until another process makes
//! one with the same prefix beside it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cas_core::error::{Context, Result};

use crate::DirLock;

/// Makes and locks the directory `path` with the mode 0700. Returns the lock. The name of the
/// directory must begin with `prefix` and have a unique end. The caller must remove the directory.
///
/// First removes the directories that killed processes have left: those beside `path` whose names
/// begin with `prefix` and that no process has locked. Logs a warning for each of them that cannot
/// be removed.
///
/// # Errors
/// Errors of the file system.
pub fn make_scratch(path: &Path, prefix: &str) -> Result<DirLock> {
    for left in path
        .parent()
        .into_iter()
        .flat_map(|beside| named(beside, prefix))
    {
        remove_left(&left);
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    loop {
        let made = builder.create(path);
        made.during("make directory", path.display())?;
        // Another process may have removed the directory before it was locked.
        if let Some(lock) = DirLock::try_new(path).during("lock", path.display())? {
            return Ok(lock);
        }
    }
}

/// Returns the paths in a directory whose names begin with `prefix`.
fn named(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.map(|entry| entry.path()).collect()
}

/// Removes a directory unless a process has locked it. A failure only wastes space.
fn remove_left(path: &Path) {
    let removed = match DirLock::try_new(path) {
        Ok(Some(_lock)) => fs::remove_dir_all(path),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot remove a temporary directory; remove it by hand");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_that_nobody_uses_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        let [left, used, other, new] =
            ["try-left", "try-used", "other", "try-new"].map(|name| temp.path().join(name));
        let lock = make_scratch(&used, "try-").unwrap();
        for directory in [&left, &other] {
            fs::create_dir_all(directory.join("inside")).unwrap();
        }
        fs::write(temp.path().join("try-file"), "").unwrap();
        let _new = make_scratch(&new, "try-").unwrap();
        assert!(!left.exists());
        assert!(used.exists() && other.exists() && new.exists());
        drop(lock);
        let _again = make_scratch(&temp.path().join("try-again"), "try-").unwrap();
        assert!(!used.exists() && other.exists() && new.exists());
    }
}
