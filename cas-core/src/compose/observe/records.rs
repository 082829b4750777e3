//! Wrappers of [`Records`] and [`ImageStore`] that report each asynchronous call.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Operation, Watch};
use crate::capability::Capabilities;
use crate::descriptor::Descriptor;
use crate::digest::DigestPrefix;
use crate::error::Result;
use crate::image::{Image, ImageList, ImageStore, Reference, Root};
use crate::owner::Owner;
use crate::records::{Batch, Record, Records, Table};

pub(super) struct Watched<S: ?Sized> {
    inner: Arc<S>,
    watch: Watch,
}

impl<S: ?Sized> Watched<S> {
    pub(super) fn new(inner: Arc<S>, watch: Watch) -> Self {
        Watched { inner, watch }
    }
}

#[async_trait]
impl Records for Watched<dyn Records> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        let call = self.inner.load(table, key);
        let bytes = |found: &Option<Record>| found.as_ref().map_or(0, |one| one.value.len());
        self.watch.moves(Operation::Load, call, bytes).await
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        let call = self.inner.commit(batch);
        let bytes = |_: &()| {
            let values = batch.changes().iter().flat_map(|change| &change.value);
            values.map(|value| value.len()).sum()
        };
        self.watch.moves(Operation::Commit, call, bytes).await
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let call = self.inner.scan(table, prefix, after, limit);
        let bytes = |page: &Vec<Record>| page.iter().map(|one| one.value.len()).sum();
        self.watch.moves(Operation::Scan, call, bytes).await
    }
}

#[async_trait]
impl ImageStore for Watched<dyn ImageStore> {
    fn owner(&self) -> Option<&Owner> {
        self.inner.owner()
    }

    fn for_owner(&self, owner: &Owner) -> Result<Arc<dyn ImageStore>> {
        Ok(Arc::new(Watched::new(
            self.inner.for_owner(owner)?,
            self.watch.clone(),
        )))
    }

    fn name_warning(&self, name: &Reference) -> Option<String> {
        self.inner.name_warning(name)
    }

    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        let call = self.inner.get(name);
        self.watch.call(Operation::Get, call).await
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        let call = self.inner.list(filters);
        self.watch.call(Operation::Images, call).await
    }

    async fn find(&self, prefix: &DigestPrefix) -> Result<Vec<Image>> {
        let call = self.inner.find(prefix);
        self.watch.call(Operation::Find, call).await
    }

    async fn roots(&self) -> Result<Vec<Root>> {
        let call = self.inner.roots();
        self.watch.call(Operation::Roots, call).await
    }

    async fn unnamed(&self) -> Result<Vec<Image>> {
        let call = self.inner.unnamed();
        self.watch.call(Operation::Roots, call).await
    }

    async fn list_sound(&self) -> Result<ImageList> {
        let call = self.inner.list_sound();
        self.watch.call(Operation::Images, call).await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        let call = self.inner.create(image);
        self.watch.call(Operation::Create, call).await
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        let call = self.inner.update(image, fieldpaths);
        self.watch.call(Operation::Update, call).await
    }

    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        let call = self.inner.compare_and_swap(expected, image);
        self.watch.call(Operation::CompareAndSwap, call).await
    }

    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        let call = self.inner.delete(name, target);
        self.watch.call(Operation::Delete, call).await
    }

    async fn delete_unchanged(&self, seen: &[Image]) -> Result<Vec<Reference>> {
        let call = self.inner.delete_unchanged(seen);
        self.watch.call(Operation::Delete, call).await
    }

    async fn cleanup(&self) -> Result<()> {
        let call = self.inner.cleanup();
        self.watch.call(Operation::Cleanup, call).await
    }
}
