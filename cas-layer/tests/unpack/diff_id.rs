//! Diff ids, by the codecs of this crate.

use bytes::Bytes;
use cas_core::content::Durability;
use cas_core::image::UNCOMPRESSED;
use cas_core::{Descriptor, Digest, ErrorKind, MediaType, Store};
use cas_layer::diff_id;

use super::store;
use crate::common::source::{gzip, noise, zstd};

async fn put(store: &Store, media_type: MediaType, data: &[u8]) -> Descriptor {
    let layer = Descriptor::of(media_type, data);
    let data = Bytes::copy_from_slice(data);
    store.put(&layer, data, Durability::Full).await.unwrap();
    layer
}

async fn label(store: &Store, layer: &Descriptor) -> Option<String> {
    let record = store.blobs().load(&layer.digest).await.unwrap()?;
    record.0.labels.get(UNCOMPRESSED).cloned()
}

#[tokio::test]
async fn a_layer_of_any_type_and_compression_has_its_diff_id() {
    let plain = noise(3, 3_000_000);
    let expected = Digest::sha256(&plain);
    let twice = [gzip(&plain[..70_000]), gzip(&plain[70_000..])].concat();
    for (media_type, data) in [
        (MediaType::OCI_LAYER_GZIP, gzip(&plain)),
        (MediaType::OCI_LAYER_GZIP, twice),
        (MediaType::OCI_LAYER_ZSTD, zstd(&plain)),
        (MediaType::DOCKER_LAYER_GZIP, gzip(&plain)),
        (MediaType::DOCKER_LAYER_ZSTD, zstd(&plain)),
        // The type states a wrong compression, or none.
        (MediaType::DOCKER_LAYER, gzip(&plain)),
        (MediaType::DOCKER_LAYER, plain.clone()),
        (MediaType::DOCKER_LAYER_FOREIGN, zstd(&plain)),
        (MediaType::OCI_LAYER_GZIP, zstd(&plain)),
    ] {
        let store = store();
        let layer = put(&store, media_type, &data).await;
        assert_eq!(
            diff_id(&store, &layer).await.unwrap(),
            expected,
            "{}",
            layer.media_type
        );
        assert_eq!(label(&store, &layer).await, Some(expected.to_string()));
    }
    let store = store();
    let layer = put(&store, MediaType::OCI_LAYER, &plain).await;
    assert_eq!(diff_id(&store, &layer).await.unwrap(), expected);
}

#[tokio::test]
async fn a_damaged_layer_has_none() {
    let whole = gzip(&noise(4, 100_000));
    let cut = whole[..whole.len() - 9].to_vec();
    let mut flipped = whole.clone();
    flipped[50_000] ^= 1;
    let mut followed = whole.clone();
    followed.extend(b"other bytes");
    for (data, expected) in [
        (cut, ErrorKind::Corrupt),
        (flipped, ErrorKind::Corrupt),
        (followed, ErrorKind::Unsupported),
    ] {
        let store = store();
        let layer = put(&store, MediaType::OCI_LAYER_GZIP, &data).await;
        let error = diff_id(&store, &layer).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
        assert_eq!(label(&store, &layer).await, None);
    }
}
