//! Image stores with one fault each.

use std::sync::Arc;

use async_trait::async_trait;
use cas_core::image::{Image, Reference};
use cas_core::memory::MemoryStore;
use cas_core::{Descriptor, ImageStore, Kind, Result};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageFault {
    ClobbersOnCreate,
    DeletesWhateverItStandsFor,
    ListsBackwards,
    InheritsLabels,
}

use ImageFault as Fault;

pub(super) struct BrokenImages {
    store: Arc<dyn ImageStore>,
    fault: Fault,
}

impl BrokenImages {
    pub(super) fn new(fault: Fault) -> Self {
        let store = MemoryStore::new().with_images().images;
        BrokenImages { store, fault }
    }
}

#[async_trait]
impl ImageStore for BrokenImages {
    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        self.store.get(name).await
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        let mut images = self.store.list(filters).await?;
        if self.fault == Fault::ListsBackwards {
            images.reverse();
        }
        Ok(images)
    }

    async fn create(&self, image: Image) -> Result<Image> {
        match self.store.create(image.clone()).await {
            Err(error)
                if error.kind() == Kind::AlreadyExists && self.fault == Fault::ClobbersOnCreate =>
            {
                self.store.update(image, &[]).await
            }
            outcome => outcome,
        }
    }

    async fn update(&self, mut image: Image, fieldpaths: &[&str]) -> Result<Image> {
        if self.fault == Fault::InheritsLabels
            && let Some(before) = self.store.get(&image.name).await?
        {
            for (label, value) in before.labels {
                image.labels.entry(label).or_insert(value);
            }
        }
        self.store.update(image, fieldpaths).await
    }

    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        let target = target.filter(|_| self.fault != Fault::DeletesWhateverItStandsFor);
        self.store.delete(name, target).await
    }
}
