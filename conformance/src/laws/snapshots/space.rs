//! Laws of the space that a snapshot takes and a removal frees.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cas_core::snapshot::{Mount, Usage};

use super::Subject;
use super::scene::{Tree, bare_layer, can_mount, commit, is_root, keys, layer, prepare, view};
use crate::material::bytes;

const MIB: u64 = 1 << 20;

pub(super) async fn hard_links_count_once(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    let tree = Tree::mount(&prepare(&*store, "key", None).await.unwrap());
    let empty = store.usage("key").await.unwrap();
    fs::write(tree.path.join("file"), bytes(1, MIB as usize)).unwrap();
    for number in 0..4 {
        let link = tree.path.join(format!("link-{number}"));
        fs::hard_link(tree.path.join("file"), link).unwrap();
    }
    let full = store.usage("key").await.unwrap();
    assert_eq!(full.inodes, empty.inodes + 1);
    let grown = full.bytes - empty.bytes;
    assert!(
        (MIB..MIB + MIB / 4).contains(&grown),
        "expected 1 to 1.25 MiB for a file with five names, found {grown} bytes"
    );
}

/// `usage` measures an active snapshot at each call. A committed snapshot was measured when it was
/// committed. If the snapshotter makes an image of the layers when the first child is prepared, the
/// space of the image is added to the usage of the parent.
pub(super) async fn usage_is_fixed_by_the_commit(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    let data = bytes(2, MIB as usize);
    layer(&*store, "name", None, |dir| {
        fs::write(dir.join("file"), &data).unwrap();
        fs::File::create(dir.join("hole"))
            .unwrap()
            .set_len(64 * MIB)
            .unwrap();
    })
    .await;
    let fixed = store.usage("name").await.unwrap();
    assert!(
        (MIB..2 * MIB).contains(&fixed.bytes),
        "expected a layer of 1 to 2 MiB, found {fixed:?}"
    );
    let child = Tree::mount(&prepare(&*store, "child", Some("name")).await.unwrap());
    let with_child = store.usage("name").await.unwrap();
    let image = with_child.bytes - fixed.bytes;
    assert!(
        image < MIB / 4,
        "expected the first child to add less than 256 KiB to the usage of its parent, found \
         {image} bytes"
    );
    let before = store.usage("child").await.unwrap();
    fs::write(child.path.join("more"), &data).unwrap();
    let after = store.usage("child").await.unwrap();
    assert!(
        after.bytes >= before.bytes + MIB,
        "expected the usage of the child to grow by at least 1 MiB from {before:?}, found {after:?}"
    );
    assert_eq!(store.usage("name").await.unwrap(), with_child);
}

/// An active snapshot does not count its parent either, except in a snapshotter that copies files.
pub(super) async fn a_view_does_not_count_its_parent(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    let data = bytes(3, MIB as usize);
    layer(&*store, "one", None, |dir| {
        fs::write(dir.join("a"), &data).unwrap()
    })
    .await;
    layer(&*store, "two", Some("one"), |dir| {
        fs::write(dir.join("b"), &data).unwrap()
    })
    .await;
    view(&*store, "view", Some("two")).await.unwrap();
    let taken = store.usage("view").await.unwrap();
    assert!(
        taken.bytes < MIB / 4,
        "expected a view of less than 256 KiB, found {taken:?}"
    );
    let mounts = prepare(&*store, "active", Some("two")).await.unwrap();
    if !matches!(mounts[..], [Mount::Bind { .. }]) {
        let taken = store.usage("active").await.unwrap();
        assert!(
            taken.bytes < MIB / 4,
            "expected an active snapshot of less than 256 KiB, found {taken:?}"
        );
    }
}

/// Returns the directories behind writable mounts.
fn directories(mounts: &[Mount]) -> Vec<PathBuf> {
    let directory = |mount: &Mount| match mount {
        Mount::Bind { source, .. } => Some(source.clone()),
        Mount::Overlay { upper, .. } => upper.clone(),
        Mount::Erofs { .. } => None,
        other => panic!("{}", other.unsupported()),
    };
    mounts.iter().filter_map(directory).collect()
}

