//! Laws of files that become blobs, and of compaction.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{ContentExt, Digest, ErrorKind};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, kind, put};

/// Adopts ranges of a file, whether the store shares, copies or reads them, then changes the file.
pub(super) async fn a_file_becomes_its_bytes(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 3_000_000);
    let path = subject.dir().join("file");
    std::fs::write(&path, &data).unwrap();
    let file = Arc::new(File::options().read(true).write(true).open(path).unwrap());
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    let ranges = [(0, 0), (5, 7), (4096, 1 << 20), (1_000_001, 1_500_000)];
    let mut expected = Vec::new();
    for (offset, length) in ranges {
        let written = writer.write_file(&file, offset, length).await.unwrap();
        assert_eq!(written, length);
        let range = offset as usize..(offset + length) as usize;
        expected.extend_from_slice(&data[range]);
        writer.write(data.slice(..3)).await.unwrap();
        expected.extend_from_slice(&data[..3]);
    }
    // The file ends before the range does, and changes a moment later.
    let written = writer.write_file(&file, 2_999_990, 100).await.unwrap();
    assert_eq!(written, 10, "bytes to the end of the file");
    expected.extend_from_slice(&data[2_999_990..]);
    file.write_all_at(&[0; 100_000], 0).unwrap();
    let committed = writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_eq!(committed.digest, Digest::sha256(&expected));
    assert_has(&*store, &committed.digest, &expected).await;

    let short = Expected {
        digest: None,
        size: Some(10),
    };
    let mut writer = Writer::begin(&*store, "short", short).await.unwrap();
    let more = writer.write_file(&file, 0, 11).await;
    assert_eq!(kind(more), Some(ErrorKind::Corrupt), "more than expected");
}

/// Compacts while others read and write.
pub(super) async fn a_compaction_keeps_what_is_there(subject: Subject) {
    let store = subject.open().await;
    store
        .compact()
        .await
        .expect("compacting an empty store succeeds");
    let blobs: Vec<_> = (0..40)
        .map(|seed| bytes(seed, if seed < 8 { 1_200_000 } else { 3_000 }))
        .collect();
    for data in &blobs {
        put(&*store, data).await;
    }
    let digest = |seed: usize| Digest::sha256(&blobs[seed]);
    for seed in (0..40).step_by(2) {
        assert!(store.remove(&digest(seed)).await.unwrap());
    }
    store.flush().await.unwrap();
    let reader = store.open(&digest(1)).await.unwrap().unwrap();
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    writer.write(blobs[0].clone()).await.unwrap();
    store.compact().await.unwrap();
    assert_eq!(reader.read_at(7, 1000).await.unwrap(), blobs[1][7..1007]);
    writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_has(&*store, &digest(0), &blobs[0]).await;
    for (seed, data) in blobs.iter().enumerate().skip(1) {
        match seed % 2 {
            0 => assert_absent(&*store, &digest(seed)).await,
            _ => assert_has(&*store, &digest(seed), data).await,
        }
    }
}
