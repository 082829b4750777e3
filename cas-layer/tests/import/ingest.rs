//! Blobs that are ingested one by one, and as an image.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cas_core::gc::{GcOptions, collect};
use cas_core::image::Reference;
use cas_core::lease::UNLEASED_TTL;
use cas_core::{ContentExt, Descriptor, Digest, ErrorKind, MediaType, Store, blob, limit, pool};
use cas_layer::import::{
    IngestBlob, IngestState, Ingested, IngestedImage, ingest_blobs, ingest_image,
};
use serde_json::json;

use super::{state_of, store};

use IngestState::{Failed, NotReached, Present, Stored};

/// An index with two manifests, and the blobs that they list.
struct Sample {
    index: Descriptor,
    manifests: Vec<Descriptor>,
    /// For each manifest, the layer that only it lists.
    layers: Vec<Descriptor>,
    data: BTreeMap<Digest, Bytes>,
}

impl Sample {
    fn new() -> Self {
        Self::of(&["amd64", "arm64"])
    }

    fn of(platforms: &[&str]) -> Self {
        let mut data = BTreeMap::new();
        let mut add = |media_type: MediaType, bytes: Vec<u8>| {
            let descriptor = Descriptor::of(media_type, &bytes);
            data.insert(descriptor.digest, Bytes::from(bytes));
            descriptor
        };
        let (mut manifests, mut layers) = (Vec::new(), Vec::new());
        let shared = add(MediaType::OCI_LAYER, b"the layer that all share".to_vec());
        for platform in platforms {
            let config = json!({"os": "linux", "architecture": platform,
                "rootfs": {"type": "layers", "diff_ids": []}});
            let config = add(MediaType::OCI_CONFIG, config.to_string().into_bytes());
            let own = add(MediaType::OCI_LAYER, platform.repeat(100_000).into_bytes());
            let manifest = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
                "config": config, "layers": [shared, own]});
            let manifest = manifest.to_string().into_bytes();
            manifests.push(add(MediaType::OCI_MANIFEST, manifest));
            layers.push(own);
        }
        let index = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX,
            "manifests": manifests});
        let index = add(MediaType::OCI_INDEX, index.to_string().into_bytes());
        Sample {
            index,
            manifests,
            layers,
            data,
        }
    }

    fn blob(&self, descriptor: &Descriptor) -> IngestBlob {
        IngestBlob::from_bytes(descriptor.digest, self.data[&descriptor.digest].clone())
            .with_size(descriptor.size)
            .with_media_type(descriptor.media_type.clone())
    }

    /// Returns all blobs but the index, of which only the digest is given.
    fn others(&self) -> Vec<IngestBlob> {
        let others = self
            .data
            .iter()
            .filter(|(digest, _)| **digest != self.index.digest);
        others
            .map(|(digest, data)| IngestBlob::from_bytes(*digest, data.clone()))
            .collect()
    }
}

fn states(ingested: &Ingested) -> Vec<IngestState> {
    ingested.blobs.iter().map(|blob| blob.state).collect()
}

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

async fn children(store: &Store, digest: &Digest) -> Vec<Digest> {
    store
        .blobs()
        .load(digest)
        .await
        .unwrap()
        .unwrap()
        .0
        .children
}

async fn collected(store: &Store, after: Duration) -> usize {
    let options = GcOptions::default().with_now(SystemTime::now() + after);
    collect(store, &[], &options).await.unwrap().blobs.len()
}

fn write(scratch: &Path, data: &[u8]) -> std::path::PathBuf {
    let path = scratch.join(Digest::sha256(data).hex());
    std::fs::write(&path, data).unwrap();
    path
}

