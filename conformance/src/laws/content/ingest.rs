//! Laws of ingests, and of the checks that a commit makes. The life cycle of ingests is the same as
//! in containerd.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cas_core::content::{Durability, Expected, Writer, put_reader};
use cas_core::records::Batch;
use cas_core::{Digest, ErrorKind, limit};
use tokio::io::{AsyncRead, ReadBuf};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, digests, ingest, kind, put};

pub(super) async fn a_dropped_writer_is_resumed(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 200_000);
    let mut done = 0;
    for end in [1, 70_000, 70_001, 200_000] {
        let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
            .await
            .unwrap();
        assert_eq!(writer.offset(), done as u64, "offset of the resumed ingest");
        writer.write(data.slice(done..end)).await.unwrap();
        assert_eq!(writer.offset(), end as u64, "offset after a write");
        done = end;
    }
    let writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    let committed = writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_eq!(
        committed.digest,
        Digest::sha256(&data),
        "digest of the resumed bytes"
    );
    assert_has(&*store, &committed.digest, &data).await;
}

/// The second writer of a key is refused at once, and has no effect.
pub(super) async fn a_second_writer_is_busy(subject: Subject) {
    let store = subject.open().await;
    let mut first = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    first.write(bytes(1, 10)).await.unwrap();
    assert_eq!(
        kind(store.begin("layer").await.map(drop)),
        Some(ErrorKind::Busy)
    );
    assert_eq!(kind(store.discard("layer").await), Some(ErrorKind::Busy));
    first.write(bytes(2, 10)).await.unwrap();
    drop(first);
    let again = store
        .begin("layer")
        .await
        .expect("a writer must get the ingest key of a writer that ended");
    assert_eq!(again.offset(), 20);
}

pub(super) async fn keys_are_independent(subject: Subject) {
    let store = subject.open().await;
    let (one, other) = (bytes(1, 90_000), bytes(2, 90_000));
    let mut left = Writer::begin(&*store, "a/b", Expected::ANY).await.unwrap();
    let mut right = Writer::begin(&*store, "a_b", Expected::ANY).await.unwrap();
    for at in (0..90_000).step_by(30_000) {
        left.write(one.slice(at..at + 30_000)).await.unwrap();
        right.write(other.slice(at..at + 30_000)).await.unwrap();
    }
    let keys: Vec<_> = store.ingests().await.unwrap();
    let keys: Vec<_> = keys
        .iter()
        .map(|one| (one.key.as_str(), one.offset))
        .collect();
    assert_eq!(keys, [("a/b", 90_000), ("a_b", 90_000)]);
    for (writer, data) in [(left, one), (right, other)] {
        let committed = writer
            .commit(&Batch::new(), Durability::Full)
            .await
            .unwrap();
        assert_has(&*store, &committed.digest, &data).await;
    }
}

/// The bytes must not be visible under the expected digest or under their own digest.
pub(super) async fn a_wrong_digest_stays_invisible(subject: Subject) {
    let store = subject.open().await;
    let (data, wanted) = (bytes(1, 1_000), Digest::sha256(&bytes(2, 1_000)));
    let outcome = ingest(&*store, "layer", &data, Expected::exactly(wanted, 1_000)).await;
    assert_eq!(kind(outcome), Some(ErrorKind::Corrupt));
    assert_absent(&*store, &wanted).await;
    assert_absent(&*store, &Digest::sha256(&data)).await;
}

/// Commits more bytes than expected, and fewer bytes than expected.
pub(super) async fn a_wrong_size_stays_invisible(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 1_000);
    let digest = Digest::sha256(&data);
    for (key, size) in [("long", 999), ("short", 1_001)] {
        let outcome = ingest(&*store, key, &data, Expected::exactly(digest, size)).await;
        assert_eq!(kind(outcome), Some(ErrorKind::Corrupt), "{size} expected");
        assert_absent(&*store, &digest).await;
    }
}

/// Commits with a wrong expected digest, then with the right digest.
pub(super) async fn a_failed_commit_can_be_retried(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 80_000);
    let wrong = Expected::digest(Digest::sha256(b"else"));
    assert_eq!(
        kind(ingest(&*store, "layer", &data, wrong).await),
        Some(ErrorKind::Corrupt)
    );
    let right = Expected::exactly(Digest::sha256(&data), 80_000);
    let writer = Writer::begin(&*store, "layer", right).await.unwrap();
    assert_eq!(writer.offset(), 80_000, "offset after the failed commit");
    let committed = writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_has(&*store, &committed.digest, &data).await;
}

