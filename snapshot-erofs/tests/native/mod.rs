//! Layers that are images themselves, made by our own writer and by `mkfs.erofs`.

use std::io;

use cas_core::snapshot::LAYER_IMAGE;
use cas_core::{Digest, Error, Result};
use cas_erofs::{Disk, Layers};
use cas_host::snapshotter::SnapshotLayout;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use snapshot_erofs::Erofs;

use super::*;

fn open_native(root: &Path, native: bool) -> ErofsSnapshotter {
    let records = Arc::new(SqliteRecords::open(&root.join("records.db")).unwrap());
    let layout = Erofs::open().unwrap().with_native(native);
    ErofsSnapshotter::with_layout(layout, root, records).unwrap()
}

/// Returns the image of a layer as our own writer makes it.
pub(crate) fn image_of(tar: Tar) -> Vec<u8> {
    let temp = tempfile::tempdir().unwrap();
    let mut layers = Layers::new(temp.path());
    layers.add(&mut &tar.end()[..]).unwrap();
    let (tree, data) = layers.finish();
    let path = temp.path().join("image");
    Disk::write(&tree, &data, &fs::File::create(&path).unwrap()).unwrap();
    fs::read(path).unwrap()
}

/// Returns the image of a directory that `fill` fills, or `None` if `mkfs.erofs` is missing.
fn made(fill: impl FnOnce(&Path)) -> Option<Vec<u8>> {
    let temp = tempfile::tempdir().unwrap();
    let (tree, image) = (temp.path().join("tree"), temp.path().join("image"));
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let made = Command::new("mkfs.erofs").arg(&image).arg(&tree).output();
    let Ok(made) = made else {
        eprintln!("SKIPPED: no mkfs.erofs; run `cargo xtask setup` as the superuser");
        return None;
    };
    assert!(made.status.success(), "{made:?}");
    Some(fs::read(image).unwrap())
}

/// Commits a layer that is an image.
async fn native(
    store: &ErofsSnapshotter,
    name: &str,
    parent: Option<&str>,
    image: &[u8],
) -> Result<()> {
    let key = format!("making {name}");
    let target = store.prepare_layer(&key, None, Labels::new()).await?;
    let LayerTarget::Tar(directory) = target else {
        panic!("the layer is not stored as a file");
    };
    fs::write(directory.join(LAYER_IMAGE), image).unwrap();
    let options = Commit {
        parent: parent.map(str::to_owned),
        ..Commit::default()
    };
    store.commit(name, &key, options).await
}

async fn try_view(store: &ErofsSnapshotter, parent: &str) -> std::result::Result<(), Error> {
    store.view("look", Some(parent), Labels::new()).await?;
    store.remove("look").await
}

fn base() -> Vec<u8> {
    let tar = Tar::new().dir("dir/").file("dir/low", vec![b'l'; 5000]);
    image_of(tar.file("both", "low"))
}

fn file(root: &Path, id: u64) -> PathBuf {
    root.join(format!("snapshots/{id}/fs/{LAYER_IMAGE}"))
}

#[tokio::test]
async fn each_native_layer_is_mounted_on_its_own_below_an_overlay() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open_native(temp.path(), true);
    assert_eq!(store.os_features(), ["erofs"]);
    native(&store, "base", None, &base()).await.unwrap();
    let alone = view(&store, "alone", "base").await;
    assert!(matches!(alone[..], [Mount::Erofs { .. }]), "{alone:?}");
    let top = image_of(Tar::new().file("both", "top").file("new", "new"));
    native(&store, "top", Some("base"), &top).await.unwrap();
    let shown = view(&store, "shown", "top").await;
    assert!(
        matches!(&shown[..], [Mount::Erofs { .. }, Mount::Erofs { .. }, Mount::Overlay { lower, upper: None, .. }] if lower.len() == 2),
        "{shown:?}"
    );
    let [look, work] = ["look", "work"].map(|name| temp.path().join(name));
    attach(&shown, &look);
    let writable = prepare(&store, "work", "top").await;
    attach(&writable, &work);
    assert_eq!(images_below(temp.path()), 2, "both snapshots share them");
    for root in [&look, &work] {
        assert_eq!(fs::read(root.join("both")).unwrap(), b"top");
        assert_eq!(fs::read(root.join("new")).unwrap(), b"new");
        assert_eq!(fs::read(root.join("dir/low")).unwrap(), [b'l'; 5000]);
    }
    assert!(fs::write(look.join("new"), "x").is_err());
    fs::write(work.join("dir/low"), "changed").unwrap();
    fs::remove_file(work.join("both")).unwrap();
    assert!(!work.join("both").exists());
    // Without attaching, for this process alone.
    let opened = mount::open(&shown).unwrap();
    let through = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    assert_eq!(fs::read(through.join("both")).unwrap(), b"top");
    drop(opened);
    // The changes cannot become a layer, and stay.
    let error = store.commit("changes", "work", Commit::default()).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(fs::read(work.join("dir/low")).unwrap(), b"changed");
    for target in [&look, &work] {
        unmount(target);
    }
    for key in ["shown", "work", "alone", "top", "base"] {
        store.remove(key).await.unwrap();
    }
    assert_eq!(images_below(temp.path()), 0);
    assert_eq!(fs::read_dir(temp.path().join("mounts")).unwrap().count(), 0);
}

