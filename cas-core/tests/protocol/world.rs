//! A store, and what it must contain in the end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cas_core::Store;
use cas_core::gc::GcOptions;
use cas_core::image::RecordImages;
use cas_core::testing::strict::StrictStore;
use conformance::sample::{Sample, verify};

/// A store and what was promised about it.
pub(crate) struct World {
    pub(crate) store: Store,
    /// Names that were acknowledged and that no actor was asked to remove.
    pub(crate) promised: Arc<Mutex<BTreeSet<String>>>,
}

impl World {
    /// Returns a store with image 0 under these names. Without names the image is in the store, but
    /// nothing keeps it.
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

    /// Checks the promises, and checks them again after a collection at a time when all leases have
    /// expired. Returns what is wrong.
    pub(crate) async fn judge(&self) -> Option<String> {
        if let Some(wrong) = self.check().await {
            return Some(wrong);
        }
        let later =
            GcOptions::default().with_now(SystemTime::now() + Duration::from_secs(3 * 86_400));
        cas_core::gc::collect(&self.store, &[], &later)
            .await
            .unwrap();
        self.check()
            .await
            .map(|wrong| format!("{wrong}, after another collection"))
    }

    async fn check(&self) -> Option<String> {
        let images = self.store.images.list(&[]).await.unwrap();
        for name in self.promised.lock().unwrap().iter() {
            if !images.iter().any(|image| image.name.as_str() == name) {
                return Some(format!("the name {name} is lost"));
            }
        }
        for image in images {
            if let Err(error) = verify(&self.store, &image.target).await {
                return Some(format!("{} is incomplete: {error}", image.name));
            }
        }
        None
    }
}
