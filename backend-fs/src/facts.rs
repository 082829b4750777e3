//! The sizes and the types of the blobs to which the entries of `index.json` refer.

use std::collections::HashMap;
use std::sync::Mutex;

use cas_core::content::Version;
use cas_core::sync::lock;
use cas_core::{Descriptor, Digest, MediaType, Result, document_type, limit};

use crate::blobs::Blobs;
use crate::reader::{hashes_to, read};

/// The size and the type of a stored blob.
#[derive(Clone)]
pub(crate) struct Facts {
    size: u64,
    /// The type of a document; [`MediaType::BYTES`] for any other content.
    media_type: MediaType,
    /// Whether the blob was hashed and has its digest. The size of a damaged blob may be wrong.
    is_sound: bool,
}

/// The facts that were found so far. Many entries may have the same content, which is read once.
#[derive(Default)]
pub(crate) struct KnownFacts(Mutex<HashMap<Digest, (Version, Facts)>>);

impl KnownFacts {
    /// Returns the facts about a blob, or `None` if it is absent. A blob of more than
    /// [`limit::DOCUMENT_READ`] bytes is not read, so it does not count as sound.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn of(&self, blobs: &Blobs, digest: &Digest) -> Result<Option<Facts>> {
        let Some(stat) = blobs.stat(digest)? else {
            return Ok(None);
        };
        if let Some((version, facts)) = lock(&self.0).get(digest)
            && *version == stat.version
        {
            return Ok(Some(facts.clone()));
        }
        let Some((file, size)) = blobs.open_blob(digest)? else {
            return Ok(None);
        };
        let (found, is_sound) = match size <= limit::DOCUMENT_READ {
            true => {
                let data = read(&file, 0, size as usize)?;
                let hashed = Digest::of(digest.algorithm(), &data);
                (document_type(&data), hashed == *digest)
            }
            false => (None, false),
        };
        let facts = Facts {
            size,
            media_type: found.unwrap_or(MediaType::BYTES),
            is_sound,
        };
        lock(&self.0).insert(*digest, (stat.version, facts.clone()));
        Ok(Some(facts))
    }

    /// Returns the facts about the blob of a target, or `None` if it is absent or damaged. A blob
    /// that [`KnownFacts::of`] does not read is hashed if the target states another size.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn of_sound(&self, blobs: &Blobs, target: &Descriptor) -> Result<Option<Facts>> {
        let Some(mut facts) = self.of(blobs, &target.digest)? else {
            return Ok(None);
        };
        if facts.is_sound || facts.size > limit::DOCUMENT_READ && facts.size == target.size {
            return Ok(Some(facts));
        }
        if facts.size > limit::DOCUMENT_READ
            && let Some((file, _)) = blobs.open_blob(&target.digest)?
        {
            facts.is_sound = hashes_to(&file, &target.digest)?;
        }
        Ok(facts.is_sound.then_some(facts))
    }

    /// Adds the size and the type of the content to a target whose entry does not state them.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn complete(&self, blobs: &Blobs, mut target: Descriptor) -> Result<Descriptor> {
        if (target.size == 0 || target.media_type.as_str().is_empty())
            && let Some(facts) = self.of(blobs, &target.digest)?
        {
            facts.complete(&mut target);
        }
        Ok(target)
    }

    /// Does the same as [`KnownFacts::complete`], and corrects the type of a document that is
    /// stated to be something else. A collection must keep what the document lists.
    ///
    /// # Errors
    /// Errors of the file system.
    pub(crate) fn correct(&self, blobs: &Blobs, mut target: Descriptor) -> Result<Descriptor> {
        if (target.size == 0 || !target.media_type.is_document())
            && let Some(facts) = self.of(blobs, &target.digest)?
        {
            facts.correct(&mut target);
        }
        Ok(target)
    }
}

impl Facts {
    fn complete(&self, target: &mut Descriptor) {
        if target.size == 0 {
            target.size = self.size;
        }
        if target.media_type.as_str().is_empty() {
            target.media_type = self.media_type.clone();
        }
    }

    /// Adds the size and the type to a target that does not state them. Corrects the size if the
    /// content is sound, and the type of a document that is stated to be something else.
    pub(crate) fn correct(&self, target: &mut Descriptor) {
        self.complete(target);
        if self.is_sound {
            target.size = self.size;
        }
        let (found, stated) = (&self.media_type, &target.media_type);
        let is_same_kind = stated.is_document() && stated.is_index() == found.is_index();
        if found.is_document() && !is_same_kind {
            target.media_type = found.clone();
        }
    }
}
