//! SOCI indexes. They list the layers of an image that can be read on demand.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Weak};

use cas_core::content::{Durability, VerifiedReader};
use cas_core::lease::LeaseGuard;
use cas_core::platform::Platforms;
use cas_core::progress::{Progress, Silent};
use cas_core::{
    ContentExt, Context, Descriptor, Digest, Document, Error, ErrorKind, Image, Manifest,
    MediaType, Result, Store, blob, dispatch, limit, pool,
};
use cas_lazy::soci::{
    CONFIG, CONFIG_MEDIA_TYPE_V1, Index, LayerPrefetch, LayerZtoc, Prefetch, Version,
};
use cas_lazy::{PrefetchFile, SPAN_SIZE, Ztoc};
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
    /// The platform of the image. `Platforms::All` is an error.
    pub platforms: Platforms,
    /// The number of decompressed bytes after which the next DEFLATE block begins a new span. By
    /// default, 4 MiB. A span is a part of a layer that can be fetched and decompressed without the
    /// rest of the layer.
    pub span_size: u64,
    /// Minimum size, in compressed bytes, of a layer that gets a zTOC. By default, 10 MiB.
    pub min_layer_size: u64,
    /// The files of the image that containers read when they start. The spans of these files are
    /// fetched before all other spans, and have few other bytes. A layer with such a file is read
    /// twice. By default, the list is empty.
    pub prefetch: Vec<PrefetchFile>,
    /// Receives the progress and warnings. By default, nothing is reported.
    pub progress: Arc<dyn Progress>,
}

impl Default for SociOptions {
    fn default() -> Self {
        SociOptions {
            platforms: Platforms::default(),
            span_size: SPAN_SIZE,
            min_layer_size: MIN_LAYER_SIZE,
            prefetch: Vec::new(),
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

    /// Sets [`prefetch`](Self::prefetch).
    #[must_use]
    pub fn with_prefetch(
        mut self,
        files: impl IntoIterator<Item = impl Into<PrefetchFile>>,
    ) -> Self {
        self.prefetch = files.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`progress`](Self::progress).
    #[must_use]
    pub fn with_progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }
}

/// A SOCI index in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SociIndex {
    /// Digest of the index, which is a manifest.
    pub digest: Digest,
    /// Size of the index in bytes.
    pub size: u64,
    /// Digest of the image's manifest, which is the subject of the index.
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
    /// [`SociOptions::span_size`]. `None` if the index does not state the number.
    pub span_size: Option<u64>,
    /// Digests of the artifacts that list the spans to fetch first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prefetches: Vec<Digest>,
}

