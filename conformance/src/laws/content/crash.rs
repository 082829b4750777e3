//! Laws of processes that are killed.

use cas_core::Digest;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;

use super::Subject;
use crate::material::{assert_has, bytes, digests, put, read};

fn blob(number: u64) -> bytes::Bytes {
    bytes(
        number,
        1_000 + 7_919 * usize::try_from(number % 32).unwrap(),
    )
}

/// Every acknowledged blob must exist, and every listed blob must have its bytes.
pub(super) async fn a_killed_process_keeps_its_blobs(subject: Subject) {
    if subject.is_victim() {
        let store = subject.open().await;
        for number in 0.. {
            put(&*store, &blob(number)).await;
            subject.acknowledge(number);
        }
    }
    for kills in [1, 20] {
        let said = subject.kill_after(kills);
        let store = subject.open().await;
        for number in said.iter().map(|said| said.parse().unwrap()) {
            let data = blob(number);
            assert_has(&*store, &Digest::sha256(&data), &data).await;
        }
        for digest in digests(&*store).await {
            let found = read(&*store, &digest)
                .await
                .expect("a listed blob must exist");
            assert_eq!(
                Digest::sha256(&found),
                digest,
                "the bytes under a digest do not match it"
            );
        }
    }
}

/// An interrupted ingest must hold a prefix of the written bytes.
pub(super) async fn a_killed_writer_leaves_a_prefix(subject: Subject) {
    let data = bytes(1, 8_000_000);
    if subject.is_victim() {
        let store = subject.open().await;
        let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
            .await
            .unwrap();
        for piece in data.chunks(100_000) {
            writer.write(data.slice_ref(piece)).await.unwrap();
            subject.acknowledge(writer.offset());
        }
        std::future::pending().await
    }
    subject.kill_after(30);
    let store = subject.open().await;
    let mut writer = Writer::begin(&*store, "layer", Expected::ANY)
        .await
        .unwrap();
    let offset = usize::try_from(writer.offset()).unwrap();
    assert!(
        offset <= data.len(),
        "the ingest has {offset} bytes, but at most {} were written",
        data.len()
    );
    writer.write(data.slice(offset..)).await.unwrap();
    let committed = writer
        .commit(&Batch::new(), Durability::Full)
        .await
        .unwrap();
    assert_eq!(
        committed.digest,
        Digest::sha256(&data),
        "the {offset} bytes of the ingest are not what was written"
    );
    assert_has(&*store, &committed.digest, &data).await;
}
