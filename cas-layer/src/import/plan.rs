//! Walks the manifests and indexes of a source to find the blobs that an import stores.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;

use bytes::Bytes;
use cas_core::dispatch::{Chooser, read};
use cas_core::document::left_out;
use cas_core::image::ImageConfig;
use cas_core::{
    Descriptor, Digest, Document, Error, ErrorKind, Index, Manifest, Platform, Result, limit,
};
use futures_util::future::BoxFuture;

use super::contents::{Contents, Location, Part};
use super::importer::BlobImporter;
use super::item::Item;
use super::naming::Naming;

/// The blobs to store, and what is needed to find them.
pub(super) struct Plan<'a> {
    pub(super) importer: &'a BlobImporter<'a>,
    pub(super) contents: &'a Contents,
    pub(super) naming: Naming,
    platform: Option<&'a Platform>,
    /// Whether an image without an index must be for the platform.
    pub(super) required: bool,
    pub(super) chooser: Chooser,
    pub(super) leaves: Vec<Item>,
    /// Children before their parents.
    pub(super) documents: Vec<Item>,
    /// The configurations among the leaves.
    pub(super) configs: HashSet<Digest>,
    /// The subject of each visited document that has one.
    subjects: HashMap<Digest, Digest>,
    /// The visited blobs, and what each leads to.
    visited: HashMap<Digest, (Descriptor, Found)>,
    /// The errors for the visited documents that are left out because of digests of unknown
    /// algorithms.
    pub(super) unverifiable: BTreeMap<Digest, Error>,
}

/// What a blob leads to.
#[derive(Clone, Copy, Default)]
struct Found {
    /// Whether it leads to an image or to another blob that is imported.
    leads_to_image: bool,
    /// Whether it leads to an image for the chosen platform.
    is_for_platform: bool,
    /// The document itself, or the first document below it that is listed for the platform, if it
    /// is left out because of digests of unknown algorithms.
    unverifiable: Option<Digest>,
}

/// What a blob without children leads to, and an artifact. They are imported for every platform.
const IMPORTED: Found = Found {
    leads_to_image: true,
    is_for_platform: false,
    unverifiable: None,
};

impl<'a> Plan<'a> {
    /// Creates an empty plan. If `platform` is given, only that platform is planned. If the
    /// platform is not `required`, images without an index are planned even if they are for another
    /// platform.
    pub(super) fn new(
        importer: &'a BlobImporter<'a>,
        contents: &'a Contents,
        platform: Option<&'a Platform>,
        required: bool,
    ) -> Self {
        Plan {
            importer,
            contents,
            naming: Naming::Layout,
            platform,
            required,
            chooser: Chooser::new(platform),
            leaves: Vec::new(),
            documents: Vec::new(),
            configs: HashSet::new(),
            subjects: HashMap::new(),
            visited: HashMap::new(),
            unverifiable: BTreeMap::new(),
        }
    }

    /// Returns the error for a source without an image for the platform, or `None` if any platform
    /// is accepted.
    pub(super) fn no_platform(&self) -> Option<Error> {
        let wanted = self.platform?;
        let others = self.chooser.others();
        Some(Error::not_found(format!(
            "the source has nothing for {wanted}; {others}"
        )))
    }

    /// Adds what `root` reaches. Returns `false` if none of it is for the platform, or if `root` is
    /// an index and none of the manifests that it lists can be found and verified.
    ///
    /// # Errors
    /// `Corrupt` for damaged content, or if descriptors contradict each other; `NotFound` for
    /// missing content; `OutOfRange` for a document that is too large, or indexes that are nested
    /// too deeply; `Unsupported` if a document below `root` that is listed for the platform is left
    /// out because of digests of unknown algorithms, and no image below `root` is for the platform;
    /// errors of the source and of the store.
    pub(super) async fn visit(&mut self, root: &Descriptor) -> Result<bool> {
        self.offer(root).await?;
        let chosen = self.chooser.choose(std::slice::from_ref(root));
        if chosen.is_empty() {
            return Ok(false);
        }
        let found = self.descend(root, 1).await?;
        let is_needed = |digest: &Digest| !found.is_for_platform && *digest != root.digest;
        let unverifiable = found.unverifiable.filter(is_needed);
        match unverifiable.and_then(|digest| self.unverifiable.remove(&digest)) {
            None => Ok(found.leads_to_image),
            Some(error) => Err(error),
        }
    }

    /// Returns the subject of a visited document, if the subject is planned, too.
    pub(super) fn subject(&self, referrer: &Digest) -> Option<&Descriptor> {
        let subject = self.subjects.get(referrer)?;
        let (descriptor, found) = self.visited.get(subject)?;
        let is_planned = found.leads_to_image && descriptor.digest != *referrer;
        is_planned.then_some(descriptor)
    }

