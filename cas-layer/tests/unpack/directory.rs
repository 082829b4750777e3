//! Into one plain directory.

use std::fs;

use cas_core::Digest;
use cas_core::error::Kind;
use cas_layer::unpack::to_directory;

use crate::{LAYERS, expected, image, silent, store, tree};

#[tokio::test]
async fn an_absent_or_an_empty_directory_is_filled() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for directory in [empty, scratch.path().join("absent")] {
        to_directory(&store, &manifest, &directory, &silent())
            .await
            .unwrap();
        assert_eq!(tree(&directory), expected());
    }
}

#[tokio::test]
async fn a_directory_with_anything_in_it_is_left_alone() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    fs::write(scratch.path().join("mine"), "mine").unwrap();
    let outcome = to_directory(&store, &manifest, scratch.path(), &silent()).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::FailedPrecondition);
    assert_eq!(
        tree(scratch.path()),
        [("mine".to_owned(), "mine".to_owned())]
    );
}

#[tokio::test]
async fn what_was_made_before_a_failure_is_removed() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let spoil = |diff_ids: &mut Vec<Digest>| diff_ids[2] = Digest::sha256(b"other");
    let manifest = image(&store, &LAYERS, spoil).await;
    let (empty, absent) = (scratch.path().join("empty"), scratch.path().join("absent"));
    fs::create_dir(&empty).unwrap();
    for directory in [&empty, &absent] {
        let outcome = to_directory(&store, &manifest, directory, &silent()).await;
        assert_eq!(outcome.unwrap_err().kind(), Kind::Corrupt);
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    assert!(!absent.exists());
}

#[tokio::test]
async fn a_missing_layer_is_noticed_before_anything_is_made() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    store
        .content
        .remove(&manifest.layers[2].digest)
        .await
        .unwrap();
    let absent = scratch.path().join("absent");
    let outcome = to_directory(&store, &manifest, &absent, &silent()).await;
    assert_eq!(outcome.unwrap_err().kind(), Kind::NotFound);
    assert!(!absent.exists());
}
