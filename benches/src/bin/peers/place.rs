//! Where the runs happen: a directory that is given, or a journaled ext4 on a loop device, whose
//! file is in memory or on a disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::finish;

/// A file system in memory, where syncs cost next to nothing.
pub(super) const MEMORY: &str = "/dev/shm";

/// A directory for the runs; a mount of its own is gone when it is dropped.
pub(super) struct Place {
    scratch: TempDir,
    mounted: Option<PathBuf>,
}

impl Place {
    /// The directory that is given, or a file system of `size` bytes in a sparse file below
    /// `beneath`.
    pub(super) fn new(given: Option<&Path>, beneath: &Path, size: u64) -> Result<Self> {
        if let Some(directory) = given {
            let scratch = TempDir::new_in(directory)?;
            return Ok(Place {
                scratch,
                mounted: None,
            });
        }
        let scratch = TempDir::new_in(beneath)?;
        let (disk, point) = (scratch.path().join("disk"), scratch.path().join("mount"));
        File::create(&disk)?.set_len(size)?;
        std::fs::create_dir(&point)?;
        finish(
            Command::new("mkfs.ext4")
                .args(["-q", "-i", "8192"])
                .arg(&disk),
        )?;
        finish(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&disk)
                .arg(&point),
        )
        .context("cannot mount a loop device; be root, or name a directory with --on")?;
        Ok(Place {
            scratch,
            mounted: Some(point),
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.mounted
            .as_deref()
            .unwrap_or_else(|| self.scratch.path())
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.mounted {
            Some(_) if self.scratch.path().starts_with(MEMORY) => {
                "journaled ext4 on a loop device over tmpfs"
            }
            Some(_) => "journaled ext4 on a loop device over a disk",
            None => "the directory given with --on",
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(point) = &self.mounted {
            // A failure leaves a mount, which is seen.
            let _ = Command::new("umount").arg(point).status();
        }
    }
}
