//! A store, and what must hold of it in the end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cas_core::Store;
use cas_core::gc::GcOptions;
use cas_core::image::RecordImages;
use cas_core::testing::strict::StrictStore;
use conformance::sample::{Sample, whole};

/// One store and what was promised of it.
pub(crate) struct World {
    pub(crate) store: Store,
    /// Names that were acknowledged, and not asked to be removed by anybody.
    pub(crate) promised: Arc<Mutex<BTreeSet<String>>>,
}

impl World {
    /// A store with image 0 under these names, or without any, held by nothing.
    pub(crate) async fn new(names: &[&str]) -> Self {
        let strict = Arc::new(StrictStore::new());
        let store = Store {
            content: strict.clone(),
            records: strict.clone(),
            images: Arc::new(RecordImages::new(strict)),
        };
        for name in names.iter().chain(names.is_empty().then_some(&"gone")) {
            Sample::of(0).import(&store, name).await.unwrap();
        }
        if names.is_empty() {
            store
                .images
                .delete(&"gone".parse().unwrap(), None)
                .await
                .unwrap();
        }
        World {
            store,
            promised: Arc::default(),
        }
    }

    /// Checks the promises, now and once more after a collection at a time when all leases have
    /// expired; what is wrong.
    pub(crate) async fn judge(&self) -> Option<String> {
        if let Some(wrong) = self.look().await {
            return Some(wrong);
        }
        let later = GcOptions {
            now: SystemTime::now() + Duration::from_secs(3 * 86_400),
            ..GcOptions::default()
        };
        cas_core::gc::collect(&self.store, &[], &later)
            .await
            .unwrap();
        self.look()
            .await
            .map(|wrong| format!("{wrong}, after another collection"))
    }

    async fn look(&self) -> Option<String> {
        let images = self.store.images.list(&[]).await.unwrap();
        for name in self.promised.lock().unwrap().iter() {
            if !images.iter().any(|image| image.name.as_str() == name) {
                return Some(format!("the name {name} is lost"));
            }
        }
        for image in images {
            if let Err(error) = whole(&self.store, &image.target).await {
                return Some(format!("{} is not whole: {error}", image.name));
            }
        }
        None
    }
}
