//! Laws of the states of a snapshot, and of the changes between them.

use cas_core::snapshot::{Commit, SnapshotKind};
use cas_core::{ErrorKind, Labels};

use super::Subject;
use super::scene::{bare_layer, commit, keys, prepare, stat, view};
use crate::material::kind;

/// Active snapshots, views and committed snapshots share one set of names.
pub(super) async fn a_key_is_taken_once(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "committed", None).await;
    prepare(&*store, "active", None).await.unwrap();
    view(&*store, "view", Some("committed")).await.unwrap();
    for key in ["committed", "active", "view"] {
        let again = prepare(&*store, key, None).await;
        assert_eq!(kind(again), Some(ErrorKind::AlreadyExists), "prepare {key}");
        let again = view(&*store, key, Some("committed")).await;
        assert_eq!(kind(again), Some(ErrorKind::AlreadyExists), "view {key}");
    }
}

pub(super) async fn a_parent_must_exist(subject: Subject) {
    let store = subject.open().await;
    let made = prepare(&*store, "a", Some("absent")).await;
    assert_eq!(kind(made), Some(ErrorKind::NotFound));
    let made = view(&*store, "v", Some("absent")).await;
    assert_eq!(kind(made), Some(ErrorKind::NotFound));
    assert!(
        keys(&*store).await.is_empty(),
        "a snapshot whose creation was refused must not be listed"
    );
}

pub(super) async fn a_parent_must_be_committed(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    prepare(&*store, "active", None).await.unwrap();
    view(&*store, "view", Some("base")).await.unwrap();
    for parent in ["active", "view"] {
        let made = prepare(&*store, "child", Some(parent)).await;
        assert_eq!(kind(made), Some(ErrorKind::InvalidArgument), "on {parent}");
        let made = view(&*store, "child", Some(parent)).await;
        assert_eq!(kind(made), Some(ErrorKind::InvalidArgument), "on {parent}");
    }
}

pub(super) async fn only_an_active_snapshot_is_committed(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    view(&*store, "view", Some("base")).await.unwrap();
    for key in ["base", "view"] {
        let done = commit(&*store, "name", key).await;
        assert_eq!(
            kind(done),
            Some(ErrorKind::FailedPrecondition),
            "commit {key}"
        );
    }
    assert_eq!(
        stat(&*store, "view").await.unwrap().kind,
        SnapshotKind::View
    );
    assert_eq!(stat(&*store, "name").await, None);
}

pub(super) async fn a_name_is_committed_once(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "name", None).await;
    let before = stat(&*store, "name").await;
    prepare(&*store, "late", None).await.unwrap();
    let done = commit(&*store, "name", "late").await;
    assert_eq!(kind(done), Some(ErrorKind::AlreadyExists));
    assert_eq!(stat(&*store, "name").await, before);
    assert_eq!(
        stat(&*store, "late").await.unwrap().kind,
        SnapshotKind::Active
    );
    commit(&*store, "other", "late").await.unwrap();
}

/// The name cannot be the key of the active snapshot, because that key is taken until the commit is
/// done.
pub(super) async fn a_commit_needs_another_name(subject: Subject) {
    let store = subject.open().await;
    prepare(&*store, "key", None).await.unwrap();
    let done = commit(&*store, "key", "key").await;
    assert_eq!(kind(done), Some(ErrorKind::AlreadyExists));
    assert_eq!(
        stat(&*store, "key").await.unwrap().kind,
        SnapshotKind::Active
    );
}

pub(super) async fn a_commit_frees_the_key(subject: Subject) {
    let store = subject.open().await;
    for name in ["one", "two"] {
        prepare(&*store, "key", None).await.unwrap();
        commit(&*store, name, "key").await.unwrap();
        assert_eq!(stat(&*store, "key").await, None);
        assert_eq!(
            stat(&*store, name).await.unwrap().kind,
            SnapshotKind::Committed
        );
    }
    assert_eq!(keys(&*store).await, ["one", "two"]);
}

