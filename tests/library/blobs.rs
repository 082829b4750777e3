//! Single blobs and names by the verbs of EVE's CAS, on every store.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cas::blob::BlobProblem;
use cas::blocking::Cas;
use cas::gc::{GcOptions, RemoveOptions};
use cas::layer::import::{IngestBlob, IngestState};
use cas::transfer::{PullOptions, PushOptions, pull, push};
use cas::{
    BlobInfo, DeleteOptions, Digest, Error, ErrorKind, Labels, MediaType, OpenOptions, Owner,
    Platforms,
};

use super::material::Image;
use crate::common::stores;

/// Longer than any lease, and longer than content without a lease is kept.
const LATER: Duration = Duration::from_secs(3 * 86_400);

/// Opens a root on each store of this build.
fn each_store(test: &str, run: impl Fn(&Cas)) {
    for store in stores(test) {
        eprintln!("on {store}");
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        run(&open(&scratch.path().join("root"), &store, None));
    }
}

fn open(root: &Path, store: &str, owner: Option<&str>) -> Cas {
    let mut options = OpenOptions::default()
        .with_store(store)
        .with_snapshotter("native");
    options.owner = owner.map(|owner| owner.parse::<Owner>().unwrap());
    Cas::open_with(root, options).unwrap()
}

fn bytes(data: &[u8]) -> IngestBlob {
    IngestBlob::from_bytes(Digest::sha256(data), data.to_vec())
}

fn store(cas: &Cas, data: &[u8]) -> Digest {
    let ingested = cas.ingest_blobs(&[bytes(data)]).unwrap();
    ingested.complete().unwrap()[0].digest
}

/// Returns the blobs of an image: the manifest, and all others.
fn blobs_of(image: &Image) -> (IngestBlob, Vec<IngestBlob>) {
    let root = bytes(&image.blobs[&image.root.digest]);
    let others = image
        .blobs
        .iter()
        .filter(|(digest, _)| **digest != image.root.digest);
    (root, others.map(|(_, data)| bytes(data)).collect())
}

fn digests(cas: &Cas) -> BTreeSet<Digest> {
    let blobs = cas.blobs().unwrap().blobs;
    blobs.iter().map(|blob| blob.digest).collect()
}

fn collect_later(cas: &Cas) {
    let later = GcOptions::default().with_now(SystemTime::now() + LATER);
    cas.gc_with(later).unwrap();
}

#[track_caller]
fn fails<T>(outcome: Result<T, Error>, kind: ErrorKind) {
    let error = outcome.err().unwrap();
    assert_eq!(error.kind(), kind, "{error}");
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    owned.collect()
}

/// The kind of an error distinguishes an absent blob from a failure.
#[test]
fn a_blob_is_described_labelled_and_removed_on_every_store() {
    each_store("described", |cas| {
        let absent = Digest::sha256(b"absent");
        assert!(!cas.blob_exists(&absent).unwrap());
        fails(cas.blob_info(&absent), ErrorKind::NotFound);
        fails(cas.read_blob(&absent), ErrorKind::NotFound);
        fails(cas.blob_children(&absent), ErrorKind::NotFound);
        fails(
            cas.update_blob(&BlobInfo::new(absent, 6), &[]),
            ErrorKind::NotFound,
        );

        let blob = store(cas, b"a blob");
        assert!(
            cas.blob_exists(&Digest::from_text_or_hex(&blob.hex()).unwrap())
                .unwrap()
        );
        let info = cas.blob_info(&blob).unwrap();
        assert_eq!((info.digest, info.size, &info.media_type), (blob, 6, &None));
        assert!(info.created_at.is_some() && info.labels.is_empty());
        let update = info.clone().with_labels(labels(&[("a", "1"), ("b", "2")]));
        let updated = cas.update_blob(&update, &["labels"]).unwrap();
        assert_eq!(updated.labels, update.labels);
        let updated = cas.update_blob(&info, &["labels.a"]).unwrap();
        assert_eq!(updated.labels, labels(&[("b", "2")]));
        let larger = BlobInfo::new(blob, 7);
        fails(
            cas.update_blob(&larger, &["labels"]),
            ErrorKind::InvalidArgument,
        );
        fails(
            cas.update_blob(&info, &["size"]),
            ErrorKind::InvalidArgument,
        );
        assert_eq!(cas.blob_info(&blob).unwrap().labels, updated.labels);
        let list = cas.blobs().unwrap();
        assert_eq!(list.blobs, [cas.blob_info(&blob).unwrap()]);
        assert!(list.problems.is_empty());

        let skip = || RemoveOptions::default().with_skip_absent(true);
        let removed = cas.remove_blobs_with([blob, absent], skip()).unwrap();
        assert_eq!(removed.blobs, [(blob, 6)]);
        assert!(
            cas.remove_blobs_with([blob, absent], skip())
                .unwrap()
                .is_empty()
        );
        fails(cas.remove_blobs([blob]), ErrorKind::NotFound);
        assert_eq!(digests(cas), BTreeSet::new());
    });
}

