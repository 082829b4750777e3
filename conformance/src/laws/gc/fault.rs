//! Laws of faults. In each run, one system call that changes the disk fails, or the process is
//! killed at this call. Afterwards, every named image must be whole, every blob must have the right
//! bytes and a record, and a collection must remove all leftovers. One law checks that each file
//! that contains the name of an image is synced before the import of the image is acknowledged.

use cas_core::content::{ContentExt, Durability};
use cas_core::records::Table;
use cas_core::{Descriptor, Digest, Image, MediaType, Result, Store};

use super::Subject;
use super::{DAY, collect_in, sorted, there};
use crate::material::{bytes, read, scan};
use crate::sample::{Sample, verify};
use crate::strace::{Fault, Victim};

/// Size of the pieces that are written.
const PIECE: usize = 300_000;
const LABEL: &str = "relabelled";

/// No acknowledged step may be lost, no name may point to an incomplete image, and leftovers must
/// be collected.
pub(super) async fn a_kill_at_any_call_keeps_the_store(subject: Subject) {
    inject(&subject, Fault::Kill).await;
}

/// If the device fails, the store must report an error or repeat the call. No acknowledged step
/// may be lost.
pub(super) async fn a_failed_call_keeps_the_store(subject: Subject) {
    inject(&subject, Fault::Error).await;
}

/// If the disk is full, the store must report an error or repeat the call. No acknowledged step
/// may be lost.
pub(super) async fn a_full_disk_keeps_the_store(subject: Subject) {
    inject(&subject, Fault::Full).await;
}

async fn inject(subject: &Subject, fault: Fault) {
    if subject.is_victim() {
        return subject.perform(job(subject));
    }
    subject.at_every_call(fault, check).await;
}

/// Imports images, stores a blob without a name, changes labels, removes a name, collects, and
/// leaves an unfinished ingest.
async fn job(subject: &Subject) -> Result<()> {
    let store = subject.try_open().await?;
    Sample::of(1).import(&store, "one").await?;
    subject.acknowledge("one");
    store_large(&store).await?;
    subject.acknowledge("large");
    let mut image = Image::new("one".parse()?, Sample::of(1).root());
    image.labels.insert(LABEL.to_owned(), String::from("yes"));
    store.images.update(image, &["labels"]).await?;
    subject.acknowledge(LABEL);
    Sample::of(2).import(&store, "two").await?;
    subject.acknowledge("two");
    store.images.delete(&"two".parse()?, None).await?;
    subject.acknowledge("untagged");
    let options = cas_core::gc::GcOptions::default();
    cas_core::gc::collect(&store, &[], &options).await?;
    subject.acknowledge("collected");
    let mut ingest = store.content.begin("unfinished").await?;
    ingest.append(bytes(2, PIECE)).await
}

fn large() -> (Descriptor, bytes::Bytes) {
    let data = bytes(1, 3 * PIECE);
    (Descriptor::of(MediaType::OCI_LAYER, &data), data)
}

async fn store_large(store: &Store) -> Result<()> {
    let (descriptor, data) = large();
    let mut writer = store.writer(&descriptor).await?;
    let begun = usize::try_from(writer.offset()).unwrap();
    for piece in data.slice(begun..).chunks(PIECE) {
        writer.write(data.slice_ref(piece)).await?;
    }
    let published = store.publish(writer, &descriptor, Vec::new(), Durability::Full);
    published.await.map(|_| ())
}

