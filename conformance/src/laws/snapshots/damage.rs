//! Laws of damaged snapshots: how they are found and replaced.

use std::path::PathBuf;

use cas_core::ErrorKind;
use cas_core::snapshot::{Condition, Depth, Mount};

use super::Subject;
use super::scene::{Tree, bare_layer, can_mount, layer, prepare, stat, view};
use crate::material::kind;

const READ: Depth = Depth::Bytes { per_second: None };

/// Returns the directory of a committed snapshot without a parent, or `None` if its view is not a
/// bind mount.
async fn tree_of(store: &dyn cas_core::Snapshotter, name: &str) -> Option<PathBuf> {
    let mounts = view(store, "look", Some(name)).await.unwrap();
    store.remove("look").await.unwrap();
    match &mounts[..] {
        [Mount::Bind { source, .. }] => Some(source.clone()),
        _ => None,
    }
}

pub(super) async fn what_nobody_changed_is_sound(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    layer(&*store, "base", None, |tree| {
        std::fs::create_dir(tree.join("etc")).unwrap();
        std::fs::write(tree.join("etc/passwd"), "root").unwrap();
        std::os::unix::fs::symlink("passwd", tree.join("etc/link")).unwrap();
    })
    .await;
    layer(&*store, "top", Some("base"), |tree| {
        std::fs::remove_file(tree.join("etc/link")).unwrap();
        std::fs::write(tree.join("etc/passwd"), "root and others").unwrap();
    })
    .await;
    prepare(&*store, "active", Some("top")).await.unwrap();
    view(&*store, "view", Some("top")).await.unwrap();
    view(&*store, "empty", None).await.unwrap();
    for again in 0..2 {
        for key in ["base", "top", "active", "view", "empty"] {
            for depth in [Depth::Directory, Depth::Files, READ] {
                let found = store.check(key, depth).await.unwrap();
                assert_eq!(found, Condition::Sound, "{key}, check {again}");
            }
        }
    }
    let absent = store.check("absent", Depth::Files).await;
    assert_eq!(kind(absent), Some(ErrorKind::NotFound));
    assert!(store.damaged_records(false).await.unwrap().is_empty());
}

pub(super) async fn changed_files_are_found(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    layer(&*store, "base", None, |tree| {
        std::fs::write(tree.join("file"), "text").unwrap();
    })
    .await;
    let Some(tree) = tree_of(&*store, "base").await else {
        return;
    };
    // A device that fails can change bytes of a file, but not the time and the size of the file.
    let modified = tree.join("file").metadata().unwrap().modified().unwrap();
    std::fs::write(tree.join("file"), "tEXt").unwrap();
    let file = std::fs::File::open(tree.join("file")).unwrap();
    file.set_modified(modified).unwrap();
    match store.check("base", READ).await.unwrap() {
        Condition::Damaged(what) => assert!(what.contains("file"), "{what}"),
        other => panic!("a check must find changed bytes, but returned {other:?}"),
    }
    std::fs::write(tree.join("file"), "").unwrap();
    assert_eq!(
        store.check("base", Depth::Directory).await.unwrap(),
        Condition::Sound
    );
    match store.check("base", Depth::Files).await.unwrap() {
        Condition::Damaged(what) => assert!(
            what.contains("file"),
            "a check must name the damaged file, but returned {what}"
        ),
        other => panic!("a check must find an emptied file, but returned {other:?}"),
    }
    std::fs::remove_dir_all(&tree).unwrap();
    for depth in [Depth::Directory, Depth::Files] {
        assert_eq!(
            store.check("base", depth).await.unwrap(),
            Condition::Missing
        );
    }
}

/// A view of the old files keeps them until it is removed. After that, a cleanup removes them.
pub(super) async fn a_replaced_snapshot_has_the_new_files(subject: Subject) {
    let store = subject.open().await;
    if !can_mount(&*store).await {
        return;
    }
    let fill = |text: &'static str| {
        move |tree: &std::path::Path| std::fs::write(tree.join("file"), text).unwrap()
    };
    layer(&*store, "base", None, fill("base")).await;
    layer(&*store, "top", Some("base"), fill("old")).await;
    let old = Tree::mount(&view(&*store, "user", Some("top")).await.unwrap());
    let mounts = prepare(&*store, "again", Some("base")).await.unwrap();
    Tree::mount(&mounts).write("file", "new");
    store
        .replace("top", "again")
        .await
        .expect("`again` must replace `top`");
    assert!(
        stat(&*store, "again").await.is_none(),
        "the snapshot `again` still exists after it replaced `top`"
    );
    store.cleanup().await.unwrap();
    assert_eq!(
        old.read("file").as_deref(),
        Some("old"),
        "a view of the replaced snapshot must keep the old files"
    );
    assert!(
        store.leftovers().await.unwrap().is_empty(),
        "old files that a view uses must not count as left over"
    );
    let new = Tree::mount(&view(&*store, "new", Some("top")).await.unwrap());
    assert_eq!(new.read("file").as_deref(), Some("new"));
    assert_eq!(
        store.check("top", Depth::Files).await.unwrap(),
        Condition::Sound
    );
    drop((old, new));
    store.remove("user").await.unwrap();
    assert!(
        store.cleanup().await.unwrap().inodes > 0,
        "a cleanup must remove the old files when nothing uses them"
    );
    assert!(store.leftovers().await.unwrap().is_empty());
    let new = Tree::mount(&view(&*store, "newer", Some("top")).await.unwrap());
    assert_eq!(
        new.read("file").as_deref(),
        Some("new"),
        "the cleanup must keep the new files"
    );
}

pub(super) async fn only_a_fitting_snapshot_replaces_another(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    bare_layer(&*store, "top", Some("base")).await;
    prepare(&*store, "active", Some("base")).await.unwrap();
    prepare(&*store, "alone", None).await.unwrap();
    view(&*store, "view", Some("base")).await.unwrap();
    for (key, by) in [("top", "alone"), ("active", "alone"), ("base", "active")] {
        let refused = store.replace(key, by).await;
        assert_eq!(
            kind(refused),
            Some(ErrorKind::InvalidArgument),
            "{key} by {by}"
        );
    }
    for by in ["view", "base"] {
        let refused = store.replace("top", by).await;
        assert_eq!(
            kind(refused),
            Some(ErrorKind::FailedPrecondition),
            "by {by}"
        );
    }
    for (key, by) in [("absent", "active"), ("top", "absent")] {
        assert_eq!(
            kind(store.replace(key, by).await),
            Some(ErrorKind::NotFound)
        );
    }
    for key in ["base", "top", "active", "alone", "view"] {
        assert_eq!(
            store.check(key, Depth::Files).await.unwrap(),
            Condition::Sound,
            "{key}"
        );
    }
}