#[test]
fn a_blob_is_read_whole_in_bounded_pieces_and_its_children_are_listed() {
    each_store("read", |cas| {
        let image = Image::new(2, 1);
        let (root, others) = blobs_of(&image);
        cas.ingest_image("app", &root, &others).unwrap();
        for (digest, data) in &image.blobs {
            let mut read = Vec::new();
            let mut reader = cas.read_blob(digest).unwrap();
            assert_eq!(reader.size(), data.len() as u64);
            reader.read_to_end(&mut read).unwrap();
            assert!(read == *data);
        }
        let children = cas.blob_children(&image.root.digest).unwrap();
        assert_eq!(children.len(), 3);
        assert_eq!(
            children[1..],
            [image.layers[0].digest, image.layers[1].digest]
        );
        for child in children {
            assert_eq!(cas.blob_children(&child).unwrap(), []);
        }
        let types = cas.blobs().unwrap().media_types();
        assert_eq!(types[&image.root.digest], MediaType::OCI_MANIFEST);
    });
}

/// Readers are closed when they are dropped, and damage causes an error instead of an early end of
/// the bytes.
#[test]
fn a_damaged_blob_does_not_end_as_if_it_were_whole() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let cas = open(&scratch.path().join("root"), "fs", None);
    let blob = store(&cas, b"a blob of a file");
    let path = scratch
        .path()
        .join("root/store/blobs/sha256")
        .join(blob.hex());
    let open_here = || {
        let entries = std::fs::read_dir("/proc/self/fd").unwrap();
        let targets = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        targets.filter(|target| *target == path).count()
    };
    for _ in 0..100 {
        let mut reader = cas.read_blob(&blob).unwrap();
        reader.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(open_here(), 1);
    }
    assert_eq!(open_here(), 0);
    for damaged in ["a blob of a fil", "a blob of A file", "a blob of a file."] {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, damaged).unwrap();
        let mut read = Vec::new();
        let error = cas
            .read_blob(&blob)
            .unwrap()
            .read_to_end(&mut read)
            .unwrap_err();
        assert_eq!(read, damaged.as_bytes());
        fails(Err::<(), _>(Error::from(error)), ErrorKind::Corrupt);
    }
}

/// A damaged record, or a blob that another program stored, does not hide other blobs.
#[test]
fn problems_are_reported_beside_the_blobs() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let cas = open(&scratch.path().join("root"), "fs", None);
    let known = store(&cas, b"known");
    let foreign = Digest::sha256(b"foreign");
    let blobs = scratch.path().join("root/store/blobs/sha256");
    std::fs::write(blobs.join(foreign.hex()), "foreign").unwrap();
    std::fs::write(blobs.join("not a digest"), "stray").unwrap();
    let list = cas.blobs().unwrap();
    assert_eq!(list.blobs.len(), 2);
    assert!(matches!(list.problems[..], [BlobProblem::Unrecorded(one)] if one == foreign));
    assert_eq!(cas.blob_info(&known).unwrap().size, 5);
    assert_eq!(cas.blob_info(&foreign).unwrap(), BlobInfo::new(foreign, 7));
}

