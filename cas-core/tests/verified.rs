//! Which blobs no longer count as verified after a job has failed.
#![allow(clippy::unwrap_used)]

use cas_core::content::Version;
use cas_core::lease::{BlobRef, LeaseGuard, ReadGuard};
use cas_core::records::BlobRecord;
use cas_core::{Digest, Error, ErrorKind, MediaType, Result, Store};

mod support;
use support::{put, store};

/// Stores a layer, and records that its bytes are verified.
async fn verified_layer(store: &Store, text: &str) -> Digest {
    let layer = put(store, MediaType::OCI_LAYER, text.as_bytes()).await;
    let verified = |found: Option<BlobRecord>| {
        let mut record = found.unwrap();
        record.verified = Some(Version(1));
        Ok(record)
    };
    let blobs = store.blobs();
    blobs.update(&layer.digest, verified).await.unwrap();
    layer.digest
}

async fn is_verified(store: &Store, layer: &Digest) -> bool {
    let record = store.blobs().load(layer).await.unwrap().unwrap().0;
    record.verified.is_some()
}

/// Ends a job that has pinned blobs, and that fails with `error`.
async fn fail(store: &Store, pinned: &[BlobRef], error: Error, reads: bool) {
    let failed: Result<()> = if reads {
        let guard = ReadGuard::begin(store, "test").await.unwrap();
        guard.pin_all(pinned).await.unwrap();
        guard.finish_with(Err(error)).await
    } else {
        let guard = LeaseGuard::begin(store, "test").await.unwrap();
        guard.pin_all(pinned).await.unwrap();
        guard.finish_with(Err(error)).await
    };
    assert!(failed.is_err());
}

#[tokio::test]
async fn what_may_be_damaged_is_distrusted() {
    use ErrorKind::{Corrupt, NotFound, OutOfRange, Unavailable, Unsupported};
    for kind in [Corrupt, OutOfRange, Unsupported, NotFound, Unavailable] {
        for (names, reads) in [(false, false), (false, true), (true, false), (true, true)] {
            let store = store();
            let one = verified_layer(&store, "one").await;
            let other = verified_layer(&store, "other").await;
            let mut error = Error::new(kind, "a planted error");
            if names {
                error = error.subject(format!("layer {one}"));
            }
            let pinned = [one, other].map(BlobRef::existing);
            fail(&store, &pinned, error, reads).await;
            let found = [
                is_verified(&store, &one).await,
                is_verified(&store, &other).await,
            ];
            let expected = match (kind, names) {
                (Corrupt, _) => [false, false],
                (OutOfRange | Unsupported, true) => [false, true],
                _ => [true, true],
            };
            assert_eq!(found, expected, "{kind:?}, names: {names}, reads: {reads}");
        }
    }
}
