//! Image stores with one fault each.

use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use cas_core::image::{Image, Reference, Root};
use cas_core::sync::lock;
use cas_core::testing::memory::MemoryStore;
use cas_core::{Descriptor, DigestPrefix, ErrorKind, ImageStore, Result};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageFault {
    ClobbersOnCreate,
    DeletesWhateverItStandsFor,
    ListsBackwards,
    InheritsLabels,
    IgnoresFieldPaths,
    PassesOverUnknownFieldPaths,
    UpdatesIntoBeing,
    MatchesPartsOfNames,
    TakesBadFilters,
    FindsFormerTargets,
    KeepsTheTimesOfCallers,
    TakesAnyTarget,
    TakesOtherDigests,
    SwapsWithoutComparing,
}

use ImageFault as Fault;

pub(super) struct BrokenImages {
    store: Arc<dyn ImageStore>,
    fault: Fault,
    /// All images that were ever passed to `create`.
    created: Mutex<Vec<Image>>,
}

impl BrokenImages {
    pub(super) fn new(fault: Fault) -> Self {
        let store = MemoryStore::new().with_images().images;
        BrokenImages {
            store,
            fault,
            created: Mutex::default(),
        }
    }
}

#[async_trait]
impl ImageStore for BrokenImages {
    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        self.store.get(name).await
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        let parts: Vec<String> = filters
            .iter()
            .map(|filter| match filter.strip_prefix("name==") {
                Some(name) if self.fault == Fault::MatchesPartsOfNames && !name.contains('"') => {
                    format!("name~=/{name}/")
                }
                _ => (*filter).to_owned(),
            })
            .collect();
        let filters: Vec<&str> = parts.iter().map(String::as_str).collect();
        let mut images = match self.store.list(&filters).await {
            Err(_) if self.fault == Fault::TakesBadFilters => self.store.list(&[]).await?,
            found => found?,
        };
        if self.fault == Fault::ListsBackwards {
            images.reverse();
        }
        Ok(images)
    }

    async fn find(&self, prefix: &DigestPrefix) -> Result<Vec<Image>> {
        if self.fault != Fault::FindsFormerTargets {
            return self.store.find(prefix).await;
        }
        let mut found = lock(&self.created).clone();
        found.retain(|image| prefix.matches(&image.target.digest));
        found.sort_by(|one, next| one.name.cmp(&next.name));
        Ok(found)
    }

    async fn roots(&self) -> Result<Vec<Root>> {
        self.store.roots().await
    }

    async fn unnamed(&self) -> Result<Vec<Image>> {
        self.store.unnamed().await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        let given = image.created_at;
        lock(&self.created).push(image.clone());
        match self.store.create(image.clone()).await {
            Ok(created) if given == UNIX_EPOCH && self.fault == Fault::KeepsTheTimesOfCallers => {
                Ok(Image {
                    created_at: given,
                    ..created
                })
            }
            Err(_) if image.target.size == 0 && self.fault == Fault::TakesAnyTarget => Ok(image),
            Err(_)
                if !image.name.allows(&image.target.digest)
                    && self.fault == Fault::TakesOtherDigests =>
            {
                Ok(image)
            }
            Err(error)
                if error.kind() == ErrorKind::AlreadyExists
                    && self.fault == Fault::ClobbersOnCreate =>
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
        let known = |path: &&&str| {
            let fields = ["labels", "annotations", "target"];
            fields.iter().any(|field| path.starts_with(field))
        };
        let understood: Vec<&str> = fieldpaths.iter().filter(known).copied().collect();
        let fieldpaths = match self.fault {
            Fault::IgnoresFieldPaths => &[],
            Fault::PassesOverUnknownFieldPaths => &understood[..],
            _ => fieldpaths,
        };
        match self.store.update(image.clone(), fieldpaths).await {
            Err(error)
                if error.kind() == ErrorKind::NotFound && self.fault == Fault::UpdatesIntoBeing =>
            {
                self.store.create(image).await
            }
            outcome => outcome,
        }
    }

    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        match self.store.get(&image.name).await? {
            Some(found) if self.fault == Fault::SwapsWithoutComparing => {
                self.store.compare_and_swap(&found.target, image).await
            }
            _ => self.store.compare_and_swap(expected, image).await,
        }
    }

    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        let target = target.filter(|_| self.fault != Fault::DeletesWhateverItStandsFor);
        self.store.delete(name, target).await
    }
}
