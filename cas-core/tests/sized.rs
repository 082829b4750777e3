//! Stores by size, beyond the laws: which member has a blob, how a blob moves, and blobs that are
//! in both members.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;
use support::wrapped::Wrapped;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cas_core::compose::by_size;
use cas_core::content::{Durability, Entry, Expected, Version, Writer};
use cas_core::records::{Batch, Expect, Table};
use cas_core::testing::fault::{Fault, Plan, Side, faulty_content};
use cas_core::testing::memory::MemoryStore;
use cas_core::testing::strict::StrictStore;
use cas_core::{
    ContentExt, ContentStore, Descriptor, Digest, ErrorKind, MediaType, Records, Store,
};

const THRESHOLD: u64 = 100;
const KEY: &str = "layer";

/// Two strict members, and the store over them.
struct Scene {
    small: Arc<StrictStore>,
    large: Arc<StrictStore>,
    store: Arc<dyn ContentStore>,
}

impl Scene {
    fn new() -> Self {
        let (small, large) = (Arc::new(StrictStore::new()), Arc::new(StrictStore::new()));
        let store = over(&small, large.clone(), THRESHOLD);
        Scene {
            small,
            large,
            store,
        }
    }

    /// Returns a store over the same members, as another process would open it.
    fn with_threshold(&self, threshold: u64) -> Arc<dyn ContentStore> {
        over(&self.small, self.large.clone(), threshold)
    }

    /// Returns whether the small and the large member have the blob.
    async fn members_with(&self, digest: &Digest) -> (bool, bool) {
        let small = self.small.stat(digest).await.unwrap();
        let large = self.large.stat(digest).await.unwrap();
        (small.is_some(), large.is_some())
    }

    /// Checks that neither member has an ingest.
    async fn assert_no_ingests(&self) {
        assert_eq!(self.small.ingests().await.unwrap(), []);
        assert_eq!(self.large.ingests().await.unwrap(), []);
    }

    /// Stores a blob in both members, as a race may. Returns its digest and its version.
    async fn twins(&self, data: &Bytes) -> (Digest, Version) {
        let digest = self.small.put(data.clone()).await.unwrap();
        self.large.put(data.clone()).await.unwrap();
        let shown = self.store.stat(&digest).await.unwrap().unwrap();
        (digest, shown.version)
    }
}

fn over(
    small: &Arc<StrictStore>,
    large: Arc<dyn ContentStore>,
    threshold: u64,
) -> Arc<dyn ContentStore> {
    let store = Store {
        content: small.clone(),
        records: small.clone(),
        images: support::store().images,
    };
    by_size(store, large, threshold).content
}

/// Returns bytes that depend on their offset, so that a misplaced piece is noticed.
fn bytes(length: usize) -> Bytes {
    let data: Vec<u8> = (0..length).map(|at| (at ^ at >> 8) as u8).collect();
    data.into()
}

async fn writer(store: &dyn ContentStore) -> Writer {
    Writer::begin(store, KEY, Expected::ANY).await.unwrap()
}

/// Writes the rest of `data` and commits it. Returns the digest.
async fn finish(store: &dyn ContentStore, data: &Bytes) -> Digest {
    let mut writer = writer(store).await;
    let held = usize::try_from(writer.offset()).unwrap();
    writer.write(data.slice(held..)).await.unwrap();
    let committed = writer.commit(&Batch::new(), Durability::Full).await;
    committed.unwrap().digest
}

/// Runs a future for at most `steps` steps.
fn step<F: Future>(mut future: Pin<&mut F>, steps: usize) -> Poll<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..steps {
        let poll = future.as_mut().poll(&mut context);
        if poll.is_ready() {
            return poll;
        }
    }
    Poll::Pending
}