/// Each document is parsed by itself, so each has its own children.
#[tokio::test]
async fn two_indexes_in_one_call_have_their_own_children() {
    let store = store();
    let (first, second) = (Sample::new(), Sample::of(&["riscv64"]));
    let mut blobs = first.others();
    blobs.extend(second.others());
    blobs.extend([first.blob(&first.index), second.blob(&second.index)]);
    let ingested = ingest_blobs(&store, &blobs).await;
    let expected = |sample: &Sample| -> Vec<Digest> {
        sample
            .manifests
            .iter()
            .map(|manifest| manifest.digest)
            .collect()
    };
    assert_eq!(
        children(&store, &first.index.digest).await,
        expected(&first)
    );
    assert_eq!(
        children(&store, &second.index.digest).await,
        expected(&second)
    );
    assert_eq!(children(&store, &first.manifests[1].digest).await.len(), 3);
    // The shared layer is given twice.
    let present = states(&ingested)
        .iter()
        .filter(|state| **state == Present)
        .count();
    assert_eq!(present, 1);
    let loaded = ingested.complete().unwrap();
    assert!(loaded.iter().all(|blob| blob.state.is_loaded()));
    let found = blob::list(&store).await.unwrap();
    assert_eq!(
        found.media_types()[&first.manifests[0].digest],
        MediaType::OCI_MANIFEST
    );
    assert_eq!(store.leases().list().await.unwrap().len(), 0);
    assert_eq!(
        collected(&store, UNLEASED_TTL / 2).await,
        0,
        "kept for a day"
    );
    assert_eq!(collected(&store, UNLEASED_TTL * 2).await, found.blobs.len());
}

/// A document that was stored without its children gets them, even if its file is gone.
#[tokio::test]
async fn a_blob_that_is_there_counts_as_loaded_without_its_file() {
    let (store, sample) = (store(), Sample::new());
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    // Another program stored them, without records.
    for data in sample.data.values() {
        store.content.put(data.clone()).await.unwrap();
    }
    let gone = |digest: &Digest| IngestBlob::from_path(*digest, scratch.path().join("gone"));
    let all: Vec<IngestBlob> = sample.data.keys().map(gone).collect();
    let ingested = ingest_blobs(&store, &all).await;
    assert!(
        states(&ingested).iter().all(|state| *state == Present),
        "{ingested:?}"
    );
    ingested.complete().unwrap();
    assert_eq!(children(&store, &sample.index.digest).await.len(), 2);
    for manifest in &sample.manifests {
        assert_eq!(children(&store, &manifest.digest).await.len(), 3);
        assert_eq!(
            store
                .blobs()
                .load(&manifest.digest)
                .await
                .unwrap()
                .unwrap()
                .0
                .absent
                .len(),
            0
        );
    }
    let new = Digest::sha256(b"new");
    let ingested = ingest_blobs(&store, &[gone(&new)]).await;
    assert_eq!(states(&ingested), [Failed]);
    let error = ingested.complete().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("gone"), "{error}");
}

#[tokio::test]
async fn a_failure_ends_the_job_and_what_was_loaded_stays() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let large = limit::DOCUMENT_WRITE as usize + 1;
    let (one, two, three) = (b"one".as_slice(), b"two".as_slice(), b"three".as_slice());
    let digest = Digest::sha256;
    let not_json = IngestBlob::from_bytes(digest(b"{"), "{").with_media_type(MediaType::OCI_INDEX);
    let confused = br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#.as_slice();
    let confused =
        IngestBlob::from_bytes(digest(confused), confused).with_media_type(MediaType::OCI_MANIFEST);
    let bomb = vec![b' '; large];
    let bomb = IngestBlob::from_bytes(digest(&bomb), bomb).with_media_type(MediaType::OCI_INDEX);
    let cases = [
        (
            IngestBlob::from_bytes(digest(two), "other"),
            ErrorKind::Corrupt,
        ),
        (
            IngestBlob::from_path(digest(two), write(scratch.path(), b"other")),
            ErrorKind::Corrupt,
        ),
        (
            IngestBlob::from_bytes(digest(two), two).with_size(4),
            ErrorKind::Corrupt,
        ),
        (
            IngestBlob::from_bytes(digest(two), two).with_size(2),
            ErrorKind::Corrupt,
        ),
        (
            IngestBlob::from_path(digest(two), scratch.path()),
            ErrorKind::Corrupt,
        ),
        (not_json, ErrorKind::Corrupt),
        (confused, ErrorKind::Corrupt),
        (bomb, ErrorKind::OutOfRange),
    ];
    for (bad, kind) in cases {
        let store = store();
        let first = IngestBlob::from_path(digest(one), write(scratch.path(), one)).with_size(0);
        let last = IngestBlob::from_bytes(digest(three), three);
        let ingested = ingest_blobs(&store, &[first, bad.clone(), last]).await;
        assert_eq!(states(&ingested), [Stored, Failed, NotReached], "{bad:?}");
        let error = ingested.error.unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error.to_string().contains(&bad.digest.to_string()),
            "{error}"
        );
        assert!(pool::wait_until_idle(Duration::from_secs(60)));
        let state = state_of(&store).await;
        assert_eq!(
            (state.blobs, state.ingests),
            (vec![(digest(one), 3)], vec![])
        );
        assert_eq!(store.leases().list().await.unwrap().len(), 0);
    }
}

