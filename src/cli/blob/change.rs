//! `cas blob rm` and `cas blob label`: changes of single blobs.

use std::collections::BTreeMap;

use cas::gc::RemoveOptions;
use cas::{Cas, Digest, Error, Result, labels};
use serde_json::json;

use super::find;
use crate::cli::Context;

/// Removes blobs and prints those that it has removed. Without `force`, removes none of the blobs
/// if one of them is in use.
///
/// # Errors
/// As [`find`] and [`Cas::remove_blobs_with`]; `Conflict` if a blob came into use during the call
/// and was not removed.
pub(super) async fn remove(
    context: &Context,
    cas: &Cas,
    digests: &[String],
    force: bool,
) -> Result<()> {
    let mut blobs = Vec::with_capacity(digests.len());
    for digest in digests {
        blobs.push(find(cas.store(), digest).await?.digest);
    }
    let options = RemoveOptions::default().with_force(force);
    let removed = cas
        .remove_blobs_with(blobs.iter().copied(), options)
        .await?;
    for (digest, size) in &removed.blobs {
        let gone = json!({"removed": digest, "size": size});
        context.out.item(&gone, || format!("removed {digest}"))?;
    }
    let is_left = |blob: &&Digest| removed.blobs.iter().all(|(digest, _)| digest != *blob);
    match blobs.iter().find(is_left) {
        None => Ok(()),
        Some(left) => {
            let why = "not removed: something refers to the blob now; `cas why` shows what \
                       refers to it";
            Err(Error::conflict(why).operation("remove blob").subject(left))
        }
    }
}

/// Sets and removes labels of a blob. Prints all labels that the blob then has.
pub(super) async fn set_labels(
    context: &Context,
    cas: &Cas,
    digest: &str,
    changes: Vec<(String, Option<String>)>,
) -> Result<()> {
    let digest = find(cas.store(), digest).await?.digest;
    let changes: BTreeMap<String, Option<String>> = changes.into_iter().collect();
    let labels = cas.label_blob(&digest, &changes).await?;
    warn_of_absent(context, cas, &changes).await?;
    let shown = json!({"digest": digest, "labels": labels});
    context.out.item(&shown, || {
        let mut lines = vec![digest.to_string()];
        lines.extend(labels.iter().map(|(key, value)| format!("  {key}={value}")));
        lines.join("\n")
    })
}

/// Warns of each label in `changes` that refers to a blob that the store does not have. The label
/// has an effect only once the blob is stored.
async fn warn_of_absent(
    context: &Context,
    cas: &Cas,
    changes: &BTreeMap<String, Option<String>>,
) -> Result<()> {
    for (key, value) in changes {
        let target = value.as_deref().and_then(|value| value.parse().ok());
        let is_reference = key.starts_with(labels::GC_REF_CONTENT);
        let Some(target) = target.filter(|_: &Digest| is_reference) else {
            continue;
        };
        if cas.store().content.stat(&target).await?.is_none() {
            context.progress.warn(&format!(
                "the store does not have {target}; the label {key} keeps that blob once it is \
                 stored"
            ));
        }
    }
    Ok(())
}

/// Parses `KEY=VALUE`, or `KEY=`, which removes the label. Returns the key and the value. For
/// `KEY=`, the value is `None`.
///
/// # Errors
/// A message for text without a key or without `=`.
pub(super) fn label(text: &str) -> std::result::Result<(String, Option<String>), &'static str> {
    match text.split_once('=') {
        None | Some(("", _)) => Err("expected KEY=VALUE, or KEY= to remove the label"),
        Some((key, "")) => Ok((key.to_owned(), None)),
        Some((key, value)) => Ok((key.to_owned(), Some(value.to_owned()))),
    }
}
