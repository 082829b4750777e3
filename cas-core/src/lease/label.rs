//! Wrappers that keep children alive: labels on the parent that a collector follows.

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

/// The label under which a parent refers to `child`; one that ends with a dot wants a number.
pub fn child_gc_labels(child: &Descriptor) -> Vec<String> {
    vec![gc_ref_child(child)]
}

/// As [`child_gc_labels`], but none for a layer: what is unpacked may then be collected.
pub fn child_gc_labels_filter_layers(child: &Descriptor) -> Vec<String> {
    match child.media_type.is_layer() {
        true => Vec::new(),
        false => child_gc_labels(child),
    }
}

/// `handler`, with [`child_gc_labels`] of the children it returns written on their parent.
pub fn set_children_labels<'a>(store: &'a Store, handler: impl Handler + 'a) -> impl Handler + 'a {
    set_children_mapped_labels(store, handler, child_gc_labels)
}

/// `handler`, with the labels that `map` makes for the children it returns written on their
/// parent. The children with the same label are numbered from 0 by a number appended to it; the
/// first gets none unless its label ends with a dot.
///
/// The handler fails with `NotFound` when the parent is not in the store.
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
            let labels = numbered(children, &self.map);
            if !labels.is_empty() {
                set_labels(self.store, descriptor, &labels).await?;
            }
        }
        Ok(next)
    }
}

fn numbered(children: &[Descriptor], map: impl Fn(&Descriptor) -> Vec<String>) -> Labels {
    let mut counts = HashMap::<String, usize>::new();
    let mut labels = Labels::new();
    for child in children {
        for mut label in map(child) {
            let count = counts.entry(label.clone()).or_default();
            if *count > 0 || label.ends_with('.') {
                label.push_str(&count.to_string());
            }
            *count += 1;
            labels.insert(label, child.digest.to_string());
        }
    }
    labels
}

/// Adds labels to the record of a blob that is in the store; others stay as they are.
///
/// # Errors
/// `NotFound` when the blob is not there; those of the home of records.
pub async fn set_labels(store: &Store, descriptor: &Descriptor, labels: &Labels) -> Result<()> {
    if !store.present(descriptor).await? {
        return Err(Error::not_found("no such blob in the store")
            .operation("label")
            .subject(descriptor.digest));
    }
    let children: Vec<BlobRef> = gc::referenced_content(labels)
        .map(BlobRef::existing)
        .collect();
    if children.is_empty() {
        return write(store, descriptor, labels).await;
    }
    // What is referred to must not be condemned before the reference is read.
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
