//! Laws of lists and removals.

use cas_core::content::{Expected, IngestStatus};
use cas_core::{Algorithm, ContentExt, ContentStore, Digest};

use super::Subject;
use crate::material::{assert_absent, bytes, digests, ingest, put};

/// Stores some blobs under both algorithms. Returns their digests in order.
async fn fill(store: &dyn ContentStore) -> Vec<Digest> {
    let mut all = Vec::new();
    for seed in 0..9 {
        let data = bytes(seed, 100 + usize::try_from(seed).unwrap());
        let long = Digest::of(Algorithm::Sha512, &data);
        ingest(store, "long", &data, Expected::digest(long))
            .await
            .unwrap();
        all.extend([put(store, &data).await, long]);
    }
    all.sort();
    all
}

pub(super) async fn a_list_is_in_digest_order(subject: Subject) {
    let store = subject.open().await;
    assert_eq!(store.list(None, 10).await.unwrap(), []);
    let all = fill(&*store).await;
    let listed = store.list(None, usize::MAX).await.unwrap();
    assert_eq!(
        listed.iter().map(|stat| stat.digest).collect::<Vec<_>>(),
        all
    );
    for stat in listed {
        assert_eq!(store.stat(&stat.digest).await.unwrap(), Some(stat));
    }
}

/// Lists in pages of several sizes, after stored digests and after a digest that is not stored.
pub(super) async fn pages_make_up_the_list(subject: Subject) {
    let store = subject.open().await;
    let all = fill(&*store).await;
    assert_eq!(digests(&*store).await, all, "pages of three");
    for limit in [1, 2, all.len() - 1, all.len()] {
        let page = store.list(None, limit).await.unwrap();
        assert_eq!(
            page.len(),
            limit,
            "number of blobs in a page with the limit {limit}"
        );
    }
    assert_eq!(store.list(all.last(), 5).await.unwrap(), []);
    let mut entries = store.entries(None, 5).await.unwrap();
    entries.extend(store.entries(Some(&all[4]), 100).await.unwrap());
    let entries: Vec<_> = entries.iter().map(|entry| *entry.digest()).collect();
    assert_eq!(entries, all, "entries");
    let absent = Digest::sha256(b"a cursor that is not a blob");
    let rest = store.list(Some(&absent), 100).await.unwrap();
    let rest: Vec<_> = rest.iter().map(|stat| stat.digest).collect();
    let expected: Vec<_> = all.into_iter().filter(|digest| *digest > absent).collect();
    assert_eq!(rest, expected, "the list after a digest that is not stored");
}

pub(super) async fn a_removed_blob_is_gone(subject: Subject) {
    let store = subject.open().await;
    let mut all = fill(&*store).await;
    let gone = all.remove(4);
    assert!(store.remove(&gone).await.unwrap());
    assert_absent(&*store, &gone).await;
    assert!(
        !store.remove(&gone).await.unwrap(),
        "a blob was removed twice"
    );
    assert_eq!(
        digests(&*store).await,
        all,
        "the blobs that were not removed must stay"
    );
}

/// Lists ingests with and without bytes, while they are written and afterwards.
pub(super) async fn ingests_are_listed_by_key(subject: Subject) {
    let store = subject.open().await;
    assert_eq!(store.ingests().await.unwrap(), []);
    let mut held = Vec::new();
    for (key, length) in [("b", 10), ("c", 0), ("a", 70_000)] {
        let mut ingest = store.begin(key).await.unwrap();
        ingest.append(bytes(1, length)).await.unwrap();
        assert_eq!((ingest.key(), ingest.offset()), (key, length as u64));
        held.push(ingest);
    }
    let seen = |all: Vec<IngestStatus>| -> Vec<(String, u64)> {
        all.into_iter().map(|one| (one.key, one.offset)).collect()
    };
    let wanted = [("a", 70_000), ("b", 10), ("c", 0)].map(|(key, at)| (key.to_owned(), at));
    assert_eq!(
        seen(store.ingests().await.unwrap()),
        wanted,
        "the ingests while they are written"
    );
    drop(held);
    assert_eq!(
        seen(store.ingests().await.unwrap())[..2],
        wanted[..2],
        "the ingests after their writers were dropped"
    );
}
