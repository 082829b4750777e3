//! Stores on which a collection breaks one rule.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cas_core::content::{IngestStatus, Stat, Version};
use cas_core::image::{Image, Reference};
use cas_core::records::{Batch, Change, Expect, Record, Revision, Table};
use cas_core::{
    BlobReader, Capabilities, ContentExt, ContentStore, Descriptor, Digest, ImageStore, Ingest,
    Records, Result, Store,
};

/// Returns a store that reads the names just before the leases, and delivers those names later.
pub(crate) fn names_first(store: &Store) -> Store {
    let names = Arc::new(NamesFirst {
        store: store.clone(),
        read: Mutex::default(),
    });
    Store {
        content: store.content.clone(),
        records: names.clone(),
        images: names,
    }
}

struct NamesFirst {
    store: Store,
    read: Mutex<Vec<Image>>,
}

#[async_trait]
impl Records for NamesFirst {
    fn capabilities(&self) -> Capabilities {
        self.store.records.capabilities()
    }
    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        self.store.records.load(table, key).await
    }
    async fn commit(&self, batch: &Batch) -> Result<()> {
        self.store.records.commit(batch).await
    }
    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        if table == Table::Leases && after.is_none() {
            let read = self.store.images.list(&[]).await?;
            *self.read.lock().unwrap() = read;
        }
        self.store.records.scan(table, prefix, after, limit).await
    }
}

#[async_trait]
impl ImageStore for NamesFirst {
    async fn get(&self, name: &Reference) -> Result<Option<Image>> {
        self.store.images.get(name).await
    }
    async fn list(&self, _: &[&str]) -> Result<Vec<Image>> {
        Ok(self.read.lock().unwrap().clone())
    }
    async fn create(&self, image: Image) -> Result<Image> {
        self.store.images.create(image).await
    }
    async fn update(&self, image: Image, fieldpaths: &[&str]) -> Result<Image> {
        self.store.images.update(image, fieldpaths).await
    }
    async fn compare_and_swap(&self, expected: &Descriptor, image: Image) -> Result<Image> {
        self.store.images.compare_and_swap(expected, image).await
    }
    async fn delete(&self, name: &Reference, target: Option<&Descriptor>) -> Result<()> {
        self.store.images.delete(name, target).await
    }
}

/// Returns a store that gives every record the same revision, and does not compare revisions.
pub(crate) fn without_revisions(store: &Store) -> Store {
    Store {
        records: Arc::new(WithoutRevisions(store.records.clone())),
        ..store.clone()
    }
}

struct WithoutRevisions(Arc<dyn Records>);

fn blind(mut record: Record) -> Record {
    record.revision = Revision::new("any");
    record
}

#[async_trait]
impl Records for WithoutRevisions {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    async fn load(&self, table: Table, key: &str) -> Result<Option<Record>> {
        Ok(self.0.load(table, key).await?.map(blind))
    }
    async fn commit(&self, batch: &Batch) -> Result<()> {
        let mut any = Batch::new();
        any.extend(batch.changes().iter().cloned().map(|change| Change {
            expect: Expect::Any,
            ..change
        }));
        self.0.commit(&any).await
    }
    async fn scan(
        &self,
        table: Table,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let page = self.0.scan(table, prefix, after, limit).await?;
        Ok(page.into_iter().map(blind).collect())
    }
}

/// Returns a store that removes a blob in whatever version it has.
pub(crate) fn without_versions(store: &Store) -> Store {
    Store {
        content: Arc::new(WithoutVersions(store.content.clone())),
        ..store.clone()
    }
}

struct WithoutVersions(Arc<dyn ContentStore>);

#[async_trait]
impl ContentStore for WithoutVersions {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        self.0.stat(digest).await
    }
    async fn open(&self, digest: &Digest) -> Result<Option<Arc<dyn BlobReader>>> {
        self.0.open(digest).await
    }
    async fn begin(&self, key: &str) -> Result<Box<dyn Ingest>> {
        self.0.begin(key).await
    }
    async fn ingests(&self) -> Result<Vec<IngestStatus>> {
        self.0.ingests().await
    }
    async fn discard(&self, key: &str) -> Result<bool> {
        self.0.discard(key).await
    }
    async fn remove_version(&self, digest: &Digest, _: Version) -> Result<bool> {
        self.0.remove(digest).await
    }
    async fn list(&self, after: Option<&Digest>, limit: usize) -> Result<Vec<Stat>> {
        self.0.list(after, limit).await
    }
    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}
