//! Runs the conformance suite on the stores in memory and in a directory.

use std::path::PathBuf;
use std::sync::Arc;

use backend_remote::RemoteStore;

conformance::content_store!(
    memory_content,
    |_dir: PathBuf| async move { RemoteStore::memory().await.map(|store| store.content()) },
    backend_remote::GAPS
);
conformance::records!(
    memory_records,
    |_dir: PathBuf| async move { RemoteStore::memory().await.map(|store| store.records()) },
    backend_remote::GAPS
);
conformance::image_store!(
    memory_images,
    |_dir: PathBuf| async move { RemoteStore::memory().await.map(|store| store.images()) },
    backend_remote::GAPS
);

conformance::store!(
    memory_collection,
    |_dir: PathBuf| async move {
        RemoteStore::memory()
            .await
            .map(|store| Arc::new(store.store()))
    },
    backend_remote::GAPS
);

conformance::content_store!(dir_content, |dir: PathBuf| async move {
    RemoteStore::open_dir(dir)
        .await
        .map(|store| store.content())
});
conformance::records!(dir_records, |dir: PathBuf| async move {
    RemoteStore::open_dir(dir)
        .await
        .map(|store| store.records())
});
conformance::image_store!(dir_images, |dir: PathBuf| async move {
    RemoteStore::open_dir(dir).await.map(|store| store.images())
});
conformance::store!(dir_collection, |dir: PathBuf| async move {
    RemoteStore::open_dir(dir)
        .await
        .map(|store| Arc::new(store.store()))
});