pub(super) async fn rewind_forgets_what_was_written(subject: Subject) {
    let store = subject.open().await;
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    writer.write(bytes(1, 200_000)).await.unwrap();
    writer.rewind().await.unwrap();
    assert_eq!(writer.offset(), 0);
    let data = bytes(2, 500);
    writer.write(data.slice(..300)).await.unwrap();
    drop(writer);
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    assert_eq!(writer.offset(), 300, "offset after rewinding and resuming");
    writer.write(data.slice(300..)).await.unwrap();
    let committed = writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_eq!(committed.digest, Digest::sha256(&data));
    assert_has(&*store, &committed.digest, &data).await;
}

/// Discards an ingest that does not exist. Then discards an existing ingest twice.
pub(super) async fn discard_forgets_the_ingest(subject: Subject) {
    let store = subject.open().await;
    assert!(
        !store.discard("layer").await.unwrap(),
        "an ingest was discarded, but none was begun"
    );
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    writer.write(bytes(1, 100_000)).await.unwrap();
    drop(writer);
    assert!(store.discard("layer").await.unwrap());
    assert!(
        !store.discard("layer").await.unwrap(),
        "an ingest was discarded twice"
    );
    assert_eq!(store.ingests().await.unwrap(), []);
    assert_eq!(store.begin("layer").await.unwrap().offset(), 0);
}

/// A commit must remove the ingest even if the store already has the blob.
pub(super) async fn a_published_ingest_is_gone(subject: Subject) {
    let store = subject.open().await;
    for _ in 0..2 {
        ingest(&*store, "layer", &bytes(1, 1_000), Expected::ANY)
            .await
            .unwrap();
        assert_eq!(store.ingests().await.unwrap(), []);
        assert!(!store.discard("layer").await.unwrap());
    }
}

/// Tries keys that must be refused, and unusual keys that must be accepted.
pub(super) async fn bad_keys_are_refused(subject: Subject) {
    let store = subject.open().await;
    for bad in ["", "a\nb", "\0", &"k".repeat(limit::KEY + 1)] {
        let outcome = store.begin(bad).await.map(drop);
        assert_eq!(
            kind(outcome),
            Some(ErrorKind::InvalidArgument),
            "{bad:.20?}"
        );
    }
    let odd = [
        "../../x",
        "/",
        ".",
        "..",
        "a b",
        "ä%2f?#*",
        &"k".repeat(limit::KEY),
    ];
    for (seed, key) in (0..).zip(odd) {
        let data = bytes(seed, 100);
        ingest(&*store, key, &data, Expected::ANY).await.unwrap();
        assert_has(&*store, &Digest::sha256(&data), &data).await;
    }
}

pub(super) async fn storing_twice_keeps_one_copy(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 70_000);
    let digest = put(&*store, &data).await;
    let again = ingest(&*store, "other key", &data, Expected::ANY)
        .await
        .unwrap();
    assert_eq!(again.digest, digest);
    assert_eq!(digests(&*store).await, [digest]);
    assert_has(&*store, &digest, &data).await;
}

/// All writers must succeed, and leave one whole blob.
pub(super) async fn sixteen_writers_of_one_digest_agree(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 300_000);
    let writers: Vec<_> = (0..16)
        .map(|number| {
            let (store, data) = (Arc::clone(&store), data.clone());
            tokio::spawn(async move {
                let key = format!("writer {number}");
                let mut writer = Writer::begin(&*store, &key, Expected::ANY).await?;
                for piece in data.chunks(50_000) {
                    writer.write(data.slice_ref(piece)).await?;
                }
                writer.commit(&Batch::new(), Durability::Full).await
            })
        })
        .collect();
    for writer in writers {
        let committed = writer.await.unwrap().expect("each writer must succeed");
        assert_eq!(committed.digest, Digest::sha256(&data));
    }
    assert_eq!(digests(&*store).await, [Digest::sha256(&data)]);
    assert_has(&*store, &Digest::sha256(&data), &data).await;
    assert_eq!(store.ingests().await.unwrap(), []);
}

/// A reader that returns its bytes and then fails.
struct Fails<'a>(&'a [u8]);

impl AsyncRead for Fails<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

pub(super) async fn a_reader_is_stored_whole_or_not_at_all(subject: Subject) {
    let store = subject.open().await;
    for (seed, size) in [(1, 0), (2, 1), (3, 70_000), (4, 3_000_000)] {
        let data = bytes(seed, size);
        let digest = Digest::sha256(&data);
        let failed = put_reader(&store, Fails(&data[..])).await;
        assert!(
            failed.is_err(),
            "put_reader succeeded, although its source failed at offset {size}"
        );
        assert_absent(&*store, &digest).await;
        for _ in 0..2 {
            let stored = put_reader(&store, &data[..]).await.unwrap();
            assert_eq!((stored.digest, stored.size), (digest, size as u64));
            assert_has(&*store, &digest, &data).await;
        }
    }
    assert_eq!(store.ingests().await.unwrap(), [], "an ingest is left");
}