pub(super) async fn a_commit_cannot_move_to_another_parent(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "one", None).await;
    bare_layer(&*store, "two", None).await;
    prepare(&*store, "key", Some("one")).await.unwrap();
    let onto = |parent: &str| Commit {
        parent: Some(parent.to_owned()),
        ..Commit::default()
    };
    let moved = store.commit("name", "key", onto("two")).await;
    assert_eq!(kind(moved), Some(ErrorKind::InvalidArgument));
    store.commit("name", "key", onto("one")).await.unwrap();
    let parent = stat(&*store, "name").await.unwrap().parent;
    assert_eq!(parent.as_deref(), Some("one"));
}

/// A snapshotter that cannot set a parent at commit must refuse, and change nothing.
pub(super) async fn a_commit_sets_a_parent_or_is_refused(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    prepare(&*store, "key", None).await.unwrap();
    let options = Commit {
        parent: Some("base".to_owned()),
        ..Commit::default()
    };
    let done = store.commit("name", "key", options.clone()).await;
    if !store.rebases() {
        assert_eq!(kind(done), Some(ErrorKind::Unsupported));
        assert_eq!(keys(&*store).await, ["base", "key"]);
        return;
    }
    done.expect("a commit that sets a parent must succeed");
    let parent = stat(&*store, "name").await.unwrap().parent;
    assert_eq!(parent.as_deref(), Some("base"));
    let gone = store.remove("base").await;
    assert_eq!(kind(gone), Some(ErrorKind::FailedPrecondition));
    prepare(&*store, "late", None).await.unwrap();
    let absent = Commit {
        parent: Some("absent".to_owned()),
        ..options
    };
    let done = store.commit("top", "late", absent.clone()).await;
    assert_eq!(kind(done), Some(ErrorKind::NotFound));
    prepare(&*store, "active", None).await.unwrap();
    for parent in ["active", "late"] {
        let parent = Some(parent.to_owned());
        let done = store
            .commit(
                "top",
                "late",
                Commit {
                    parent,
                    ..absent.clone()
                },
            )
            .await;
        assert_eq!(kind(done), Some(ErrorKind::InvalidArgument));
    }
    assert_eq!(keys(&*store).await, ["active", "base", "late", "name"]);
}

pub(super) async fn a_committed_snapshot_has_no_mounts(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    let mounts = store.mounts("base").await;
    assert_eq!(kind(mounts), Some(ErrorKind::FailedPrecondition));
}

pub(super) async fn mounts_stay_the_same(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    let made = [
        ("root", prepare(&*store, "root", None).await.unwrap()),
        (
            "child",
            prepare(&*store, "child", Some("base")).await.unwrap(),
        ),
        ("view", view(&*store, "view", Some("base")).await.unwrap()),
    ];
    for (key, mounts) in made {
        assert!(!mounts.is_empty(), "{key} has no mounts");
        assert_eq!(store.mounts(key).await.unwrap(), mounts, "{key}");
    }
}

pub(super) async fn a_parent_is_not_removed(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    bare_layer(&*store, "layer", Some("base")).await;
    prepare(&*store, "active", Some("layer")).await.unwrap();
    view(&*store, "view", Some("layer")).await.unwrap();
    for (child, parents) in [("active", &["layer", "base"]), ("view", &["layer", "base"])] {
        for parent in parents {
            let gone = store.remove(parent).await;
            assert_eq!(kind(gone), Some(ErrorKind::FailedPrecondition), "{parent}");
        }
        store.remove(child).await.unwrap();
    }
    assert_eq!(
        kind(store.remove("base").await),
        Some(ErrorKind::FailedPrecondition)
    );
    store.remove("layer").await.unwrap();
    store.remove("base").await.unwrap();
    assert!(keys(&*store).await.is_empty());
}

