//! What must be in the store, in plain maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;
use cas_core::{Descriptor, Digest, Labels, MediaType};

use crate::material::bytes;
use crate::sample::{Part, Sample};

/// The parts of two images, of which they have one in common, and something larger.
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

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is there, with a record that has these labels.
    Live(Labels),
    /// It is not.
    Gone,
    /// A step that failed may have left its bytes, its record, or neither.
    Unknown,
}

/// An image, as it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) target: Digest,
    pub(super) labels: Labels,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Oracle {
    /// Those that are not in it are gone.
    blobs: BTreeMap<Digest, State>,
    /// What the unfinished ingests hold.
    pub(super) ingests: BTreeMap<&'static str, Bytes>,
    pub(super) names: BTreeMap<&'static str, Named>,
    /// What each lease lists.
    pub(super) leases: BTreeMap<&'static str, BTreeSet<Digest>>,
}

impl Oracle {
    pub(super) fn state(&self, digest: &Digest) -> &State {
        self.blobs.get(digest).unwrap_or(&State::Gone)
    }

    pub(super) fn set(&mut self, digest: Digest, state: State) {
        self.blobs.insert(digest, state);
    }

    /// The labels of a blob that is there.
    pub(super) fn live(&self, digest: &Digest) -> Option<&Labels> {
        match self.state(digest) {
            State::Live(labels) => Some(labels),
            _ => None,
        }
    }

    pub(super) fn held(&self, key: &str) -> Bytes {
        self.ingests.get(key).cloned().unwrap_or_default()
    }

    pub(super) fn hold(&mut self, key: &'static str, data: Bytes) {
        if data.is_empty() {
            self.ingests.remove(key);
        } else {
            self.ingests.insert(key, data);
        }
    }

    /// What a collection keeps for a name, a lease or a label: surely, or perhaps as well, for what
    /// an unknown blob lists may count or not.
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