    fn descend<'b>(
        &'b mut self,
        descriptor: &'b Descriptor,
        depth: usize,
    ) -> BoxFuture<'b, Result<Found>> {
        Box::pin(async move {
            if let Some((known, found)) = self.visited.get(&descriptor.digest) {
                check_same(known, descriptor)?;
                return Ok(*found);
            }
            // A manifest in the innermost index is not a level of its own.
            let is_index = descriptor.media_type.is_index();
            if depth > limit::INDEX_DEPTH + usize::from(!is_index) {
                let allowed = limit::INDEX_DEPTH;
                return Err(Error::out_of_range(format!(
                    "indexes are nested more than {allowed} levels deep; build the image again"
                ))
                .subject(descriptor.digest));
            }
            let Some(part) = self.locate(descriptor).await? else {
                return Err(incomplete(descriptor));
            };
            let kind = &descriptor.media_type;
            if !kind.is_document() {
                self.add_leaf(descriptor.clone(), part)?;
                return Ok(IMPORTED);
            }
            let data = self.read(descriptor, &part).await?;
            let named = |error: Error| error.operation("read").subject(descriptor.digest);
            let document = match Document::parse(kind, &data).map_err(named) {
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    return Ok(self.leave_out(descriptor, error));
                }
                document => document?,
            };
            if is_index {
                self.warn_of_left_out(descriptor.digest, &data);
            }
            let children = document.children().map(|child| child.digest).collect();
            if let Some(subject) = document.subject() {
                self.subjects.insert(descriptor.digest, subject.digest);
            }
            let found = match document {
                Document::Index(index) => self.index(&index, depth).await?,
                Document::Manifest(manifest) => self.manifest(descriptor, &manifest, depth).await?,
            };
            if found.leads_to_image {
                self.add_document(descriptor.clone(), children, part);
            }
            self.visited
                .insert(descriptor.digest, (descriptor.clone(), found));
            Ok(found)
        })
    }

    /// Warns of the entries that are left out of the index with this name and these bytes.
    pub(super) fn warn_of_left_out(&self, index: impl Display, data: &[u8]) {
        if let Some(what) = left_out(data) {
            self.importer.progress.warn(&format!(
                "{index}: {what}; only the other entries are imported"
            ));
        }
    }

    /// Leaves out a document with digests of unknown algorithms. `error` states this. Returns what
    /// the document leads to.
    fn leave_out(&mut self, document: &Descriptor, error: Error) -> Found {
        let why = error.without_advice();
        let progress = self.importer.progress;
        progress.warn(&format!("{why}; the document is not imported"));
        let found = Found {
            unverifiable: Some(document.digest),
            ..Found::default()
        };
        self.visited
            .insert(document.digest, (document.clone(), found));
        self.unverifiable.insert(document.digest, error);
        found
    }

    /// If the source or the store has the content of a descriptor, adds the platform of the
    /// descriptor to those that an error message offers.
    async fn offer(&mut self, listed: &Descriptor) -> Result<()> {
        let says = !self.chooser.takes_all() && listed.platform.is_some();
        if says && self.locate(listed).await?.is_some() {
            self.chooser.offer(listed);
        }
        Ok(())
    }

    /// Follows the chosen children that can be found, and skips all others. If the best matches for
    /// the platform are left out because of digests of unknown algorithms, follows the best of the
    /// other matches instead. An empty index leads to an image.
    async fn index(&mut self, index: &Index, depth: usize) -> Result<Found> {
        for listed in &index.manifests {
            self.offer(listed).await?;
        }
        let mut found = Found {
            leads_to_image: index.manifests.is_empty(),
            is_for_platform: self.chooser.takes_all(),
            unverifiable: None,
        };
        let mut listed = index.manifests.clone();
        loop {
            for child in self.chooser.choose(&listed) {
                if self.locate(&child).await?.is_none() {
                    continue;
                }
                let below = self.descend(&child, depth + 1).await?;
                let is_listed = child.platform.is_some();
                let counts = |digest: &Digest| is_listed || *digest != child.digest;
                found.leads_to_image |= below.leads_to_image;
                found.is_for_platform |= below.leads_to_image && is_listed || below.is_for_platform;
                let unverifiable = below.unverifiable.filter(counts);
                found.unverifiable = found.unverifiable.or(unverifiable);
            }
            let before = listed.len();
            listed.retain(|child| {
                let below = self.visited.get(&child.digest);
                below.is_none_or(|(_, one)| one.leads_to_image || one.unverifiable.is_none())
            });
            if found.is_for_platform || listed.len() == before {
                return Ok(found);
            }
        }
    }

    /// Adds the configuration and the layers, unless the manifest must be for the platform and is
    /// not.
    async fn manifest(
        &mut self,
        own: &Descriptor,
        manifest: &Manifest,
        depth: usize,
    ) -> Result<Found> {
        let is_tested = self.required || depth > 1;
        let mut suits = None;
        if own.platform.is_none() && is_tested {
            suits = self.suits(&manifest.config).await?;
        }
        if suits == Some(false) {
            return Ok(Found::default());
        }
        self.configs.insert(manifest.config.digest);
        for child in std::iter::once(&manifest.config).chain(&manifest.layers) {
            match self.locate(child).await? {
                // The media type of a child decides how the child is read, as in every other walk
                // of an image.
                Some(_) if child.media_type.is_document() => {
                    self.descend(child, depth + 1).await?;
                }
                Some(part) => self.add_leaf(child.clone(), part)?,
                None if child.media_type.is_non_distributable() => {}
                None => return Err(incomplete(child)),
            }
        }
        Ok(Found {
            is_for_platform: suits == Some(true),
            ..IMPORTED
        })
    }

    /// Returns whether the configuration of a manifest without platform is for the wanted platform.
    /// Returns `None` for an artifact, which is for every platform, and if every platform is
    /// wanted.
    async fn suits(&mut self, config: &Descriptor) -> Result<Option<bool>> {
        if self.chooser.takes_all() {
            return Ok(None);
        }
        let Some(part) = self.locate(config).await? else {
            return Err(incomplete(config));
        };
        if part.size > limit::DOCUMENT_READ && !config.media_type.is_config() {
            return Ok(None);
        }
        let data = self.read(config, &part).await?;
        let named = |error: Error| error.operation("read").subject(config.digest);
        let found = ImageConfig::recognise(&config.media_type, &data).map_err(named)?;
        Ok(found.map(|found| {
            let platform = Some(found.platform).filter(|platform| !platform.is_unstated());
            self.chooser.matches(platform.as_ref())
        }))
    }

    /// Finds the content of `descriptor` in the source, or else in the store, or else embedded in
    /// the descriptor. A stored blob of another size is damaged and counts as absent.
    async fn locate(&self, descriptor: &Descriptor) -> Result<Option<Part>> {
        for path in self.naming.paths(&descriptor.digest) {
            if let Some(part) = self.contents.find(&path)? {
                return Ok(Some(part));
            }
        }
        let (digest, size) = (descriptor.digest, descriptor.size);
        let stat = self.importer.store.content.stat(&digest).await?;
        let location = if stat.is_some_and(|stat| stat.size == size) {
            Location::Stored(digest)
        } else if descriptor.data.is_some() {
            Location::Memory(read(&*self.importer.store.content, descriptor).await?)
        } else {
            return Ok(None);
        };
        Ok(Some(Part { size, location }))
    }

    /// Reads and verifies a document.
    async fn read(&self, descriptor: &Descriptor, part: &Part) -> Result<Bytes> {
        let named = |error: Error| error.operation("read").subject(descriptor.digest);
        let data = part.document(self.importer.store).await.map_err(named)?;
        let found = Digest::of(descriptor.digest.algorithm(), &data);
        if data.len() as u64 != descriptor.size || found != descriptor.digest {
            return Err(named(Error::corrupt(format!(
                "expected {} bytes of this digest, found {} bytes of {found}; import an intact \
                 copy",
                descriptor.size,
                data.len()
            ))));
        }
        Ok(data)
    }

    /// Adds a blob without children.
    pub(super) fn add_leaf(&mut self, descriptor: Descriptor, part: Part) -> Result<()> {
        if let Some((known, _)) = self.visited.get(&descriptor.digest) {
            return check_same(known, &descriptor);
        }
        self.visited
            .insert(descriptor.digest, (descriptor.clone(), IMPORTED));
        self.leaves.push(Item {
            descriptor,
            children: Vec::new(),
            part,
        });
        Ok(())
    }

    /// Adds a manifest or an index. Its children must have been added before.
    pub(super) fn add_document(
        &mut self,
        descriptor: Descriptor,
        children: Vec<Digest>,
        part: Part,
    ) {
        self.visited
            .insert(descriptor.digest, (descriptor.clone(), IMPORTED));
        self.documents.push(Item {
            descriptor,
            children,
            part,
        });
    }
}

/// Checks that the descriptors of a digest have the same size, and that they have the same media
/// type if one of them is a document. Otherwise, readers could understand the blob differently. A
/// layer may have two types, because manifests of docker and OCI manifests may share it.
fn check_same(known: &Descriptor, descriptor: &Descriptor) -> Result<()> {
    let types = [&known.media_type, &descriptor.media_type];
    let are_alike = types[0] == types[1] || !types.iter().any(|kind| kind.is_document());
    if known.size == descriptor.size && are_alike {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the source describes this blob both as {} bytes of {:.200} and as {} bytes of {:.200}; \
         build the image again",
        known.size, known.media_type, descriptor.size, descriptor.media_type
    ))
    .operation("read")
    .subject(descriptor.digest))
}

fn incomplete(descriptor: &Descriptor) -> Error {
    Error::not_found(format!(
        "the source is incomplete: it lists this blob of type {:.200} but does not contain it; \
         import a complete copy",
        descriptor.media_type
    ))
    .operation("read")
    .subject(descriptor.digest)
}
