//! Labels that a user sets on a blob.

use std::collections::BTreeMap;

use super::guard::LeaseGuard;
use crate::blob::describe;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::gc;
use crate::image::fieldpath;
use crate::labels::{GC, Labels};
use crate::owner::Owner;
use crate::records::BlobRecord;
use crate::store::Store;

/// Changes labels of a blob in the store. Sets each label for which `changes` has a value, and
/// removes each label for which `changes` has `None`. Returns all labels that the blob has
/// afterwards.
///
/// If this call sets a label whose key begins with [`GC`], a lease pins the blob until the labels
/// are written. The lease also pins the content that new `gc.ref.content` labels refer to. Both are
/// pinned with everything below them. A label may also refer to content that is not in the store
/// yet. Such content is not pinned.
///
/// # Errors
/// `NotFound` if the blob is not in the store, or if content that must be pinned is recorded as
/// stored but is missing; `InvalidArgument` for a key that is empty or has blanks or control
/// characters, for labels that exceed their bounds, and for a new label whose key begins with
/// [`GC`] if its key has no meaning on a blob or its value is invalid; `Denied` if the store is
/// opened for an owner and only other owners claim the blob; `Corrupt` for a damaged document or
/// record; `OutOfRange` for a document that is too large to be read; `Conflict` if pinned content
/// was collected meanwhile, or if every attempt lost against another writer; errors of the store.
pub async fn change_labels(
    store: &Store,
    digest: &Digest,
    changes: &BTreeMap<String, Option<String>>,
) -> Result<Labels> {
    let added = changes.iter();
    let added = added.filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
    let change = |labels: &mut Labels| {
        for (key, value) in changes {
            match value {
                Some(value) => labels.insert(key.clone(), value.clone()),
                None => labels.remove(key),
            };
        }
        Ok(())
    };
    let changed = match changes.keys().try_for_each(check_key) {
        Ok(()) => write(store, digest, added.collect(), &change).await,
        Err(error) => Err(error),
    };
    changed.map_err(|error| error.operation("label blob"))
}

/// Replaces labels of a blob in the store with the labels in `update`. The field path `labels`
/// selects all labels, and `labels.<key>` selects one label. Without field paths, all labels are
/// selected. A selected label that `update` does not have, or has with an empty value, is removed.
/// Content is pinned as by [`change_labels`]. Returns all labels that the blob has afterwards.
///
/// # Errors
/// As [`change_labels`], but only the keys of labels that are set are checked; `InvalidArgument`
/// for a field path other than `labels` and `labels.<key>`.
pub async fn update_labels(
    store: &Store,
    digest: &Digest,
    update: &Labels,
    fieldpaths: &[&str],
) -> Result<Labels> {
    let change = |labels: &mut Labels| fieldpath::update_labels(labels, update, fieldpaths);
    let mut added = Labels::new();
    let checked = change(&mut added).and_then(|()| added.keys().try_for_each(check_key));
    let updated = match checked {
        Ok(()) => write(store, digest, added, &change).await,
        Err(error) => Err(error),
    };
    updated.during("label blob", digest)
}

/// Changes the labels of a blob. `added` are the labels that the change sets.
async fn write(
    store: &Store,
    digest: &Digest,
    mut added: Labels,
    change: &(dyn Fn(&mut Labels) -> Result<()> + Send + Sync),
) -> Result<Labels> {
    added.retain(|key, _| key.starts_with(GC));
    gc::check_meaning(&added)?;
    let described = describe(store, digest).await?;
    if added.is_empty() {
        return apply(store, &described, change).await;
    }
    let guard = LeaseGuard::begin(store, "label").await?;
    let written = match pin_kept(store, &guard, &described, &added).await {
        Ok(()) => apply(store, &described, change).await,
        Err(error) => Err(error),
    };
    guard.finish_with(written).await
}

fn check_key(key: &String) -> Result<()> {
    if is_key(key) {
        return Ok(());
    }
    let why = "expected a key of at least one character, without blanks or control characters";
    Err(Error::invalid(why).subject(format!("{key:.100}")))
}

fn is_key(key: &str) -> bool {
    let blank = |letter: char| letter.is_control() || letter.is_whitespace();
    !key.is_empty() && !key.contains(blank)
}

/// Pins a blob and the content that its new labels refer to, with everything below.
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
    change: &(dyn Fn(&mut Labels) -> Result<()> + Send + Sync),
) -> Result<Labels> {
    let update = |found: Option<BlobRecord>| {
        let mut record = found.unwrap_or_else(|| BlobRecord::new(descriptor.size, None));
        check_claim(&record, store.owner())?;
        change(&mut record.labels)?;
        Ok(record)
    };
    let written = store.blobs().update(&descriptor.digest, update).await?;
    Ok(written.labels)
}

/// Checks that `owner` may label a blob: no owner claims the blob, or `owner` does.
fn check_claim(record: &BlobRecord, owner: Option<&Owner>) -> Result<()> {
    match owner {
        Some(owner) if !record.owners.is_empty() && !record.owners.contains(owner) => {
            let why = format!("only other owners claim the blob; store the blob for {owner} first");
            Err(Error::new(ErrorKind::Denied, why))
        }
        _ => Ok(()),
    }
}
