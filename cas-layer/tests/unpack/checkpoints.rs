//! Checkpoints that unpacks record and use.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime};

use cas_core::gc::{GcOptions, collect};
use cas_core::labels::GC_REF_CHECKPOINTS;
use cas_core::lease::change_labels;
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, Manifest, MediaType, Store};
use cas_layer::unpack::{Entrance, fold_layers, to_directory, to_snapshots};
use flate2::Compression;
use flate2::write::GzEncoder;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::snapshots::{snapshotter, target};
use super::{image_of, silent, store, tree};
use crate::common::source::{Files, noise};

/// Returns text of 64 characters, which gzip compresses to about three quarters.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut text = noise(seed, length);
    text.iter_mut().for_each(|byte| *byte = *byte % 64 + 48);
    text
}

/// Compresses as most tools do, with many blocks.
fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(2));
    gzip.write_all(plain).unwrap();
    gzip.finish().unwrap()
}

/// Stores an image with one layer of two members, which has at least four checkpoints.
async fn large_image(store: &Store, seed: u64) -> Manifest {
    let mut files = Files::default();
    files.add("large", &text(seed, 19 << 20));
    files.add("small", &text(seed, 100));
    let tar = files.tar();
    // Two gzip members, with zeros between them.
    let (first, second) = tar.split_at(9 << 20);
    let layer = [gzip(first), vec![0; 5], gzip(second)].concat();
    let layers = vec![(MediaType::OCI_LAYER_GZIP, layer)];
    image_of(store, layers, &[Digest::sha256(&tar)]).await
}

async fn checkpoints_of(store: &Store, layer: &Descriptor) -> Option<Digest> {
    let (record, _) = store.blobs().load(&layer.digest).await.unwrap().unwrap();
    record
        .labels
        .get(GC_REF_CHECKPOINTS)
        .map(|label| label.parse().unwrap())
}

/// Changes the label with the checkpoints of a layer.
async fn set_checkpoints(store: &Store, layer: &Descriptor, checkpoints: Option<Digest>) {
    let label = checkpoints.map(|digest| digest.to_string());
    let changes = BTreeMap::from([(GC_REF_CHECKPOINTS.to_owned(), label)]);
    change_labels(store, &layer.digest, &changes).await.unwrap();
}

/// Collects everything that nothing keeps, also what was stored without a lease.
async fn collect_all(store: &Store) {
    let options = GcOptions::default().with_now(SystemTime::now() + Duration::from_hours(48));
    collect(store, &[], &options).await.unwrap();
}

async fn blobs(store: &Store) -> Vec<Digest> {
    let stats = store.content.list(None, 100).await.unwrap();
    stats.into_iter().map(|stat| stat.digest).collect()
}

/// Unpacks an image into a directory. Returns its files, and the number of spans that were
/// decompressed in parallel.
async fn unpack(store: &Store, manifest: &Manifest) -> (Vec<(String, String)>, u64) {
    let (counter, scratch) = (SpanCounter::default(), tempfile::tempdir().unwrap());
    let spans = Arc::clone(&counter.0);
    let guard = tracing::subscriber::set_default(counter);
    let directory = scratch.path().join("image");
    to_directory(store, manifest, &directory, Entrance::AsImage, &silent())
        .await
        .unwrap();
    drop(guard);
    let spans = *spans.lock().unwrap();
    (tree(&directory), spans)
}

/// Adds up the field `spans` of all events.
#[derive(Default)]
struct SpanCounter(Arc<Mutex<u64>>);

