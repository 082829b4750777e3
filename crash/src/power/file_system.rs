//! The file systems on which a store is tested.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

/// A file system, with its default options except those that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
        }
    }

    /// Size in bytes of a disk. mkfs.xfs refuses less than 300 MiB.
    pub(crate) const fn size(self) -> u64 {
        match self {
            FileSystem::Ext4 => 96 << 20,
            FileSystem::Xfs => 320 << 20,
            FileSystem::Btrfs => 192 << 20,
        }
    }

    /// Size in bytes of a sector, the unit that a device must write as a whole. btrfs does not
    /// mount if its superblock of 4 KiB is torn.
    pub(crate) const fn sector(self) -> usize {
        match self {
            FileSystem::Ext4 | FileSystem::Xfs => 512,
            FileSystem::Btrfs => 4096,
        }
    }

    /// Formats a device.
    pub(crate) fn format(self, device: &Path) -> Result<()> {
        let options: &[&str] = match self {
            FileSystem::Ext4 => &["-q", "-F", "-E", "lazy_itable_init=0"],
            FileSystem::Xfs => &["-q", "-f"],
            FileSystem::Btrfs => &["-q", "-f"],
        };
        let program = format!("mkfs.{}", self.name());
        run(Command::new(program).args(options).arg(device))
    }

    /// Repairs an ext4 on a device. For other file systems, returns an error, because they must
    /// mount without a repair.
    pub(crate) fn repair(self, device: &Path) -> Result<()> {
        if self != FileSystem::Ext4 {
            bail!("expected {} to mount without a repair", self.name());
        }
        let mut command = Command::new("e2fsck");
        let output = command.args(["-f", "-y"]).arg(device).output();
        let status = output.context("cannot run e2fsck")?.status;
        // 1: errors were corrected.
        if !matches!(status.code(), Some(0 | 1)) {
            bail!("e2fsck does not repair the file system ({status})");
        }
        Ok(())
    }

    /// Returns the options of a mount. Without `nouuid`, xfs refuses to mount a file system while
    /// another with the same UUID is mounted.
    const fn options(self) -> &'static str {
        match self {
            FileSystem::Xfs => "nouuid",
            FileSystem::Ext4 | FileSystem::Btrfs => "defaults",
        }
    }
}

/// A loop device.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    /// Returns a new loop device on a file.
    pub(crate) fn new(file: &Path) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(file);
        let output = command.output().context("cannot run losetup")?;
        if !output.status.success() {
            bail!("losetup: {}", String::from_utf8_lossy(&output.stderr));
        }
        let device = String::from_utf8(output.stdout)?;
        Ok(Loop(device.trim_end().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = run(Command::new("losetup").arg("--detach").arg(&self.0));
        if let Err(error) = detached {
            eprintln!("crash: {error:#}");
        }
    }
}

/// A mount, which ends when this value is dropped.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    /// Mounts a device on `directory`. If the file system was not unmounted before, for example
    /// because of a loss of power, the kernel recovers it first.
    pub(crate) fn new(device: &Path, directory: &Path, kind: FileSystem) -> Result<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", kind.name(), "-o", kind.options()]);
        run(command.arg(device).arg(directory))?;
        Ok(Mounted(directory.to_owned()))
    }

    /// Unmounts. If that fails, returns an error, and unmounts lazily.
    pub(crate) fn unmount(self) -> Result<()> {
        let unmounted = run(Command::new("umount").arg(&self.0));
        if unmounted.is_ok() {
            std::mem::forget(self);
        }
        unmounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// Runs a program to its end.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{command:?} failed ({}): {}",
        output.status,
        said.trim_end()
    );
}
