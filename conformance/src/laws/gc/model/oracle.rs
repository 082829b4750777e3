//! The expected state of the store, in plain maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use cas_core::{Descriptor, Digest, Labels, MediaType};

use crate::material::bytes;
use crate::sample::{Part, Sample};

/// Returns the blobs of two images that share a layer, and a larger blob.
pub(super) fn blobs() -> &'static [Part] {
    static BLOBS: LazyLock<Vec<Part>> = LazyLock::new(|| {
        let large = bytes(1, 70_001);
        let large = (
            Descriptor::of(MediaType::OCI_LAYER, &large),
            large,
            Vec::new(),
        );
        let (one, other) = (Sample::of(1), Sample::of(2));
        let own = other.parts().iter().skip(1);
        one.parts()
            .iter()
            .chain(own)
            .cloned()
            .chain([large])
            .collect()
    });
    &BLOBS
}

/// The expected state of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The blob exists, with a record that has these labels.
    Live(Labels),
    /// Neither the blob nor its record exists.
    Gone,
    /// A failed step has left bytes without a record, a record without bytes, or a record with a
    /// tombstone.
    Unknown,
}

/// The target and the labels of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) target: Digest,
    pub(super) labels: Labels,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Oracle {
    /// The states of blobs. A blob without a state does not exist.
    blobs: BTreeMap<Digest, State>,
    /// The bytes of the unfinished ingests.
    pub(super) ingests: BTreeMap<&'static str, Bytes>,
    pub(super) names: BTreeMap<&'static str, Named>,
    /// The blobs that each lease lists.
    pub(super) leases: BTreeMap<&'static str, BTreeSet<Digest>>,
}

impl Oracle {
    pub(super) fn state(&self, digest: &Digest) -> &State {
        self.blobs.get(digest).unwrap_or(&State::Gone)
    }

    pub(super) fn set(&mut self, digest: Digest, state: State) {
        self.blobs.insert(digest, state);
    }

    /// Returns the labels of a blob, or `None` if it is gone or its state is unknown.
    pub(super) fn live(&self, digest: &Digest) -> Option<&Labels> {
        match self.state(digest) {
            State::Live(labels) => Some(labels),
            _ => None,
        }
    }

    pub(super) fn ingest(&self, key: &str) -> Bytes {
        self.ingests.get(key).cloned().unwrap_or_default()
    }

    pub(super) fn set_ingest(&mut self, key: &'static str, data: Bytes) {
        if data.is_empty() {
            self.ingests.remove(key);
        } else {
            self.ingests.insert(key, data);
        }
    }

    /// Returns the blobs that a collection keeps for names, leases and labels. If `perhaps` is set,
    /// blobs in an unknown state count as live, with a root label.
    pub(super) fn reached(&self, perhaps: bool) -> BTreeSet<Digest> {
        let names = self.names.values().map(|named| named.target);
        let leases = self.leases.values().flatten().copied();
        let is_root = |labels: &Labels| labels.contains_key(super::step::Label::Root.key());
        let labelled = self.blobs.iter().filter(|(_, state)| match state {
            State::Live(labels) => is_root(labels),
            State::Gone => false,
            State::Unknown => perhaps,
        });
        let labelled = labelled.map(|(digest, _)| *digest);
        let mut left: Vec<Digest> = names.chain(leases).chain(labelled).collect();
        let mut reached = BTreeSet::new();
        while let Some(digest) = left.pop() {
            let counts = match self.state(&digest) {
                State::Live(_) => true,
                State::Gone => false,
                State::Unknown => perhaps,
            };
            if counts && reached.insert(digest) {
                let listed = blobs().iter().find(|(one, ..)| one.digest == digest);
                left.extend(listed.into_iter().flat_map(|(.., children)| children));
            }
        }
        reached
    }
}