pub(super) async fn an_unknown_key_is_not_found(subject: Subject) {
    let store = subject.open().await;
    assert_eq!(stat(&*store, "absent").await, None);
    let answers = [
        kind(store.mounts("absent").await),
        kind(commit(&*store, "name", "absent").await),
        kind(store.remove("absent").await),
        kind(store.usage("absent").await),
        kind(store.update("absent", Labels::new(), &[]).await),
    ];
    assert_eq!(answers, [Some(ErrorKind::NotFound); 5]);
}

pub(super) async fn keys_and_labels_have_bounds(subject: Subject) {
    let store = subject.open().await;
    let long = "k".repeat(cas_core::limit::KEY + 1);
    prepare(&*store, "key", None).await.unwrap();
    for bad in ["", "line\nbreak", &long] {
        let made = prepare(&*store, bad, None).await;
        assert_eq!(kind(made), Some(ErrorKind::InvalidArgument), "prepare");
        let done = commit(&*store, bad, "key").await;
        assert_eq!(kind(done), Some(ErrorKind::InvalidArgument), "commit");
    }
    let value = "v".repeat(cas_core::limit::LABEL);
    let labels = Labels::from([("label".to_owned(), value)]);
    let made = store.prepare("labelled", None, labels.clone()).await;
    assert_eq!(kind(made), Some(ErrorKind::InvalidArgument));
    let updated = store.update("key", labels.clone(), &[]).await;
    assert_eq!(kind(updated), Some(ErrorKind::InvalidArgument));
    let options = Commit {
        labels,
        ..Commit::default()
    };
    let done = store.commit("name", "key", options).await;
    assert_eq!(kind(done), Some(ErrorKind::InvalidArgument));
    assert_eq!(keys(&*store).await, ["key"]);
}

/// A key is not a path.
pub(super) async fn odd_keys_name_snapshots(subject: Subject) {
    let store = subject.open().await;
    let long = "k".repeat(cas_core::limit::KEY);
    let odd = [
        "..",
        ".",
        "/",
        "../../etc",
        "a/b",
        "a/",
        "a",
        "%2e",
        "*",
        " ",
        "sha256:ab",
        "ü",
        "0#1.x",
        &long,
    ];
    for key in odd {
        prepare(&*store, key, None).await.unwrap();
        commit(&*store, &format!("c {key:.1000}"), key)
            .await
            .unwrap();
        prepare(&*store, key, None).await.unwrap();
    }
    assert_eq!(keys(&*store).await.len(), 2 * odd.len());
    for key in odd {
        assert_eq!(stat(&*store, key).await.unwrap().key, key);
        store.remove(key).await.unwrap();
        store.remove(&format!("c {key:.1000}")).await.unwrap();
    }
    assert!(keys(&*store).await.is_empty());
}

pub(super) async fn a_closed_snapshotter_refuses(subject: Subject) {
    let store = subject.open().await;
    bare_layer(&*store, "base", None).await;
    prepare(&*store, "key", None).await.unwrap();
    store.close().await.unwrap();
    let answers = [
        kind(prepare(&*store, "late", None).await),
        kind(view(&*store, "late", Some("base")).await),
        kind(store.mounts("key").await),
        kind(commit(&*store, "name", "key").await),
        kind(store.remove("key").await),
        kind(store.stat("key").await),
        kind(store.update("key", Labels::new(), &[]).await),
        kind(store.usage("key").await),
        kind(store.walk(None, 1).await),
        kind(store.cleanup().await),
    ];
    assert_eq!(answers, [Some(ErrorKind::FailedPrecondition); 10]);
    drop(store);
    assert_eq!(keys(&*subject.open().await).await, ["base", "key"]);
}

pub(super) async fn closing_twice_is_allowed(subject: Subject) {
    let store = subject.open().await;
    store.close().await.unwrap();
    store.close().await.unwrap();
}
