//! Runs the conformance tests (laws) on the store.

use std::sync::Arc;

use backend_sqlite::{GAPS, SqliteStore};

conformance::content_store!(
    sqlite_content,
    |dir| async move { SqliteStore::open(dir).map(|store| store.content()) },
    GAPS
);
conformance::records!(
    sqlite_records,
    |dir| async move { SqliteStore::open(dir).map(|store| store.records()) },
    GAPS
);
conformance::image_store!(
    sqlite_images,
    |dir| async move { SqliteStore::open(dir).map(|store| store.images()) },
    GAPS
);
conformance::store!(
    sqlite_collection,
    |dir| async move { SqliteStore::open(dir).map(|store| Arc::new(store.store())) },
    GAPS
);
