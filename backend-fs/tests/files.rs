//! A file that is stored as a blob shares its bytes with the blob by reflink. Later changes of the
//! file do not change the blob.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use backend_fs::FsStore;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{Digest, pool::wait};

const LENGTH: usize = 64 << 20;

/// A file system with reflinks on a loop device. It is unmounted on drop.
struct Xfs(tempfile::TempDir);

impl Xfs {
    fn mount() -> Option<Self> {
        let memory = tempfile::tempdir_in("/dev/shm").ok()?;
        let image = memory.path().join("image");
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let made = Command::new("mkfs.xfs").arg("-q").arg(&image).status();
        let at = memory.path().join("mounted");
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .arg("-o")
            .arg("loop")
            .arg(&image)
            .arg(&at)
            .status();
        if [made, mounted]
            .into_iter()
            .all(|done| done.is_ok_and(|status| status.success()))
        {
            return Some(Xfs(memory));
        }
        eprintln!("SKIPPED: an XFS with reflinks needs the superuser and xfsprogs");
        None
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("mounted")
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

fn free(path: &Path) -> u64 {
    let status = rustix::fs::statvfs(path).unwrap();
    status.f_bfree * status.f_frsize
}

fn data() -> Vec<u8> {
    (0..LENGTH as u32 / 4)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect()
}

#[test]
fn a_file_shares_its_bytes_with_its_blob() {
    let Some(xfs) = Xfs::mount() else { return };
    let source = xfs.path().join("file");
    fs::write(&source, data()).unwrap();
    let store = FsStore::open(xfs.path().join("store")).unwrap();
    rustix::fs::sync();
    let before = free(&xfs.path());
    let file = Arc::new(
        File::options()
            .read(true)
            .write(true)
            .open(&source)
            .unwrap(),
    );
    let content = store.content();
    let digest = wait(async {
        let mut writer = Writer::begin(&*content, "file", Expected::ANY)
            .await
            .unwrap();
        let written = writer.write_file(&file, 0, LENGTH as u64).await.unwrap();
        assert_eq!(written, LENGTH as u64);
        // Later changes of the file must not change the blob.
        file.write_all_at(&[0; 4096], 0).unwrap();
        let committed = writer.commit(&Batch::new(), Durability::Full).await;
        committed.unwrap().digest
    });
    assert_eq!(digest, Digest::sha256(&data()));
    rustix::fs::sync();
    let taken = before.saturating_sub(free(&xfs.path()));
    assert!(taken < LENGTH as u64 / 8, "{taken} bytes were written");
    let stored = wait(async {
        let reader = content.open(&digest).await.unwrap().unwrap();
        reader.read_at(0, LENGTH).await.unwrap()
    });
    assert!(stored == data());
}