#[tokio::test]
async fn each_blob_is_in_the_member_for_its_size() {
    for length in [0, 1, 99, 100, 101, 5_000] {
        for piece in [1, 7, 99, 100, 101, 5_000] {
            let scene = Scene::new();
            let data = bytes(length);
            let mut writer = writer(&*scene.store).await;
            for piece in data.chunks(piece) {
                writer.write(data.slice_ref(piece)).await.unwrap();
            }
            let done = writer
                .commit(&Batch::new(), Durability::Full)
                .await
                .unwrap();
            let small = length <= 100;
            assert_eq!(
                scene.members_with(&done.digest).await,
                (small, !small),
                "{length}"
            );
            scene.assert_no_ingests().await;
        }
    }
}

#[tokio::test]
async fn an_ingest_is_in_one_member_at_a_time() {
    let scene = Scene::new();
    let mut writer = writer(&*scene.store).await;
    writer.write(bytes(100)).await.unwrap();
    assert_eq!(scene.large.ingests().await.unwrap(), []);
    writer.write(bytes(1)).await.unwrap();
    assert_eq!(scene.small.ingests().await.unwrap(), []);
    let listed = scene.store.ingests().await.unwrap();
    assert_eq!((listed.len(), listed[0].offset), (1, 101));
    drop(writer);
    assert!(scene.store.discard(KEY).await.unwrap());
    scene.assert_no_ingests().await;
}

/// A process may end between any two steps. The ingest then has a prefix of what was written.
#[tokio::test]
async fn a_move_cut_off_anywhere_is_resumed() {
    let data = bytes(300);
    for steps in 1.. {
        let scene = Scene::new();
        let mut writer = writer(&*scene.store).await;
        writer.write(data.slice(..90)).await.unwrap();
        let ended = step(pin!(writer.write(data.slice(90..200))), steps).is_ready();
        drop(writer);
        let mut ingest = scene.store.begin(KEY).await.unwrap();
        let held = ingest.offset() as usize;
        assert!(
            (90..=200).contains(&held),
            "{held} bytes after {steps} steps"
        );
        assert_eq!(ingest.read_back(0, held).await.unwrap(), data[..held]);
        drop(ingest);
        let digest = finish(&*scene.store, &data).await;
        assert_eq!(digest, Digest::sha256(&data));
        assert_eq!(scene.members_with(&digest).await, (false, true));
        scene.assert_no_ingests().await;
        if ended {
            assert!(steps > 5, "the move took only {steps} steps");
            return;
        }
    }
}

/// A process may end between any two steps of a publish. The blob is then complete or absent, and
/// the ingest is complete or gone.
#[tokio::test]
async fn a_publish_cut_off_anywhere_is_repeated() {
    for length in [80, 300] {
        let data = bytes(length);
        for steps in 1.. {
            let scene = Scene::new();
            let mut writer = writer(&*scene.store).await;
            writer.write(data.clone()).await.unwrap();
            let batch = Batch::new();
            let commit = writer.commit(&batch, Durability::Full);
            let ended = step(pin!(commit), steps).is_ready();
            let held = scene.store.begin(KEY).await.unwrap().offset();
            assert!(held == 0 || held == length as u64, "{held} bytes");
            let digest = finish(&*scene.store, &data).await;
            let reader = scene.store.open(&digest).await.unwrap().unwrap();
            assert_eq!(reader.read_at(0, length).await.unwrap(), data);
            assert_eq!(scene.store.list(None, 9).await.unwrap().len(), 1);
            scene.assert_no_ingests().await;
            if ended {
                break;
            }
        }
    }
}

/// At any step of the first writer's move, a second writer gets an error at once and changes
/// nothing.
#[tokio::test]
async fn a_second_writer_is_busy_at_every_step_of_a_move() {
    let data = bytes(300);
    for steps in 1.. {
        let scene = Scene::new();
        let mut first = writer(&*scene.store).await;
        first.write(data.slice(..90)).await.unwrap();
        let ended = {
            let mut write = pin!(first.write(data.slice(90..)));
            let ended = step(write.as_mut(), steps).is_ready();
            let second = scene.store.begin(KEY).await.map(drop);
            assert_eq!(
                second.unwrap_err().kind(),
                ErrorKind::Busy,
                "after {steps} steps"
            );
            let discarded = scene.store.discard(KEY).await;
            assert_eq!(discarded.unwrap_err().kind(), ErrorKind::Busy);
            if !ended {
                write.await.unwrap();
            }
            ended
        };
        let done = first.commit(&Batch::new(), Durability::Full).await.unwrap();
        assert_eq!(done.digest, Digest::sha256(&data));
        scene.assert_no_ingests().await;
        if ended {
            return;
        }
    }
}

