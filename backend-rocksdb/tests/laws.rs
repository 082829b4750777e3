//! Runs the conformance laws on the store.

use backend_rocksdb::RocksStore;

conformance::content_store!(
    rocksdb_content,
    |dir| async move { RocksStore::open(dir).map(|store| store.content()) },
    backend_rocksdb::GAPS
);
conformance::records!(
    rocksdb_records,
    |dir| async move { RocksStore::open(dir).map(|store| store.records()) },
    backend_rocksdb::GAPS
);
conformance::image_store!(
    rocksdb_images,
    |dir| async move { RocksStore::open(dir).map(|store| store.images()) },
    backend_rocksdb::GAPS
);
conformance::store!(
    rocksdb_collection,
    |dir| async move { RocksStore::open(dir).map(|store| std::sync::Arc::new(store.store())) },
    backend_rocksdb::GAPS
);
