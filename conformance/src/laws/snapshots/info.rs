//! Laws of stat, update and walk.

use std::time::SystemTime;

use cas_core::snapshot::{Commit, SnapshotKind};
use cas_core::{ErrorKind, Labels};

use super::Subject;
use super::scene::{bare_layer, keys, prepare, stat, view};
use crate::material::kind;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    owned.collect()
}

pub(super) async fn stat_describes_the_snapshot(subject: Subject) {
    let store = subject.open().await;
    let before = SystemTime::now();
    bare_layer(&*store, "base", None).await;
    let given = labels(&[("containerd.io/gc.root", "now"), ("a", "1")]);
    let prepared = store.prepare("active", Some("base"), given.clone()).await;
    prepared.unwrap();
    view(&*store, "view", Some("base")).await.unwrap();
    let base = stat(&*store, "base").await.unwrap();
    let active = stat(&*store, "active").await.unwrap();
    let seen = stat(&*store, "view").await.unwrap();
    assert_eq!((base.kind, base.parent), (SnapshotKind::Committed, None));
    assert_eq!(active.kind, SnapshotKind::Active);
    assert_eq!(active.parent.as_deref(), Some("base"));
    assert_eq!((&*active.key, active.labels), ("active", given));
    assert_eq!(
        (seen.kind, seen.labels),
        (SnapshotKind::View, Labels::new())
    );
    assert!(before <= base.created_at && base.created_at <= active.created_at);
    assert!(active.created_at <= SystemTime::now());
}

/// Neither a commit nor a child inherits labels, and a commit sets the creation time.
pub(super) async fn a_commit_replaces_labels_and_time(subject: Subject) {
    let store = subject.open().await;
    let given = labels(&[("active", "1")]);
    store.prepare("key", None, given).await.unwrap();
    let active = stat(&*store, "key").await.unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2));
    let options = Commit {
        labels: labels(&[("committed", "1")]),
        ..Commit::default()
    };
    store.commit("name", "key", options).await.unwrap();
    let committed = stat(&*store, "name").await.unwrap();
    assert_eq!(committed.labels, labels(&[("committed", "1")]));
    assert!(committed.created_at > active.created_at);
    prepare(&*store, "child", Some("name")).await.unwrap();
    assert_eq!(stat(&*store, "child").await.unwrap().labels, Labels::new());
}

pub(super) async fn an_update_replaces_all_labels(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    let given = labels(&[("a", "1"), ("b", "1")]);
    store.prepare("key", Some("base"), given).await.unwrap();
    let before = stat(&*store, "key").await.unwrap();
    for paths in [&[][..], &["labels"]] {
        let new = labels(&[("b", "2"), ("c", "")]);
        let told = store.update("key", new, paths).await.unwrap();
        assert_eq!(told.labels, labels(&[("b", "2")]));
        assert_eq!(Some(&told), stat(&*store, "key").await.as_ref());
        assert_eq!((told.kind, &told.parent), (before.kind, &before.parent));
        assert_eq!(told.created_at, before.created_at);
        assert!(told.updated_at >= before.updated_at);
    }
}

pub(super) async fn an_update_changes_what_its_paths_name(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "name", None).await;
    let all = labels(&[("a", "1"), ("b.c/d", "1"), ("e", "1")]);
    store.update("name", all, &[]).await.unwrap();
    let new = labels(&[("a", "2"), ("b.c/d", "2"), ("f", "2")]);
    let paths = ["labels.b.c/d", "labels.e", "labels.f"];
    let told = store.update("name", new, &paths).await.unwrap();
    let expected = labels(&[("a", "1"), ("b.c/d", "2"), ("f", "2")]);
    assert_eq!(told.labels, expected);
    for path in ["", "kind", "parent", "labels.", "created_at"] {
        let told = store.update("name", labels(&[("a", "3")]), &[path]).await;
        assert_eq!(kind(told), Some(ErrorKind::InvalidArgument), "{path:?}");
    }
    assert_eq!(stat(&*store, "name").await.unwrap().labels, expected);
}

pub(super) async fn walk_is_in_key_order_and_in_pages(subject: Subject) {
    let store = subject.open().await;
    let names = ["b", "a", "a/b", "a0", "ab", "B", "c:1"];
    for name in names {
        bare_layer(&*store, name, None).await;
    }
    let mut sorted = names.map(str::to_owned);
    sorted.sort();
    assert_eq!(keys(&*store).await, sorted);
    let page = store.walk(Some("a/b"), 2).await.unwrap();
    let page: Vec<&str> = page.iter().map(|info| info.key.as_str()).collect();
    assert_eq!(page, &sorted[3..5], "after a/b");
    let between = store.walk(Some("a/a"), 1).await.unwrap();
    assert_eq!(
        between[0].key, "a/b",
        "first key of a walk after a key that does not exist"
    );
    assert!(store.walk(Some("zz"), 5).await.unwrap().is_empty());
}

pub(super) async fn a_reopened_snapshotter_has_its_snapshots(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    let given = labels(&[("a", "1")]);
    let mounts = store.prepare("active", Some("base"), given).await.unwrap();
    view(&*store, "view", Some("base")).await.unwrap();
    let before = store.walk(None, 10).await.unwrap();
    let usage = store.usage("base").await.unwrap();
    drop(store);
    let store = subject.open().await;
    assert_eq!(store.walk(None, 10).await.unwrap(), before);
    assert_eq!(store.mounts("active").await.unwrap(), mounts);
    assert_eq!(store.usage("base").await.unwrap(), usage);
    assert_eq!(
        kind(store.remove("base").await),
        Some(ErrorKind::FailedPrecondition)
    );
    prepare(&*store, "next", Some("base")).await.unwrap();
    assert_ne!(store.mounts("next").await.unwrap(), mounts);
}
