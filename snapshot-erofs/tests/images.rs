//! Images over tars: how they are made, mounted, shared, checked and made again.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may fail anywhere"
)]

mod bytes;
mod immutable;
mod in_use;
mod loops;
mod namespace;
mod native;
mod ready;
mod usable;

use std::fs::{self, File, FileTimes};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cas_core::snapshot::{Commit, Condition, Depth, LAYER_TAR, LayerTarget, Mount, Usage};
use cas_core::{ErrorKind, Labels, Snapshotter};
use cas_host::mount::{self, Rights, UnmountMode};
use cas_records_sqlite::SqliteRecords;
use snapshot_erofs::ErofsSnapshotter;
use testkit::archive::{Header, Tar};
use usable::is_usable;

const READ: Depth = Depth::Bytes { per_second: None };

fn open(root: &Path) -> ErofsSnapshotter {
    let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
    ErofsSnapshotter::open(root, records).unwrap()
}

/// Commits the tar of a layer.
async fn layer(store: &ErofsSnapshotter, name: &str, parent: Option<&str>, tar: &[u8]) {
    store_tar(store, &format!("making {name}"), None, tar).await;
    let options = Commit {
        parent: parent.map(str::to_owned),
        ..Commit::default()
    };
    let key = format!("making {name}");
    store.commit(name, &key, options).await.unwrap();
}

async fn store_tar(store: &ErofsSnapshotter, key: &str, parent: Option<&str>, tar: &[u8]) {
    let target = store.prepare_layer(key, parent, Labels::new()).await;
    let LayerTarget::Tar(directory) = target.unwrap() else {
        panic!("the layer is not stored as a tar");
    };
    fs::write(directory.join(LAYER_TAR), tar).unwrap();
}

/// Makes two layers: `base`, and `top` on it.
async fn two_layers(store: &ErofsSnapshotter) {
    let base = Tar::new()
        .dir("dir/")
        .file("dir/kept", vec![b'k'; 5000])
        .file("dir/gone", "gone")
        .symlink("link", "dir/kept");
    layer(store, "base", None, &base.end()).await;
    let top = Tar::new()
        .file("dir/.wh.gone", "")
        .hardlink("dir/same", "dir/kept")
        .file("new", "new");
    layer(store, "top", Some("base"), &top.end()).await;
}

async fn view(store: &ErofsSnapshotter, key: &str, parent: &str) -> Vec<Mount> {
    store.view(key, Some(parent), Labels::new()).await.unwrap()
}

async fn prepare(store: &ErofsSnapshotter, key: &str, parent: &str) -> Vec<Mount> {
    let made = store.prepare(key, Some(parent), Labels::new());
    made.await.unwrap()
}

async fn look(store: &ErofsSnapshotter) -> cas_core::Result<()> {
    store.view("look", Some("top"), Labels::new()).await?;
    store.remove("look").await
}

fn parts(mounts: &[Mount]) -> (PathBuf, Vec<PathBuf>, PathBuf) {
    match &mounts[0] {
        Mount::Erofs {
            image,
            devices,
            shared,
            ..
        } => (image.clone(), devices.clone(), shared.clone()),
        other => panic!("{other:?}"),
    }
}

fn attach(mounts: &[Mount], target: &Path) {
    fs::create_dir_all(target).unwrap();
    mount::attach(mounts, target, None, Rights::default()).unwrap();
}

fn unmount(target: &Path) {
    mount::unmount(target, UnmountMode::default()).unwrap();
}

/// Returns the number of EROFS mounts below a directory, in the mount namespace of this process.
fn images_below(root: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = format!("{}/", root.display());
    let is_below = |line: &&str| line.contains(" - erofs ") && line.contains(&root);
    table.lines().filter(is_below).count()
}

#[tokio::test]
async fn stored_tars_show_their_merged_tree_and_stay_as_they_are() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let sparse = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.size", b"8192"),
            ("GNU.sparse.map", b"4096,5"),
            ("GNU.sparse.numblocks", b"1"),
        ])
        .file("GNUSparseFile.0/sparse", "bytes")
        .end();
    layer(&store, "low", None, &sparse).await;
    let odd = [vec![b'o'; 512], vec![b'd'; 88]].concat();
    let high = Tar::new().dir("dir/").file("dir/odd", &odd).end();
    layer(&store, "high", Some("low"), &high).await;
    let mounts = view(&store, "view", "high").await;
    let (_, devices, _) = parts(&mounts);
    assert_eq!(devices.len(), 3, "two tars, and the data of sparse files");
    assert!(
        devices
            .iter()
            .any(|device| fs::read(device).unwrap() == high)
    );
    let root = mount::open(&mounts).unwrap();
    let tree = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    assert_eq!(fs::read(tree.join("dir/odd")).unwrap(), odd);
    let mut expected = vec![0; 8192];
    expected[4096..4101].copy_from_slice(b"bytes");
    assert_eq!(fs::read(tree.join("sparse")).unwrap(), expected);
    for key in ["low", "high"] {
        assert_eq!(store.check(key, READ).await.unwrap(), Condition::Sound);
    }
}