/// A name is created once and only for a manifest or an index, replaced only if it exists, and its
/// removal can be repeated. A collection at the same time removes nothing that is in use.
#[test]
fn images_are_created_replaced_and_removed_as_promised() {
    each_store("images", |cas| {
        let (old, new) = (Image::new(1, 1), Image::new(1, 2));
        for image in [&old, &new] {
            let (root, others) = blobs_of(image);
            let all = [vec![root], others].concat();
            let ingested = cas.ingest_blobs(&all).unwrap();
            ingested.complete().unwrap();
        }
        let (old, new) = (old.root.digest, new.root.digest);
        let layer = cas.blob_children(&old).unwrap()[1];
        let absent = Digest::sha256(b"absent");
        for bad in ["", "a b"] {
            fails(cas.create_image(bad, &old), ErrorKind::InvalidArgument);
        }
        fails(cas.create_image("app", &absent), ErrorKind::NotFound);
        fails(cas.create_image("app", &layer), ErrorKind::InvalidArgument);
        fails(cas.replace_image("app", &old), ErrorKind::NotFound);
        assert_eq!(cas.images().unwrap(), []);
        let created = cas.create_image("app", &old).unwrap();
        assert_eq!((created.target.digest, created.name.as_str()), (old, "app"));
        assert_eq!(created.target.media_type, MediaType::OCI_MANIFEST);
        fails(cas.create_image("app", &new), ErrorKind::AlreadyExists);
        fails(cas.replace_image("app", &absent), ErrorKind::NotFound);
        fails(cas.replace_image("app", &layer), ErrorKind::InvalidArgument);
        assert_eq!(cas.image("app").unwrap().target.digest, old);

        let labelled = cas::Image {
            labels: labels(&[("kept", "1")]),
            ..created
        };
        cas::backend::pool::wait(cas.store().images.update(labelled, &["labels"])).unwrap();
        let replaced = cas.replace_image("app", &new).unwrap();
        assert_eq!(
            (replaced.target.digest, &replaced.labels["kept"][..]),
            (new, "1")
        );
        collect_later(cas);
        assert!(cas.blob_exists(&new).unwrap() && !cas.blob_exists(&old).unwrap());
        assert!(cas.check("app").unwrap().is_complete());

        let skip = || DeleteOptions::default().with_skip_absent(true);
        cas.remove_with("app", skip()).unwrap();
        cas.remove_with("app", skip()).unwrap();
        fails(cas.remove("app"), ErrorKind::NotFound);
        fails(cas.remove_with("a b", skip()), ErrorKind::InvalidArgument);
        assert_eq!(cas.images().unwrap(), []);
    });
}

#[test]
fn an_ingest_has_states_a_partial_result_and_one_error() {
    each_store("ingest", |cas| {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = scratch.path().join("blob");
        std::fs::write(&path, "from a file").unwrap();
        let file = Digest::sha256(b"from a file");
        let from_file = IngestBlob::from_path(file, &path).with_size(11);
        let wrong = IngestBlob::from_bytes(Digest::sha256(b"right"), "wrong");
        let all = [
            from_file.clone(),
            bytes(b"memory"),
            wrong,
            bytes(b"not reached"),
        ];
        let ingested = cas.ingest_blobs(&all).unwrap();
        let states = ingested.blobs.iter().map(|blob| blob.state);
        use IngestState::{Failed, NotReached, Stored};
        assert_eq!(
            states.collect::<Vec<_>>(),
            [Stored, Stored, Failed, NotReached]
        );
        fails(ingested.complete(), ErrorKind::Corrupt);
        assert_eq!(
            digests(cas),
            BTreeSet::from([file, Digest::sha256(b"memory")])
        );
        assert_eq!(cas.ingests().unwrap(), []);
        std::fs::remove_file(&path).unwrap();
        let again = cas.ingest_blobs(&[from_file]).unwrap().complete().unwrap();
        assert_eq!(again[0].state, IngestState::Present);
        cas.gc().unwrap();
        assert_eq!(digests(cas).len(), 2, "kept for a day");
        collect_later(cas);
        assert_eq!(digests(cas).len(), 0);
    });
}

#[test]
fn an_image_is_ingested_whole_or_not_at_all() {
    each_store("whole", |cas| {
        let kept = store(cas, b"kept");
        let image = Image::new(2, 3);
        let (root, others) = blobs_of(&image);
        let mut bad = others.clone();
        bad.extend([
            bytes(b"kept"),
            IngestBlob::from_bytes(Digest::sha256(b"x"), "y"),
        ]);
        fails(cas.ingest_image("app", &root, &bad), ErrorKind::Corrupt);
        assert_eq!(digests(cas), BTreeSet::from([kept]));
        assert!(cas.images().unwrap().is_empty() && cas.ingests().unwrap().is_empty());
        let made = cas.ingest_image("app", &root, &others).unwrap();
        assert_eq!(made.image.target.digest, image.root.digest);
        fails(
            cas.ingest_image("app", &root, &others),
            ErrorKind::AlreadyExists,
        );
        collect_later(cas);
        assert_eq!(digests(cas), image.blobs.keys().copied().collect());
        assert!(cas.check("app").unwrap().is_complete());
        cas.unpack(
            "app",
            tempfile::tempdir_in("/dev/shm")
                .unwrap()
                .path()
                .join("rootfs"),
        )
        .unwrap();
    });
}