#[tokio::test]
async fn without_the_option_native_layers_are_neither_committed_nor_mounted() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open_native(temp.path(), true);
    native(&store, "base", None, &base()).await.unwrap();
    store
        .prepare("kept", Some("base"), Labels::new())
        .await
        .unwrap();
    drop(store);
    let store = open_native(temp.path(), false);
    assert!(store.os_features().is_empty());
    let refused = [
        native(&store, "other", None, &base()).await,
        try_view(&store, "base").await,
        store.mounts("kept").await.map(|_| ()),
    ];
    for outcome in refused {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("native=true"), "{error}");
    }
    // What is there can be checked and removed.
    assert_eq!(store.check("base", READ).await.unwrap(), Condition::Sound);
    for key in ["kept", "base"] {
        store.remove(key).await.unwrap();
    }
}

#[tokio::test]
async fn a_native_layer_is_checked_before_the_kernel_reads_it() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open_native(temp.path(), true);
    let whole = base();
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = whole.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    for (name, image, kind) in [
        ("not an image", vec![0; 8192], ErrorKind::Corrupt),
        ("short", whole[..1100].to_vec(), ErrorKind::Corrupt),
        ("checksum", changed(1024 + 48, b"x"), ErrorKind::Corrupt),
        ("feature", changed(1024 + 81, &[1]), ErrorKind::Unsupported),
        ("data", whole[..4096].to_vec(), ErrorKind::Unsupported),
    ] {
        native(&store, name, None, &image).await.unwrap();
        let error = try_view(&store, name).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains("layer.erofs"), "{error}");
        let error = store.prepare("work", Some(name), Labels::new()).await;
        assert_eq!(error.unwrap_err().kind(), kind, "{name}");
    }
    // A tar and an image do not make one chain.
    native(&store, "image", None, &whole).await.unwrap();
    layer(&store, "tar", Some("image"), &Tar::new().end()).await;
    let error = try_view(&store, "tar").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn a_native_layer_that_was_changed_is_damage_and_is_not_mounted() {
    if !is_usable() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let store = open_native(temp.path(), true);
    let image = base();
    let name = Digest::sha256(&image).to_string();
    native(&store, &name, None, &image).await.unwrap();
    assert_eq!(store.check(&name, READ).await.unwrap(), Condition::Sound);
    let path = file(temp.path(), 1);
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    let damaged = File::options().write(true).open(&path).unwrap();
    damaged.write_all_at(b"x", image.len() as u64 - 1).unwrap();
    damaged
        .set_times(FileTimes::new().set_modified(times))
        .unwrap();
    try_view(&store, &name).await.unwrap();
    let found = store.check(&name, READ).await.unwrap();
    assert!(matches!(found, Condition::Damaged(why) if why.contains("digest")));
    damaged.write_all_at(b"y", image.len() as u64 - 1).unwrap();
    for cut in [image.len() as u64, 100] {
        damaged.set_len(cut).unwrap();
        let error = try_view(&store, &name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
    fs::remove_file(&path).unwrap();
    // A pipe in its place is not opened.
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = try_view(&store, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// Attributes of overlayfs in a layer could show other parts of the image, or be taken for those of
/// the upper directory.
#[tokio::test]
async fn attributes_of_overlayfs_hide_but_do_not_redirect() {
    let set = |path: &Path, name: &str, value: &[u8]| {
        setxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    let low = |tree: &Path| {
        for name in ["secret", "opaque"] {
            fs::create_dir(tree.join(name)).unwrap();
            fs::write(tree.join(name).join("low"), "low").unwrap();
        }
        fs::write(tree.join("gone"), "gone").unwrap();
        fs::write(tree.join("plain"), "plain").unwrap();
    };
    let top = |tree: &Path| {
        for name in ["moved", "opaque"] {
            fs::create_dir(tree.join(name)).unwrap();
        }
        set(&tree.join("moved"), "trusted.overlay.redirect", b"/secret");
        set(&tree.join("opaque"), "trusted.overlay.opaque", b"y");
        set(tree, "trusted.overlay.opaque", b"y");
        mknodat(
            CWD,
            tree.join("gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        fs::write(tree.join("linked"), "").unwrap();
        set(&tree.join("linked"), "trusted.overlay.metacopy", b"");
        set(&tree.join("linked"), "trusted.overlay.redirect", b"/plain");
    };
    if !is_usable() {
        return;
    }
    let (Some(low), Some(top)) = (made(low), made(top)) else {
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let store = open_native(temp.path(), true);
    native(&store, "low", None, &low).await.unwrap();
    native(&store, "top", Some("low"), &top).await.unwrap();
    let target = temp.path().join("mnt");
    for mounts in [
        view(&store, "view", "top").await,
        prepare(&store, "work", "top").await,
    ] {
        attach(&mounts, &target);
        assert_eq!(fs::read_dir(target.join("opaque")).unwrap().count(), 0);
        assert!(!target.join("gone").exists());
        // The kernel refuses both, and shows neither other files nor an empty file.
        for name in ["moved", "linked"] {
            let error = fs::metadata(target.join(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{name}");
        }
        // The root of a stack of layers is never opaque.
        assert_eq!(fs::read(target.join("plain")).unwrap(), b"plain");
        unmount(&target);
    }
    for key in ["view", "work"] {
        store.remove(key).await.unwrap();
    }
    assert_eq!(images_below(temp.path()), 0);
}
