//! The labels by which a parent keeps its children. Collections follow these labels.

use std::collections::HashMap;

use async_trait::async_trait;

use super::guard::LeaseGuard;
use super::pin::BlobRef;
use crate::descriptor::Descriptor;
use crate::dispatch::{Handler, Next};
use crate::error::{Error, Result};
use crate::gc;
use crate::labels::{Labels, gc_ref_child};
use crate::records::{BlobRecord, LEASE_TTL};
use crate::store::Store;

/// Returns the label keys under which a parent refers to `child`. [`set_children_mapped_labels`]
/// describes how the keys are completed.
pub fn child_gc_labels(child: &Descriptor) -> Vec<String> {
    vec![gc_ref_child(child)]
}

/// Returns no keys for a layer, and the keys of [`child_gc_labels`] for any other child. The
/// function `ChildGCLabelsFilterLayers` of containerd does the same. A collection of this crate
/// ([`gc`](crate::gc)) still keeps the layers, because it also follows the children that records
/// and documents list.
pub fn child_gc_labels_filter_layers(child: &Descriptor) -> Vec<String> {
    if child.media_type.is_layer() {
        return Vec::new();
    }
    child_gc_labels(child)
}

/// Returns a handler that calls `handler`, and then stores labels on each document whose children
/// `handler` returned. The labels refer to these children. [`child_gc_labels`] returns the keys of
/// the labels.
pub fn set_children_labels<'a>(store: &'a Store, handler: impl Handler + 'a) -> impl Handler + 'a {
    set_children_mapped_labels(store, handler, child_gc_labels)
}

/// Returns a handler that calls `handler`, and then stores labels on each document whose children
/// `handler` returned. The labels refer to these children. `map` returns the label keys of a child,
/// which are completed in this way:
///
/// - To a key that ends with `.sha256.`, the first 12 digits of the child's digest are appended.
/// - To any other key that ends with a dot, a number is appended: 0 for the first child of the
///   document that has this key, 1 for the second child, and so on.
/// - To a key that does not end with a dot, the same number is appended, except for the first
///   child, whose key stays unchanged.
///
/// The returned handler fails with `NotFound` if a document that gets labels is not in the store.
pub fn set_children_mapped_labels<'a>(
    store: &'a Store,
    handler: impl Handler + 'a,
    map: impl Fn(&Descriptor) -> Vec<String> + Send + Sync + 'a,
) -> impl Handler + 'a {
    SetLabels {
        store,
        handler,
        map,
    }
}

struct SetLabels<'a, H, M> {
    store: &'a Store,
    handler: H,
    map: M,
}

#[async_trait]
impl<H, M> Handler for SetLabels<'_, H, M>
where
    H: Handler,
    M: Fn(&Descriptor) -> Vec<String> + Send + Sync,
{
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let next = self.handler.handle(descriptor).await?;
        if let Next::Children(children) = &next {
            let labels = completed(children, &self.map);
            if !labels.is_empty() {
                set_labels(self.store, descriptor, &labels).await?;
            }
        }
        Ok(next)
    }
}

fn completed(children: &[Descriptor], map: impl Fn(&Descriptor) -> Vec<String>) -> Labels {
    let mut counts = HashMap::<String, usize>::new();
    let mut labels = Labels::new();
    for child in children {
        for mut label in map(child) {
            let count = counts.entry(label.clone()).or_default();
            if label.ends_with(".sha256.") {
                label.push_str(&child.digest.hex()[..12]);
            } else if *count > 0 || label.ends_with('.') {
                label.push_str(&count.to_string());
            }
            *count += 1;
            labels.insert(label, child.digest.to_string());
        }
    }
    labels
}

/// Adds labels to the record of a blob in the store. If the record already has a label with the
/// same key, its value is replaced. Labels with other keys stay as they are.
///
/// # Errors
/// `NotFound` if the blob is not in the store or is being collected; `InvalidArgument` for labels
/// that exceed their bounds; `Corrupt` if the stored blob does not have the size that `descriptor`
/// states, or if a record does not parse; `Conflict` if every attempt lost against another writer;
/// errors of the store.
pub async fn set_labels(store: &Store, descriptor: &Descriptor, labels: &Labels) -> Result<()> {
    if !store.present(descriptor).await? {
        return Err(
            Error::not_found("no such blob in the store; store it first")
                .operation("label")
                .subject(descriptor.digest),
        );
    }
    let children: Vec<BlobRef> = gc::referenced_content(labels)
        .map(BlobRef::existing)
        .collect();
    if children.is_empty() {
        return write(store, descriptor, labels).await;
    }
    // A collection must not tombstone the targets before it can read the references.
    let guard = LeaseGuard::begin_for(store, "label", LEASE_TTL).await?;
    let written = match guard.pin_all(&children).await {
        Ok(_) => write(store, descriptor, labels).await,
        Err(error) => Err(error),
    };
    guard.finish_with(written).await
}

async fn write(store: &Store, descriptor: &Descriptor, labels: &Labels) -> Result<()> {
    let media_type = &descriptor.media_type;
    let add = |found: Option<BlobRecord>| {
        let mut record =
            found.unwrap_or_else(|| BlobRecord::new(descriptor.size, Some(media_type.clone())));
        record.labels.extend(labels.clone());
        Ok(record)
    };
    let blobs = store.blobs();
    blobs.update(&descriptor.digest, add).await.map(|_| ())
}
