//! The documents that a transfer has found in an image. Copies and pushes write a document after
//! its children. A pull writes a document before its children. Once the children are written, the
//! pull adds them to the record of the document.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::lease::BlobRef;
use crate::sync::lock;

/// Manifests and indexes, collected by concurrent handlers.
#[derive(Default)]
pub(super) struct Documents(Mutex<HashMap<Digest, Document>>);

/// A document, and the digests of its children.
pub(super) struct Document {
    pub(super) descriptor: Descriptor,
    children: Vec<Digest>,
}

/// Returns the references with which the children of documents are recorded.
pub(super) fn blob_refs(documents: Vec<Document>) -> Vec<BlobRef> {
    let documents = documents.into_iter();
    documents
        .map(|document| BlobRef::of(&document.descriptor, document.children))
        .collect()
}

/// Returns the descriptors of documents.
pub(super) fn descriptors(documents: &[Document]) -> Vec<Descriptor> {
    let documents = documents.iter();
    documents
        .map(|document| document.descriptor.clone())
        .collect()
}

impl Documents {
    /// Adds a document that lists `children`.
    pub(super) fn add<'a>(
        &self,
        descriptor: &Descriptor,
        children: impl IntoIterator<Item = &'a Descriptor>,
    ) {
        let document = Document {
            descriptor: descriptor.clone(),
            children: children.into_iter().map(|child| child.digest).collect(),
        };
        lock(&self.0).insert(descriptor.digest, document);
    }

    /// Returns the documents at and below `root`, each after the documents that it lists.
    ///
    /// The stack is explicit, because shared indexes can form a chain that is longer than the
    /// nesting limit.
    pub(super) fn children_first(self, root: Digest) -> Vec<Document> {
        enum Step {
            Enter(Digest),
            Leave(Box<Document>),
        }
        let documents = self.0.into_inner();
        let mut documents = documents.unwrap_or_else(PoisonError::into_inner);
        let mut sorted = Vec::with_capacity(documents.len());
        let mut steps = vec![Step::Enter(root)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Leave(document) => sorted.push(*document),
                Step::Enter(digest) => {
                    if let Some(document) = documents.remove(&digest) {
                        let children = document.children.clone();
                        steps.push(Step::Leave(Box::new(document)));
                        steps.extend(children.into_iter().map(Step::Enter));
                    }
                }
            }
        }
        sorted
    }
}
