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
    /// The visited blobs, and whether each leads to an image.
    visited: HashMap<Digest, (Descriptor, bool)>,
    /// The errors for the visited documents that are left out because of digests of unknown
    /// algorithms.
    pub(super) unverifiable: BTreeMap<Digest, Error>,
}

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
    /// too deeply; errors of the source and of the store.
    pub(super) async fn visit(&mut self, root: &Descriptor) -> Result<bool> {
        self.offer(root).await?;
        let chosen = self.chooser.choose(std::slice::from_ref(root));
        match chosen.first() {
            None => Ok(false),
            Some(_) => self.descend(root, 1).await,
        }
    }

    /// Returns the subject of a visited document, if the subject is planned, too.
    pub(super) fn subject(&self, referrer: &Digest) -> Option<&Descriptor> {
        let subject = self.subjects.get(referrer)?;
        match self.visited.get(subject)? {
            (descriptor, true) if descriptor.digest != *referrer => Some(descriptor),
            _ => None,
        }
    }

    fn descend<'b>(
        &'b mut self,
        descriptor: &'b Descriptor,
        depth: usize,
    ) -> BoxFuture<'b, Result<bool>> {
        Box::pin(async move {
            if let Some((known, leads_to_image)) = self.visited.get(&descriptor.digest) {
                check_same(known, descriptor)?;
                return Ok(*leads_to_image);
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
                return Ok(true);
            }
            let data = self.read(descriptor, &part).await?;
            let named = |error: Error| error.operation("read").subject(descriptor.digest);
            let document = match Document::parse(kind, &data).map_err(named) {
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    self.leave_out(descriptor, error);
                    return Ok(false);
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
            let leads_to_image = match document {
                Document::Index(index) => self.index(&index, depth).await?,
                Document::Manifest(manifest) => self.manifest(descriptor, &manifest, depth).await?,
            };
            if leads_to_image {
                self.add_document(descriptor.clone(), children, part);
            } else {
                self.visited
                    .insert(descriptor.digest, (descriptor.clone(), false));
            }
            Ok(leads_to_image)
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

    /// Leaves out a document with digests of unknown algorithms. `error` states this.
    fn leave_out(&mut self, document: &Descriptor, error: Error) {
        let why = error.without_advice();
        let progress = self.importer.progress;
        progress.warn(&format!("{why}; the document is not imported"));
        self.visited
            .insert(document.digest, (document.clone(), false));
        self.unverifiable.insert(document.digest, error);
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

    /// Follows the chosen children that can be found, and skips all others. Returns `true` if a
    /// followed child leads to an image, or if the index is empty.
    ///
    /// # Errors
    /// As [`Plan::visit`]; the error for a child that was left out, if the index lists the child
    /// for the chosen platform, and no other child for this platform leads to an image.
    async fn index(&mut self, index: &Index, depth: usize) -> Result<bool> {
        for listed in &index.manifests {
            self.offer(listed).await?;
        }
        let chosen = self.chooser.choose(&index.manifests);
        let mut leads_to_image = index.manifests.is_empty();
        let mut is_for_platform = self.chooser.takes_all();
        for child in &chosen {
            if self.locate(child).await?.is_some() {
                let leads = self.descend(child, depth + 1).await?;
                leads_to_image |= leads;
                is_for_platform |= leads && child.platform.is_some();
            }
        }
        if !is_for_platform {
            let mut of_platform = chosen.iter().filter(|child| child.platform.is_some());
            let error = of_platform.find_map(|child| self.unverifiable.remove(&child.digest));
            return error.map_or(Ok(leads_to_image), Err);
        }
        Ok(leads_to_image)
    }

    /// Adds the configuration and the layers. Returns `false`, without adding them, if the manifest
    /// must be for the platform and is not.
    async fn manifest(
        &mut self,
        own: &Descriptor,
        manifest: &Manifest,
        depth: usize,
    ) -> Result<bool> {
        let is_tested = self.required || depth > 1;
        if own.platform.is_none() && is_tested && !self.suits(&manifest.config).await? {
            return Ok(false);
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
        Ok(true)
    }

    /// Returns whether the configuration of a manifest without platform is for the wanted platform.
    /// An artifact is for every platform.
    async fn suits(&mut self, config: &Descriptor) -> Result<bool> {
        if self.chooser.takes_all() {
            return Ok(true);
        }
        let Some(part) = self.locate(config).await? else {
            return Err(incomplete(config));
        };
        if part.size > limit::DOCUMENT_READ && !config.media_type.is_config() {
            return Ok(true);
        }
        let data = self.read(config, &part).await?;
        let named = |error: Error| error.operation("read").subject(config.digest);
        let found = ImageConfig::recognise(&config.media_type, &data).map_err(named)?;
        let platform = found.map(|found| found.platform);
        let platform = platform.filter(|platform| !platform.is_unstated());
        Ok(self.chooser.matches(platform.as_ref()))
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
            .insert(descriptor.digest, (descriptor.clone(), true));
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
            .insert(descriptor.digest, (descriptor.clone(), true));
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
