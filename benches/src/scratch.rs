//! The file system that the runs work on: the file system of a given directory, or a journaled ext4
//! on a loop device, whose file is in memory or on a disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::finish;

/// A file system in memory, on which a sync costs almost nothing.
pub const MEMORY: &str = "/dev/shm";

/// A directory for the runs. It is removed, and a mount in it is unmounted, on drop.
pub struct Scratch {
    scratch: TempDir,
    mounted: Option<PathBuf>,
}

impl Scratch {
    /// If `given` is a directory, creates a directory in it. If `given` is `None`, creates an ext4
    /// file system of `size` bytes in a sparse file below `parent`, and mounts it below `parent`.
    ///
    /// # Errors
    /// Errors of the system. If `given` is `None`, also a failure of `mkfs.ext4` or of `mount`,
    /// which needs superuser rights.
    pub fn new(given: Option<&Path>, parent: &Path, size: u64) -> Result<Self> {
        if let Some(directory) = given {
            let scratch = TempDir::new_in(directory)?;
            return Ok(Scratch {
                scratch,
                mounted: None,
            });
        }
        let scratch = TempDir::new_in(parent)?;
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
        .context("cannot mount a loop device; run as the superuser, or use --on DIR")?;
        Ok(Scratch {
            scratch,
            mounted: Some(point),
        })
    }

    /// Returns the directory that the runs use: the mount point if there is a mount.
    pub fn path(&self) -> &Path {
        self.mounted
            .as_deref()
            .unwrap_or_else(|| self.scratch.path())
    }

    /// Returns a description of the file system.
    pub fn kind(&self) -> &'static str {
        match self.mounted {
            Some(_) if self.scratch.path().starts_with(MEMORY) => {
                "journaled ext4 on a loop device over tmpfs"
            }
            Some(_) => "journaled ext4 on a loop device over a disk",
            None => "the directory given with --on",
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(point) = &self.mounted {
            // A failure is printed by `umount`.
            let _ = Command::new("umount").arg(point).status();
        }
    }
}
