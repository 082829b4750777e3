//! Laws of layers that change, move or remove files of the layers below them. The laws are modeled
//! on the test suite of containerd.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use cas_core::ErrorKind;
use cas_core::snapshot::Commit;

use super::Subject;
use super::scene::{Tree, bare_layer, can_mount, is_root, layer, prepare, view};
use crate::material::kind;

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

/// The old content of the directory must not appear.
pub(super) async fn a_recreated_directory_is_empty(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    layer(&*store, "one", None, |dir| {
        fs::create_dir_all(dir.join("dir/old")).unwrap();
        write(dir, "dir/old/file", "1");
        write(dir, "dir/file", "1");
    })
    .await;
    layer(&*store, "two", Some("one"), |dir| {
        fs::remove_dir_all(dir.join("dir")).unwrap();
        fs::create_dir(dir.join("dir")).unwrap();
        write(dir, "dir/new", "2");
    })
    .await;
    layer(&*store, "three", Some("two"), |dir| {
        fs::remove_dir_all(dir.join("dir")).unwrap();
        write(dir, "dir", "3");
    })
    .await;
    let two = Tree::mount(&view(&*store, "view of two", Some("two")).await.unwrap());
    assert_eq!(two.names_in("dir"), ["new"]);
    let three = Tree::mount(&prepare(&*store, "top", Some("three")).await.unwrap());
    assert_eq!(three.read("dir").as_deref(), Some("3"));
}

/// If an upper layer changes the owner of a file, the layer below keeps the old owner. A directory
/// keeps its owner when a file is created in it.
pub(super) async fn owners_and_modes_go_through_layers(subject: Subject) {
    let store = subject.open().await;
    if !is_root() || !can_mount(&*store).await {
        return;
    }
    layer(&*store, "one", None, |dir| {
        fs::create_dir(dir.join("dir")).unwrap();
        for (name, mode) in [("file", 0o640), ("dir/below", 0o600)] {
            write(dir, name, "1");
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(dir.join("dir"), fs::Permissions::from_mode(0o2750)).unwrap();
        for name in ["", "file", "dir"] {
            chown(dir.join(name), Some(1000), Some(1001)).unwrap();
        }
        fs::set_permissions(dir.join("dir"), fs::Permissions::from_mode(0o2750)).unwrap();
    })
    .await;
    layer(&*store, "two", Some("one"), |dir| {
        chown(dir.join("file"), Some(2000), Some(2001)).unwrap();
        write(dir, "dir/new", "2");
    })
    .await;
    bare_layer(&*store, "three", Some("two")).await;
    for (parent, file) in [("one", (1000, 1001)), ("three", (2000, 2001))] {
        let key = format!("view of {parent}");
        let tree = Tree::mount(&view(&*store, &key, Some(parent)).await.unwrap());
        let found = |name: &str| {
            let data = fs::metadata(tree.path.join(name)).unwrap();
            ((data.uid(), data.gid()), data.mode() & 0o7777)
        };
        assert_eq!(found("file"), (file, 0o640), "file in {parent}");
        assert_eq!(found("dir"), ((1000, 1001), 0o2750), "dir in {parent}");
        assert_eq!(found("dir/below"), ((0, 0), 0o600), "dir/below in {parent}");
        assert_eq!(
            found("").0,
            (1000, 1001),
            "the owner of the root directory in {parent}"
        );
        assert_eq!(tree.read("file").as_deref(), Some("1"));
    }
}

/// Renaming a directory of a lower layer may be refused. The directory must then be unchanged.
pub(super) async fn names_move_out_of_their_layer(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    layer(&*store, "one", None, |dir| {
        for name in ["from", "linked", "moved"] {
            fs::create_dir(dir.join(name)).unwrap();
            write(dir, &format!("{name}/file"), name);
        }
    })
    .await;
    let mut whole = "moved";
    layer(&*store, "two", Some("one"), |dir| {
        fs::create_dir(dir.join("to")).unwrap();
        fs::rename(dir.join("from/file"), dir.join("to/file")).unwrap();
        fs::hard_link(dir.join("linked/file"), dir.join("to/link")).unwrap();
        fs::remove_dir_all(dir.join("linked")).unwrap();
        match fs::rename(dir.join("moved"), dir.join("renamed")) {
            Ok(()) => whole = "renamed",
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::CrossesDevices),
        }
    })
    .await;
    let tree = Tree::mount(&view(&*store, "view", Some("two")).await.unwrap());
    assert_eq!(tree.names(), ["from", whole, "to"]);
    assert!(tree.names_in("from").is_empty());
    assert_eq!(tree.read("to/file").as_deref(), Some("from"));
    assert_eq!(tree.read("to/link").as_deref(), Some("linked"));
    assert_eq!(tree.names_in(whole), ["file"]);
    let below = Tree::mount(&view(&*store, "below", Some("one")).await.unwrap());
    assert_eq!(below.names(), ["from", "linked", "moved"]);
    assert_eq!(below.read("from/file").as_deref(), Some("from"));
}

/// Layers are written without a parent, and get a parent when they are committed.
pub(super) async fn a_layer_given_a_parent_shows_it(subject: Subject) {
    let store = subject.open().await;
    if !store.rebases() || !can_mount(&*store).await {
        return;
    }
    let names = ["one", "two", "three"];
    for name in names {
        let mounts = prepare(&*store, &format!("making {name}"), None).await;
        let tree = Tree::mount(&mounts.unwrap());
        tree.write(name, name);
        tree.write("all", name);
    }
    for (place, name) in names.into_iter().enumerate() {
        let options = Commit {
            parent: place.checked_sub(1).map(|below| names[below].to_owned()),
            synced: true,
            ..Commit::default()
        };
        let key = format!("making {name}");
        store.commit(name, &key, options).await.unwrap();
    }
    for (key, parent, seen) in [
        ("middle", "two", &["all", "one", "two"][..]),
        ("top", "three", &["all", "one", "three", "two"]),
    ] {
        let tree = Tree::mount(&prepare(&*store, key, Some(parent)).await.unwrap());
        assert_eq!(tree.names(), seen);
        assert_eq!(tree.read("all").as_deref(), Some(parent));
    }
    let gone = store.remove("one").await;
    assert_eq!(kind(gone), Some(ErrorKind::FailedPrecondition));
}
