//! Laws of reading.

use std::os::unix::fs::FileExt;

use bytes::Bytes;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{Algorithm, ContentExt, Digest};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, ingest, put, read_all};

pub(super) async fn an_empty_blob_is_a_blob(subject: Subject) {
    let store = subject.open().await;
    let digest = put(&*store, &bytes(0, 0)).await;
    assert_has(&*store, &digest, &[]).await;
    let reader = store.open(&digest).await.unwrap().unwrap();
    assert_eq!(reader.read_at(0, 10).await.unwrap().len(), 0);
}

/// Stores blobs with lengths around common page, row and part sizes.
pub(super) async fn sizes_around_pieces_come_back(subject: Subject) {
    let store = subject.open().await;
    for cut in [1, 4 << 10, 16 << 10, 64 << 10, 1 << 20] {
        for length in [cut - 1, cut, cut + 1] {
            let data = bytes(length as u64, length);
            let digest = put(&*store, &data).await;
            assert_has(&*store, &digest, &data).await;
        }
    }
}

pub(super) async fn an_absent_blob_is_none(subject: Subject) {
    let store = subject.open().await;
    let there = put(&*store, &bytes(1, 10)).await;
    for algorithm in Algorithm::ALL {
        assert_absent(&*store, &Digest::of(algorithm, b"never stored")).await;
    }
    let same_bytes = Digest::of(Algorithm::Sha512, &bytes(1, 10));
    assert_absent(&*store, &same_bytes).await;
    assert_has(&*store, &there, &bytes(1, 10)).await;
}

/// Reads ranges that cross the end of the blob, or begin beyond it.
pub(super) async fn reads_stop_at_the_end(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(7, 100_000);
    let digest = put(&*store, &data).await;
    let reader = store.open(&digest).await.unwrap().unwrap();
    assert_eq!(reader.size(), 100_000);
    for (offset, length) in [(0, 1), (1, 65_536), (65_535, 2), (99_999, 1), (3, 0)] {
        let read = reader.read_at(offset as u64, length).await.unwrap();
        assert!(
            read == data[offset..offset + length],
            "a read at {offset} with the length {length} returned wrong bytes"
        );
    }
    assert_eq!(reader.read_at(0, usize::MAX).await.unwrap(), data);
    assert_eq!(reader.read_at(99_990, 100).await.unwrap(), data[99_990..]);
    for beyond in [100_000, 100_001, 1 << 40, u64::MAX] {
        let read = reader.read_at(beyond, 10).await.unwrap();
        assert!(
            read.is_empty(),
            "a read at {beyond}, beyond the end of the blob, must return 0 bytes, but returned {}",
            read.len()
        );
    }
}

/// Stores blobs under both algorithms in one store.
pub(super) async fn sha512_names_content_too(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(3, 5_000);
    let short = put(&*store, &data).await;
    let long = Digest::of(Algorithm::Sha512, &data);
    let committed = ingest(&*store, "long", &data, Expected::digest(long))
        .await
        .unwrap();
    assert_eq!((committed.digest, committed.size), (long, 5_000));
    assert_has(&*store, &long, &data).await;
    assert!(store.remove(&short).await.unwrap());
    assert_absent(&*store, &short).await;
    assert_has(&*store, &long, &data).await;
}

/// A reader that outlives the removal of its blob may fail, but must not return other bytes.
pub(super) async fn a_reader_never_reads_other_bytes(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(5, 300_000);
    let digest = put(&*store, &data).await;
    let reader = store.open(&digest).await.unwrap().unwrap();
    assert_eq!(reader.read_at(0, 10).await.unwrap(), data[..10]);
    assert!(store.remove(&digest).await.unwrap());
    for seed in 6..10 {
        put(&*store, &bytes(seed, 300_000)).await;
    }
    if let Ok(read) = reader.read_at(150_000, 1_000).await {
        assert!(
            read == data[150_000..151_000],
            "a reader got wrong bytes after its blob was removed"
        );
    }
    assert_eq!(put(&*store, &data).await, digest);
    let again = store.open(&digest).await.unwrap().unwrap();
    assert!(
        read_all(again.as_ref(), 70_000).await == data,
        "a blob that was stored again has wrong bytes"
    );
}

/// Appends a blob that is longer than any part, page or row. The pieces do not align with parts,
/// pages or rows.
pub(super) async fn bytes_of_many_parts_come_back(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(9, 11_000_003);
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    for piece in data.chunks(999_983) {
        writer.write(data.slice_ref(piece)).await.unwrap();
        writer.write(Bytes::new()).await.unwrap();
    }
    drop(writer);
    let mut ingest = store.begin("layer").await.unwrap();
    let middle = ingest.read_back(5_242_870, 20).await.unwrap();
    assert!(
        !middle.is_empty() && data[5_242_870..].starts_with(&middle),
        "an ingest does not read back what was appended"
    );
    drop(ingest);
    let writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    let committed = writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_eq!(committed.digest, Digest::sha256(&data));
    assert_has(&*store, &committed.digest, &data).await;
    let reader = store.open(&committed.digest).await.unwrap().unwrap();
    let across = reader.read_at(5_000_000, 6_000_000).await.unwrap();
    assert!(
        across == data[5_000_000..11_000_000],
        "a range across parts has other bytes than were written"
    );
}

pub(super) async fn a_file_has_the_bytes(subject: Subject) {
    let store = subject.open().await;
    for length in [0, 100_000] {
        let data = bytes(length as u64, length);
        let digest = put(&*store, &data).await;
        let reader = store.open(&digest).await.unwrap().unwrap();
        let file = reader.file().expect("a blob must have a file");
        assert_eq!(file.metadata().unwrap().len(), length as u64);
        let mut found = vec![0; length];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == data, "the file of the blob has wrong bytes");
        if let Some(path) = reader.path() {
            assert!(
                std::fs::read(path).unwrap() == data,
                "the file at the path of the blob has wrong bytes"
            );
        }
    }
}
