//! Images that the kernel reads through loop devices.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use cas_core::snapshot::{Backing, Usage};
use cas_core::{ErrorKind, Snapshotter};
use cas_host::mount;
use cas_host::snapshotter::SnapshotLayout;
use cas_records_sqlite::SqliteRecords;
use snapshot_erofs::{Erofs, ErofsSnapshotter};

use crate::usable::can_use_loops;
use crate::{attach, images_below, parts, prepare, two_layers, unmount, view};

/// The environment variable that names the root to the process that is killed.
const ROOT: &str = "CAS_TEST_LOOPS";

fn open(root: &Path) -> ErofsSnapshotter {
    let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
    let layout = Erofs::open().unwrap().with_backing(Backing::Loop);
    ErofsSnapshotter::with_layout(layout, root, records).unwrap()
}

/// Returns the files below a directory that loop devices show.
fn loops_below(root: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").unwrap();
    let file = |device: fs::DirEntry| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        Some(PathBuf::from(file.trim_end()))
    };
    let files = devices.filter_map(|device| file(device.unwrap()));
    files.filter(|file| file.starts_with(root)).collect()
}

#[tokio::test]
async fn loop_devices_are_shared_with_the_mount_and_released_with_it() {
    if !can_use_loops() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    let seen = view(&store, "view", "top").await;
    let written = prepare(&store, "active", "top").await;
    assert_eq!(loops_below(temp.path()).len(), 0, "nothing is mounted yet");
    let [at, other] = ["at", "other"].map(|name| temp.path().join(name));
    attach(&seen, &at);
    attach(&written, &other);
    let (image, devices, shared) = parts(&seen);
    let mut expected = [vec![image], devices].concat();
    let mut found = loops_below(temp.path());
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "one device for each file");
    assert_eq!(
        images_below(temp.path()),
        2,
        "the shared mount and the view"
    );
    assert_eq!(fs::read(at.join("link")).unwrap(), [b'k'; 5000]);
    assert_eq!(fs::read(other.join("dir/same")).unwrap(), [b'k'; 5000]);
    fs::write(other.join("new"), "changed").unwrap();
    assert!(mount::open(&seen).is_ok());

    unmount(&at);
    store.remove("view").await.unwrap();
    assert_eq!(loops_below(temp.path()).len(), 3, "an overlay uses them");
    unmount(&other);
    store.remove("active").await.unwrap();
    assert!(!shared.exists());
    assert_eq!(loops_below(temp.path()).len(), 0);
}

#[tokio::test]
async fn a_mount_that_fails_keeps_no_loop_device() {
    if !can_use_loops() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    let mounts = view(&store, "view", "top").await;
    let (image, devices, _) = parts(&mounts);
    let file = fs::File::options().write(true).open(image).unwrap();
    file.write_all_at(&[0; 512], 1024).unwrap();
    let error = mount::open(&mounts).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    fs::remove_file(&devices[1]).unwrap();
    let error = mount::open(&mounts).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
    assert_eq!(loops_below(temp.path()).len(), 0);
}

/// Mounts an image for itself, and another one for all users, until it is killed.
#[tokio::test]
async fn loops_holder() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let root = PathBuf::from(root);
    let store = open(&root);
    let mounts = store.mounts("view").await.unwrap();
    let _own = mount::open(&mounts).unwrap();
    let at = root.join("at");
    attach(&mounts, &at);
    unmount(&at);
    println!("\nmounted");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

#[tokio::test]
async fn loop_devices_of_a_killed_process_are_released() {
    if !can_use_loops() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    view(&store, "view", "top").await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "loops::loops_holder", "--nocapture"])
        .env(ROOT, temp.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = child.stdout.take().unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\nmounted\n") {
        assert_eq!(said.read(&mut byte).unwrap(), 1, "the process has ended");
        text.extend(byte);
    }
    assert_eq!(loops_below(temp.path()).len(), 6);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        loops_below(temp.path()).len(),
        3,
        "the shared mount is left"
    );
    assert_eq!(store.cleanup().await.unwrap(), Usage::default());
    assert_eq!(loops_below(temp.path()).len(), 0);
    assert_eq!(images_below(temp.path()), 0);
}

/// Files in memory cannot be mounted without loop devices.
#[test]
fn the_probe_mounts_files_in_memory_through_loop_devices() {
    if !can_use_loops() {
        return;
    }
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    snapshot_erofs::probe_with(memory.path(), Backing::Loop).unwrap();
    assert_eq!(loops_below(memory.path()).len(), 0);
}
