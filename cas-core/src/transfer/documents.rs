//! The documents of an image that a transfer found: they are written after their children.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::sync::lock;

/// Manifests and indexes, collected by concurrent handlers.
#[derive(Default)]
pub(super) struct Documents(Mutex<HashMap<Digest, Document>>);

struct Document {
    descriptor: Descriptor,
    children: Vec<Digest>,
}

impl Documents {
    /// Adds a document that lists `children`.
    pub(super) fn add(&self, descriptor: &Descriptor, children: &[Descriptor]) {
        let document = Document {
            descriptor: descriptor.clone(),
            children: children.iter().map(|child| child.digest).collect(),
        };
        lock(&self.0).insert(descriptor.digest, document);
    }

    /// Returns the documents at and below `root`, each after those it lists.
    ///
    /// The stack is explicit, because shared indexes can form a chain that is longer than the
    /// nesting limit.
    pub(super) fn children_first(self, root: Digest) -> Vec<Descriptor> {
        enum Step {
            Enter(Digest),
            Leave(Box<Descriptor>),
        }
        let documents = self.0.into_inner();
        let mut documents = documents.unwrap_or_else(PoisonError::into_inner);
        let mut sorted = Vec::with_capacity(documents.len());
        let mut steps = vec![Step::Enter(root)];
        while let Some(step) = steps.pop() {
            match step {
                Step::Leave(descriptor) => sorted.push(*descriptor),
                Step::Enter(digest) => {
                    if let Some(document) = documents.remove(&digest) {
                        steps.push(Step::Leave(Box::new(document.descriptor)));
                        steps.extend(document.children.into_iter().map(Step::Enter));
                    }
                }
            }
        }
        sorted
    }
}
