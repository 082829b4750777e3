//! Laws of a store that is open several times at once, as if several processes had opened it.

use std::sync::Arc;

use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{ContentExt, ContentStore, Digest, ErrorKind};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, digests, kind, put};

pub(super) async fn openings_see_the_same_blobs(subject: Subject) {
    let (left, right) = (subject.open().await, subject.open().await);
    for (seed, one, other) in [(1, &left, &right), (2, &right, &left)] {
        let data = bytes(seed, 20_000);
        let digest = put(&**one, &data).await;
        assert_has(&**other, &digest, &data).await;
        assert_eq!(digests(&**other).await, [digest]);
        assert!(other.remove(&digest).await.unwrap());
        assert_absent(&**one, &digest).await;
    }
}

/// A key has only one writer at a time, also across openings. When this writer is dropped, a writer
/// of another opening may resume the ingest.
pub(super) async fn openings_share_the_key(subject: Subject) {
    let (left, right) = (subject.open().await, subject.open().await);
    let data = bytes(1, 50_000);
    let mut first = Writer::begin(&*left, "layer", Expected::ANY).await.unwrap();
    first.write(data.slice(..20_000)).await.unwrap();
    assert_eq!(
        kind(right.begin("layer").await.map(drop)),
        Some(ErrorKind::Busy)
    );
    assert_eq!(kind(right.discard("layer").await), Some(ErrorKind::Busy));
    drop(first);
    let mut second = Writer::begin(&*right, "layer", Expected::ANY)
        .await
        .unwrap();
    assert_eq!(second.offset(), 20_000);
    second.write(data.slice(20_000..)).await.unwrap();
    let committed = second
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_eq!(committed.digest, Digest::sha256(&data));
    assert_has(&*left, &committed.digest, &data).await;
    assert_eq!(left.ingests().await.unwrap(), []);
}

pub(super) async fn openings_agree_on_one_digest(subject: Subject) {
    let data = bytes(1, 200_000);
    let mut writers = Vec::new();
    for number in 0..8 {
        let (store, data) = (subject.open().await, data.clone());
        writers.push(tokio::spawn(async move {
            let key = format!("writer {number}");
            let mut writer = Writer::begin(&*store, &key, Expected::ANY).await?;
            writer.write(data).await?;
            writer.commit(&Batch::new(), Durability::Full).await
        }));
    }
    for writer in writers {
        writer.await.unwrap().expect("each writer must succeed");
    }
    let store: Arc<dyn ContentStore> = subject.open().await;
    assert_eq!(digests(&*store).await, [Digest::sha256(&data)]);
    assert_has(&*store, &Digest::sha256(&data), &data).await;
}