#[tokio::test]
async fn an_image_is_mounted_once_and_until_its_last_user_is_removed() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    // The mount table has paths without links.
    fs::create_dir(temp.path().join("root")).unwrap();
    std::os::unix::fs::symlink("root", temp.path().join("linked")).unwrap();
    let store = open(&temp.path().join("linked"));
    two_layers(&store).await;
    let seen = view(&store, "view", "top").await;
    let written = [
        prepare(&store, "one", "top").await,
        prepare(&store, "two", "top").await,
    ];
    let (_, _, shared) = parts(&seen);
    let [at, one, two] = ["at", "one", "two"].map(|name| temp.path().join(name));
    attach(&seen, &at);
    attach(&written[0], &one);
    attach(&written[1], &two);
    assert_eq!(
        images_below(temp.path()),
        2,
        "the shared mount and the view"
    );
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_eq!(device(&shared), device(&at), "one file system");
    for tree in [&at, &one, &two] {
        assert_eq!(fs::read(tree.join("link")).unwrap(), [b'k'; 5000]);
        assert_eq!(fs::read(tree.join("dir/same")).unwrap(), [b'k'; 5000]);
        assert!(!tree.join("dir/gone").exists());
    }
    fs::write(one.join("new"), "one").unwrap();
    assert_eq!(fs::read(two.join("new")).unwrap(), b"new");
    assert!(fs::write(at.join("new"), "").is_err(), "it is read-only");

    unmount(&at);
    store.remove("view").await.unwrap();
    unmount(&one);
    store.remove("one").await.unwrap();
    assert_eq!(images_below(temp.path()), 1, "an overlay still uses it");
    unmount(&two);
    store.remove("two").await.unwrap();
    assert_eq!(images_below(temp.path()), 0);
    assert!(!shared.exists());
}

/// A killed process has mounted the image, but nothing on it.
#[tokio::test]
async fn a_shared_mount_without_users_is_found_by_a_cleanup() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    let mounts = view(&store, "view", "top").await;
    let at = temp.path().join("at");
    attach(&mounts, &at);
    unmount(&at);
    let (_, _, shared) = parts(&mounts);
    let never = shared.with_file_name("of a mount that was not made");
    fs::create_dir(&never).unwrap();
    assert_eq!(images_below(temp.path()), 1);
    assert_eq!(store.cleanup().await.unwrap(), Usage::default());
    assert_eq!(images_below(temp.path()), 0);
    assert!(!shared.exists() && !never.exists());
    attach(&mounts, &at);
    assert_eq!(fs::read(at.join("new")).unwrap(), b"new");
    unmount(&at);
    store.remove("view").await.unwrap();
    assert_eq!(images_below(temp.path()), 0);
}

