//! Unpack into one plain directory.

use std::fs;

use cas_core::error::ErrorKind;
use cas_core::{ContentExt, Digest, MediaType};
use cas_layer::unpack::{Entrance, to_directory};

use super::{LAYERS, expected, image, image_of, silent, store, tree};
use crate::common::source::{Files, zstd};

#[tokio::test]
async fn an_absent_or_an_empty_directory_is_filled() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for directory in [empty, scratch.path().join("absent")] {
        to_directory(&store, &manifest, &directory, Entrance::AsImage, &silent())
            .await
            .unwrap();
        assert_eq!(tree(&directory), expected());
    }
}

#[tokio::test]
async fn a_directory_that_is_not_empty_is_unchanged() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    fs::write(scratch.path().join("mine"), "mine").unwrap();
    let outcome = to_directory(
        &store,
        &manifest,
        scratch.path(),
        Entrance::AsImage,
        &silent(),
    )
    .await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(
        tree(scratch.path()),
        [("mine".to_owned(), "mine".to_owned())]
    );
}

#[tokio::test]
async fn a_failed_unpack_removes_what_it_created() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let spoil = |diff_ids: &mut Vec<Digest>| diff_ids[2] = Digest::sha256(b"other");
    let manifest = image(&store, &LAYERS, spoil).await;
    let (empty, absent) = (scratch.path().join("empty"), scratch.path().join("absent"));
    fs::create_dir(&empty).unwrap();
    for directory in [&empty, &absent] {
        let outcome =
            to_directory(&store, &manifest, directory, Entrance::AsImage, &silent()).await;
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    assert!(!absent.exists());
}

#[tokio::test]
async fn a_missing_layer_is_noticed_before_anything_is_created() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let manifest = image(&store, &LAYERS, |_| {}).await;
    store
        .content
        .remove(&manifest.layers[2].digest)
        .await
        .unwrap();
    let absent = scratch.path().join("absent");
    let outcome = to_directory(&store, &manifest, &absent, Entrance::AsImage, &silent()).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!absent.exists());
}

#[tokio::test]
async fn a_bomb_is_stopped_by_its_ratio_and_leaves_nothing() {
    let (store, scratch) = (store(), tempfile::tempdir().unwrap());
    let mut members = Files::default();
    members.add("first", b"1");
    // The zeros follow the archive, so they need no disk space; 42 kB become 1.25 GiB.
    let mut bomb = zstd(&members.tar());
    let zeros = zstd(&vec![0; 64 << 20]);
    for _ in 0..20 {
        bomb.extend_from_slice(&zeros);
    }
    assert!(bomb.len() < 64 << 10, "{}", bomb.len());
    let layers = vec![(MediaType::OCI_LAYER_ZSTD, bomb)];
    let manifest = image_of(&store, layers, &[Digest::sha256(b"any")]).await;
    let absent = scratch.path().join("absent");
    let outcome = to_directory(&store, &manifest, &absent, Entrance::AsImage, &silent()).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    assert!(!absent.exists());
}
