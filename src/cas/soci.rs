//! Indexes of SOCI: which layers of an image can be read lazily, and from where.

use std::io::{self, Read};
use std::sync::{Arc, Weak};

use cas_core::content::{Durability, VerifiedReader};
use cas_core::lease::LeaseGuard;
use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::{
    ContentExt, Context, Descriptor, Digest, Document, Error, ErrorKind, Image, Manifest,
    MediaType, Result, Store, blob, dispatch, limit, pool,
};
use cas_lazy::soci::{CONFIG, CONFIG_MEDIA_TYPE_V1, Index, LayerZtoc, Version};
use cas_lazy::{SPAN_SIZE, Ztoc};
use serde::Serialize;

use super::Cas;
use super::arguments::ImageRef;
use super::images::QueryOptions;

/// The smallest layer that gets a zTOC, in compressed bytes, as in SOCI's tools.
const MIN_LAYER_SIZE: u64 = 10 << 20;
/// The name of this tool in the indexes and zTOCs that it makes.
pub(super) const BUILD_TOOL: &str = concat!("cas ", env!("CARGO_PKG_VERSION"));

/// Options of [`Cas::create_soci_with`].
#[derive(Clone)]
#[non_exhaustive]
pub struct SociOptions {
    /// The platform of the image that gets an index. `Platforms::All` is refused.
    pub platforms: Platforms,
    /// The number of decompressed bytes after which a new span begins, at the next DEFLATE block;
    /// 4 MiB by default. A span is a part of a layer that can be fetched and decompressed without
    /// the rest of the layer.
    pub span_size: u64,
    /// Minimum size, in compressed bytes, of a layer that gets a zTOC; 10 MiB by default.
    pub min_layer_size: u64,
    /// Receives the progress and warnings. By default nothing does.
    pub progress: Arc<dyn Progress>,
}

impl Default for SociOptions {
    fn default() -> Self {
        SociOptions {
            platforms: Platforms::default(),
            span_size: SPAN_SIZE,
            min_layer_size: MIN_LAYER_SIZE,
            progress: Arc::new(Silent),
        }
    }
}

impl SociOptions {
    /// Sets [`platforms`](Self::platforms).
    #[must_use]
    pub fn with_platforms(mut self, platforms: impl Into<Platforms>) -> Self {
        self.platforms = platforms.into();
        self
    }

    /// Sets [`span_size`](Self::span_size).
    #[must_use]
    pub fn with_span_size(mut self, bytes: u64) -> Self {
        self.span_size = bytes;
        self
    }

    /// Sets [`min_layer_size`](Self::min_layer_size).
    #[must_use]
    pub fn with_min_layer_size(mut self, bytes: u64) -> Self {
        self.min_layer_size = bytes;
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

/// An index of SOCI in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SociIndex {
    /// Digest of the index, which is a manifest.
    pub digest: Digest,
    /// Size of the index in bytes.
    pub size: u64,
    /// Digest of the manifest to which the index refers as its subject.
    pub subject: Digest,
    /// The layers that have zTOCs, lowest first.
    pub layers: Vec<SociLayer>,
}

/// A layer that has a zTOC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SociLayer {
    /// Digest of the compressed layer.
    pub layer: Digest,
    /// Digest of the zTOC.
    pub ztoc: Digest,
    /// Size of the zTOC in bytes.
    pub size: u64,
    /// The number of decompressed bytes after which a new span begins, as in
    /// [`SociOptions::span_size`], if the index states the number.
    pub span_size: Option<u64>,
}

impl SociIndex {
    fn new(own: &Descriptor, subject: Digest, index: &Index) -> Self {
        let layers = index.ztocs.iter().map(|ztoc| SociLayer {
            layer: ztoc.layer,
            ztoc: ztoc.digest,
            size: ztoc.size,
            span_size: ztoc.span_size,
        });
        SociIndex {
            digest: own.digest,
            size: own.size,
            subject,
            layers: layers.collect(),
        }
    }
}

