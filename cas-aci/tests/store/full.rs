//! A disk that is really full.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use cas_core::ErrorKind;
use cas_core::pool::wait;
use tempfile::TempDir;
use testkit::archive::Tar;

use super::common::*;

/// A file system of 32 MiB, unmounted when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// Mounts the file system. Returns `None` if the process is not the superuser.
    fn mount() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"])
            .arg(directory.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| SmallDisk(directory))
    }

    /// Writes a file until nothing more fits. Returns its path.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filling");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_read_and_an_aci_is_removed_from_it() {
    for engine in ["fs", "redb"] {
        let Some(disk) = SmallDisk::mount() else {
            eprintln!("SKIPPED: a mount needs the superuser");
            return;
        };
        let store = open_engine(engine, &disk.path().join(engine));
        let acis = open(&store);
        let tar = Tar::new().file("manifest", manifest("a", "")).dir("rootfs");
        let archive = tar.file("rootfs/large", vec![7; 4 << 20]).end();
        let key = write(&acis, &archive);
        let filling = disk.fill();
        assert_eq!(read(&acis, &key.half()), archive);
        let other = aci(&manifest(
            "b",
            &format!(r#","annotations":{}"#, annotations()),
        ));
        let error = wait(acis.write_aci(Cursor::new(other))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        wait(acis.remove_aci(&key.half())).unwrap();
        assert!(!wait(acis.has_full_key(&key.half())).unwrap());
        assert_eq!(blobs(&store), 0);
        fs::remove_file(filling).unwrap();
        write(&acis, &archive);
    }
}

/// Returns annotations that are larger than the space that is left on a full disk.
fn annotations() -> String {
    let one = format!(r#"{{"name":"a","value":"{}"}}"#, "v".repeat(1000));
    format!("[{}]", vec![one; 500].join(","))
}
