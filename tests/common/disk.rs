//! Small file systems that tests mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::ok;

/// A mount that is unmounted when this value is dropped.
pub(crate) struct Disk(pub(crate) PathBuf);

impl Disk {
    /// Creates the directory `at`, and mounts a tmpfs there with these options, such as `size=8m`.
    pub(crate) fn mount(at: PathBuf, options: &str) -> Self {
        fs::create_dir(&at).unwrap();
        ok(Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&at));
        Disk(at)
    }

    /// Creates the directory `at`, and mounts a new btrfs of 128 MiB there, which is in the file
    /// `image`.
    pub(crate) fn btrfs(image: &Path, at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        fs::File::create(image).unwrap().set_len(128 << 20).unwrap();
        ok(Command::new("mkfs.btrfs").arg("-q").arg(image));
        ok(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(&at));
        Disk(at)
    }

    /// Creates the directory `at`, and mounts a new ext4 of `size` bytes there, which is in the file
    /// `image`. It has room for large extended attributes.
    pub(crate) fn ext4(image: &Path, at: PathBuf, size: u64) -> Self {
        fs::create_dir(&at).unwrap();
        fs::File::create(image).unwrap().set_len(size).unwrap();
        ok(Command::new("mke2fs")
            .args([
                "-q",
                "-t",
                "ext4",
                "-b",
                "4096",
                "-O",
                "ea_inode,^has_journal",
            ])
            .arg(image));
        ok(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(&at));
        Disk(at)
    }

    /// Creates the directory `at`, and mounts the directory `source` there.
    pub(crate) fn bound(source: &Path, at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        ok(Command::new("mount").arg("--bind").arg(source).arg(&at));
        Disk(at)
    }

    /// Mounts the directory `source` as [`Disk::bound`] does, read-only.
    pub(crate) fn read_only(source: &Path, at: PathBuf) -> Self {
        let disk = Disk::bound(source, at);
        disk.remount("bind,ro");
        disk
    }

    /// Changes the options of the mount. A program that another test starts has the files of this
    /// process open until it calls exec, and the mount stays writable as long. So this waits for
    /// some seconds while the mount is busy.
    pub(crate) fn remount(&self, how: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{how}")]).arg(&self.0);
        for _ in 0..100 {
            if mount.output().unwrap().status.success() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        ok(&mut mount);
    }

    /// Fills the file system, except for `left` bytes. Returns the file that fills it.
    pub(crate) fn fill(&self, left: u64) -> PathBuf {
        let free = rustix::fs::statvfs(&self.0).unwrap();
        let size = free.f_bavail * free.f_frsize - left;
        let file = self.0.join("filler");
        fs::write(&file, vec![1; size as usize]).unwrap();
        file
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        ok(Command::new("umount").arg("-l").arg(&self.0));
    }
}