impl Cas {
    /// Makes a zTOC for each layer of an image, if the layer has at least 10 MiB when compressed,
    /// and an index that lists the zTOCs, as SOCI's tools do. A zTOC makes single files of a
    /// compressed layer readable, without the rest of the layer. The index is a referrer of the
    /// manifest of the image: collections keep the index for as long as the manifest, and a push
    /// with referrers pushes the index, too. Returns the index.
    ///
    /// A layer that is not compressed with gzip, or that a zTOC cannot express, is left out with a
    /// warning.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the image, one of its layers, or the platform of this
    /// machine; `FailedPrecondition` if no layer gets a zTOC; `Corrupt` for a damaged layer;
    /// `OutOfRange` if a bound of [`limit`] is exceeded; errors of the store. What was stored
    /// before an error is removed by the next collection.
    pub async fn create_soci(&self, image: impl Into<ImageRef>) -> Result<SociIndex> {
        self.create_soci_with(image, SociOptions::default()).await
    }

    /// Makes an index of SOCI with options. Returns the index.
    ///
    /// # Errors
    /// As [`Cas::create_soci`]; `InvalidArgument` for `Platforms::All` or a span size of zero.
    pub async fn create_soci_with(
        &self,
        image: impl Into<ImageRef>,
        options: SociOptions,
    ) -> Result<SociIndex> {
        let store = self.writable()?;
        let image = self.image(image).await?;
        self.note_use(&image.name);
        let name = image.name.clone();
        let query = QueryOptions::default().with_platforms(options.platforms.clone());
        let found = self.manifest_with(image, query).await?;
        let guard = LeaseGuard::begin(store, "soci").await?;
        let made = make(store, &guard, &found.descriptor, &found.manifest, &options).await;
        let made = guard.finish_with(made).await;
        made.during("create SOCI index", name)
    }

    /// Returns the indexes of SOCI that the store has for an image, for all of its platforms, in
    /// the order of the manifests.
    ///
    /// # Errors
    /// `NotFound` if the store does not have the image; `Corrupt` for a damaged index; errors of
    /// the store.
    pub async fn soci_indexes(&self, image: impl Into<ImageRef>) -> Result<Vec<SociIndex>> {
        let image = self.image(image).await?;
        let store = self.opened()?;
        let found = indexes(store, &image).await;
        found.during("list SOCI indexes", &image.name)
    }
}

/// Stores the zTOCs and the index, and then the label by which the manifest keeps the index. A kill
/// before the label is stored leaves blobs that only the lease keeps, until the lease expires.
async fn make(
    store: &Store,
    guard: &LeaseGuard,
    manifest: &Descriptor,
    listed: &Manifest,
    options: &SociOptions,
) -> Result<SociIndex> {
    guard.pin_tree(manifest).await?;
    let ztocs = ztocs(store, guard, listed, options).await?;
    let media_type = manifest.media_type.clone();
    let subject = Descriptor::new(media_type, manifest.digest, manifest.size);
    let index = Index {
        version: Version::V1 {
            subject: Box::new(subject),
        },
        ztocs,
        build_tool: BUILD_TOOL.to_owned(),
    };
    let config = Descriptor::of(MediaType::from(CONFIG_MEDIA_TYPE_V1), CONFIG);
    guard.put(&config, CONFIG.into(), Durability::Full).await?;
    let bytes = index.encode()?;
    let own = Descriptor::of(MediaType::OCI_MANIFEST, &bytes);
    guard.put(&own, bytes.into(), Durability::Full).await?;
    guard.record_referrers(manifest, &[own.digest]).await?;
    Ok(SociIndex::new(&own, manifest.digest, &index))
}

/// Makes and stores the zTOCs of the layers of a manifest.
///
/// # Errors
/// `FailedPrecondition` if no layer gets one; as [`Cas::create_soci`].
pub(super) async fn ztocs(
    store: &Store,
    guard: &LeaseGuard,
    listed: &Manifest,
    options: &SociOptions,
) -> Result<Vec<LayerZtoc>> {
    let mut ztocs: Vec<LayerZtoc> = Vec::new();
    for layer in &listed.layers {
        let known = ztocs.iter().find(|ztoc| ztoc.layer == layer.digest);
        match known.cloned() {
            Some(known) => ztocs.push(known),
            None => ztocs.extend(ztoc(store, guard, layer, options).await?),
        }
    }
    if ztocs.is_empty() {
        return Err(Error::precondition(format!(
            "no layer is compressed with gzip and has at least {} bytes; expected at least one; \
             choose a smaller size, or compress the layers with gzip",
            options.min_layer_size
        )));
    }
    Ok(ztocs)
}

