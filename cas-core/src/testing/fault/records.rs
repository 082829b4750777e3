//! Records and images that fail according to a plan.

use std::sync::Arc;

use async_trait::async_trait;

use super::Plan;
use crate::capability::Capabilities;
use crate::descriptor::Descriptor;
use crate::digest::DigestPrefix;
use crate::error::Result;
use crate::image::{Image, ImageList, ImageStore, Reference, Root};
use crate::owner::Owner;
use crate::records::{Batch, Record, Records, Table};

pub(super) struct Faulty<S: ?Sized> {
    inner: Arc<S>,
    plan: Arc<Plan>,
}

impl<S: ?Sized> Faulty<S> {
    pub(super) fn new(inner: Arc<S>, plan: &Arc<Plan>) -> Self {
        let plan = Arc::clone(plan);
        Faulty { inner, plan }
    }
}

#[async_trait]
impl Records for Faulty<dyn Records> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        self.inner.load(table, key).await
    }

    async fn commit(&self, batch: &Batch) -> Result<()> {
        self.plan.call("commit", self.inner.commit(batch)).await
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        self.inner.scan(table, prefix, after, limit).await
    }
}

#[async_trait]
impl ImageStore for Faulty<dyn ImageStore> {
    fn owner(&self) -> Option<&Owner> {
        self.inner.owner()
    }

    fn for_owner(&self, owner: &Owner) -> Result<Arc<dyn ImageStore>> {
        Ok(Arc::new(Faulty::new(
            self.inner.for_owner(owner)?,
            &self.plan,
        )))
    }

    fn name_warning(&self, name: &Reference) -> Option<String> {
        self.inner.name_warning(name)
    }

    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        self.inner.get(name).await
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Image>> {
        self.inner.list(filters).await
    }

    async fn find(&self, prefix: &DigestPrefix) -> Result<Vec<Image>> {
        self.inner.find(prefix).await
    }

    async fn roots(&self) -> Result<Vec<Root>> {
        self.inner.roots().await
    }

    async fn unnamed(&self) -> Result<Vec<Image>> {
        self.inner.unnamed().await
    }

    async fn list_sound(&self) -> Result<ImageList> {
        self.inner.list_sound().await
    }

    async fn create(&self, image: Image) -> Result<Image> {
        self.plan.call("create", self.inner.create(image)).await
    }

    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        let call = self.inner.update(image, fieldpaths);
        self.plan.call("update", call).await
    }

    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        let call = self.inner.compare_and_swap(expected, image);
        self.plan.call("compare_and_swap", call).await
    }

    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        let call = self.inner.delete(name, target);
        self.plan.call("delete", call).await
    }

    async fn delete_unchanged(&self, seen: &[Image]) -> Result<Vec<Reference>> {
        let call = self.inner.delete_unchanged(seen);
        self.plan.call("delete_unchanged", call).await
    }

    async fn cleanup(&self) -> Result<()> {
        self.plan.call("cleanup", self.inner.cleanup()).await
    }
}
