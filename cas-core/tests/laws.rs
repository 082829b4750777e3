//! The stores of this crate before the law book.

use std::sync::Arc;

use cas_core::Store;
use cas_core::image::RecordImages;
use cas_core::memory::MemoryStore;
use cas_core::strict::StrictStore;

conformance::content_store!(memory_content, |_| async {
    Ok(Arc::new(MemoryStore::new()) as _)
});
conformance::records!(memory_records, |_| async {
    Ok(Arc::new(MemoryStore::new()) as _)
});
conformance::image_store!(memory_images, |_| async {
    Ok(MemoryStore::new().with_images().images)
});

conformance::content_store!(strict_content, |_| async {
    Ok(Arc::new(StrictStore::new()) as _)
});
conformance::records!(strict_records, |_| async {
    Ok(Arc::new(StrictStore::new()) as _)
});
conformance::image_store!(strict_images, |_| async {
    Ok(Arc::new(RecordImages::new(Arc::new(StrictStore::new()))) as _)
});

conformance::store!(memory_collection, |_| async {
    Ok(Arc::new(MemoryStore::new().with_images()))
});
conformance::store!(strict_collection, |_| async {
    let strict = Arc::new(StrictStore::new());
    Ok(Arc::new(Store {
        content: strict.clone(),
        records: strict.clone(),
        images: Arc::new(RecordImages::new(strict)),
    }))
});
