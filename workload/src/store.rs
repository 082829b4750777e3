//! Measures a store for its column of the benchmark table, through the public API of `cas-core`.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use cas_core::content::{Durability, Expected, Writer};
use cas_core::gc::{GcOptions, collect};
use cas_core::records::{Batch, Blobs, Expect};
use cas_core::{
    Descriptor, Digest, Error, Image, Labels, MediaType, Records, Result, Snapshotter, Store,
};
use tokio::task::JoinSet;

use crate::column::{Blob, Column, Contender, ImageBlobs, Promise, Role, not_applicable};
use crate::data;

/// Maximum number of concurrent writers, which share syncs.
const WRITERS: usize = 256;
/// Number of blobs in a page of a list.
const PAGE: usize = 1000;
const LABEL: &str = "example.org/bench";

/// A function that opens a store in a directory. Creates the directory if the store needs one.
pub type Open =
    Arc<dyn Fn(PathBuf) -> Pin<Box<dyn Future<Output = Result<Store>> + Send>> + Send + Sync>;

/// A function that opens a snapshotter in a directory, with its records in a store. Creates the
/// directory if it does not exist.
pub type Snapshots = fn(&Path, Arc<dyn Records>) -> Result<Arc<dyn Snapshotter>>;

/// Returns the column of a store. `open` opens the store, and `promise` states its durability.
/// `snapshots` opens the snapshotter for the row `prepare`. If `snapshots` is `None`, the column
/// shows N/A in this row.
pub fn stores(
    name: impl Into<String>,
    promise: Promise,
    open: Open,
    snapshots: Option<Snapshots>,
) -> Contender {
    Contender::new(name, Role::Store, promise, move |directory| {
        let opened = open(directory.join("store"));
        async move {
            let (store, directory) = (opened.await?, directory.join("snapshots"));
            let column = Stored {
                store,
                directory,
                snapshots,
            };
            Ok(Box::new(column) as Box<dyn Column>)
        }
    })
}

struct Stored {
    store: Store,
    directory: PathBuf,
    snapshots: Option<Snapshots>,
}

impl Blob {
    fn descriptor(&self, media_type: MediaType) -> Descriptor {
        Descriptor::new(media_type, self.digest, self.data.len() as u64)
    }
}

#[async_trait]
impl Column for Stored {
    async fn put(&self, blobs: &[Blob]) -> Result<()> {
        for blob in blobs {
            put(self.store.clone(), blob.clone(), Durability::Full).await?;
        }
        Ok(())
    }

    async fn put_batched(&self, blobs: &[Blob]) -> Result<()> {
        let store = &self.store;
        concurrently(blobs, |blob| put(store.clone(), blob, Durability::Batched)).await
    }

    async fn fill(&self, images: &[ImageBlobs]) -> Result<()> {
        let store = &self.store;
        concurrently(images, |image| put_image(store.clone(), image)).await?;
        self.store.content.flush().await?;
        for image in images {
            self.tag(std::slice::from_ref(&image.name), &image.root)
                .await?;
        }
        Ok(())
    }

    async fn put_large(&self, seed: u64, size: u64) -> Result<()> {
        let key = format!("large-{seed}");
        put_large(self.store.clone(), &key, seed, size, Expected::ANY).await
    }

    async fn put_same(&self, seed: u64, size: u64, writers: usize) -> Result<()> {
        let expected = Expected::exactly(data::digest(seed, size), size);
        let mut all = JoinSet::new();
        for number in 0..writers {
            let (store, key) = (self.store.clone(), format!("same-{number}"));
            all.spawn(async move { put_large(store, &key, seed, size, expected).await });
        }
        joined(all).await
    }

    async fn stat(&self, digests: &[Digest]) -> Result<usize> {
        let mut found = 0;
        for digest in digests {
            found += usize::from(self.store.content.stat(digest).await?.is_some());
        }
        Ok(found)
    }

    async fn read(&self, digests: &[Digest]) -> Result<u64> {
        let mut bytes = 0;
        for digest in digests {
            let reader = self.store.content.open(digest).await?;
            let reader = reader.ok_or_else(|| missing(digest))?;
            let mut offset = 0;
            while offset < reader.size() {
                let piece = reader.read_at(offset, data::PIECE).await?;
                offset += piece.len().max(1) as u64;
                bytes += piece.len() as u64;
            }
        }
        Ok(bytes)
    }

    async fn read_ranges(&self, digest: &Digest, offsets: &[u64], length: usize) -> Result<u64> {
        let reader = self.store.content.open(digest).await?;
        let reader = reader.ok_or_else(|| missing(digest))?;
        let mut bytes = 0;
        for offset in offsets {
            bytes += reader.read_at(*offset, length).await?.len() as u64;
        }
        Ok(bytes)
    }