pub(super) async fn a_removal_frees_its_space(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    for parent in [None, Some("base")] {
        let mounts = prepare(&*store, "key", parent).await.unwrap();
        let directories = directories(&mounts);
        assert!(!directories.is_empty());
        for directory in &directories {
            fs::create_dir_all(directory.join("a/b/c")).unwrap();
            fs::write(directory.join("a/b/c/file"), "text").unwrap();
            std::os::unix::fs::symlink("/", directory.join("a/root")).unwrap();
        }
        store.remove("key").await.unwrap();
        store.cleanup().await.unwrap();
        for directory in &directories {
            assert!(!directory.exists(), "{} still exists", directory.display());
        }
    }
}

/// Mounts a directory inside a snapshot, and removes the snapshot.
pub(super) async fn a_removal_spares_what_is_mounted_in_it(subject: Subject) {
    let store = subject.open().await;
    if !is_root() {
        return;
    }
    let home = subject.dir().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("file"), "text").unwrap();
    let mounts = prepare(&*store, "key", None).await.unwrap();
    let tree = directories(&mounts).remove(0);
    let inside = tree.join("home");
    fs::create_dir(&inside).unwrap();
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("mount").arg("--bind").args([&home, &inside]));
    // The removal may report that the tree is busy, or leave the rest to a cleanup.
    let removed = store.remove("key").await;
    store
        .cleanup()
        .await
        .expect("a cleanup must skip directories that are in use");
    run(Command::new("umount").arg(&inside));
    assert_eq!(fs::read_to_string(home.join("file")).unwrap(), "text");
    if removed.is_err() {
        store.remove("key").await.unwrap();
    }
    // A process that started while `inside` was a mount point may keep a copy of the mount in its
    // own mount namespace for a moment. So the cleanup is tried again for 30 seconds.
    let deadline = Instant::now() + Duration::from_secs(30);
    while tree.exists() {
        assert!(Instant::now() < deadline, "{} still exists", tree.display());
        store.cleanup().await.unwrap();
        thread::sleep(Duration::from_millis(10));
    }
}

/// A leftover of a crash is a directory that no record names, next to the directories of the
/// snapshots.
pub(super) async fn cleanup_frees_leftovers_and_nothing_else(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    view(&*store, "view", Some("base")).await.unwrap();
    let mounts = prepare(&*store, "active", Some("base")).await.unwrap();
    let active = directories(&mounts).remove(0);
    fs::write(active.join("file"), "text").unwrap();
    assert_eq!(store.cleanup().await.unwrap(), Usage::default());
    assert_eq!(store.leftovers().await.unwrap(), []);

    let outside = subject.dir().join("outside");
    fs::write(&outside, "text").unwrap();
    let snapshots = active.parent().and_then(|dir| dir.parent()).unwrap();
    let planted = snapshots.join("4000000000");
    fs::create_dir_all(planted.join("fs/dir")).unwrap();
    fs::write(planted.join("fs/dir/file"), bytes(4, MIB as usize)).unwrap();
    std::os::unix::fs::symlink(&outside, planted.join("fs/link")).unwrap();
    std::os::unix::fs::symlink(active.parent().unwrap(), planted.join("fs/dirlink")).unwrap();

    let found = store.leftovers().await.unwrap();
    let freed = store.cleanup().await.unwrap();
    assert_eq!(found, [freed]);
    assert!(!planted.exists(), "the leftover still exists");
    assert!(
        (MIB..2 * MIB).contains(&freed.bytes),
        "expected a cleanup to free 1 to 2 MiB, found {freed:?}"
    );
    assert_eq!(freed.inodes, 6);
    assert!(
        outside.exists(),
        "the cleanup removed the target of a symbolic link"
    );
    assert_eq!(fs::read_to_string(active.join("file")).unwrap(), "text");
    assert_eq!(keys(&*store).await, ["active", "base", "view"]);
    commit(&*store, "layer", "active").await.unwrap();
}
