//! What is there after a fault at any system call that changes the disk, and what is synced before
//! a publish is acknowledged.

use bytes::Bytes;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{ContentExt, ContentStore, Digest, Result};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, digests, read};
use crate::strace::{Fault, Hurt};

/// In pieces of this many bytes.
const PIECE: usize = 300_000;
/// The key of the ingest that is not published.
const UNFINISHED: &str = "unfinished";
/// What a victim says of an ingest after a publish failed.
const LEFT: &str = "left ";

/// The blobs, each under the step that stores it.
fn blobs() -> [(&'static str, Bytes); 3] {
    [
        ("small", bytes(1, 100)),
        ("large", bytes(2, 2_500_000)),
        ("again", bytes(3, 20_000)),
    ]
}

/// Nothing is acknowledged and lost, and nothing is wrong under its name.
pub(super) async fn a_kill_at_any_call_keeps_the_blobs(subject: Subject) {
    hurt(&subject, Fault::Kill).await;
}

/// An error of the device is told or absorbed, never acknowledged and lost.
pub(super) async fn a_failed_call_keeps_the_blobs(subject: Subject) {
    hurt(&subject, Fault::Broken).await;
}

/// So is a full disk, whichever call finds it.
pub(super) async fn a_full_disk_keeps_the_blobs(subject: Subject) {
    hurt(&subject, Fault::Full).await;
}

async fn hurt(subject: &Subject, fault: Fault) {
    if subject.is_victim() {
        return subject.perform(job(subject));
    }
    subject.at_every_call(fault, check).await;
}

/// Stores small and large, removes, flushes, and leaves an ingest.
async fn job(subject: &Subject) -> Result<()> {
    let store = subject.try_open().await?;
    for (step, data) in &blobs()[..2] {
        publish(subject, &*store, step, data, Durability::Full).await?;
        subject.acknowledge(step);
    }
    store.remove(&Digest::sha256(&blobs()[0].1)).await?;
    subject.acknowledge("removed");
    let (step, data) = &blobs()[2];
    publish(subject, &*store, step, data, Durability::Relaxed).await?;
    store.flush().await?;
    subject.acknowledge(step);
    append(&*store).await
}

async fn publish(
    subject: &Subject,
    store: &dyn ContentStore,
    key: &str,
    data: &Bytes,
    durability: Durability,
) -> Result<()> {
    let mut writer = Writer::begin(store, key, Expected::ANY).await?;
    // Bytes that a publish could not sync are not gone on with.
    let left = usize::try_from(writer.offset()).unwrap();
    for piece in data.slice(left..).chunks(PIECE) {
        writer.write(data.slice_ref(piece)).await?;
    }
    let outcome = writer.commit(&Batch::new(), durability).await;
    if outcome.is_err()
        && let Ok(ingest) = store.begin(key).await
    {
        subject.acknowledge(format_args!("{LEFT}{}", ingest.offset()));
    }
    outcome.map(|committed| assert_eq!(committed.digest, Digest::sha256(data)))
}

async fn append(store: &dyn ContentStore) -> Result<()> {
    let data = bytes(4, 2 * PIECE);
    let mut ingest = store.begin(UNFINISHED).await?;
    let begun = usize::try_from(ingest.offset()).unwrap();
    for piece in data.slice(begun..).chunks(PIECE) {
        ingest.append(data.slice_ref(piece)).await?;
    }
    Ok(())
}

async fn check(hurt: Hurt<dyn ContentStore>) {
    let left = hurt.said.iter().find_map(|said| said.strip_prefix(LEFT));
    assert!(
        !hurt.at_sync || left.is_none_or(|left| left == "0"),
        "an ingest whose sync failed still has {left:?} bytes"
    );
    let store = hurt.subject.open().await;
    for (step, data) in blobs() {
        let digest = Digest::sha256(&data);
        // A removal may come undone until the next flush.
        if step == "small" && hurt.has("again") {
            assert_absent(&*store, &digest).await;
        } else if hurt.has(step) && !(step == "small" && hurt.has("large")) {
            assert_has(&*store, &digest, &data).await;
        }
    }
    right(&*store).await;
    // Whatever was left, the same work then succeeds.
    let again = job(&hurt.subject);
    drop(store);
    again.await.expect("the interrupted work can be done again");
    let store = hurt.subject.open().await;
    for (_, data) in &blobs()[1..] {
        assert_has(&*store, &Digest::sha256(data), data).await;
    }
    right(&*store).await;
    let writer = Writer::begin(&*store, UNFINISHED, Expected::ANY).await;
    let mut writer = writer.expect("the ingest can be gone on with");
    let held = bytes(4, 2 * PIECE).slice(..usize::try_from(writer.offset()).unwrap());
    assert_eq!(
        writer.digest().await.unwrap(),
        Digest::sha256(&held),
        "no prefix"
    );
}

/// Every blob is what its name says.
async fn right(store: &dyn ContentStore) {
    for digest in digests(store).await {
        let found = read(store, &digest).await.expect("what is listed is there");
        assert_eq!(Digest::sha256(&found), digest, "other bytes under a digest");
    }
}

/// What no compression takes away and no other file has.
const MARKER: &str = "conformance-blob";

/// Between the write of the bytes and their acknowledgement they are synced, and so are the names
/// by which they are found.
pub(super) async fn an_acknowledged_publish_was_synced(subject: Subject) {
    if !subject.is_victim() {
        return subject.syncs_before_it_acknowledges(MARKER);
    }
    subject.perform(async {
        let store = subject.try_open().await?;
        for (step, times) in [("small", 10), ("large", 50_000)] {
            let data = Bytes::from(format!("{MARKER}{step}").repeat(times));
            publish(&subject, &*store, step, &data, Durability::Full).await?;
            subject.acknowledge(step);
        }
        Ok(())
    });
}