impl SociIndex {
    fn new(own: &Descriptor, subject: Digest, index: &Index) -> Self {
        let layers = index.ztocs.iter().map(|ztoc| SociLayer {
            layer: ztoc.layer,
            ztoc: ztoc.digest,
            size: ztoc.size,
            span_size: ztoc.span_size,
            prefetches: (index.prefetches.iter())
                .filter(|prefetch| prefetch.layer == ztoc.layer)
                .map(|prefetch| prefetch.digest)
                .collect(),
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
    /// Makes a zTOC for each large layer of an image, and a SOCI index that lists the zTOCs. A
    /// layer is large if its compressed size is at least 10 MiB. With a zTOC, single files of a
    /// compressed layer can be read without the rest of the layer. The index is a referrer of the
    /// manifest of the image: garbage collections keep the index for as long as the manifest, and a
    /// push with referrers pushes the index, too. Returns the index.
    ///
    /// A layer that is not compressed with gzip, or that a zTOC cannot describe, is left out with a
    /// warning.
    ///
    /// # Errors
    /// As [`Cas::manifest`]; `NotFound` if a large layer is not in the store, or if the store has
    /// lost another part of the image; `FailedPrecondition` if no layer gets a zTOC; `Corrupt` for
    /// a damaged layer; `OutOfRange` if a bound of [`limit`] is exceeded; errors of the store.
    /// After an error, the next garbage collection removes the blobs that this call stored.
    pub async fn create_soci(&self, image: impl Into<ImageRef>) -> Result<SociIndex> {
        self.create_soci_with(image, SociOptions::default()).await
    }

    /// Makes a SOCI index with options. Returns the index.
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

    /// Returns the SOCI indexes in the store whose subject is a manifest of the image, for any
    /// platform. The result has the order of the manifests in the image. A SOCI index from
    /// [`Cas::convert_soci`] has no subject, so it is not returned.
    ///
    /// # Errors
    /// As [`Cas::image`]; `Corrupt` for a damaged SOCI index or image index, or if the image lists
    /// more than [`limit::DESCRIPTORS`] manifests; errors of the store.
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
    let Tables { ztocs, prefetches } = tables(store, guard, listed, options).await?;
    let media_type = manifest.media_type.clone();
    let subject = Descriptor::new(media_type, manifest.digest, manifest.size);
    let index = Index {
        version: Version::V1 {
            subject: Box::new(subject),
        },
        ztocs,
        prefetches,
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

/// The zTOCs and prefetch artifacts that an index lists.
pub(super) struct Tables {
    pub(super) ztocs: Vec<LayerZtoc>,
    pub(super) prefetches: Vec<LayerPrefetch>,
}

/// Makes and stores the zTOCs of the layers of a manifest, and the prefetch artifacts of the files
/// that `options` name.
///
/// # Errors
/// `FailedPrecondition` if no layer gets a zTOC; as [`Cas::create_soci`].
pub(super) async fn tables(
    store: &Store,
    guard: &LeaseGuard,
    listed: &Manifest,
    options: &SociOptions,
) -> Result<Tables> {
    let mut ztocs: Vec<LayerZtoc> = Vec::new();
    let mut spans: BTreeMap<Digest, FileSpans> = BTreeMap::new();
    for layer in &listed.layers {
        let known = ztocs.iter().find(|ztoc| ztoc.layer == layer.digest);
        match known.cloned() {
            Some(known) => ztocs.push(known),
            None => {
                if let Some((made, of_files)) = ztoc(store, guard, layer, options).await? {
                    ztocs.push(made);
                    spans.insert(layer.digest, of_files);
                }
            }
        }
    }
    if ztocs.is_empty() {
        return Err(Error::precondition(format!(
            "found no layer that can have a zTOC: a layer must be compressed with gzip, and its \
             compressed size must be at least {} bytes; choose a smaller minimum size, or compress \
             the layers with gzip",
            options.min_layer_size
        )));
    }
    let prefetches = prefetches(guard, &ztocs, spans, options).await?;
    Ok(Tables { ztocs, prefetches })
}

/// For each file of [`SociOptions::prefetch`], the spans of the file in one layer. There are none
/// if the layer does not have a regular file at this path, or if the file is empty.
type FileSpans = Vec<Vec<RangeInclusive<u32>>>;

/// Makes and stores the prefetch artifacts. If several layers with zTOCs have a file, only its
/// spans in the highest of these layers are listed.
async fn prefetches(
    guard: &LeaseGuard,
    ztocs: &[LayerZtoc],
    mut spans: BTreeMap<Digest, FileSpans>,
    options: &SociOptions,
) -> Result<Vec<LayerPrefetch>> {
    let mut is_found = vec![false; options.prefetch.len()];
    let mut made = Vec::new();
    for layer in ztocs.iter().rev().map(|ztoc| ztoc.layer) {
        let of_files = spans.remove(&layer).unwrap_or_default();
        let mut prefetch = Prefetch::default();
        for (spans, is_found) in of_files.into_iter().zip(&mut is_found) {
            if !*is_found && !spans.is_empty() {
                spans.into_iter().for_each(|spans| prefetch.add(spans));
                *is_found = true;
            }
        }
        if prefetch.spans.is_empty() {
            continue;
        }
        let bytes = prefetch.encode()?;
        let artifact = LayerPrefetch {
            digest: Digest::sha256(&bytes),
            size: bytes.len() as u64,
            layer,
        };
        guard
            .put(&artifact.descriptor(), bytes.into(), Durability::Full)
            .await?;
        made.push(artifact);
    }
    for (file, _) in options
        .prefetch
        .iter()
        .zip(is_found)
        .filter(|(_, is_found)| !is_found)
    {
        options.progress.warn(&format!(
            "{} is not fetched first: no layer with a zTOC has a regular file at this path, or the \
             file is empty",
            file.path().display()
        ));
    }
    made.reverse();
    Ok(made)
}

/// Makes and stores the zTOC of a layer. Returns it, and the spans of the files that are fetched
/// first, or `None` if the layer cannot have a zTOC or is small.
async fn ztoc(
    store: &Store,
    guard: &LeaseGuard,
    layer: &Descriptor,
    options: &SociOptions,
) -> Result<Option<(LayerZtoc, FileSpans)>> {
    if layer.size < options.min_layer_size {
        return Ok(None);
    }
    let files = options.prefetch.iter();
    let Some(mut ztoc) = build(store, layer, Vec::new(), options).await? else {
        return Ok(None);
    };
    let first: Vec<_> = files
        .clone()
        .flat_map(|file| ztoc.ranges_of(file))
        .collect();
    if !first.is_empty() {
        // The offsets of the files are only known now.
        let Some(around) = build(store, layer, first, options).await? else {
            return Ok(None);
        };
        ztoc = around;
    }
    let of_files = files.map(|file| ztoc.spans_of(file)).collect();
    let bytes = ztoc.encode()?;
    let made = LayerZtoc {
        digest: Digest::sha256(&bytes),
        size: bytes.len() as u64,
        layer: layer.digest,
        layer_media_type: layer.media_type.as_str().to_owned(),
        span_size: Some(options.span_size),
        no_xattrs: false,
    };
    let bytes = bytes.into();
    guard
        .put(&made.descriptor(), bytes, Durability::Full)
        .await?;
    Ok(Some((made, of_files)))
}

/// Reads a layer, and returns its zTOC, with more spans around the ranges of the tar in `first`.
/// Returns `None` after a warning if the layer cannot have a zTOC.
async fn build(
    store: &Store,
    layer: &Descriptor,
    first: Vec<Range<u64>>,
    options: &SociOptions,
) -> Result<Option<Ztoc>> {
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
        let ztoc = Ztoc::build_around(watched, first, span_size, BUILD_TOOL)?;
        progress.end(&item);
        Ok(ztoc)
    });
    match built.await.map_err(|error| error.subject(layer.digest)) {
        Ok(ztoc) => Ok(Some(ztoc)),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            options
                .progress
                .warn(&format!("a layer does not get a zTOC: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
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
            return Err(io::Error::other(
                "the zTOC was not made, because its caller was cancelled",
            ));
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

/// Returns the manifests that an image lists, also in nested indexes. Indexes that are not in the
/// store are skipped. The manifests themselves may be absent.
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
                "the image lists more than {} manifests; build it again with fewer",
                limit::DESCRIPTORS
            )));
        }
    }
    Ok(manifests)
}
