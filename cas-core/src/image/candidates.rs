//! The manifests of an image that may match a platform, and the indexes that lead to them.

use std::collections::HashMap;
use std::mem;
use std::sync::Mutex;

use async_trait::async_trait;

use crate::complete::is_damage;
use crate::content::ContentStore;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::{self, Handler, Next, walk};
use crate::error::{Error, ErrorKind, Result};
use crate::platform::Matcher;
use crate::sync::lock;

/// The manifests that an index and its nested indexes list for a platform, and the manifests that
/// they list without a platform.
#[derive(Default)]
pub(super) struct Candidates {
    pub(super) manifests: Vec<Descriptor>,
    /// The nested indexes that may list such manifests and are not in the store.
    pub(super) missing: Vec<Descriptor>,
    /// The error for the first nested index that may list such manifests, but is damaged or has
    /// only entries that [`left_out`](crate::document::left_out) describes.
    pub(super) damaged: Option<Error>,
    /// For each manifest and each nested index, the first index that lists it.
    listed_by: HashMap<Digest, Descriptor>,
}

impl Candidates {
    /// Walks the index `image` and its nested indexes, except nested indexes for other platforms.
    /// Skips nested indexes that are damaged, have only entries that cannot be verified, or are not
    /// in the store. Warns of those that are not in the store.
    ///
    /// # Errors
    /// `NotFound` if `image` is not in the store; `Corrupt` if `image` is damaged; `OutOfRange` if
    /// an index is too large to be read; errors of [`walk`] and of the store.
    pub(super) async fn of(
        content: &dyn ContentStore,
        image: &Descriptor,
        matcher: &dyn Matcher,
    ) -> Result<Self> {
        let collector = Collector {
            content,
            matcher,
            root: image,
            found: Mutex::default(),
        };
        walk(&collector, std::slice::from_ref(image)).await?;
        let found = mem::take(&mut *lock(&collector.found));
        Ok(found)
    }

    /// Returns the indexes that lead to a manifest, outermost first.
    pub(super) fn indexes_above(&self, manifest: &Descriptor) -> Vec<Descriptor> {
        let above = |below: &&Descriptor| self.listed_by.get(&below.digest);
        let mut indexes: Vec<Descriptor> =
            std::iter::successors(self.listed_by.get(&manifest.digest), above)
                .cloned()
                .collect();
        indexes.reverse();
        indexes
    }
}

/// Visits the indexes only.
struct Collector<'a> {
    content: &'a dyn ContentStore,
    matcher: &'a dyn Matcher,
    root: &'a Descriptor,
    found: Mutex<Candidates>,
}

#[async_trait]
impl Handler for Collector<'_> {
    async fn handle(&self, index: &Descriptor) -> Result<Next> {
        let listed = match dispatch::children(self.content, index).await {
            Err(error) if error.kind() == ErrorKind::NotFound && index != self.root => {
                let digest = index.digest;
                tracing::warn!(%digest, "a nested index is not in the store and is skipped");
                lock(&self.found).missing.push(index.clone());
                return Ok(Next::NONE);
            }
            Err(error) if is_damage(&error) && index != self.root => {
                lock(&self.found).damaged.get_or_insert(error);
                return Ok(Next::NONE);
            }
            outcome => outcome?,
        };
        let suits = |child: &Descriptor| dispatch::suits(child, self.matcher);
        let (indexes, others): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .filter(suits)
            .partition(|child| child.media_type.is_index());
        let is_manifest = |child: &Descriptor| child.media_type.is_manifest();
        let manifests: Vec<_> = others.into_iter().filter(is_manifest).collect();
        let mut found = lock(&self.found);
        for child in indexes.iter().chain(&manifests) {
            let listed_by = found.listed_by.entry(child.digest);
            listed_by.or_insert_with(|| index.clone());
        }
        found.manifests.extend(manifests);
        Ok(Next::Children(indexes))
    }
}
