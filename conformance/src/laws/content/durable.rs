//! Laws of a store that is opened again.

use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{Capability, ContentExt, Digest, ErrorKind};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, digests, kind, put};

/// A reopened store must have the blobs that were stored, but not the blobs that were removed.
pub(super) async fn a_reopened_store_has_its_blobs(subject: Subject) {
    let store = subject.open().await;
    let (kept, gone) = (bytes(1, 300_000), bytes(2, 300_000));
    let empty = put(&*store, &bytes(0, 0)).await;
    let (digest, removed) = (put(&*store, &kept).await, put(&*store, &gone).await);
    assert!(store.remove(&removed).await.unwrap());
    drop(store);
    for _ in 0..2 {
        let store = subject.open().await;
        assert_has(&*store, &digest, &kept).await;
        assert_has(&*store, &empty, &[]).await;
        assert_absent(&*store, &removed).await;
        assert_eq!(digests(&*store).await.len(), 2);
    }
}

pub(super) async fn a_reopened_store_has_the_same_versions(subject: Subject) {
    let store = subject.open().await;
    for (seed, length) in [(1, 10), (2, 300_000)] {
        put(&*store, &bytes(seed, length)).await;
    }
    let before = store.list(None, 9).await.unwrap();
    drop(store);
    let store = subject.open().await;
    assert_eq!(store.list(None, 9).await.unwrap(), before);
    let gone = before[0];
    assert!(store.remove(&gone.digest).await.unwrap());
    drop(store);
    let store = subject.open().await;
    for seed in [1, 2] {
        let length = [10, 300_000][seed as usize - 1];
        put(&*store, &bytes(seed, length)).await;
    }
    let late = store.remove_version(&gone.digest, gone.version).await;
    assert!(!late.unwrap(), "a blob got the version of a removed blob");
}

pub(super) async fn a_flush_makes_relaxed_durable(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 100_000);
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    writer.write(data.clone()).await.unwrap();
    writer
        .commit(&Batch::new(), Durability::Relaxed)
        .await
        .unwrap();
    store.flush().await.unwrap();
    drop(store);
    assert_has(&*subject.open().await, &Digest::sha256(&data), &data).await;
}

pub(super) async fn a_second_opening_is_shared_or_busy(subject: Subject) {
    let store = subject.open().await;
    match subject.try_open().await {
        Ok(_) => assert!(
            store.capabilities().has(Capability::Shared),
            "the store was opened twice, but does not promise `shared`"
        ),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
    }
    let digest = put(&*store, &bytes(1, 10)).await;
    assert_has(&*store, &digest, &bytes(1, 10)).await;
    drop(store);
    assert_eq!(
        kind(subject.try_open().await),
        None,
        "opening the store must succeed after its first handle was dropped"
    );
}

pub(super) async fn an_ingest_outlives_its_store(subject: Subject) {
    let data = bytes(1, 6_000_000);
    let mut done = 0;
    for end in [100, 5_500_000, 6_000_000] {
        let store = subject.open().await;
        let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
            .await
            .unwrap();
        assert_eq!(writer.offset(), done as u64, "offset after reopening");
        writer.write(data.slice(done..end)).await.unwrap();
        drop(writer);
        let status = store.ingests().await.unwrap();
        assert_eq!((status.len(), status[0].offset), (1, end as u64));
        done = end;
    }
    let store = subject.open().await;
    let writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    let committed = writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_eq!(committed.digest, Digest::sha256(&data));
    assert_has(&*store, &committed.digest, &data).await;
    assert_eq!(store.ingests().await.unwrap(), []);
}
