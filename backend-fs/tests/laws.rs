//! Runs the conformance laws on the `fs` store.

use std::sync::Arc;

use backend_fs::FsStore;

conformance::content_store!(
    fs_content,
    |dir| async move { FsStore::open(dir).map(|store| store.content()) },
    backend_fs::GAPS
);
conformance::records!(
    fs_records,
    |dir| async move { FsStore::open(dir).map(|store| store.records()) },
    backend_fs::GAPS
);
conformance::image_store!(
    fs_images,
    |dir| async move { FsStore::open(dir).map(|store| store.images()) },
    backend_fs::GAPS
);
conformance::store!(
    fs_collection,
    |dir| async move { FsStore::open(dir).map(|store| Arc::new(store.store())) },
    backend_fs::GAPS
);
