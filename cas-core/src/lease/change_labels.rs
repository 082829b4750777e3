//! Labels that a user sets on a blob.

use std::collections::BTreeMap;

use super::add::describe;
use super::guard::LeaseGuard;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::gc;
use crate::labels::{GC, Labels};
use crate::records::BlobRecord;
use crate::store::Store;

/// Changes labels of a blob in the store: sets those with a value, and removes those without one.
/// Returns all labels that the blob has then.
///
/// A label that keeps content is written like a name: what the blob lists, and the content that
/// the label refers to, is pinned first. Content that is not in the store yet may be referred to.
///
/// # Errors
/// `NotFound` if the blob is not in the store, or something that a label would keep was lost;
/// `InvalidArgument` for labels that exceed their bounds, and for labels of garbage collection
/// that have no meaning on a blob; errors of the records store.
pub async fn change_labels(
    store: &Store,
    digest: &Digest,
    changes: &BTreeMap<String, Option<String>>,
) -> Result<Labels> {
    let changed = change(store, digest, changes).await;
    changed.map_err(|error| error.operation("label blob"))
}

async fn change(
    store: &Store,
    digest: &Digest,
    changes: &BTreeMap<String, Option<String>>,
) -> Result<Labels> {
    if let Some(key) = changes.keys().find(|key| !is_key(key)) {
        let why = "expected a key without blanks and control characters";
        return Err(Error::invalid(why).subject(format!("{key:.100}")));
    }
    let added = changes.iter();
    let added = added.filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
    let added: Labels = added.filter(|(key, _)| key.starts_with(GC)).collect();
    gc::check_meaning(&added)?;
    let described = describe(store, digest).await?;
    if added.is_empty() {
        return apply(store, &described, changes).await;
    }
    let guard = LeaseGuard::begin(store, "label").await?;
    let written = match pin_kept(store, &guard, &described, &added).await {
        Ok(()) => apply(store, &described, changes).await,
        Err(error) => Err(error),
    };
    guard.finish_with(written).await
}

fn is_key(key: &str) -> bool {
    let blank = |letter: char| letter.is_control() || letter.is_whitespace();
    !key.is_empty() && !key.contains(blank)
}

/// Pins a blob and what labels make it refer to, with everything below.
async fn pin_kept(
    store: &Store,
    guard: &LeaseGuard,
    described: &Descriptor,
    added: &Labels,
) -> Result<()> {
    guard.pin_tree(described).await?;
    for target in gc::referenced_content(added) {
        if store.content.stat(&target).await?.is_some() {
            guard.pin_tree(&describe(store, &target).await?).await?;
        }
    }
    Ok(())
}

async fn apply(
    store: &Store,
    descriptor: &Descriptor,
    changes: &BTreeMap<String, Option<String>>,
) -> Result<Labels> {
    let change = |found: Option<BlobRecord>| {
        let mut record = found.unwrap_or_else(|| BlobRecord::new(descriptor.size, None));
        for (key, value) in changes {
            match value {
                Some(value) => record.labels.insert(key.clone(), value.clone()),
                None => record.labels.remove(key),
            };
        }
        Ok(record)
    };
    let written = store.blobs().update(&descriptor.digest, change).await?;
    Ok(written.labels)
}