/// After a crash both members may have an ingest, and the longer one is complete.
#[tokio::test]
async fn the_longer_of_two_ingests_is_resumed() {
    let data = bytes(300);
    for (small, large) in [(90, 0), (90, 40), (90, 90), (90, 200), (0, 0), (0, 40)] {
        let scene = Scene::new();
        for (member, held) in [(&scene.small, small), (&scene.large, large)] {
            let mut ingest = member.begin(KEY).await.unwrap();
            ingest.append(data.slice(..held)).await.unwrap();
        }
        let longer = small.max(large) as u64;
        let listed = scene.store.ingests().await.unwrap();
        assert_eq!((listed.len(), listed[0].offset), (1, longer));
        assert_eq!(scene.store.begin(KEY).await.unwrap().offset(), longer);
        assert_eq!(finish(&*scene.store, &data).await, Digest::sha256(&data));
        scene.assert_no_ingests().await;
    }
}

#[tokio::test]
async fn a_large_store_that_fails_costs_no_bytes_of_the_small_one() {
    let (data, plan) = (bytes(300), Plan::new());
    let scene = Scene::new();
    for (member, held) in [(&scene.small, 90), (&scene.large, 40)] {
        let mut ingest = member.begin(KEY).await.unwrap();
        ingest.append(data.slice(..held)).await.unwrap();
    }
    let large = faulty_content(scene.large.clone(), &plan);
    let store = over(&scene.small, large, THRESHOLD);
    let (kind, side) = (ErrorKind::Unavailable, Side::Before);
    plan.fail_nth(1, Fault { kind, side });
    let error = store.begin(KEY).await.map(drop).unwrap_err();
    assert_eq!((error.kind(), plan.end()), (kind, vec!["begin"]));
    assert_eq!(store.begin(KEY).await.unwrap().offset(), 90);
}

#[tokio::test]
async fn a_blob_stored_under_another_threshold_is_found_and_not_stored_again() {
    let scene = Scene::new();
    let data = bytes(80);
    let digest = finish(&*scene.store, &data).await;
    let seen = scene.store.stat(&digest).await.unwrap();
    let lower = scene.with_threshold(10);
    assert_eq!(lower.stat(&digest).await.unwrap(), seen);
    assert_eq!(finish(&*lower, &data).await, digest);
    assert_eq!(scene.members_with(&digest).await, (true, false));
    assert_eq!(lower.stat(&digest).await.unwrap(), seen, "the same version");
    scene.assert_no_ingests().await;
}

#[tokio::test]
async fn twins_are_one_blob_and_are_removed_together() {
    let scene = Scene::new();
    let (digest, version) = scene.twins(&bytes(80)).await;
    let listed = scene.store.list(None, 9).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].version, version, "a list shows what stat shows");
    assert!(scene.store.remove_version(&digest, version).await.unwrap());
    assert_eq!(scene.members_with(&digest).await, (false, false));
    let (digest, _) = scene.twins(&bytes(81)).await;
    assert!(scene.store.remove(&digest).await.unwrap());
    assert_eq!(scene.store.stat(&digest).await.unwrap(), None);
    assert!(!scene.store.remove(&digest).await.unwrap());
}

/// Each member gives its first blob the same version, but the store over both members gives the two
/// blobs different versions.
#[tokio::test]
async fn a_late_removal_never_hits_the_other_member() {
    let scene = Scene::new();
    let everything_large = scene.with_threshold(0);
    let data = bytes(80);
    for (first, second) in [
        (&scene.store, &everything_large),
        (&everything_large, &scene.store),
    ] {
        let digest = finish(&**first, &data).await;
        let seen = first.stat(&digest).await.unwrap().unwrap().version;
        assert!(second.remove_version(&digest, seen).await.unwrap());
        finish(&**second, &data).await;
        assert!(!first.remove_version(&digest, seen).await.unwrap());
        assert!(first.stat(&digest).await.unwrap().is_some());
        assert!(first.remove(&digest).await.unwrap());
    }
}

