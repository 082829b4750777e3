//! Lists the referrers of a manifest or an index in a store.

use std::collections::BTreeSet;

use super::describe::describe;
use crate::complete::is_of_document;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::labels::{GC_REF_REFERRER, kept_referrers};
use crate::store::Store;
use crate::{dispatch, limit};

/// Returns the referrers of `subject`, which is a manifest or an index: the referrers that labels
/// of `subject` keep ([`GC_REF_REFERRER`]), and those that the store lists without a name
/// ([`ImageStore::unnamed`](crate::ImageStore::unnamed)). The referrers are in the order of their
/// digests. Referrers whose bytes were lost are left out.
///
/// Each entry has the annotations and the artifact type of its referrer. The entry lacks both if
/// the referrer is damaged, too large to be read, or neither a manifest nor an index. The entry
/// also lacks both if the annotations and artifact types of this referrer and of all referrers
/// before it have more than [`limit::DOCUMENT_READ`] bytes together.
///
/// # Errors
/// `OutOfRange` if `subject` has more than [`limit::REFERRERS`] referrers; `Corrupt` if the record
/// of `subject` or of a referrer does not parse; `NotFound` if a referrer is removed meanwhile;
/// errors of the store.
pub async fn referrers(store: &Store, subject: &Digest) -> Result<Vec<Descriptor>> {
    let loaded = store.blobs().load(subject).await?;
    let labels = loaded.map(|(record, _)| record.labels).unwrap_or_default();
    let mut digests: BTreeSet<Digest> = kept_referrers(&labels).collect();
    for image in store.images.unnamed().await? {
        let found = stored_subject(store, &image.target).await?;
        if found.is_some_and(|found| found.digest == *subject) {
            digests.insert(image.target.digest);
        }
    }
    if digests.len() > limit::REFERRERS {
        let (found, allowed) = (digests.len(), limit::REFERRERS);
        return Err(Error::out_of_range(format!(
            "the document has {found} referrers: at most {allowed} can be listed; remove its \
             labels {GC_REF_REFERRER}… that refer to unneeded referrers"
        ))
        .operation("list referrers")
        .subject(subject));
    }
    let (mut found, mut texts) = (Vec::with_capacity(digests.len()), 0);
    for digest in digests {
        if store.content.stat(&digest).await?.is_none() {
            continue;
        }
        let own = describe(store, &digest).await?;
        let entry = match dispatch::document(&*store.content, &own).await {
            Ok(document) => document.listed_as_referrer(&own),
            Err(error) if is_of_document(&error) => own.clone(),
            Err(error) => return Err(error),
        };
        texts += entry.text_size();
        found.push(match texts > limit::DOCUMENT_READ {
            true => own,
            false => entry,
        });
    }
    Ok(found)
}

/// Returns the subject that a manifest or an index, `own`, states. Returns `None` if `own` states
/// no subject, or one that the store does not have. Also returns `None` if `own` is missing,
/// damaged or too large to be read, or is neither a manifest nor an index.
///
/// # Errors
/// Errors of the store.
pub async fn stored_subject(store: &Store, own: &Descriptor) -> Result<Option<Descriptor>> {
    if !own.media_type.is_document() {
        return Ok(None);
    }
    let document = match dispatch::document(&*store.content, own).await {
        Err(error) if is_of_document(&error) => return Ok(None),
        document => document?,
    };
    let Some(subject) = document.subject() else {
        return Ok(None);
    };
    let stored = store.content.stat(&subject.digest).await?;
    Ok(stored.map(|_| subject.clone()))
}