#[tokio::test]
async fn an_empty_blob_and_an_empty_list_are_ingested() {
    let store = store();
    let empty = Digest::sha256(b"");
    let ingested = ingest_blobs(&store, &[IngestBlob::from_bytes(empty, "").with_size(0)]).await;
    assert_eq!(states(&ingested), [Stored]);
    let none = ingest_blobs(&store, &[]).await;
    assert_eq!(none.complete().unwrap(), []);
    assert_eq!(store.content.stat(&empty).await.unwrap().unwrap().size, 0);
    // The type is kept, even if the size is not known beforehand.
    let layer = Digest::sha256(b"layer");
    let given = IngestBlob::from_bytes(layer, "layer");
    let ingested = ingest_blobs(&store, &[given.with_media_type(MediaType::OCI_LAYER)]).await;
    assert_eq!(states(&ingested), [Stored]);
    let (record, _) = store.blobs().load(&layer).await.unwrap().unwrap();
    assert_eq!(record.media_type, Some(MediaType::OCI_LAYER));
}

#[tokio::test]
async fn an_image_is_ingested_and_kept_by_its_name() {
    let (store, sample) = (store(), Sample::new());
    let root = sample.blob(&sample.index);
    let IngestedImage { image, blobs } = ingest_image(&store, name("app"), &root, &sample.others())
        .await
        .unwrap();
    assert_eq!(
        (&image.target.digest, image.name.as_str()),
        (&sample.index.digest, "app")
    );
    assert_eq!(image.target.media_type, MediaType::OCI_INDEX);
    assert_eq!(
        (blobs.len(), blobs[0].digest),
        (sample.data.len(), sample.index.digest)
    );
    assert!(blobs.iter().all(|blob| blob.state == Stored));
    assert_eq!(store.leases().list().await.unwrap().len(), 0);
    assert_eq!(collected(&store, UNLEASED_TTL * 2).await, 0);
    let before = state_of(&store).await;
    let again = ingest_image(&store, name("app"), &root, &sample.others()).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(state_of(&store).await, before);
    let again = ingest_image(&store, name("two"), &root, &[]).await.unwrap();
    assert_eq!(again.blobs[0].state, Present);
}

#[tokio::test]
async fn an_ingest_of_an_image_that_fails_leaves_what_was_there_before() {
    let (store, sample) = (store(), Sample::new());
    let manifest = &sample.manifests[0];
    let root = sample.blob(&sample.index);
    // A part of it is there already, under a name.
    let part = [sample.blob(&sample.layers[0])];
    ingest_image(&store, name("first"), &sample.blob(manifest), &part)
        .await
        .unwrap();
    let loose = Digest::sha256(b"loose");
    ingest_blobs(&store, &[IngestBlob::from_bytes(loose, "loose")])
        .await
        .complete()
        .unwrap();
    assert!(pool::wait_until_idle(Duration::from_secs(60)));
    let before = state_of(&store).await;
    let mut bad = sample.others();
    bad.push(IngestBlob::from_bytes(loose, "loose"));
    bad.push(IngestBlob::from_bytes(Digest::sha256(b"bad"), "other"));
    let [layer] = &part;
    for (what, name_, root, blobs, kind) in [
        ("bytes", "app", &root, &bad[..], ErrorKind::Corrupt),
        (
            "name",
            "first",
            &root,
            &sample.others()[..],
            ErrorKind::AlreadyExists,
        ),
        (
            "root",
            "app",
            layer,
            &sample.others()[..],
            ErrorKind::InvalidArgument,
        ),
    ] {
        let error = ingest_image(&store, name(name_), root, blobs)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(pool::wait_until_idle(Duration::from_secs(60)));
        let after = state_of(&store).await;
        assert_eq!(
            (&after.blobs, &after.images),
            (&before.blobs, &before.images),
            "{what}"
        );
        assert_eq!(after.ingests, before.ingests, "{what}");
        assert_eq!(store.leases().list().await.unwrap().len(), 0, "{what}");
    }
}

