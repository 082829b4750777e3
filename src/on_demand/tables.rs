//! Finds the tables of contents of the layers of an image: in the layers themselves, or in a SOCI
//! index.

use std::env;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use cas_core::content::ContentStore;
use cas_core::image::FullName;
use cas_core::progress::Progress;
use cas_core::transfer::{ImageQuota, Quota, Referrers, Slots};
use cas_core::{
    Context, Descriptor, Digest, Document, Error, Manifest, MediaType, Result, dispatch, limit,
    pool,
};
use cas_distribution::Mirrors;
use cas_layer::unpack::{LayerTable, LayerTables, TableContent};
use cas_lazy::soci::{CONFIG_MEDIA_TYPE_V1, INDEX_DIGEST, Index, Prefetch};
use cas_lazy::zstd_chunked::{self, Position};
use cas_lazy::{StoredTable, TableFormat, estargz};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::registry::read;
use crate::root::PullModes;

/// Maximum number of requests for tables at the same time. The process that later serves the layers
/// has the same limit on the reads that wait for one registry.
const REQUESTS: i64 = 8;
/// Maximum number of bytes of tables in memory, unless a single table has more.
const MEMORY: u32 = 16 << 20;

/// The tables of contents of the layers of one image in its registry. Layers in the formats eStargz
/// and zstd:chunked contain their tables. The tables of other layers are zTOCs that a SOCI index
/// lists.
pub struct RegistryTables {
    client: Mirrors,
    /// Limits the requests that this value makes at the same time.
    slots: Slots,
    /// Limits the requests that the whole pull makes at the same time.
    quota: ImageQuota,
    /// One slot for each byte of a table in memory.
    memory: Slots,
    /// A parsed table may need several times the memory of its bytes, so one at a time is parsed.
    parsing: Slots,
    /// The tables are kept in the file system of this directory until they are used.
    directory: PathBuf,
    /// The content that the pull has stored.
    content: Arc<dyn ContentStore>,
    reference: FullName,
    modes: PullModes,
    progress: Arc<dyn Progress>,
}

/// What was found for a layer.
struct Found {
    table: Option<LayerTable>,
    warnings: Vec<String>,
}

#[async_trait]
impl LayerTables for RegistryTables {
    async fn tables(
        &self,
        root: &Descriptor,
        own: &Descriptor,
        manifest: &Manifest,
        layers: &[(Descriptor, Digest)],
    ) -> Result<Vec<Option<LayerTable>>> {
        let index = match layers.iter().all(|(layer, _)| has_own_table(layer)) {
            true => None,
            false => self
                .soci_index(root, own, manifest)
                .await
                .unwrap_or_else(|error| {
                    self.progress.warn(&format!(
                        "the SOCI index cannot be used: {error}; layers without another table of \
                     contents are fetched as a whole"
                    ));
                    None
                }),
        };
        let index = index.as_ref();
        let jobs: Vec<_> = (layers.iter())
            .map(|(layer, diff_id)| self.find(layer, *diff_id, index))
            .collect();
        let mut found = stream::iter(jobs).buffered(limit::LAYERS);
        let mut tables = Vec::with_capacity(layers.len());
        while let Some(Found { table, warnings }) = found.next().await {
            for warning in warnings {
                self.progress.warn(&warning);
            }
            tables.push(table);
        }
        if tables.iter().all(Option::is_none) && !tables.is_empty() {
            self.progress.warn(
                "no layer of the image has a table of contents that can be used, so all layers are \
                 fetched as a whole; `cas soci convert` makes an image with tables",
            );
        }
        Ok(tables)
    }
}

/// Returns whether the annotations of a layer name a table of contents in the layer.
fn has_own_table(layer: &Descriptor) -> bool {
    layer.annotations.contains_key(estargz::TOC_DIGEST)
        || zstd_chunked::annotations(&layer.annotations).is_some()
}

impl RegistryTables {
    /// Returns the tables of the image that `reference` names in the registry of `client`.
    /// If the image has an index, the index must be in `content`. `modes` chooses the SOCI indexes
    /// that are used. `progress` receives a warning for each table that cannot be used.
    pub fn new(
        client: Mirrors,
        content: Arc<dyn ContentStore>,
        reference: FullName,
        modes: PullModes,
        progress: Arc<dyn Progress>,
    ) -> Self {
        RegistryTables {
            client,
            slots: Slots::new(REQUESTS),
            quota: Quota::of_each_image(0).for_image(),
            memory: Slots::new(MEMORY.into()),
            parsing: Slots::new(1),
            directory: env::temp_dir(),
            content,
            reference,
            modes,
            progress,
        }
    }

    /// Sets the limits on concurrent requests of the pull. At most eight requests for tables are
    /// made at the same time, even if the limits allow more.
    #[must_use]
    pub fn with_quota(mut self, quota: ImageQuota) -> Self {
        self.quota = quota;
        self
    }

    /// Sets the directory in whose file system the tables are kept, in files without names, until
    /// they are used. By default, this is the directory for temporary files.
    #[must_use]
    pub fn with_directory(mut self, directory: &Path) -> Self {
        self.directory = directory.to_owned();
        self
    }