/// Makes and stores the zTOC of a layer. Returns `None` if the layer cannot have one or is small.
async fn ztoc(
    store: &Store,
    guard: &LeaseGuard,
    layer: &Descriptor,
    options: &SociOptions,
) -> Result<Option<LayerZtoc>> {
    if layer.size < options.min_layer_size {
        return Ok(None);
    }
    let reader = store.content.read_verified(&layer.digest).await?;
    let blob = reader.ok_or_else(|| {
        Error::not_found("the store does not have the layer; pull the image again")
            .subject(layer.digest)
    })?;
    let waiter = Arc::new(());
    let watched = Watched {
        blob,
        waiter: Arc::downgrade(&waiter),
        progress: Arc::clone(&options.progress),
        item: layer.digest.to_string(),
    };
    let (span_size, total) = (options.span_size, layer.size);
    let built = pool::run(move || {
        let (progress, item) = (Arc::clone(&watched.progress), watched.item.clone());
        progress.begin(&item, Some(total));
        let bytes = Ztoc::build(watched, span_size, BUILD_TOOL)?.encode()?;
        progress.end(&item);
        Ok(bytes)
    });
    let bytes = match built.await.map_err(|error| error.subject(layer.digest)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            options
                .progress
                .warn(&format!("a layer gets no zTOC: {error}"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let made = LayerZtoc {
        digest: Digest::sha256(&bytes),
        size: bytes.len() as u64,
        layer: layer.digest,
        layer_media_type: layer.media_type.as_str().to_owned(),
        span_size: Some(span_size),
        no_xattrs: false,
    };
    let bytes = bytes.into();
    guard
        .put(&made.descriptor(), bytes, Durability::Full)
        .await?;
    Ok(Some(made))
}

/// A layer that is read on another thread, until nothing waits for the zTOC any more.
struct Watched {
    blob: VerifiedReader,
    waiter: Weak<()>,
    progress: Arc<dyn Progress>,
    item: String,
}

impl Read for Watched {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.waiter.strong_count() == 0 {
            return Err(io::Error::other("nothing waits for the zTOC any more"));
        }
        let read = self.blob.read(out)?;
        self.progress.advance(&self.item, read as u64);
        Ok(read)
    }
}

async fn indexes(store: &Store, image: &Image) -> Result<Vec<SociIndex>> {
    let mut found = Vec::new();
    for manifest in manifests(store, &image.target).await? {
        for referrer in blob::referrers(store, &manifest.digest).await? {
            if referrer.artifact_type.as_deref() != Some(CONFIG_MEDIA_TYPE_V1) {
                continue;
            }
            let bytes = dispatch::read(&*store.content, &referrer).await?;
            let index = Index::decode(&bytes);
            let index = index.map_err(|error| error.subject(referrer.digest))?;
            found.push(SociIndex::new(&referrer, manifest.digest, &index));
        }
    }
    Ok(found)
}

/// Returns the manifests of an image that the store has.
async fn manifests(store: &Store, target: &Descriptor) -> Result<Vec<Descriptor>> {
    let mut manifests: Vec<Descriptor> = Vec::new();
    let mut left = vec![(target.clone(), limit::INDEX_DEPTH)];
    while let Some((document, depth)) = left.pop() {
        if document.media_type.is_manifest() {
            if manifests
                .iter()
                .all(|known| known.digest != document.digest)
            {
                manifests.push(document);
            }
            continue;
        }
        let there = store.content.stat(&document.digest).await?.is_some();
        if !document.media_type.is_index() || depth == 0 || !there {
            continue;
        }
        if let Document::Index(index) = dispatch::document(&*store.content, &document).await? {
            let nested = index.manifests.into_iter().rev();
            left.extend(nested.map(|one| (one, depth - 1)));
        }
        if left.len() + manifests.len() > limit::DESCRIPTORS {
            return Err(Error::corrupt(format!(
                "the image lists more than {} manifests; build it again",
                limit::DESCRIPTORS
            )));
        }
    }
    Ok(manifests)
}