/// While one removal is slow, another removes both twins and the blob is stored again.
#[tokio::test]
async fn a_slow_removal_of_twins_spares_a_newer_blob() {
    let data = bytes(80);
    for threshold in [0, THRESHOLD] {
        for steps in 0.. {
            let scene = Scene::new();
            let (digest, version) = scene.twins(&data).await;
            let mut slow = pin!(scene.store.remove_version(&digest, version));
            let ended = step(slow.as_mut(), steps).is_ready();
            scene.store.remove(&digest).await.unwrap();
            assert_eq!(scene.members_with(&digest).await, (false, false));
            finish(&*scene.with_threshold(threshold), &data).await;
            if ended {
                break;
            }
            slow.await.unwrap();
            let found = scene.store.stat(&digest).await.unwrap();
            assert!(found.is_some(), "removed after {steps} steps");
        }
    }
}

/// Tries every way to distribute five blobs over two members, every page size and every cursor.
#[tokio::test]
async fn pages_merge_both_members() {
    let mut blobs: Vec<_> = (0..5).map(bytes).collect();
    blobs.sort_by_key(|data| Digest::sha256(data));
    for spread in 0..3_usize.pow(5) {
        let scene = Scene::new();
        for (number, data) in (0..).zip(&blobs) {
            let member = spread / 3_usize.pow(number) % 3;
            if member != 1 {
                scene.small.put(data.clone()).await.unwrap();
            }
            if member != 0 {
                scene.large.put(data.clone()).await.unwrap();
            }
        }
        let digests: Vec<_> = blobs.iter().map(|data| Digest::sha256(data)).collect();
        for from in 0..=5_usize {
            let after = from.checked_sub(1).map(|at| &digests[at]);
            for limit in 1..=6 {
                let page = scene.store.list(after, limit).await.unwrap();
                let end = (from + limit).min(5);
                let found: Vec<_> = page.iter().map(|stat| stat.digest).collect();
                assert_eq!(found, digests[from..end], "{spread} {from} {limit}");
                let entries = scene.store.entries(after, limit).await.unwrap();
                let same: Vec<_> = page.into_iter().map(Entry::Stat).collect();
                assert_eq!(entries, same, "{spread} {from} {limit}");
            }
        }
        for stat in scene.store.list(None, 9).await.unwrap() {
            assert_eq!(scene.store.stat(&stat.digest).await.unwrap(), Some(stat));
        }
    }
}

/// A directory does not look up the size of a blob to list the blob.
#[tokio::test]
async fn entries_of_a_member_without_sizes_are_digests() {
    let (small, large) = (StrictStore::new(), support::store());
    let mut only_digests = Wrapped::new(&large);
    only_digests.only_digests = true;
    let small = Arc::new(small);
    let store = over(&small, Arc::new(only_digests), THRESHOLD);
    let (one, both, other) = (bytes(1), bytes(2), bytes(200));
    for data in [&one, &both] {
        small.put(data.clone()).await.unwrap();
    }
    for data in [&both, &other] {
        large.content.put(data.clone()).await.unwrap();
    }
    let mut expected = vec![Entry::Digest(Digest::sha256(&other))];
    for data in [one, both] {
        let stat = store.stat(&Digest::sha256(&data)).await.unwrap();
        expected.push(Entry::Stat(stat.unwrap()));
    }
    expected.sort_by_key(|entry| *entry.digest());
    assert_eq!(store.entries(None, 9).await.unwrap(), expected);
    let after = expected[0].digest();
    assert_eq!(store.entries(Some(after), 1).await.unwrap(), expected[1..2]);
}

