//! Lists the referrers of a manifest or an index in a store.

use super::describe::describe;
use crate::complete::is_of_document;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::labels::{GC_REF_REFERRER, kept_referrers};
use crate::store::Store;
use crate::{dispatch, limit};

/// Returns the referrers that were stored with `subject`, which is a manifest or an index. The
/// referrers are in the order of their digests. Returns nothing if the store has no record of
/// `subject`. Referrers whose bytes were lost are left out.
///
/// Each entry has the annotations and the artifact type of its referrer. The entry lacks both if
/// the referrer is damaged, too large to be read, or neither a manifest nor an index. Entries
/// beyond the first [`limit::DOCUMENT_READ`] bytes of annotations and artifact types also lack
/// both.
///
/// # Errors
/// `OutOfRange` if `subject` has more than [`limit::REFERRERS`] referrers; `Corrupt` if the record
/// of `subject` or of a referrer does not parse; `NotFound` if a referrer is removed meanwhile;
/// errors of the store.
pub async fn referrers(store: &Store, subject: &Digest) -> Result<Vec<Descriptor>> {
    let Some((record, _)) = store.blobs().load(subject).await? else {
        return Ok(Vec::new());
    };
    let digests: Vec<Digest> = kept_referrers(&record.labels).collect();
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
