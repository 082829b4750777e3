//! Laws of faults. In each run, one system call that changes the disk fails, or the process is
//! killed at this call. One law checks that each file that contains bytes of a blob, and the
//! directory of this file, are synced before the publish of the blob is acknowledged.

use bytes::Bytes;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{ContentExt, ContentStore, Digest, Result};

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, digests, read};
use crate::strace::{Fault, Victim};

/// Size of the pieces that are written.
const PIECE: usize = 300_000;
/// The key of the ingest that is not published.
const UNFINISHED: &str = "unfinished";
/// The prefix of the text that a victim prints after a failed publish. The length of the ingest
/// follows.
const LEFT: &str = "left ";

/// Returns the blobs, each with the step that stores it.
fn blobs() -> [(&'static str, Bytes); 3] {
    [
        ("small", bytes(1, 100)),
        ("large", bytes(2, 2_500_000)),
        ("again", bytes(3, 20_000)),
    ]
}

/// No acknowledged blob may be lost, and no blob may have wrong bytes.
pub(super) async fn a_kill_at_any_call_keeps_the_blobs(subject: Subject) {
    inject(&subject, Fault::Kill).await;
}

/// An error of the device must be reported or retried. No acknowledged blob may be lost.
pub(super) async fn a_failed_call_keeps_the_blobs(subject: Subject) {
    inject(&subject, Fault::Error).await;
}

/// On a full disk, an error must be reported or the call retried. No acknowledged blob may be lost.
pub(super) async fn a_full_disk_keeps_the_blobs(subject: Subject) {
    inject(&subject, Fault::Full).await;
}

async fn inject(subject: &Subject, fault: Fault) {
    if subject.is_victim() {
        return subject.perform(job(subject));
    }
    subject.at_every_call(fault, check).await;
}

/// Stores blobs, removes one, flushes, and leaves an ingest.
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
    // A repeated job resumes the ingest that the first job left.
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

async fn check(victim: Victim<dyn ContentStore>) {
    // Bytes that could not be synced must not be resumed.
    let left = victim
        .acknowledged
        .iter()
        .find_map(|said| said.strip_prefix(LEFT));
    assert!(
        !victim.at_sync || left.is_none_or(|left| left == "0"),
        "an ingest must have no bytes after its sync failed; reported length: {left:?}"
    );
    let store = victim.subject.open().await;
    for (step, data) in blobs() {
        let digest = Digest::sha256(&data);
        // A removal may be undone until the next flush.
        if step == "small" && victim.has("again") {
            assert_absent(&*store, &digest).await;
        } else if victim.has(step) && !(step == "small" && victim.has("large")) {
            assert_has(&*store, &digest, &data).await;
        }
    }
    right(&*store).await;
    // The same job succeeds after the fault.
    let again = job(&victim.subject);
    drop(store);
    again
        .await
        .expect("the interrupted job must succeed when it is repeated");
    let store = victim.subject.open().await;
    for (_, data) in &blobs()[1..] {
        assert_has(&*store, &Digest::sha256(data), data).await;
    }
    right(&*store).await;
    let writer = Writer::begin(&*store, UNFINISHED, Expected::ANY).await;
    let mut writer = writer.expect("the ingest `unfinished` must be resumable");
    let held = bytes(4, 2 * PIECE).slice(..usize::try_from(writer.offset()).unwrap());
    assert_eq!(
        writer.digest().await.unwrap(),
        Digest::sha256(&held),
        "the bytes of the ingest `unfinished` are not the bytes that were written"
    );
}

/// Checks that every blob has the digest of its bytes.
async fn right(store: &dyn ContentStore) {
    for digest in digests(store).await {
        let found = read(store, &digest)
            .await
            .expect("a listed blob must exist");
        assert_eq!(
            Digest::sha256(&found),
            digest,
            "the bytes under a digest do not match it"
        );
    }
}

/// Text that occurs in no other file. A store that compresses repeated text still writes it once.
const MARKER: &str = "conformance-blob";

/// The bytes and the names of their files must be synced before the publish is acknowledged.
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