/// Two tenants on one store list, count and collect only their own.
#[test]
fn two_tenants_see_and_collect_only_their_own() {
    for store_url in stores("tenants") {
        // An engine with one owner is opened by one handle at a time.
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        let as_owner = |owner: Option<&str>| open(&root, &store_url, owner);
        let (mine, theirs) = (Image::new(1, 1), Image::new(1, 2));
        for (owner, image, loose) in [("one", &mine, "loose 1"), ("two", &theirs, "loose 2")] {
            let cas = as_owner(Some(owner));
            let (root, others) = blobs_of(image);
            cas.ingest_image(owner, &root, &others).unwrap();
            store(&cas, loose.as_bytes());
            store(&cas, b"shared");
            assert_eq!(cas.images().unwrap().len(), 1);
            assert_eq!(digests(&cas).len(), image.blobs.len() + 2, "{store_url}");
        }
        let cas = as_owner(Some("two"));
        assert_eq!(
            digests(&cas)
                .intersection(&mine.blobs.keys().copied().collect())
                .count(),
            0
        );
        let (one, layer) = (mine.root.digest, mine.layers[0].digest);
        fails(cas.image("one"), ErrorKind::NotFound);
        fails(
            cas.create_image("one", &theirs.root.digest),
            ErrorKind::Denied,
        );
        fails(
            cas.replace_image("one", &theirs.root.digest),
            ErrorKind::NotFound,
        );
        fails(cas.remove_blobs([one]), ErrorKind::Busy);
        fails(cas.remove_blobs([layer]), ErrorKind::Busy);
        let force = RemoveOptions::default().with_force(true);
        fails(cas.remove_blobs_with([layer], force), ErrorKind::Denied);
        let info = BlobInfo::new(Digest::sha256(b"loose 1"), 7);
        fails(cas.update_blob(&info, &["labels"]), ErrorKind::Denied);
        collect_later(&cas);
        assert_eq!(digests(&cas), theirs.blobs.keys().copied().collect());
        drop(cas);
        let cas = as_owner(Some("one"));
        assert!(cas.check("one").unwrap().is_complete());
        assert_eq!(digests(&cas).len(), mine.blobs.len() + 2);
        cas.remove("one").unwrap();
        collect_later(&cas);
        assert_eq!(digests(&cas), BTreeSet::new());
        drop(cas);
        assert_eq!(
            digests(&as_owner(None)),
            theirs.blobs.keys().copied().collect()
        );
    }
}

#[test]
fn one_store_is_pulled_from_and_pushed_to_by_another() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let from = open(&scratch.path().join("from"), "fs", None);
    let image = Image::new(2, 1);
    let (root, others) = blobs_of(&image);
    from.ingest_image("app", &root, &others).unwrap();
    each_store("served", |to| {
        let name = format!("app@{}", image.root.digest);
        for (number, served) in ["app", &name].into_iter().enumerate() {
            let repository = from.repository(served).unwrap();
            let copy = format!("pulled:{number}").parse().unwrap();
            let options = PullOptions::default();
            cas::backend::pool::wait(pull(to.store(), &repository, copy, &options)).unwrap();
        }
        to.check("pulled:1").unwrap();
        let repository = from.repository("pushed").unwrap();
        let options = PushOptions::default().with_platforms(Platforms::All);
        let pushed = push(to.store(), &repository, &image.root, &options);
        assert_eq!(
            cas::backend::pool::wait(pushed).unwrap().digest,
            image.root.digest
        );
        assert_eq!(
            from.image("pushed").unwrap().target.digest,
            image.root.digest
        );
        from.remove("pushed").unwrap();
    });
    fails(from.repository("a b"), ErrorKind::InvalidArgument);
}

#[test]
fn a_closed_handle_says_so_for_every_verb_of_blobs() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let cas = open(&scratch.path().join("root"), "fs", None);
    cas.clone().close().unwrap();
    let (blob, closed) = (Digest::sha256(b"x"), ErrorKind::FailedPrecondition);
    fails(cas.blobs(), closed);
    fails(cas.blob_info(&blob), closed);
    fails(cas.blob_exists(&blob), closed);
    fails(cas.blob_children(&blob), closed);
    fails(cas.read_blob(&blob), closed);
    fails(cas.update_blob(&BlobInfo::new(blob, 1), &[]), closed);
    fails(cas.remove_blobs([blob]), closed);
    fails(cas.label_blob(&blob, &BTreeMap::new()), closed);
    fails(cas.ingest_blobs(&[]), closed);
    fails(cas.ingest_image("app", &bytes(b"x"), &[]), closed);
    fails(cas.create_image("app", &blob), closed);
    fails(cas.replace_image("app", &blob), closed);
    fails(cas.repository("app"), closed);
}