impl Subscriber for SpanCounter {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Adds(&self.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Adds<'a>(&'a Mutex<u64>);

impl Visit for Adds<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "spans" {
            *self.0.lock().unwrap() += value;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

/// Returns how many spans an unpack with all checkpoints of [`large_image`] decompresses in
/// parallel on this machine.
fn all_spans() -> u64 {
    match available_parallelism().map_or(1, |cores| cores.get()) {
        1 => 0,
        _ => 4,
    }
}

#[tokio::test]
async fn an_unpack_records_checkpoints_and_the_next_one_uses_them() {
    let store = store();
    let manifest = large_image(&store, 1).await;
    let layer = &manifest.layers[0];
    let before = blobs(&store).await;
    let (files, spans) = unpack(&store, &manifest).await;
    assert_eq!((files.len(), spans), (2, 0));
    let checkpoints = checkpoints_of(&store, layer).await.unwrap();
    assert_eq!(blobs(&store).await.len(), before.len() + 1);
    let (again, spans) = unpack(&store, &manifest).await;
    assert!(again == files);
    assert_eq!(spans, all_spans());
    assert_eq!(checkpoints_of(&store, layer).await, Some(checkpoints));

    // They are kept as long as the layer is, and no longer.
    collect_all(&store).await;
    assert_eq!(blobs(&store).await.len(), before.len() + 1);
    let images = store.images.list(&[]).await.unwrap();
    store.images.delete(&images[0].name, None).await.unwrap();
    collect_all(&store).await;
    assert_eq!(blobs(&store).await, []);
}

#[tokio::test]
async fn snapshots_are_made_with_checkpoints_too() {
    let store = store();
    let manifest = large_image(&store, 2).await;
    for (number, expected) in [0, all_spans()].into_iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let snapshotter = snapshotter(root.path());
        let counter = SpanCounter::default();
        let spans = Arc::clone(&counter.0);
        let guard = tracing::subscriber::set_default(counter);
        let target = target(&snapshotter, &root);
        let top = to_snapshots(&store, target, &manifest, &silent()).await;
        assert!(top.unwrap().is_some());
        drop(guard);
        assert_eq!(*spans.lock().unwrap(), expected, "unpack {number}");
        assert!(checkpoints_of(&store, &manifest.layers[0]).await.is_some());
    }
}

/// Checkpoints of another layer, bytes that are not checkpoints, and a digest that the store does
/// not have.
#[tokio::test]
async fn wrong_checkpoints_change_nothing_and_are_replaced() {
    let store = store();
    let (manifest, other) = (large_image(&store, 3).await, large_image(&store, 4).await);
    let layer = &manifest.layers[0];
    let (files, _) = unpack(&store, &manifest).await;
    unpack(&store, &other).await;
    let right = checkpoints_of(&store, layer).await.unwrap();
    let foreign = checkpoints_of(&store, &other.layers[0]).await.unwrap();
    let garbage = store
        .content
        .put("cas-ckp\x01garbage".into())
        .await
        .unwrap();
    let absent = Digest::sha256(b"absent");
    for wrong in [foreign, garbage, absent, layer.digest] {
        set_checkpoints(&store, layer, Some(wrong)).await;
        let (again, spans) = unpack(&store, &manifest).await;
        assert!(again == files, "{wrong}");
        assert_eq!(spans, 0, "{wrong}");
        assert_eq!(checkpoints_of(&store, layer).await, Some(right), "{wrong}");
    }
    // A lost blob is stored again, under the same digest.
    store.content.remove(&right).await.unwrap();
    assert!(unpack(&store, &manifest).await.0 == files);
    assert!(store.content.stat(&right).await.unwrap().is_some());
}

#[tokio::test]
async fn small_layers_have_no_checkpoints() {
    let store = store();
    let mut files = Files::default();
    files.add("file", &text(5, 15 << 20));
    let tar = files.tar();
    let layers = vec![(MediaType::OCI_LAYER_GZIP, gzip(&tar))];
    let manifest = image_of(&store, layers, &[Digest::sha256(&tar)]).await;
    unpack(&store, &manifest).await;
    assert_eq!(checkpoints_of(&store, &manifest.layers[0]).await, None);
}

/// Every call that changes the store fails once, before or after its effect. The calls that store
/// checkpoints do not make the unpack fail. Whatever they leave is removed by a collection, or is
/// the whole blob with its label.
#[tokio::test]
async fn checkpoints_that_cannot_be_stored_leave_nothing_and_do_no_harm() {
    let store = store();
    let manifest = large_image(&store, 6).await;
    let layer = &manifest.layers[0];
    let before = blobs(&store).await;
    let none = async |store: &Store| {
        set_checkpoints(store, layer, None).await;
        collect_all(store).await;
        assert_eq!(blobs(store).await, before);
    };
    let (mut harmless, mut nth) = (Vec::new(), 0);
    loop {
        nth += 1;
        let mut failed = Vec::new();
        for side in [Side::Before, Side::After] {
            none(&store).await;
            let plan = Plan::new();
            let kind = match side {
                Side::Before => ErrorKind::Full,
                Side::After => ErrorKind::Unavailable,
            };
            plan.fail_nth(nth, Fault { kind, side });
            let faulty = faulty(&store, &plan);
            let read = |_: &mut (), bytes: &mut dyn BufRead| {
                io::copy(bytes, &mut io::sink())?;
                Ok(())
            };
            let folded = fold_layers(&faulty, &manifest, "read", false, &silent(), (), read).await;
            failed = plan.end();
            if folded.is_ok() {
                harmless.extend(failed.iter().map(|call| (*call, side)));
            }
            collect_all(&store).await;
            let kept = checkpoints_of(&store, layer).await;
            let mut expected = before.clone();
            expected.extend(kept);
            expected.sort();
            assert_eq!(blobs(&store).await, expected, "{nth} {failed:?}");
        }
        if failed.is_empty() {
            break;
        }
    }
    for call in ["begin", "append", "publish"] {
        for side in [Side::Before, Side::After] {
            assert!(
                harmless.contains(&(call, side)),
                "{call} {side:?}: {harmless:?}"
            );
        }
    }
    // The lease begins, the label is set under another lease, and both leases end.
    let commits = harmless
        .iter()
        .filter(|one| **one == ("commit", Side::After));
    assert!(commits.count() >= 6, "{harmless:?}");
}
