//! Applies the conformance laws to the stores of this crate.

use std::sync::Arc;

use cas_core::Store;
use cas_core::compose::{Counters, by_size, observe};
use cas_core::image::RecordImages;
use cas_core::testing::memory::MemoryStore;
use cas_core::testing::strict::StrictStore;

conformance::content_store!(memory_content, |_| async {
    Ok(Arc::new(MemoryStore::new()) as _)
});
conformance::records!(memory_records, |_| async {
    Ok(Arc::new(MemoryStore::new()) as _)
});
conformance::image_store!(memory_images, |_| async {
    Ok(MemoryStore::new().with_images().images)
});

conformance::image_store!(memory_images_by_target, |_| async {
    let images = RecordImages::with_targets(Arc::new(MemoryStore::new()))?;
    Ok(Arc::new(images) as _)
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

conformance::store!(memory_collection, |_| async { Ok(Arc::new(memory())) });
conformance::store!(strict_collection, |_| async { Ok(Arc::new(strict())) });

/// Maximum size of a blob in the small store, in bytes. Many laws store larger blobs.
const THRESHOLD: u64 = 4_000;

fn memory() -> Store {
    MemoryStore::new().with_images()
}

fn strict() -> Store {
    let store = Arc::new(StrictStore::new());
    Store {
        content: store.clone(),
        records: store.clone(),
        images: Arc::new(RecordImages::new(store)),
    }
}

fn sized(small: Store, large: Store) -> Store {
    by_size(small, large.content, THRESHOLD)
}

fn observed(store: Store) -> Store {
    observe(store, Arc::new(Counters::new()))
}

/// Applies the laws to every part of a store.
macro_rules! whole_store {
    ($name:ident, $store:expr) => {
        mod $name {
            use super::*;

            conformance::content_store!(content, |_| async { Ok($store.content) });
            conformance::records!(records, |_| async { Ok($store.records) });
            conformance::image_store!(images, |_| async { Ok($store.images) });
            conformance::store!(collection, |_| async { Ok(Arc::new($store)) });
        }
    };
}

whole_store!(sized_strict, sized(strict(), strict()));
whole_store!(sized_memory, sized(memory(), memory()));
whole_store!(sized_memory_strict, sized(memory(), strict()));
whole_store!(
    sized_thrice,
    sized(sized(memory(), strict()), sized(strict(), memory()))
);
whole_store!(observed_memory, observed(memory()));
whole_store!(observed_strict, observed(strict()));
whole_store!(observed_sized, observed(sized(strict(), memory())));
