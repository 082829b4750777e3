//! Pulls that find damaged blobs, and repairs that fetch from the registry of an image's name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cas;
use super::fake::{Answer, Fake};
use super::sample::Sample;
use crate::common::ok;

/// Flips a bit of a blob in the store of files.
pub(super) fn flip(root: &Path, digest: &cas::Digest) {
    let file = root.join("store/blobs/sha256").join(digest.hex());
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, bytes).unwrap();
}

fn is_intact(root: &Path, digest: &cas::Digest) -> bool {
    let file = root.join("store/blobs/sha256").join(digest.hex());
    cas::Digest::sha256(&fs::read(file).unwrap()) == *digest
}

#[test]
fn a_pull_replaces_damaged_blobs_of_every_kind_and_fetches_no_others() {
    let sample = Sample::new(&[1000, 200_000]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let pull = || ok(cas(&root, scratch.path()).args(["pull", &registry.image()]));
    pull();
    let [first, second] = &sample.layers[..] else {
        panic!("two layers")
    };
    let manifest: cas::Manifest = serde_json::from_slice(sample.data(&sample.root)).unwrap();
    for damaged in [first, second, &manifest.config, &sample.root] {
        let before = registry.count("GET", "/v2/");
        flip(&root, &damaged.digest);
        pull();
        assert!(is_intact(&root, &damaged.digest), "{damaged:?}");
        assert_eq!(registry.count("GET", "/v2/"), before + 1, "{damaged:?}");
    }
}

/// The damaged copy stays until the right bytes are there.
#[test]
fn a_pull_that_fails_leaves_the_damaged_copy() {
    let sample = Sample::new(&[200_000]);
    let layer = sample.layers[0].digest;
    let (good, broken) = (sample.clone(), Arc::new(AtomicBool::new(false)));
    let (breaks, part) = (Arc::clone(&broken), format!("/blobs/{layer}"));
    let registry = Fake::start(move |request| {
        if breaks.load(Ordering::Relaxed) && request.path.ends_with(&part) {
            return Answer::error(404, "BLOB_UNKNOWN", "gone");
        }
        good.answer(request)
    });
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let pull = || {
        let mut pull = cas(&root, scratch.path());
        pull.args(["pull", &registry.image()]);
        pull
    };
    ok(&mut pull());
    flip(&root, &layer);
    broken.store(true, Ordering::Relaxed);
    assert!(!pull().output().unwrap().status.success());
    let file = root.join("store/blobs/sha256").join(layer.hex());
    assert_eq!(fs::metadata(&file).unwrap().len(), 200_000);
    broken.store(false, Ordering::Relaxed);
    ok(&mut pull());
    assert!(is_intact(&root, &layer));
}

#[test]
fn a_repair_fetches_from_the_registry_of_the_name_without_being_told() {
    let sample = Sample::new(&[1000, 200_000]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root, scratch.path()).args(["pull", &registry.image()]));
    flip(&root, &sample.layers[1].digest);
    let lost = root
        .join("store/blobs/sha256")
        .join(sample.root.digest.hex());
    fs::remove_file(lost).unwrap();
    let said = ok(cas(&root, scratch.path()).args(["fsck", "--read-data", "--repair"]));
    assert!(said.contains("0 problems left, 2 repaired"), "{said}");
    assert!(is_intact(&root, &sample.layers[1].digest));
    ok(cas(&root, scratch.path()).args(["fsck", "--read-data"]));
    let from = [
        "fsck",
        "--read-data",
        "--repair",
        "--from",
        &registry.image(),
    ];
    flip(&root, &sample.layers[0].digest);
    let said = ok(cas(&root, scratch.path()).args(from));
    assert!(said.contains("0 problems left, 1 repaired"), "{said}");
}
