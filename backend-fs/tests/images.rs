//! Names in `index.json`, also in entries that other programs wrote.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;

use backend_fs::FsStore;
use cas_core::image::{Image, Reference};
use cas_core::{Descriptor, ErrorKind, Labels, MediaType, pool::wait};
use serde_json::{Value, json};

fn entry(target: &Descriptor, name: &str) -> Value {
    let mut entry = serde_json::to_value(target).unwrap();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name, "theirs": "kept"});
    entry["unknown"] = json!([1]);
    entry
}

#[test]
fn changes_keep_entries_of_other_programs() {
    let temp = tempfile::tempdir().unwrap();
    let images = FsStore::open(temp.path()).unwrap().images();
    let target = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
    let other = Descriptor::of(MediaType::OCI_MANIFEST, b"{ }");
    let nameless = json!({"mediaType": "a/b", "digest": target.digest, "size": 2, "x": 1});
    let foreign = json!({
        "schemaVersion": 2, "annotations": {"a": "b"}, "top": true,
        "manifests": [nameless, entry(&target, "twice"), entry(&other, "twice"), entry(&target, "a")],
    });
    let path = temp.path().join("index.json");
    fs::write(&path, foreign.to_string()).unwrap();
    let name = |text: &str| text.parse::<Reference>().unwrap();
    let twice = wait(images.get(&name("twice"))).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::FailedPrecondition);
    for digest in [target.digest, other.digest] {
        assert!(twice.to_string().contains(&digest.to_string()), "{twice}");
    }
    assert_eq!(wait(images.list(&[])).unwrap().len(), 3);
    assert_eq!(wait(images.list(&["name==a"])).unwrap().len(), 1);
    wait(images.create(Image::new(name("ours"), target.clone()))).unwrap();
    wait(images.delete(&name("ours"), Some(&target))).unwrap();
    let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(after, foreign);
    // A name with two entries can only be deleted without a target.
    let ambiguous = wait(images.delete(&name("twice"), Some(&target))).unwrap_err();
    assert_eq!(ambiguous.kind(), ErrorKind::NotFound);
    wait(images.delete(&name("twice"), None)).unwrap();
    assert_eq!(wait(images.get(&name("twice"))).unwrap(), None);
    assert_eq!(wait(images.list(&[])).unwrap().len(), 1);
}

#[test]
fn labels_stay_with_a_name_that_moves_and_end_with_a_deleted_name() {
    let temp = tempfile::tempdir().unwrap();
    let images = FsStore::open(temp.path()).unwrap().images();
    let first = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
    let second = Descriptor::of(MediaType::OCI_MANIFEST, b"{ }");
    let mut image = Image::new("name".parse().unwrap(), first.clone());
    image.labels = Labels::from([("k".into(), "v".into())]);
    let made = wait(images.create(image.clone())).unwrap();
    image.target = second.clone();
    let moved = wait(images.update(image.clone(), &["target"])).unwrap();
    assert_eq!((&moved.target, &moved.labels), (&second, &made.labels));
    assert_eq!(moved.created_at, made.created_at);
    assert_eq!(wait(images.get(&image.name)).unwrap(), Some(moved));
    let stale = wait(images.delete(&image.name, Some(&first))).unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::NotFound);
    wait(images.delete(&image.name, None)).unwrap();
    // The record of the name is deleted, too.
    image.labels.clear();
    let again = wait(images.create(image)).unwrap();
    assert!(again.labels.is_empty());
}