    async fn list(&self) -> Result<usize> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.store.content.list(after.as_ref(), PAGE).await?;
            count += page.len();
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.digest),
                _ => return Ok(count),
            }
        }
    }

    async fn label(&self, digests: &[Digest], value: &str) -> Result<()> {
        for digest in digests {
            let set = |record: Option<cas_core::records::BlobRecord>| {
                let mut record = record.ok_or_else(|| missing(digest))?;
                record.labels.insert(LABEL.to_owned(), value.to_owned());
                Ok(record)
            };
            self.store.blobs().update(digest, set).await?;
        }
        Ok(())
    }

    async fn tag(&self, names: &[String], target: &Blob) -> Result<()> {
        for name in names {
            let target = target.descriptor(MediaType::OCI_MANIFEST);
            let image = Image::new(name.parse()?, target);
            self.store.images.create(image).await?;
        }
        Ok(())
    }

    async fn resolve(&self, names: &[String]) -> Result<usize> {
        let mut found = 0;
        for name in names {
            found += usize::from(self.store.images.get(&name.parse()?).await?.is_some());
        }
        Ok(found)
    }

    async fn edges(&self, images: &[ImageBlobs]) -> Result<()> {
        let (blobs, mut batch) = (self.store.blobs(), Batch::new());
        for image in images {
            let digest = &image.root.digest;
            let found = blobs.load(digest).await?;
            let (mut record, revision) = found.ok_or_else(|| missing(digest))?;
            record.children = children(image);
            Blobs::put(&mut batch, digest, &record, Expect::Revision(revision))?;
        }
        self.store.records.commit(&batch).await
    }

    async fn forget(&self, names: &[String]) -> Result<()> {
        for name in names {
            self.store.images.delete(&name.parse()?, None).await?;
        }
        Ok(())
    }

    async fn collect(&self) -> Result<usize> {
        // A new blob is kept for a day even without a name. The collection treats this later time
        // as the current time, so that only names keep blobs.
        let later = SystemTime::now() + Duration::from_secs(2 * 24 * 60 * 60);
        let options = GcOptions::default().with_now(later);
        let collected = collect(&self.store, &[], &options).await?;
        Ok(collected.blobs.len())
    }

    async fn prepare(&self, layers: usize, times: usize) -> Result<Duration> {
        let open = self.snapshots.ok_or_else(not_applicable)?;
        let snapshotter = open(&self.directory, Arc::clone(&self.store.records))?;
        let top = build_layers(&*snapshotter, layers).await?;
        let mut taken = Duration::ZERO;
        for _ in 0..times {
            let begun = Instant::now();
            snapshotter
                .prepare("top", Some(&top), Labels::new())
                .await?;
            taken += begun.elapsed();
            snapshotter.remove("top").await?;
        }
        snapshotter.close().await?;
        Ok(taken)
    }
}

/// Creates a chain of empty layers if it does not exist. Returns the name of its top.
async fn build_layers(snapshotter: &dyn Snapshotter, layers: usize) -> Result<String> {
    let mut parent: Option<String> = None;
    for number in 0..layers {
        let name = format!("layer-{number}");
        if snapshotter.stat(&name).await?.is_none() {
            let none = Labels::new();
            snapshotter.prepare("next", parent.as_deref(), none).await?;
            let options = cas_core::snapshot::Commit::default();
            snapshotter.commit(&name, "next", options).await?;
        }
        parent = Some(name);
    }
    parent.ok_or_else(|| {
        Error::invalid("expected at least one layer, found 0; increase `Scale::layers`")
    })
}

async fn put(store: Store, blob: Blob, durability: Durability) -> Result<()> {
    let descriptor = blob.descriptor(MediaType::OCI_LAYER);
    store.put(&descriptor, blob.data, durability).await
}

async fn put_large(
    store: Store,
    key: &str,
    seed: u64,
    size: u64,
    expected: Expected,
) -> Result<()> {
    let mut writer = Writer::begin(&*store.content, key, expected).await?;
    for piece in data::pieces(seed, size) {
        writer.write(piece).await?;
    }
    let descriptor = Descriptor::new(MediaType::OCI_LAYER, writer.digest().await?, size);
    let published = store.publish(writer, &descriptor, Vec::new(), Durability::Full);
    published.await.map(|_| ())
}

/// Stores the blobs of an image, children first.
async fn put_image(store: Store, image: ImageBlobs) -> Result<()> {
    let children = children(&image);
    for child in image.children {
        put_relaxed(&store, child, MediaType::OCI_LAYER, Vec::new()).await?;
    }
    put_relaxed(&store, image.root, MediaType::OCI_MANIFEST, children).await
}

async fn put_relaxed(
    store: &Store,
    blob: Blob,
    media_type: MediaType,
    children: Vec<Digest>,
) -> Result<()> {
    let descriptor = blob.descriptor(media_type);
    let mut writer = store.writer(&descriptor).await?;
    writer.write(blob.data).await?;
    let published = store.publish(writer, &descriptor, children, Durability::Relaxed);
    published.await.map(|_| ())
}

fn children(image: &ImageBlobs) -> Vec<Digest> {
    image.children.iter().map(|child| child.digest).collect()
}

/// Calls `work` with each item, with at most [`WRITERS`] calls at a time.
async fn concurrently<T, W, F>(items: &[T], work: W) -> Result<()>
where
    T: Clone + Send + 'static,
    W: Fn(T) -> F,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut all = JoinSet::new();
    for item in items {
        if all.len() == WRITERS
            && let Some(ended) = all.join_next().await
        {
            ended.map_err(|error| Error::internal("a writer panicked").source(error))??;
        }
        all.spawn(work(item.clone()));
    }
    joined(all).await
}

async fn joined(mut all: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = all.join_next().await {
        ended.map_err(|error| Error::internal("a writer panicked").source(error))??;
    }
    Ok(())
}

fn missing(digest: &Digest) -> Error {
    Error::not_found("an earlier step stored this blob, but the store does not have it")
        .subject(digest)
}
