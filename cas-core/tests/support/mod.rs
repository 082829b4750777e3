//! A store in memory, and images to put into it.
#![allow(dead_code, reason = "no test uses everything")]

pub(crate) mod wrapped;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cas_core::check::{CheckOptions, NoSources, ReadData, Repair, Report, Sources, check};
use cas_core::content::Durability;
use cas_core::image::{RecordImages, Reference};
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::testing::memory::MemoryStore;
use cas_core::testing::strict::StrictStore;
use cas_core::transfer::{Fetcher, StoreFetcher};
use cas_core::{
    ContentExt, Descriptor, Digest, ErrorKind, Index, Manifest, MediaType, Result, Store,
};

/// Returns an empty store.
pub(crate) fn store() -> Store {
    let memory = Arc::new(MemoryStore::new());
    Store {
        content: memory.clone(),
        records: memory.clone(),
        images: Arc::new(RecordImages::new(memory)),
    }
}

/// Returns an empty store that yields at every step, and promises no more than it must.
pub(crate) fn strict() -> Store {
    let strict = Arc::new(StrictStore::new());
    Store {
        content: strict.clone(),
        records: strict.clone(),
        images: Arc::new(RecordImages::new(strict)),
    }
}

/// Repairs a store without other sources. Returns what the check reports.
pub(crate) async fn repaired(store: &Store) -> Result<Report> {
    let options = CheckOptions {
        repair: Some(Repair {
            sources: &NoSources,
            rebuilder: None,
        }),
        ..CheckOptions::default()
    };
    check(store, &[], &options).await
}

/// Calls `repair` with a store whose `nth` change fails, before or after its effect, as if the
/// repair was killed there. Returns true if the repair makes fewer changes, and so is complete.
pub(crate) async fn killed_repair(
    store: &Store,
    (nth, side): (usize, Side),
    repair: impl AsyncFnOnce(&Store) -> Result<Report>,
) -> bool {
    let plan = Plan::new();
    let kind = ErrorKind::Unavailable;
    plan.fail_nth(nth, Fault { kind, side });
    let outcome = repair(&faulty(store, &plan)).await;
    let is_complete = plan.end().is_empty();
    assert!(outcome.is_ok() || !is_complete, "{outcome:?}");
    is_complete
}

/// A store from which a repair may fetch blobs.
pub(crate) struct Source(pub(crate) Store);

#[async_trait]
impl Sources for Source {
    async fn of(&self, _: Option<&Reference>) -> Result<Vec<Arc<dyn Fetcher>>> {
        Ok(vec![Arc::new(StoreFetcher(self.0.content.clone()))])
    }
}

/// Reads all data of a store, and repairs the store with blobs of `source`. Returns what the check
/// reports.
pub(crate) async fn repaired_from(store: &Store, source: &Store) -> Report {
    let options = CheckOptions {
        read_data: ReadData::All,
        repair: Some(Repair {
            sources: &Source(source.clone()),
            rebuilder: None,
        }),
        ..CheckOptions::default()
    };
    check(store, &[], &options).await.unwrap()
}

/// Puts bytes of a type into the store. Returns their descriptor.
pub(crate) async fn put(store: &Store, media_type: MediaType, data: &[u8]) -> Descriptor {
    let descriptor = Descriptor::of(media_type, data);
    let data = Bytes::copy_from_slice(data);
    store
        .put(&descriptor, data, Durability::Full)
        .await
        .unwrap();
    descriptor
}

/// Puts a configuration for a platform, with these diff ids. Returns its descriptor.
pub(crate) async fn config(store: &Store, platform: &str, diff_ids: &[Digest]) -> Descriptor {
    let mut parts = platform.splitn(3, '/');
    let config = serde_json::json!({
        "os": parts.next(), "architecture": parts.next(), "variant": parts.next(),
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    put(store, MediaType::OCI_CONFIG, config.to_string().as_bytes()).await
}

/// Puts a manifest of content that is in the store. Returns its descriptor.
pub(crate) async fn manifest(
    store: &Store,
    config: Descriptor,
    layers: &[Descriptor],
) -> Descriptor {
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST),
        artifact_type: None,
        config,
        layers: layers.to_vec(),
        subject: None,
        annotations: None,
    };
    let data = serde_json::to_vec(&manifest).unwrap();
    put(store, MediaType::OCI_MANIFEST, &data).await
}

/// Puts an index. Returns its descriptor.
pub(crate) async fn index(store: &Store, manifests: &[Descriptor]) -> Descriptor {
    let index = Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX),
        artifact_type: None,
        manifests: manifests.to_vec(),
        subject: None,
        annotations: None,
    };
    let data = serde_json::to_vec(&index).unwrap();
    put(store, MediaType::OCI_INDEX, &data).await
}

/// Puts a complete image of one layer. Returns the descriptor of its manifest, without a platform.
pub(crate) async fn image(store: &Store, platform: &str) -> Descriptor {
    let layer = put(store, MediaType::OCI_LAYER, platform.as_bytes()).await;
    let config = config(store, platform, &[layer.digest]).await;
    manifest(store, config, &[layer]).await
}

/// As [`image`], with the platform on the descriptor.
pub(crate) async fn named(store: &Store, platform: &str) -> Descriptor {
    let platform_of = platform.parse().unwrap();
    image(store, platform).await.with_platform(platform_of)
}

/// Puts a manifest for a platform with a layer whose digest has an unknown algorithm. Returns its
/// descriptor, without a platform.
pub(crate) async fn unverifiable(store: &Store, platform: &str) -> Descriptor {
    let config = config(store, platform, &[]).await;
    let layer =
        serde_json::json!({ "mediaType": MediaType::OCI_LAYER, "digest": "blake3:00", "size": 2 });
    let manifest =
        serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] }).to_string();
    let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, manifest.as_bytes());
    // A store does not accept the manifest as a document.
    store.content.put(manifest.into()).await.unwrap();
    descriptor
}

/// Returns the children of a manifest.
pub(crate) async fn parts(store: &Store, manifest: &Descriptor) -> Vec<Descriptor> {
    let document = cas_core::dispatch::document(&*store.content, manifest).await;
    document.unwrap().children().cloned().collect()
}