#[tokio::test]
async fn an_ingest_of_an_image_that_is_dropped_at_any_point_is_all_or_nothing() {
    let sample = Sample::new();
    let (root, others) = (sample.blob(&sample.index), sample.others());
    let mut complete = 0;
    for polls in 0.. {
        let store = store();
        let ended = {
            let mut ingesting = pin!(ingest_image(&store, name("app"), &root, &others));
            let mut left = polls;
            poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(false);
                }
                left -= 1;
                ingesting.as_mut().poll(context).map(|done| {
                    done.unwrap();
                    true
                })
            })
            .await
        };
        assert!(pool::wait_until_idle(Duration::from_secs(60)));
        let state = state_of(&store).await;
        assert_eq!(state.ingests, Vec::<String>::new(), "after {polls} polls");
        assert_eq!(
            store.leases().list().await.unwrap().len(),
            0,
            "after {polls} polls"
        );
        if state.images.is_empty() {
            assert_eq!(state.blobs, [], "after {polls} polls");
        } else {
            assert_eq!(state.blobs.len(), sample.data.len());
            complete += 1;
        }
        if ended {
            break;
        }
    }
    assert!(complete > 0);
}

#[tokio::test]
async fn what_a_killed_ingest_left_is_collected_once_its_lease_has_expired() {
    let sample = Sample::new();
    let (root, others) = (sample.blob(&sample.index), sample.others());
    for polls in [1, 5, 20] {
        let store = store();
        let mut ingesting = Box::pin(async {
            let store = store.clone();
            let _ = ingest_image(&store, name("app"), &root, &others).await;
        });
        let mut left = polls;
        poll_fn(|context| {
            left -= 1;
            match ingesting.as_mut().poll(context) {
                Poll::Pending if left > 0 => {
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
        std::mem::forget(ingesting);
        let is_named = !store.images.list(&[]).await.unwrap().is_empty();
        collected(&store, UNLEASED_TTL * 2).await;
        let state = state_of(&store).await;
        let kept = if is_named { sample.data.len() } else { 0 };
        assert_eq!((state.blobs.len(), state.records.len()), (kept, kept));
    }
}

/// Collections that run during an ingest do not take parts of its image.
#[tokio::test]
async fn a_collection_beside_an_ingest_takes_nothing() {
    let sample = Sample::new();
    let (root, others) = (sample.blob(&sample.index), sample.others());
    for polls in 0..60 {
        let store = store();
        let mut ingesting = pin!(ingest_image(&store, name("app"), &root, &others));
        let mut left = polls;
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            ingesting.as_mut().poll(context).map(|done| {
                done.unwrap();
            })
        })
        .await;
        if store.images.get(&name("app")).await.unwrap().is_some() {
            break;
        }
        assert_eq!(
            collected(&store, Duration::ZERO).await,
            0,
            "after {polls} polls"
        );
        ingesting.await.unwrap();
        assert_eq!(
            collected(&store, UNLEASED_TTL * 2).await,
            0,
            "after {polls} polls"
        );
        assert_eq!(
            blob::list(&store).await.unwrap().blobs.len(),
            sample.data.len()
        );
    }
}

/// Files are opened one at a time, so that their number has no bound.
#[tokio::test]
async fn many_files_are_ingested_with_one_open_at_a_time() {
    let (store, scratch) = (store(), tempfile::tempdir_in("/dev/shm").unwrap());
    let blobs: Vec<IngestBlob> = (0..500u32)
        .map(|number| {
            let data = number.to_string();
            let path = write(scratch.path(), data.as_bytes());
            IngestBlob::from_path(Digest::sha256(data.as_bytes()), path)
        })
        .collect();
    let here = scratch.path().to_owned();
    let is_open = |entry: std::io::Result<std::fs::DirEntry>| {
        let target = std::fs::read_link(entry.unwrap().path());
        target.is_ok_and(|target| target.starts_with(&here))
    };
    let open = || std::fs::read_dir("/proc/self/fd").unwrap();
    let (mut ingesting, mut most) = (pin!(ingest_blobs(&store, &blobs)), 0);
    let ingested = poll_fn(|context| {
        let polled = ingesting.as_mut().poll(context);
        most = most.max(open().map(is_open).filter(|is_open| *is_open).count());
        polled
    })
    .await;
    assert_eq!(ingested.complete().unwrap().len(), blobs.len());
    assert!(most <= 1, "{most} are open");
}