#[tokio::test]
async fn a_changed_tar_is_refused_before_it_is_mounted() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    let (_, devices, _) = parts(&view(&store, "view", "top").await);
    let [base, top] = [&devices[0], &devices[1]];
    let kept = temp.path().join("kept");
    let length = fs::metadata(base).unwrap().len();
    let changes: [(&str, &dyn Fn()); 5] = [
        ("truncated", &|| {
            let file = File::options().write(true).open(base).unwrap();
            file.set_len(length - 512).unwrap();
        }),
        ("overwritten", &|| {
            let file = File::options().write(true).open(base).unwrap();
            file.write_all_at(b"x", 600).unwrap();
        }),
        ("swapped", &|| {
            fs::rename(top, base).unwrap();
            fs::copy(&kept, top).unwrap();
        }),
        ("a pipe", &|| {
            fs::remove_file(base).unwrap();
            let made = Command::new("mkfifo").arg(base).status();
            assert!(made.unwrap().success());
        }),
        ("missing", &|| fs::remove_file(base).unwrap()),
    ];
    for (name, change) in changes {
        let copy = |from: &Path, to: &Path| {
            let copied = Command::new("cp").arg("-a").args([from, to]).status();
            assert!(copied.unwrap().success());
        };
        let [saved_base, saved_top] = ["base", "top"].map(|one| temp.path().join(one));
        copy(base, &kept);
        copy(base, &saved_base);
        copy(top, &saved_top);
        change();
        for error in [
            store.mounts("view").await.unwrap_err(),
            look(&store).await.unwrap_err(),
            store
                .prepare("root", Some("top"), Labels::new())
                .await
                .unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
            assert!(error.to_string().contains("fsck"), "{name}: {error}");
        }
        assert!(store.stat("look").await.unwrap().is_none(), "{name}");
        assert!(store.stat("root").await.unwrap().is_none(), "{name}");
        let found = store.check("base", Depth::Files).await.unwrap();
        assert!(matches!(found, Condition::Damaged(_)), "{name}: {found:?}");
        let _ = fs::remove_file(base);
        copy(&saved_base, base);
        copy(&saved_top, top);
        look(&store).await.unwrap();
    }
    // The mount does not follow a pipe that takes the place of a tar after the check.
    let mounts = store.mounts("view").await.unwrap();
    fs::remove_file(base).unwrap();
    assert!(Command::new("mkfifo").arg(base).status().unwrap().success());
    assert_eq!(mount::open(&mounts).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_damaged_image_is_found_and_a_changed_one_is_made_again() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    let (image, _, _) = parts(&view(&store, "view", "top").await);
    let whole = fs::read(&image).unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    let modified = fs::metadata(&image).unwrap().modified().unwrap();
    file.write_all_at(b"x", 2000).unwrap();
    file.set_times(FileTimes::new().set_modified(modified))
        .unwrap();
    match store.check("top", READ).await.unwrap() {
        Condition::Damaged(what) => assert!(what.contains("image.erofs"), "{what}"),
        other => panic!("the damage was not found: {other:?}"),
    }
    file.write_all_at(b"y", 2000).unwrap();
    look(&store).await.unwrap();
    assert!(fs::read(&image).unwrap() == whole, "the same bytes again");
    fs::remove_file(&image).unwrap();
    store.mounts("view").await.unwrap();
    assert!(fs::read(&image).unwrap() == whole, "the same bytes again");
    fs::write(image.with_file_name("image.json"), "{").unwrap();
    look(&store).await.unwrap();
    assert_eq!(store.check("top", READ).await.unwrap(), Condition::Sound);
    for name in ["image.erofs", "image.json"] {
        let path = image.with_file_name(name);
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("below")).unwrap();
        look(&store).await.unwrap();
        assert!(fs::read(&image).unwrap() == whole, "the same bytes again");
        assert!(path.is_file(), "{name}");
    }
}

/// Neither the layer nor a mount of the image is touched.
#[tokio::test]
async fn a_damaged_image_is_repaired_if_its_layer_is_sound() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    let mounts = view(&store, "view", "top").await;
    let (image, devices, shared) = parts(&mounts);
    let (whole, at) = (fs::read(&image).unwrap(), temp.path().join("at"));
    let damage = |path: &Path, offset| {
        let file = File::options().write(true).open(path).unwrap();
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        file.write_all_at(b"x", offset).unwrap();
        file.set_times(FileTimes::new().set_modified(modified))
            .unwrap();
    };
    assert!(store.repair("top", None).await.unwrap(), "nothing is wrong");
    assert_eq!(parts(&store.mounts("view").await.unwrap()).2, shared);
    attach(&mounts, &at);
    damage(&image, 2000);
    assert!(store.repair("top", None).await.unwrap());
    assert_eq!(store.check("top", READ).await.unwrap(), Condition::Sound);
    assert_eq!(fs::read(at.join("dir/same")).unwrap(), [b'k'; 5000]);
    let mounts = store.mounts("view").await.unwrap();
    assert!(fs::read(&image).unwrap() == whole, "the same bytes again");
    assert_ne!(parts(&mounts).2, shared, "the old mount has the old file");
    assert_eq!(parts(&mounts).1, devices);
    unmount(&at);
    damage(&devices[1], 600);
    damage(&image, 2000);
    assert!(!store.repair("top", None).await.unwrap());
    assert!(image.exists());
    assert!(!store.repair("view", None).await.unwrap());
    store.remove("view").await.unwrap();
}

