//! Laws of the content that mounts show.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use cas_core::snapshot::Mount;

use super::Subject;
use super::scene::{Tree, bare_layer, can_mount, commit, is_root, layer, prepare, view};

pub(super) async fn a_chain_shows_all_its_layers(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    let text = |dir: &std::path::Path, name: &str, data: &str| {
        fs::write(dir.join(name), data).unwrap();
    };
    layer(&*store, "one", None, |dir| {
        text(dir, "first", "1");
        text(dir, "changed", "1");
        text(dir, "removed", "1");
    })
    .await;
    layer(&*store, "two", Some("one"), |dir| {
        text(dir, "second", "2");
        text(dir, "changed", "2");
        fs::remove_file(dir.join("removed")).unwrap();
    })
    .await;
    layer(&*store, "three", Some("two"), |dir| {
        text(dir, "third", "3");
    })
    .await;
    let mounts = prepare(&*store, "top", Some("three")).await.unwrap();
    let tree = Tree::mount(&mounts);
    assert_eq!(tree.names(), ["changed", "first", "second", "third"]);
    assert_eq!(tree.read("changed").as_deref(), Some("2"));
    assert_eq!(tree.read("first").as_deref(), Some("1"));
}

pub(super) async fn a_child_leaves_its_parent_alone(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    layer(&*store, "base", None, |dir| {
        fs::write(dir.join("kept"), "base").unwrap();
        fs::write(dir.join("gone"), "base").unwrap();
        fs::write(dir.join("linked"), "base").unwrap();
        fs::hard_link(dir.join("linked"), dir.join("link")).unwrap();
    })
    .await;
    let mounts = prepare(&*store, "child", Some("base")).await.unwrap();
    let child = Tree::mount(&mounts);
    child.write("kept", "child");
    child.write("link", "child");
    child.write("new", "child");
    fs::remove_file(child.path.join("gone")).unwrap();
    fs::set_permissions(&child.path, fs::Permissions::from_mode(0o700)).unwrap();
    drop(child);
    commit(&*store, "layer", "child").await.unwrap();
    let seen = Tree::mount(&view(&*store, "view", Some("base")).await.unwrap());
    assert_eq!(seen.names(), ["gone", "kept", "link", "linked"]);
    for name in ["gone", "kept", "link", "linked"] {
        assert_eq!(seen.read(name).as_deref(), Some("base"), "{name}");
    }
    let mode = fs::metadata(&seen.path).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o755, "mode of the root directory");
}

pub(super) async fn siblings_do_not_see_each_other(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    bare_layer(&*store, "base", None).await;
    let one = prepare(&*store, "one", Some("base")).await.unwrap();
    let two = prepare(&*store, "two", Some("base")).await.unwrap();
    Tree::mount(&one).write("file", "one");
    assert_eq!(Tree::mount(&two).read("file"), None);
    Tree::mount(&two).write("file", "two");
    assert_eq!(Tree::mount(&one).read("file").as_deref(), Some("one"));
}

pub(super) async fn a_view_shows_its_parent_and_is_read_only(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    layer(&*store, "one", None, |dir| {
        fs::write(dir.join("a"), "1").unwrap();
    })
    .await;
    layer(&*store, "two", Some("one"), |dir| {
        fs::write(dir.join("b"), "2").unwrap();
    })
    .await;
    for (parent, names) in [("one", &["a"][..]), ("two", &["a", "b"])] {
        let mounts = view(&*store, &format!("view of {parent}"), Some(parent)).await;
        let mounts = mounts.unwrap();
        assert!(
            Mount::is_read_only(&mounts),
            "a view must be read-only, found {mounts:?}"
        );
        let tree = Tree::mount(&mounts);
        assert_eq!(tree.names(), names);
        if !matches!(mounts[..], [Mount::Bind { .. }]) {
            let refused = fs::write(tree.path.join("new"), "").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
    }
    let mounts = prepare(&*store, "active", Some("two")).await.unwrap();
    assert!(
        !Mount::is_read_only(&mounts),
        "an active snapshot must be writable, found {mounts:?}"
    );
}

pub(super) async fn a_view_of_nothing_is_empty(subject: Subject) {
    let store = subject.open().await;
    let mounts = view(&*store, "view", None).await.unwrap();
    assert!(
        Mount::is_read_only(&mounts),
        "a view must be read-only, found {mounts:?}"
    );
    assert!(Tree::mount(&mounts).names().is_empty());
    store.remove("view").await.unwrap();
}

/// Every user of a container must be able to enter its root file system. If the mount is a bind
/// mount, the directory that contains all snapshots must be private.
pub(super) async fn a_new_root_is_open_to_all(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    let tree = Tree::mount(&prepare(&*store, "key", None).await.unwrap());
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&tree.path), 0o755);
    if let [Mount::Bind { source, .. }] = &store.mounts("key").await.unwrap()[..] {
        let snapshots = source.parent().and_then(|dir| dir.parent()).unwrap();
        assert_eq!(mode(snapshots), 0o700, "{}", snapshots.display());
    }
}