/// Records go to the small store, even those of blobs in a large store that could take them.
#[tokio::test]
async fn all_records_are_in_the_small_store() {
    let (small, large) = (MemoryStore::new(), MemoryStore::new());
    let store = by_size(
        small.clone().with_images(),
        Arc::new(large.clone()),
        THRESHOLD,
    );
    for (length, with_the_bytes) in [(80, true), (300, false)] {
        let mut batch = Batch::new();
        batch.put(Table::Blobs, length.to_string(), Expect::Absent, bytes(1));
        let mut writer = writer(&*store.content).await;
        writer.write(bytes(length)).await.unwrap();
        let done = writer.commit(&batch, Durability::Full).await.unwrap();
        assert_eq!(done.batch, with_the_bytes, "{length} bytes");
        assert_eq!(large.scan(Table::Blobs, "", None, 9).await.unwrap(), []);
    }
    assert_eq!(
        small.scan(Table::Blobs, "", None, 9).await.unwrap().len(),
        1
    );
}

/// An ingest can be in the large store although it is small. A caller does not commit the record of
/// a small blob before its bytes, so the publish must commit both in one step.
#[tokio::test]
async fn a_small_ingest_in_the_large_store_is_published_with_its_record() {
    for is_rewound in [false, true] {
        let (small, large) = (MemoryStore::new(), MemoryStore::new());
        let over = |threshold| {
            let large = Arc::new(large.clone());
            by_size(small.clone().with_images(), large, threshold).content
        };
        let (lower, higher) = (over(10), over(THRESHOLD));
        writer(&*lower).await.write(bytes(80)).await.unwrap();
        assert_eq!(large.ingests().await.unwrap().len(), 1);
        let mut writer = writer(&*higher).await;
        if is_rewound {
            writer.write(bytes(80)).await.unwrap();
            writer.rewind().await.unwrap();
            writer.write(bytes(80)).await.unwrap();
        }
        let mut batch = Batch::new();
        batch.put(Table::Blobs, "record".to_owned(), Expect::Absent, bytes(1));
        assert!(higher.commits_records(80));
        let done = writer.commit(&batch, Durability::Full).await.unwrap();
        assert!(done.batch, "rewound: {is_rewound}");
        assert!(small.stat(&done.digest).await.unwrap().is_some());
        assert_eq!(higher.ingests().await.unwrap(), []);
    }
}

/// A process may end between any two steps.
#[tokio::test]
async fn a_publish_that_moves_the_ingest_back_is_repeated_if_it_is_cut_off() {
    let data = bytes(80);
    for steps in 1.. {
        let scene = Scene::new();
        let lower = scene.with_threshold(10);
        writer(&*lower).await.write(data.clone()).await.unwrap();
        let batch = Batch::new();
        let commit = writer(&*scene.store).await.commit(&batch, Durability::Full);
        let ended = step(pin!(commit), steps).is_ready();
        let held = scene.store.begin(KEY).await.unwrap().offset();
        assert!(held == 0 || held == 80, "{held} bytes after {steps} steps");
        let digest = finish(&*scene.store, &data).await;
        assert_eq!(scene.members_with(&digest).await, (true, false));
        scene.assert_no_ingests().await;
        if ended {
            assert!(steps > 5, "the publish took only {steps} steps");
            return;
        }
    }
}

/// Bytes without a record would never be collected. So if the records store fails, nothing is
/// published, and a repeated publish publishes the bytes and the record.
#[tokio::test]
async fn no_bytes_are_published_without_a_record() {
    for length in [80, 300] {
        let scene = Scene::new();
        let small = Store {
            content: scene.small.clone(),
            records: scene.small.clone(),
            images: support::store().images,
        };
        let store = by_size(small, scene.large.clone(), THRESHOLD);
        let data = bytes(length);
        let descriptor = Descriptor::of(MediaType::OCI_LAYER, &data);
        scene.small.fail_after(0);
        let outcome = store.put(&descriptor, data.clone(), Durability::Full).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(!store.present(&descriptor).await.unwrap());
        assert_eq!(store.blobs().load(&descriptor.digest).await.unwrap(), None);
        let again = store.put(&descriptor, data, Durability::Full).await;
        again.unwrap();
        assert!(
            store
                .blobs()
                .load(&descriptor.digest)
                .await
                .unwrap()
                .is_some()
        );
        scene.assert_no_ingests().await;
    }
}
