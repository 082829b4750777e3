//! The steps of a sequence.

use cas_core::content::Durability;
use cas_core::testing::fault::Side;
use proptest::prelude::*;

/// Keys of the ingests. Several of them may be unfinished at the same time.
pub(super) const KEYS: [&str; 3] = ["a", "b", "a/b"];
pub(super) const NAMES: [&str; 3] = ["one", "two", "three:4"];
pub(super) const LEASES: [&str; 2] = ["mine", "yours"];
/// The length of [`blobs`](super::oracle::blobs).
const BLOBS: usize = 8;
/// The calls of a step that change something are numbered from 1. This is the highest number of a
/// call that may be made to fail.
const CALLS: usize = 5;

/// One operation of a user. Keys, blobs, names and leases are given by their indexes. A step that
/// needs an existing blob, name or lease does nothing if there is none, or if the state of the blob
/// is unknown.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Appends half of the missing bytes of the blob to the ingest.
    Write {
        key: usize,
        blob: usize,
    },
    /// Appends all missing bytes, and publishes the blob.
    Publish {
        key: usize,
        blob: usize,
        durability: Durability,
    },
    /// Tries to publish an ingest under a wrong digest, which must fail.
    PublishWrongDigest {
        key: usize,
    },
    Discard {
        key: usize,
    },
    /// Removes the bytes and the record.
    Remove {
        blob: usize,
    },
    Label {
        blob: usize,
        label: Label,
        value: u8,
    },
    /// Imports an image under a name.
    Import {
        name: usize,
        image: u64,
    },
    /// Points a name to a blob.
    SetName {
        name: usize,
        blob: usize,
    },
    Relabel {
        name: usize,
        value: u8,
    },
    DeleteName {
        name: usize,
    },
    AddToLease {
        lease: usize,
        blob: usize,
    },
    EndLease {
        lease: usize,
    },
    Flush,
    /// Collects with a clock that is more than a day ahead, so that nothing is kept because it is
    /// new.
    Collect,
    Compact,
    Reopen,
}

/// A label of a blob.
#[derive(Clone, Copy, Debug)]
pub(super) enum Label {
    /// A label that gc ignores.
    Plain,
    /// A label that keeps the blob.
    Root,
}

impl Label {
    pub(super) fn key(self) -> &'static str {
        match self {
            Label::Plain => "conformance",
            Label::Root => "containerd.io/gc.root",
        }
    }
}

/// The number of the failing call of a step, and whether the call fails before or after its effect.
/// `None` if no call is made to fail.
pub(super) type Failing = Option<(usize, Side)>;

/// Returns a strategy for sequences of steps, some of which fail.
pub(super) fn sequence(longest: usize) -> impl Strategy<Value = Vec<(Step, Failing)>> {
    let side = prop_oneof![Just(Side::Before), Just(Side::After)];
    let failing = prop::option::weighted(0.15, (1..=CALLS, side));
    prop::collection::vec((step(), failing), 1..=longest)
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    let (blob, name, lease) = (|| 0..BLOBS, || 0..NAMES.len(), || 0..LEASES.len());
    let durability = prop_oneof![
        Just(Durability::Full),
        Just(Durability::Batched),
        Just(Durability::Relaxed),
    ];
    let label = prop_oneof![2 => Just(Label::Plain), 1 => Just(Label::Root)];
    prop_oneof![
        3 => (key(), blob()).prop_map(|(key, blob)| Step::Write { key, blob }),
        8 => (key(), blob(), durability)
            .prop_map(|(key, blob, durability)| Step::Publish { key, blob, durability }),
        1 => key().prop_map(|key| Step::PublishWrongDigest { key }),
        1 => key().prop_map(|key| Step::Discard { key }),
        3 => blob().prop_map(|blob| Step::Remove { blob }),
        3 => (blob(), label, 0..3_u8)
            .prop_map(|(blob, label, value)| Step::Label { blob, label, value }),
        2 => (name(), 1..3_u64).prop_map(|(name, image)| Step::Import { name, image }),
        2 => (name(), blob()).prop_map(|(name, blob)| Step::SetName { name, blob }),
        1 => (name(), 0..3_u8).prop_map(|(name, value)| Step::Relabel { name, value }),
        2 => name().prop_map(|name| Step::DeleteName { name }),
        2 => (lease(), blob()).prop_map(|(lease, blob)| Step::AddToLease { lease, blob }),
        1 => lease().prop_map(|lease| Step::EndLease { lease }),
        1 => Just(Step::Flush),
        3 => Just(Step::Collect),
        1 => Just(Step::Compact),
        2 => Just(Step::Reopen),
    ]
}