pub(super) async fn a_child_has_the_attributes_of_its_parent(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(86_400, 123_456_789);
    layer(&*store, "base", None, |dir| {
        fs::create_dir(dir.join("dir")).unwrap();
        fs::write(dir.join("dir/file"), "text").unwrap();
        fs::hard_link(dir.join("dir/file"), dir.join("link")).unwrap();
        symlink("dir/absent", dir.join("symlink")).unwrap();
        let sparse = fs::File::create(dir.join("sparse")).unwrap();
        sparse.set_len(16 << 20).unwrap();
        for (name, mode) in [("dir/file", 0o4750), ("dir", 0o1777), ("", 0o751)] {
            let path = dir.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            fs::File::open(&path).unwrap().set_modified(old).unwrap();
        }
    })
    .await;
    let mounts = prepare(&*store, "child", Some("base")).await.unwrap();
    let tree = Tree::mount(&mounts);
    let stat = |name: &str| fs::symlink_metadata(tree.path.join(name)).unwrap();
    for (name, mode) in [("dir/file", 0o4750), ("dir", 0o1777), ("", 0o751)] {
        let found = stat(name);
        assert_eq!(found.mode() & 0o7777, mode, "mode of {name:?}");
        assert_eq!(found.modified().unwrap(), old, "time of {name:?}");
    }
    assert_eq!(stat("link").ino(), stat("dir/file").ino(), "a hard link");
    assert_eq!(stat("link").nlink(), 2);
    let target = fs::read_link(tree.path.join("symlink")).unwrap();
    assert_eq!(target.to_str(), Some("dir/absent"));
    assert_eq!(stat("sparse").len(), 16 << 20);
    // In an EROFS image, the kernel counts the holes of a file as blocks.
    let is_image = matches!(mounts[..], [Mount::Erofs { .. }, ..]);
    let blocks = stat("sparse").blocks();
    assert!(
        is_image || blocks < 64,
        "a hole of a sparse file takes space on the disk"
    );
}

pub(super) async fn a_reused_key_starts_empty(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    for round in 0..3 {
        let tree = Tree::mount(&prepare(&*store, "key", None).await.unwrap());
        assert!(
            tree.names().is_empty(),
            "round {round}: a new snapshot must be empty, but has files"
        );
        tree.write("file", "text");
        drop(tree);
        store.remove("key").await.unwrap();
    }
}

/// Stacks more layers than images have in practice.
pub(super) async fn a_chain_may_be_long(subject: Subject) {
    let store = subject.open().await;
    let mut parent: Option<String> = None;
    for number in 0..128 {
        let name = format!("layer-{number}");
        let mounts = prepare(&*store, "key", parent.as_deref()).await.unwrap();
        if let [Mount::Bind { .. }] = &mounts[..] {
            Tree::mount(&mounts).write(&number.to_string(), "text");
        }
        commit(&*store, &name, "key").await.unwrap();
        parent = Some(name);
    }
    let mounts = view(&*store, "top", parent.as_deref()).await.unwrap();
    match &mounts[..] {
        [Mount::Bind { .. }] => assert_eq!(Tree::mount(&mounts).names().len(), 128),
        [
            Mount::Overlay { lower: layers, .. }
            | Mount::Erofs {
                devices: layers, ..
            },
        ] => {
            assert_eq!(layers.len(), 128);
            if is_root() {
                assert_eq!(Tree::mount(&mounts).names(), ["0"]);
            }
        }
        other => panic!("expected one mount, found {other:?}"),
    }
}
