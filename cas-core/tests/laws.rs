//! The stores of this crate before the law book.

use std::sync::Arc;

use cas_core::memory::MemoryStore;

conformance::content_store!(memory_content, |_| async {
    Ok(Arc::new(MemoryStore::new()) as _)
});
conformance::records!(memory_records, |_| async {
    Ok(Arc::new(MemoryStore::new()) as _)
});
