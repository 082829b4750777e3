//! Runs the conformance laws on the store.

use backend_redb::RedbStore;

conformance::content_store!(
    redb_content,
    |dir| async move { RedbStore::open(dir).map(|store| store.content()) },
    backend_redb::GAPS
);
conformance::records!(
    redb_records,
    |dir| async move { RedbStore::open(dir).map(|store| store.records()) },
    backend_redb::GAPS
);
conformance::image_store!(
    redb_images,
    |dir| async move { RedbStore::open(dir).map(|store| store.images()) },
    backend_redb::GAPS
);
conformance::store!(
    redb_collection,
    |dir| async move { RedbStore::open(dir).map(|store| std::sync::Arc::new(store.store())) },
    backend_redb::GAPS
);