    /// Returns the SOCI index for `manifest`. `own` is the descriptor of `manifest`. `root` is the
    /// descriptor of the image's index, or of `manifest` if the image has no index.
    ///
    /// If [`PullModes::soci_v2`] is set and an annotation of the manifest names a SOCI index,
    /// returns the named SOCI index. Otherwise, looks for the first SOCI index among the referrers
    /// of the manifest. If no referrer is a SOCI index, returns `None`. If a SOCI index is found
    /// and [`PullModes::soci_v1`] is set, returns the found index. If a SOCI index is found but
    /// `soci_v1` is not set, reports a warning and returns `None`.
    ///
    /// # Errors
    /// `FailedPrecondition` if neither `soci_v1` nor `soci_v2` is set; `InvalidArgument` if the
    /// annotation is not a digest; `NotFound` if the image has no index that lists the named SOCI
    /// index; `Corrupt` for a damaged document, or one whose bytes do not match its digest;
    /// `Unsupported` for a document that is not a SOCI index; `OutOfRange` for a document that
    /// exceeds a limit, such as [`limit::DOCUMENT_READ`]; errors of the registry and of the store.
    pub async fn soci_index(
        &self,
        root: &Descriptor,
        own: &Descriptor,
        manifest: &Manifest,
    ) -> Result<Option<Index>> {
        if !self.modes.soci_v1 && !self.modes.soci_v2 {
            return Err(Error::precondition(
                "[pull_modes.soci_v1] and [pull_modes.soci_v2] are disabled; enable \
                 [pull_modes.soci_v2] in cas.toml",
            ));
        }
        let annotations = manifest.annotations.as_ref();
        let named = annotations.and_then(|named| named.get(INDEX_DIGEST));
        if let Some(named) = named.filter(|_| self.modes.soci_v2) {
            return self.named_index(root, named.parse()?).await.map(Some);
        }
        let mut pages = self
            .client
            .referrers(own, Some(CONFIG_MEDIA_TYPE_V1))
            .await?;
        while let Some(page) = pages.try_next().await? {
            for referrer in page {
                if referrer.artifact_type.as_deref() != Some(CONFIG_MEDIA_TYPE_V1) {
                    continue;
                }
                if self.modes.soci_v1 {
                    return self.index(&referrer).await.map(Some);
                }
                self.progress.warn(
                    "the digest of the image does not cover its SOCI index, so the index is \
                     not used; enable [pull_modes.soci_v1] in cas.toml to use it, or make an \
                     image with `cas soci convert`",
                );
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Returns the SOCI index with this digest. The index of the image must list it.
    async fn named_index(&self, root: &Descriptor, digest: Digest) -> Result<Index> {
        let mut listed = Vec::new();
        if root.media_type.is_index()
            && let Document::Index(index) = dispatch::document(&*self.content, root).await?
        {
            listed = index.manifests;
        }
        let listed = listed.into_iter().find(|listed| listed.digest == digest);
        let listed = listed.ok_or_else(|| {
            Error::not_found(
                "the manifest names a SOCI index that the index of the image does not list; \
                 convert the image again with `cas soci convert`",
            )
            .subject(digest)
        })?;
        self.index(&listed).await
    }

    /// Returns the table of a layer, if the layer has one that can be used.
    async fn find(&self, layer: &Descriptor, diff_id: Digest, index: Option<&Index>) -> Found {
        let mut warnings = Vec::new();
        let table = self.table(layer, diff_id, index, &mut warnings).await;
        let table = table.unwrap_or_else(|error| {
            let digest = layer.digest;
            warnings.push(format!("the layer {digest} is fetched as a whole: {error}"));
            None
        });
        Found { table, warnings }
    }

    /// Returns the table of a layer, or `None` if the layer has none.
    async fn table(
        &self,
        layer: &Descriptor,
        diff_id: Digest,
        index: Option<&Index>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<LayerTable>> {
        let mut listed = None;
        let (format, blob, range) = if let Some(digest) = layer.annotations.get(estargz::TOC_DIGEST)
        {
            let range = self.estargz(layer).await?;
            let format = TableFormat::Estargz {
                digest: digest.parse()?,
                offset: range.start,
            };
            (format, layer.clone(), range)
        } else if let Some((digest, position)) = zstd_chunked::annotations(&layer.annotations) {
            let position = Position::parse(position, layer.size)?;
            let range = position.offset..position.offset + position.length;
            let format = TableFormat::ZstdChunked {
                digest: digest.parse()?,
                position,
            };
            (format, layer.clone(), range)
        } else {
            let found = index.and_then(|index| Some((index, index.of_layer(&layer.digest)?)));
            let Some((index, ztoc)) = found else {
                return Ok(None);
            };
            listed = Some(index);
            let blob = Descriptor::new(MediaType::from(""), ztoc.digest, ztoc.size);
            let digest = ztoc.digest;
            (TableFormat::Ztoc { digest }, blob, 0..ztoc.size)
        };
        let stored = StoredTable {
            reference: self.reference.to_string(),
            layer: Descriptor::new(layer.media_type.clone(), layer.digest, layer.size),
            diff_id,
            format,
        };
        let prefetch = async {
            match listed {
                Some(index) => self.prefetch(layer, index, warnings).await,
                None => None,
            }
        };
        let content = self.content_of(&stored, &blob, range);
        let (content, prefetch) = tokio::join!(content, prefetch);
        let content = content?;
        let description = stored.to_bytes()?;
        let mut table = LayerTable {
            identity: Digest::sha256(&[b"cas.on-demand\0", &description[..]].concat()),
            description: String::from_utf8_lossy(&description).into_owned(),
            files: vec![
                (StoredTable::FILE, description.into()),
                (StoredTable::TABLE_FILE, content),
            ],
        };
        if let Some(prefetch) = prefetch {
            let file = (StoredTable::PREFETCH_FILE, prefetch.encode()?.into());
            table.files.push(file);
        }
        Ok(Some(table))
    }

    /// Fetches and verifies a table, the bytes `range` of a blob. Returns its bytes in a file.
    async fn content_of(
        &self,
        stored: &StoredTable,
        blob: &Descriptor,
        range: Range<u64>,
    ) -> Result<TableContent> {
        let size = (range.end - range.start).min(MEMORY.into());
        let _memory = self.memory.acquire(size as u32).await?;
        let bytes = self.read(blob, range).await?;
        let _parsing = self.parsing.acquire(1).await?;
        let (stored, directory) = (stored.clone(), self.directory.clone());
        pool::run(move || {
            // If the layer cannot be read on demand, this fails now, and not only after a mount.
            stored.read(&bytes)?;
            let kept = tempfile::tempfile_in(&directory).and_then(|mut file: File| {
                file.write_all(&bytes)?;
                Ok(file)
            });
            let kept = kept.during("keep a table of contents in", directory.display())?;
            Ok(TableContent::File(Arc::new(kept)))
        })
        .await
    }

    /// Returns the spans of a layer to fetch first, or `None` if the index lists no usable prefetch
    /// artifact for the layer. An artifact that cannot be used only causes a warning, because the
    /// layer can be read without it.
    async fn prefetch(
        &self,
        layer: &Descriptor,
        index: &Index,
        warnings: &mut Vec<String>,
    ) -> Option<Prefetch> {
        let mut found: Option<Prefetch> = None;
        let listed = index.prefetches.iter();
        for listed in listed.filter(|one| one.layer == layer.digest) {
            let read = self.document(&listed.descriptor()).await;
            match read.and_then(|bytes| Prefetch::decode(&bytes)) {
                Ok(prefetch) => {
                    let spans = &mut found.get_or_insert_default().spans;
                    spans.extend(prefetch.spans);
                    spans.truncate(limit::SPANS);
                }
                Err(error) => warnings.push(format!(
                    "the prefetch artifact {} is not used: {error}",
                    listed.digest
                )),
            }
        }
        found
    }

    /// Returns the range of the table in an eStargz layer.
    async fn estargz(&self, layer: &Descriptor) -> Result<Range<u64>> {
        let size = layer.size;
        let begin = size.checked_sub(estargz::FOOTER as u64);
        let begin =
            begin.ok_or_else(|| Error::corrupt("the layer is too short for an eStargz footer"))?;
        let footer = self.read(layer, begin..size).await?;
        let footer = footer.first_chunk().ok_or_else(no_footer)?;
        let offset = estargz::footer(footer, size)?.ok_or_else(no_footer)?;
        if begin - offset > limit::LAYER_TOC {
            return Err(Error::out_of_range(format!(
                "the table of contents has {} compressed bytes; at most {} are allowed",
                begin - offset,
                limit::LAYER_TOC
            )));
        }
        Ok(offset..begin)
    }

    async fn index(&self, blob: &Descriptor) -> Result<Index> {
        Index::decode(&self.document(blob).await?)
    }

    /// Returns the verified bytes of a SOCI index or a prefetch artifact.
    async fn document(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        if blob.size > limit::DOCUMENT_READ {
            return Err(Error::out_of_range(format!(
                "the document has {} bytes; at most {} are allowed",
                blob.size,
                limit::DOCUMENT_READ
            )));
        }
        let bytes = self.read(blob, 0..blob.size).await?;
        let found = Digest::of(blob.digest.algorithm(), &bytes);
        if found != blob.digest {
            return Err(Error::corrupt(format!(
                "the document has the digest {found}, expected {}",
                blob.digest
            )));
        }
        Ok(bytes)
    }

    async fn read(&self, blob: &Descriptor, range: Range<u64>) -> Result<Vec<u8>> {
        let _slot = self.slots.acquire(1).await?;
        let _lease = self.quota.acquire().await?;
        read(&self.client, blob, range).await
    }
}

fn no_footer() -> Error {
    Error::corrupt("an annotation names a table of contents, but the layer has no eStargz footer")
}
