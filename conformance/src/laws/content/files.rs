//! Laws of files that become blobs, of stored bytes that were changed, and of compaction.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;

use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{ContentExt, ContentStore, Digest, ErrorKind};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, kind, put};

/// Appends ranges of a file, which the store may share, copy or read. Then changes the file.
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
    // The file ends before the end of the range, and changes a moment later.
    let written = writer.write_file(&file, 2_999_990, 100).await.unwrap();
    assert_eq!(
        written, 10,
        "write_file must return the number of bytes up to the end of the file"
    );
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
    assert_eq!(
        kind(more),
        Some(ErrorKind::Corrupt),
        "more bytes than the expected size must be refused"
    );
}

/// Stores a blob again. If the store keeps it as a file, changes a byte, and sets the time of
/// modification back.
pub(super) async fn changed_bytes_are_noticed(subject: Subject) {
    let store = subject.open().await;
    let data = bytes(1, 100_000);
    let digest = put(&*store, &data).await;
    let first = store.stat(&digest).await.unwrap().unwrap();
    assert!(store.remove(&digest).await.unwrap());
    assert!(
        !store.is_unchanged(&first).await.unwrap(),
        "a removed blob must not count as unchanged"
    );
    put(&*store, &data).await;
    assert!(
        !store.is_unchanged(&first).await.unwrap(),
        "a blob that was stored again must not count as unchanged"
    );
    let Some(file) = open_to_write(&*store, &digest).await else {
        return;
    };
    let second = store.stat(&digest).await.unwrap().unwrap();
    // Changes within one tick of the kernel's clock can leave the same times.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(&[data[7] ^ 1], 7).unwrap();
    file.set_modified(modified).unwrap();
    assert!(
        !store.is_unchanged(&second).await.unwrap(),
        "a blob with a changed byte must not count as unchanged"
    );
}

/// Damages a blob, if the store keeps it as a file, and then stores the right bytes.
pub(super) async fn a_damaged_copy_is_replaced(subject: Subject) {
    let store = subject.open().await;
    for (seed, size) in [(1, 1), (2, 3_000), (3, 3_000_000)] {
        let data = bytes(seed, size);
        let digest = put(&*store, &data).await;
        if let Some(file) = open_to_write(&*store, &digest).await {
            file.write_all_at(&[data[size - 1] ^ 1], size as u64 - 1)
                .unwrap();
            assert_ne!(store.hash(&digest).await.unwrap(), Some(digest));
        }
        assert_eq!(store.put(data.clone()).await.unwrap(), digest);
        assert_eq!(store.hash(&digest).await.unwrap(), Some(digest));
        assert_has(&*store, &digest, &data).await;
    }
}

/// Opens the file of a blob for writing, as another program would. Returns `None` if the store does
/// not keep the blob as a file.
async fn open_to_write(store: &dyn ContentStore, digest: &Digest) -> Option<File> {
    let reader = store.open(digest).await.unwrap().unwrap();
    let path = format!("/proc/self/fd/{}", reader.file()?.as_raw_fd());
    let path = std::fs::canonicalize(path).unwrap();
    let mut writable = std::fs::metadata(&path).unwrap().permissions();
    writable.set_mode(0o644);
    std::fs::set_permissions(&path, writable).unwrap();
    Some(File::options().write(true).open(path).unwrap())
}

/// Compacts while a reader and a writer are open.
pub(super) async fn a_compaction_keeps_what_is_there(subject: Subject) {
    let store = subject.open().await;
    store
        .compact()
        .await
        .expect("compacting an empty store must succeed");
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
