//! Laws of many concurrent tasks.

use std::sync::Arc;

use cas_core::{ContentExt, Digest};

use super::Subject;
use crate::material::{assert_has, bytes, digests, put, read_all};

pub(super) async fn forty_writers_of_different_blobs_all_win(subject: Subject) {
    let store = subject.open().await;
    let writers: Vec<_> = (0..40)
        .map(|seed| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { put(&*store, &bytes(seed, 10_000)).await })
        })
        .collect();
    let mut stored = Vec::new();
    for writer in writers {
        stored.push(writer.await.unwrap());
    }
    for (seed, digest) in (0..).zip(&stored) {
        assert_has(&*store, digest, &bytes(seed, 10_000)).await;
    }
    stored.sort();
    assert_eq!(digests(&*store).await, stored);
}

/// Many tasks read from one reader at different offsets.
pub(super) async fn readers_share_a_blob(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 1_000_000);
    let digest = put(&*store, &data).await;
    let reader = store.open(&digest).await.unwrap().unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let (reader, data) = (Arc::clone(&reader), data.clone());
            tokio::spawn(async move {
                assert!(read_all(reader.as_ref(), 10_007 + number).await == data);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Pages need not be consistent with each other, but a blob that exists all the time is listed once
/// and in order.
pub(super) async fn a_list_shows_what_stays(subject: Subject) {
    let store = subject.open().await;
    let mut stay = Vec::new();
    for seed in 0..20 {
        stay.push(put(&*store, &bytes(seed, 50)).await);
    }
    stay.sort();
    let busy = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for seed in 100..160 {
                let digest = put(&*store, &bytes(seed, 50)).await;
                store.remove(&digest).await.unwrap();
            }
        }
    });
    while !busy.is_finished() {
        let listed: Vec<Digest> = digests(&*store).await;
        assert!(
            listed.is_sorted_by(|one, next| one < next),
            "digests must be listed in order, each once"
        );
        let kept: Vec<_> = listed
            .into_iter()
            .filter(|one| stay.contains(one))
            .collect();
        assert_eq!(kept, stay);
        tokio::task::yield_now().await;
    }
    busy.await.unwrap();
}
