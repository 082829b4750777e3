//! The store of files before the law book.

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
