//! Tests the changes of state with the store in memory, and races between two instances of
//! [`Snapshots`] over this store. Each instance stands for a process.

use super::*;
use crate::error::ErrorKind;
use crate::snapshot::{SnapshotKind, Usage};
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

async fn commit(view: &Snapshots, name: &str, key: &str) -> SnapshotRecord {
    let (options, usage) = (Commit::default(), Usage::default());
    view.commit(name, key, &options, usage).await.unwrap()
}

async fn layer(view: &Snapshots, name: &str, parent: Option<&str>) -> SnapshotRecord {
    make(view, "tmp", parent).await.unwrap();
    commit(view, name, "tmp").await
}

/// Returns the labels of a snapshot that a job has made.
fn of_job() -> Labels {
    Labels::from([(crate::labels::LEASE.to_owned(), "lease".to_owned())])
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

/// A layer that is made again under its key takes the place of the lost parent.
#[tokio::test]
async fn a_snapshot_of_no_job_without_a_parent_is_found_and_stays() {
    let [view, other] = two_views();
    layer(&view, "base", None).await;
    layer(&view, "top", Some("base")).await;
    make(&view, "mine", Some("top")).await.unwrap();
    for key in ["base", "top"] {
        view.update(key, &of_job(), &[]).await.unwrap();
    }
    let mut batch = Batch::new();
    batch.delete(Table::Snapshots, view.row("base"), Expect::Any);
    view.records.commit(&batch).await.unwrap();
    for remove in [false, true] {
        assert_eq!(other.damaged(remove).await.unwrap(), ["top", "mine"]);
    }
    assert_eq!(other.damaged(true).await.unwrap(), ["mine"]);
    layer(&view, "base", None).await;
    layer(&view, "top", Some("base")).await;
    assert!(other.damaged(true).await.unwrap().is_empty());
    assert_eq!(view.find("top").await.unwrap().children, 1);
    assert_eq!(
        kind(view.remove("top").await),
        Some(ErrorKind::FailedPrecondition)
    );
}

/// Writes the record of `key` with another parent.
async fn move_below(view: &Snapshots, key: &str, parent: &str) {
    let Seen { mut record, .. } = view.existing(key).await.unwrap();
    record.parent = Some(parent.to_owned());
    let mut batch = Batch::new();
    view.put(&mut batch, key, &record, Expect::Any).unwrap();
    view.records.commit(&batch).await.unwrap();
}

#[tokio::test]
async fn circular_and_broken_chains_are_found_and_removed_and_no_others() {
    for (moved, below, damaged) in [
        ("a", "a", vec!["a", "b", "c", "d"]),
        ("a", "c", vec!["a", "b", "c", "d"]),
        ("a", "d", vec!["a", "b", "c", "d"]),
        ("b", "c", vec!["b", "c", "d"]),
        ("c", "c", vec!["c", "d"]),
        ("c", "absent", vec!["c", "d"]),
        ("d", "d", vec!["d"]),
    ] {
        let [view, other] = two_views();
        layer(&view, "a", None).await;
        layer(&view, "b", Some("a")).await;
        layer(&view, "c", Some("b")).await;
        layer(&view, "other", None).await;
        layer(&view, "above", Some("other")).await;
        make(&view, "d", Some("c")).await.unwrap();
        for key in ["a", "b", "c", "d", "other", "above"] {
            view.update(key, &of_job(), &[]).await.unwrap();
        }
        move_below(&view, moved, below).await;
        let top = view.find("d").await.unwrap();
        let error = view.ancestors(&top).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{moved} below {below}");
        assert!(error.to_string().contains("--repair"), "{error}");
        for remove in [false, true] {
            let mut found = other.damaged(remove).await.unwrap();
            found.sort();
            assert_eq!(found, damaged, "{moved} below {below}");
        }
        assert!(other.damaged(true).await.unwrap().is_empty());
        let left = view.walk(None, 10).await.unwrap();
        assert_eq!(left.len(), 6 - damaged.len(), "{moved} below {below}");
        for info in left {
            let record = view.find(&info.key).await.unwrap();
            view.ancestors(&record).await.unwrap();
        }
        let children = view.find("other").await.unwrap().children;
        assert_eq!(children, 1);
    }
}

/// Records between whose pages another process works: after the first page of the scan number
/// `turn`, it makes snapshots behind the page and ahead of it, and moves others across the page by
/// commits.
struct Between {
    store: Arc<MemoryStore>,
    /// Number of first pages that are read before the other process works.
    turn: Mutex<u64>,
}

#[async_trait::async_trait]
impl Records for Between {
    fn capabilities(&self) -> crate::capability::Capabilities {
        self.store.capabilities()
    }
    async fn load(&self, table: Table, key: &str) -> Result<Option<super::super::Record>> {
        self.store.load(table, key).await
    }
    async fn commit(&self, batch: &Batch) -> Result<()> {
        self.store.commit(batch).await
    }
    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<super::super::Record>> {
        let page = self.store.scan(table, prefix, after, limit).await?;
        let is_turn = after.is_none() && {
            let mut turn = lock(&self.turn);
            *turn = turn.wrapping_sub(1);
            *turn == u64::MAX
        };
        if is_turn {
            let other = Snapshots::new(self.store.clone(), "test")?;
            layer(&other, "a-parent", None).await;
            layer(&other, "z-child", Some("a-parent")).await;
            layer(&other, "a-child", Some("z-parent")).await;
            other.remove("z-old").await?;
            other.remove("z-oldest").await?;
            for (name, key) in [("z-moved", "a-moving"), ("a-moved", "z-moving")] {
                commit(&other, name, key).await;
                commit(&other, &format!("{name}-too"), &format!("{key}-too")).await;
            }
        }
        Ok(page)
    }
}

#[tokio::test]
async fn snapshots_that_other_processes_change_meanwhile_are_not_damaged() {
    for turn in 0..2 {
        for remove in [false, true] {
            let store = Arc::new(MemoryStore::new());
            let view = Snapshots::new(store.clone(), "test").unwrap();
            for number in 0..300 {
                layer(&view, &format!("k{number:03}"), None).await;
            }
            layer(&view, "z-parent", None).await;
            layer(&view, "z-oldest", None).await;
            layer(&view, "z-old", Some("z-oldest")).await;
            // The records of the parents are on the page with `a-moving`, or on a later page.
            for (parent, child) in [
                ("b-twice", "a-moving"),
                ("b-missed", "z-moving"),
                ("z-twice", "a-moving-too"),
                ("z-missed", "z-moving-too"),
            ] {
                layer(&view, parent, None).await;
                make(&view, child, Some(parent)).await.unwrap();
            }
            let between = Arc::new(Between {
                store,
                turn: Mutex::new(turn),
            });
            let repair = Snapshots::new(between, "test").unwrap();
            assert!(repair.damaged(remove).await.unwrap().is_empty());
            for (parent, child) in [
                ("a-parent", "z-child"),
                ("z-parent", "a-child"),
                ("b-twice", "z-moved"),
                ("b-missed", "a-moved"),
                ("z-twice", "z-moved-too"),
                ("z-missed", "a-moved-too"),
            ] {
                assert_eq!(view.find(parent).await.unwrap().children, 1);
                view.find(child).await.unwrap();
            }
        }
    }
}

/// No counter of ids can follow such a record.
#[tokio::test]
async fn a_record_with_too_high_an_id_is_damaged() {
    for id in [u64::MAX, u64::MAX - BLOCK, u64::MAX - 1024 * BLOCK] {
        let [view, other] = two_views();
        layer(&view, "base", None).await;
        let mut batch = Batch::new();
        let record = SnapshotRecord {
            id,
            ..view.find("base").await.unwrap()
        };
        view.put(&mut batch, "high", &record, Expect::Any).unwrap();
        view.records.commit(&batch).await.unwrap();
        assert_eq!(other.damaged(true).await.unwrap(), ["high"]);
        assert!(other.damaged(true).await.unwrap().is_empty());
        make(&other, "new", None).await.unwrap();
    }
}

#[tokio::test]
async fn a_record_that_was_written_for_another_snapshot_is_damaged() {
    let [view, other] = two_views();
    for key in ["a", "b"] {
        layer(&view, key, None).await;
    }
    let copied = view.records.load(Table::Snapshots, &view.row("a")).await;
    let value = copied.unwrap().unwrap().value;
    let mut batch = Batch::new();
    batch.put(Table::Snapshots, view.row("b"), Expect::Any, value);
    view.records.commit(&batch).await.unwrap();
    assert_eq!(kind(view.load("b").await), Some(ErrorKind::Corrupt));
    for remove in [false, true] {
        assert_eq!(other.damaged(remove).await.unwrap(), ["b"]);
    }
    assert!(other.damaged(true).await.unwrap().is_empty());
    assert_eq!(view.load("b").await.unwrap(), None);
    view.find("a").await.unwrap();
}

/// Each view has reserved ids that are not in a record yet. The corrected counter must skip them.
#[tokio::test]
async fn a_corrected_counter_gives_out_no_id_twice() {
    let too_high = u64::MAX.to_string();
    let counters = ["x", "", "-1", "0", "3", &too_high].map(Some);
    for counter in counters.into_iter().chain([None]) {
        let store = Arc::new(MemoryStore::new());
        let views: Vec<_> = (0..5)
            .map(|_| Snapshots::new(store.clone(), "test").unwrap())
            .collect();
        let mut ids = BTreeSet::new();
        for view in &views {
            assert!(ids.insert(view.fresh_id().await.unwrap()));
        }
        for key in ["a", "b", "c"] {
            ids.insert(layer(&views[0], key, None).await.id);
        }
        let mut batch = Batch::new();
        match counter {
            Some(text) => {
                let value = text.to_owned().into();
                batch.put(Table::Snapshots, "test", Expect::Any, value);
            }
            None => batch.delete(Table::Snapshots, "test", Expect::Any),
        }
        store.commit(&batch).await.unwrap();
        for remove in [false, true] {
            assert_eq!(views[1].damaged(remove).await.unwrap(), [""]);
        }
        assert!(views[1].damaged(true).await.unwrap().is_empty());
        let fresh = Snapshots::new(store, "test").unwrap();
        for _ in 0..3 * BLOCK {
            for view in views.iter().chain([&fresh]) {
                let id = view.fresh_id().await.unwrap();
                assert!(ids.insert(id), "{id} twice after {counter:?}");
            }
        }
    }
}

/// A changed digit would be a number, too.
#[tokio::test]
async fn no_changed_bit_of_the_counter_is_read() {
    let [view, other] = two_views();
    let write = async |value: Vec<u8>| {
        let mut batch = Batch::new();
        batch.put(Table::Snapshots, "test", Expect::Any, value.into());
        view.records.commit(&batch).await.unwrap();
    };
    // An earlier release has written the number alone.
    write(b"129".to_vec()).await;
    assert_eq!(view.fresh_id().await.unwrap(), 129);
    let stored = view.records.load(Table::Snapshots, "test").await;
    let stored = stored.unwrap().unwrap().value;
    let expected = r#"{"next":193,"place":"411c91cf53d9f764","sum":"f04e4a5ec8d9abd1"}"#;
    assert_eq!(stored, expected);
    let start = expected.find("193").unwrap();
    for bit in start * 8..(start + 3) * 8 {
        let mut changed = stored.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        write(changed).await;
        let read = kind(other.fresh_id().await);
        assert_eq!(read, Some(ErrorKind::Corrupt), "{bit}");
        assert_eq!(other.damaged(false).await.unwrap(), [""], "{bit}");
    }
    assert_eq!(other.damaged(true).await.unwrap(), [""]);
    assert!(other.damaged(true).await.unwrap().is_empty());
    assert_eq!(other.fresh_id().await.unwrap(), 1024 * BLOCK + 1);
}

/// While the content of a snapshot is made durable before its commit, another process removes the
/// snapshot and creates another one under the same key.
#[tokio::test]
async fn a_commit_of_the_content_of_another_snapshot_is_a_conflict() {
    let [view, _] = two_views();
    layer(&view, "base", None).await;
    let sealed = make(&view, "key", None).await.unwrap();
    view.remove("key").await.unwrap();
    let other = make(&view, "key", None).await.unwrap();
    let content = |id| SnapshotContent {
        usage: Usage::default(),
        id: Some(77),
        of: Some(id),
    };
    let options = Commit::default();
    let refused = view
        .commit("name", "key", &options, content(sealed.id))
        .await;
    assert_eq!(kind(refused), Some(ErrorKind::Conflict));
    let refused = view.replace("base", "key", content(sealed.id)).await;
    assert_eq!(kind(refused), Some(ErrorKind::Conflict));
    assert_eq!(view.find("key").await.unwrap().id, other.id);
    let made = view
        .commit("name", "key", &options, content(other.id))
        .await;
    assert_eq!(made.unwrap().id, 77);
}