async fn check(victim: Victim<Store>) {
    let store = victim.subject.open().await;
    agrees(&store).await;
    let images = store.images.list(&[]).await.expect("list must succeed");
    let named = |name: &str| images.iter().find(|image| image.name.as_str() == name);
    assert!(
        named("one").is_some() || !victim.has("one"),
        "the name `one` was acknowledged, but is lost"
    );
    let labelled = named("one").is_some_and(|image| image.labels.contains_key(LABEL));
    assert!(
        labelled || !victim.has(LABEL),
        "the label of `one` was acknowledged, but is lost"
    );
    let last = victim
        .acknowledged
        .iter()
        .rev()
        .find(|said| !said.contains(' '));
    if last.is_some_and(|said| said == "two") {
        // The next step may have deleted the name.
        let held = store.blobs().load(&Sample::of(2).root().digest).await;
        assert!(
            held.unwrap().is_some(),
            "the name `two` was acknowledged, but the record of its target is lost"
        );
    }
    assert!(
        named("two").is_none() || !victim.has("untagged"),
        "the deletion of the name `two` was acknowledged, but the name exists"
    );
    if victim.has("large") {
        let (descriptor, data) = large();
        let found = store.content.fetch(&descriptor).await;
        assert!(
            found.expect("the acknowledged large blob must exist") == data,
            "the large blob was acknowledged, but has wrong bytes"
        );
        let record = store.blobs().load(&descriptor.digest).await;
        assert!(
            record.unwrap().is_some(),
            "the large blob was acknowledged, but its record is lost"
        );
    }
    drop(store);
    // The same job succeeds after the fault.
    let again = job(&victim.subject).await;
    again.expect("the interrupted job must succeed when it is repeated");
    let store = victim.subject.open().await;
    agrees(&store).await;
    nothing_dead(&store, sorted(Sample::of(1).digests())).await;
}

/// Checks that the bytes of every blob have its digest, that every blob has a record, and that
/// every image is whole. A collection would not remove a blob without a record.
pub(super) async fn agrees(store: &Store) {
    for digest in there(store).await {
        let found = read(&*store.content, &digest).await;
        let found = found.expect("a listed blob must exist");
        assert_eq!(
            Digest::sha256(&found),
            digest,
            "the bytes under a digest do not match it"
        );
        let record = store.blobs().load(&digest).await;
        assert!(record.unwrap().is_some(), "{digest} has no record");
    }
    for image in store.images.list(&[]).await.expect("list must succeed") {
        let checked = verify(store, &image.target).await;
        checked.unwrap_or_else(|error| panic!("the image {} is not complete: {error}", image.name));
    }
}

/// Collects with a clock that is a day ahead, so that nothing is kept because it is new. Checks
/// that exactly these blobs are left, with their records, and no leases or ingests.
pub(super) async fn nothing_dead(store: &Store, alive: Vec<Digest>) {
    collect_in(store, DAY).await;
    assert_eq!(there(store).await, alive, "blobs left after a collection");
    let records = scan(&*store.records, Table::Blobs, "", 100).await;
    let mut keys: Vec<String> = records.into_iter().map(|record| record.key).collect();
    keys.sort();
    let mut wanted: Vec<String> = alive.iter().map(Digest::to_string).collect();
    wanted.sort();
    assert_eq!(keys, wanted, "records of blobs left after a collection");
    assert_eq!(
        store.leases().list().await.unwrap(),
        [],
        "leases left after a collection"
    );
    assert_eq!(
        store.content.ingests().await.unwrap(),
        [],
        "ingests left after a collection"
    );
}

/// Deletes these names, and checks that a collection then leaves nothing.
pub(super) async fn nothing_without(store: &Store, names: [&str; 2]) {
    for name in names {
        let deleted = store.images.delete(&name.parse().unwrap(), None).await;
        deleted.expect("deleting a name that the job created must succeed");
    }
    nothing_dead(store, Vec::new()).await;
}

/// A part of each name that the law creates. A file that contains this text contains a name.
const MARKER: &str = "conformance-name";

/// Before the import is acknowledged, each file that contains the name of the image must be synced,
/// and so must the directory of this file.
pub(super) async fn an_acknowledged_name_was_synced(subject: Subject) {
    if !subject.is_victim() {
        return subject.syncs_before_it_acknowledges(MARKER);
    }
    subject.perform(async {
        let store = subject.try_open().await?;
        for number in 1..3 {
            let name = format!("{MARKER}:{number}");
            Sample::of(number).import(&store, &name).await?;
            subject.acknowledge(name);
        }
        Ok(())
    });
}
