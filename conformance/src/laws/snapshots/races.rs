//! Laws of races. Each law opens one snapshotter twice, as two processes would do.

use std::sync::Arc;

use cas_core::ErrorKind;
use cas_core::snapshot::{Mount, SnapshotKind};
use tokio::task::JoinSet;

use super::Subject;
use super::scene::{Shared, bare_layer, commit, keys, prepare, stat};
use crate::material::kind;

const ROUNDS: usize = 12;
const RIVALS: usize = 8;

async fn two(subject: &Subject) -> [Shared; 2] {
    [subject.open().await, subject.open().await]
}

pub(super) async fn one_of_many_prepares_wins(subject: Subject) {
    let stores = two(&subject).await;
    bare_layer(&*stores[0], "base", None).await;
    for round in 0..ROUNDS {
        let key = format!("key-{round}");
        let mut rivals = JoinSet::new();
        for rival in 0..RIVALS {
            let (store, key) = (Arc::clone(&stores[rival % 2]), key.clone());
            let parent = (rival % 3 > 0).then_some("base");
            rivals.spawn(async move { kind(prepare(&*store, &key, parent).await) });
        }
        let outcomes = rivals.join_all().await;
        let won = outcomes.iter().filter(|kind| kind.is_none()).count();
        assert_eq!(won, 1, "exactly one call must succeed: {outcomes:?}");
        let lost = outcomes
            .iter()
            .flatten()
            .all(|kind| *kind == ErrorKind::AlreadyExists);
        assert!(
            lost,
            "the other calls must fail with `AlreadyExists`: {outcomes:?}"
        );
        assert!(stores[1].mounts(&key).await.is_ok());
        stores[0].remove(&key).await.unwrap();
    }
    stores[1]
        .remove("base")
        .await
        .expect("a refused prepare must not leave a child of `base`");
}

pub(super) async fn one_of_many_commits_wins(subject: Subject) {
    let stores = two(&subject).await;
    for round in 0..ROUNDS {
        let name = format!("name-{round}");
        for rival in 0..RIVALS {
            prepare(&*stores[0], &format!("key-{rival}"), None)
                .await
                .unwrap();
        }
        let mut rivals = JoinSet::new();
        for rival in 0..RIVALS {
            let (store, name) = (Arc::clone(&stores[rival % 2]), name.clone());
            rivals
                .spawn(async move { kind(commit(&*store, &name, &format!("key-{rival}")).await) });
        }
        let outcomes = rivals.join_all().await;
        let won = outcomes.iter().filter(|kind| kind.is_none()).count();
        assert_eq!(won, 1, "exactly one call must succeed: {outcomes:?}");
        let mut left = 0;
        for rival in 0..RIVALS {
            left += usize::from(stores[1].remove(&format!("key-{rival}")).await.is_ok());
        }
        assert_eq!(left, RIVALS - 1);
        assert_eq!(
            stat(&*stores[1], &name).await.unwrap().kind,
            SnapshotKind::Committed
        );
    }
}

pub(super) async fn a_parent_removed_under_a_prepare_leaves_no_orphan(subject: Subject) {
    let stores = two(&subject).await;
    for round in 0..ROUNDS {
        bare_layer(&*stores[0], "base", None).await;
        let mut both = JoinSet::new();
        for (number, store) in stores.iter().cloned().enumerate() {
            // The removal starts first in even rounds, and the prepare in odd rounds.
            let removes = (number + round) % 2 == 0;
            both.spawn(async move {
                if removes {
                    ("removed", kind(store.remove("base").await))
                } else {
                    ("taken", kind(prepare(&*store, "child", Some("base")).await))
                }
            });
        }
        let outcomes = both.join_all().await;
        let won = outcomes.iter().filter(|(_, kind)| kind.is_none()).count();
        assert_eq!(won, 1, "exactly one call must succeed: {outcomes:?}");
        let base = stat(&*stores[1], "base").await.is_some();
        assert_eq!(
            stat(&*stores[0], "child").await.is_some(),
            base,
            "the child must exist if and only if its parent exists: {outcomes:?}"
        );
        if base {
            stores[0].remove("child").await.unwrap();
            stores[1].remove("base").await.unwrap();
        }
    }
}

pub(super) async fn a_removal_and_a_commit_exclude_each_other(subject: Subject) {
    let stores = two(&subject).await;
    for _ in 0..ROUNDS {
        prepare(&*stores[0], "key", None).await.unwrap();
        let [one, other] = stores.clone();
        let (committed, removed) = tokio::join!(
            tokio::spawn(async move { commit(&*one, "name", "key").await }),
            tokio::spawn(async move { other.remove("key").await }),
        );
        let (committed, removed) = (committed.unwrap(), removed.unwrap());
        assert_ne!(
            committed.is_ok(),
            removed.is_ok(),
            "exactly one of the commit and the removal must succeed: {committed:?}, {removed:?}"
        );
        if committed.is_ok() {
            stores[1].remove("name").await.unwrap();
        }
        assert!(keys(&*stores[0]).await.is_empty());
    }
}

/// Cleanups run during prepares and commits, and must not remove the new snapshots.
pub(super) async fn cleanup_spares_what_is_being_made(subject: Subject) {
    let stores = two(&subject).await;
    bare_layer(&*stores[0], "layer-0", None).await;
    let cleaner = tokio::spawn({
        let store = Arc::clone(&stores[1]);
        async move {
            loop {
                store.cleanup().await.expect("cleanup must succeed");
                tokio::task::yield_now().await;
            }
        }
    });
    for number in 0..2 * ROUNDS {
        let parent = format!("layer-{number}");
        let mounts = prepare(&*stores[0], "key", Some(&parent)).await.unwrap();
        assert_there(&mounts);
        commit(&*stores[0], &format!("layer-{}", number + 1), "key")
            .await
            .unwrap();
    }
    cleaner.abort();
    assert!(cleaner.await.is_err_and(|ended| ended.is_cancelled()));
    let last = format!("layer-{}", 2 * ROUNDS);
    assert_there(&prepare(&*stores[0], "top", Some(&last)).await.unwrap());
}

fn assert_there(mounts: &[Mount]) {
    let mut shown_later = None;
    for mount in mounts {
        let paths = match mount {
            Mount::Bind { source, .. } => vec![source],
            Mount::Overlay { lower, upper, .. } => lower.iter().chain(upper).collect(),
            Mount::Erofs {
                image,
                devices,
                shared,
                ..
            } => {
                shown_later = Some(shared);
                devices.iter().chain([image]).collect()
            }
            other => panic!("{}", other.unsupported()),
        };
        for path in paths {
            let is_there = path.exists() || shown_later == Some(path);
            assert!(
                is_there,
                "{} does not exist, but a mount needs it",
                path.display()
            );
        }
    }
}