#[tokio::test]
async fn an_image_counts_in_the_usage_of_its_topmost_layer() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    let [base, top] = ["base", "top"].map(|key| store.usage(key));
    let (base, top) = (base.await.unwrap(), top.await.unwrap());
    let (image, _, _) = parts(&view(&store, "view", "top").await);
    let record = fs::metadata(image.with_file_name("image.json")).unwrap();
    let size = (fs::metadata(&image).unwrap().blocks() + record.blocks()) * 512;
    assert!(size > 0);
    let grown = Usage {
        bytes: top.bytes + size,
        inodes: top.inodes + 2,
    };
    assert_eq!(store.usage("top").await.unwrap(), grown);
    assert_eq!(store.usage("base").await.unwrap(), base);
    assert_eq!(store.usage("view").await.unwrap(), Usage::default());
}

/// Two openings stand for two processes.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_make_one_image_at_a_time_agree_on_it() {
    let temp = tempfile::tempdir().unwrap();
    let stores = [open(temp.path()), open(temp.path())].map(Arc::new);
    two_layers(&stores[0]).await;
    for _ in 0..20 {
        let views = stores.clone().map(|store| {
            let key = format!("view {:p}", Arc::as_ptr(&store));
            tokio::spawn(async move {
                let mounts = store.view(&key, Some("top"), Labels::new()).await;
                store.remove(&key).await.unwrap();
                mounts.unwrap()
            })
        });
        let [one, two] = views;
        let (one, two) = (one.await.unwrap(), two.await.unwrap());
        assert_eq!(one, two);
        let (image, _, _) = parts(&one);
        fs::remove_file(image).unwrap();
    }
}

#[tokio::test]
async fn a_replaced_layer_gives_the_layers_above_a_new_image() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    two_layers(&store).await;
    let (_, devices, old) = parts(&view(&store, "view", "top").await);
    let tar = fs::read(&devices[0]).unwrap();
    fs::write(&devices[0], "").unwrap();
    store_tar(&store, "again", None, &tar).await;
    store.replace("base", "again").await.unwrap();
    let mounts = store.mounts("view").await.unwrap();
    let (_, devices, new) = parts(&mounts);
    assert_eq!(fs::read(&devices[0]).unwrap(), tar);
    assert_ne!(new, old, "the old mount has the damaged tar");
    mount::open(&mounts).unwrap();
    assert_eq!(store.check("base", READ).await.unwrap(), Condition::Sound);
}

#[tokio::test]
async fn layers_that_cannot_be_merged_are_refused_and_leave_no_snapshot() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let cases = [
        Tar::new().hardlink("link", "absent").end(),
        Tar::new().file("..", "out").end(),
        Tar::new().file("file", vec![0; 2000]).end()[..1536].to_vec(),
        Tar::new()
            .member(Header::new(b'0', "big").size(1 << 40), "")
            .end(),
        b"no tar at all, but more than one block of it".repeat(20),
    ];
    for (number, tar) in cases.iter().enumerate() {
        let name = format!("layer {number}");
        layer(&store, &name, None, tar).await;
        for _ in 0..2 {
            let refused = store.view("look", Some(&name), Labels::new()).await;
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{number}: {error}");
        }
        assert!(store.stat("look").await.unwrap().is_none(), "{number}");
    }
    assert_eq!(store.cleanup().await.unwrap(), Usage::default());
}

#[tokio::test]
async fn a_layer_without_its_tar_is_neither_mounted_nor_committed() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let target = store.prepare_layer("key", None, Labels::new()).await;
    let mounted = store.mounts("key").await.unwrap_err();
    assert_eq!(mounted.kind(), ErrorKind::FailedPrecondition);
    let committed = store.commit("name", "key", Commit::default()).await;
    assert_eq!(committed.unwrap_err().kind(), ErrorKind::FailedPrecondition);
    let LayerTarget::Tar(directory) = target.unwrap() else {
        panic!("the layer is not stored as a tar");
    };
    fs::write(directory.join(LAYER_TAR), Tar::new().end()).unwrap();
    store
        .commit("name", "key", Commit::default())
        .await
        .unwrap();
}

#[test]
fn the_probe_mounts_here_or_says_why_not() {
    let temp = tempfile::tempdir().unwrap();
    // A killed probe has left this.
    fs::create_dir_all(temp.path().join("new/probe-1-2")).unwrap();
    match snapshot_erofs::probe(&temp.path().join("new")) {
        Ok(()) => assert_eq!(images_below(temp.path()), 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
    assert_eq!(fs::read_dir(temp.path().join("new")).unwrap().count(), 0);
    if !is_usable() {
        return;
    }
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let error = snapshot_erofs::probe(memory.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("in memory"), "{error}");
}
