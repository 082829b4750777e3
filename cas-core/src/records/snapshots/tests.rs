//! The changes of state on the store in memory, and races between two views of it. Each view stands
//! for a process.

use super::*;
use crate::error::ErrorKind;
use crate::snapshot::SnapshotKind;
use crate::testing::memory::MemoryStore;

fn two_views() -> [Arc<Snapshots>; 2] {
    let store = Arc::new(MemoryStore::new());
    [store.clone(), store].map(|store| Arc::new(Snapshots::new(store, "test").unwrap()))
}

async fn make(view: &Snapshots, key: &str, parent: Option<&str>) -> Result<SnapshotRecord> {
    let new = New {
        key,
        kind: SnapshotKind::Active,
        parent,
        labels: &Labels::new(),
    };
    view.create(&new, view.fresh_id().await?).await
}

async fn layer(view: &Snapshots, name: &str, parent: Option<&str>) -> SnapshotRecord {
    make(view, "tmp", parent).await.unwrap();
    let (options, usage) = (Commit::default(), Usage::default());
    view.commit(name, "tmp", &options, usage).await.unwrap()
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[tokio::test]
async fn no_id_is_given_out_twice() {
    let views = two_views();
    let mut ids = BTreeSet::new();
    for turn in 0..3 * BLOCK {
        let view = &views[turn as usize % 2];
        assert!(ids.insert(view.fresh_id().await.unwrap()));
    }
}

#[tokio::test]
async fn a_commit_adds_a_parent_if_there_was_none() {
    let [view, _] = two_views();
    layer(&view, "base", None).await;
    layer(&view, "other", None).await;
    make(&view, "diff", None).await.unwrap();
    let to = |parent: &str| Commit {
        parent: Some(parent.into()),
        ..Commit::default()
    };
    let refused = view
        .commit("top", "diff", &to("absent"), Usage::default())
        .await;
    assert_eq!(kind(refused), Some(ErrorKind::NotFound));
    make(&view, "active", None).await.unwrap();
    let refused = view
        .commit("top", "diff", &to("active"), Usage::default())
        .await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    let top = view
        .commit("top", "diff", &to("base"), Usage::default())
        .await;
    assert_eq!(top.unwrap().parent.as_deref(), Some("base"));
    assert_eq!(
        kind(view.remove("base").await),
        Some(ErrorKind::FailedPrecondition)
    );

    make(&view, "above", Some("base")).await.unwrap();
    let moved = view
        .commit("x", "above", &to("other"), Usage::default())
        .await;
    assert_eq!(kind(moved), Some(ErrorKind::InvalidArgument));
    let same = view
        .commit("x", "above", &to("base"), Usage::default())
        .await;
    assert_eq!(same.unwrap().kind, SnapshotKind::Committed);
}

#[tokio::test]
async fn ancestors_are_returned_nearest_first() {
    let [view, _] = two_views();
    layer(&view, "a", None).await;
    let b = layer(&view, "b", Some("a")).await;
    let c = layer(&view, "c", Some("b")).await;
    let chain = view.ancestors(&c).await.unwrap();
    assert_eq!(chain[0].id, b.id);
    assert_eq!(chain[1].parent, None);
    assert_eq!(chain.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_parent_removed_by_another_never_leaves_an_orphan() {
    for _ in 0..200 {
        let [one, other] = two_views();
        layer(&one, "base", None).await;
        let taking = tokio::spawn({
            let one = Arc::clone(&one);
            async move { make(&one, "child", Some("base")).await }
        });
        let removing = tokio::spawn(async move { other.remove("base").await });
        let (taken, removed) = (taking.await.unwrap(), removing.await.unwrap());
        assert_ne!(taken.is_ok(), removed.is_ok());
        let lost = kind(taken).or(kind(removed));
        assert!(matches!(
            lost,
            Some(ErrorKind::NotFound | ErrorKind::FailedPrecondition)
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn children_are_counted_in_every_race() {
    let [one, other] = two_views();
    layer(&one, "base", None).await;
    let mut tasks = Vec::new();
    for number in 0..32 {
        let view = Arc::clone(if number % 2 == 0 { &one } else { &other });
        tasks.push(tokio::spawn(async move {
            let key = format!("child-{}", number / 2);
            make(&view, &key, Some("base")).await.is_ok()
        }));
    }
    let mut made = 0;
    for task in tasks {
        made += u64::from(task.await.unwrap());
    }
    assert_eq!((made, one.find("base").await.unwrap().children), (16, 16));
    for number in 0..16 {
        other.remove(&format!("child-{number}")).await.unwrap();
    }
    one.remove("base").await.unwrap();
}
