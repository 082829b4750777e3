//! Finds the images that are in use by a mount, by a job, or by a lease that a user created.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::gc::graph::{Graph, Id, Reason};
use crate::gc::scan::Scan;
use crate::records::Resource;
use crate::snapshot::SnapshotKind;

/// What leases and snapshots use.
pub(super) struct InUse {
    /// What leases pin or list.
    leased: HashSet<Id>,
    /// The snapshots on which a mounted or writable snapshot is based.
    bases: HashSet<Id>,
}

impl InUse {
    /// Returns what is in use. `snapshotters` has the names of the snapshotters, by their numbers
    /// in the scan.
    pub(super) fn new(found: &Scan, snapshotters: &[String]) -> Self {
        let graph = &found.graph;
        let roots = graph.roots.iter();
        let leased = roots.filter(|root| matches!(root.reason, Reason::Lease { .. }));
        let leased: HashSet<Id> = leased.map(|root| root.id).collect();
        let base = |(number, key): (usize, &String)| {
            graph.find(&Resource::Snapshot {
                snapshotter: snapshotters[number].clone(),
                key: key.clone(),
            })
        };
        let bases = found.snapshots.iter();
        let bases = bases.filter(|(_, info)| info.kind != SnapshotKind::Committed);
        let bases = bases.filter_map(|(number, info)| base((*number, info.parent.as_ref()?)));
        InUse {
            bases: bases.collect(),
            leased,
        }
    }

    /// Returns whether the image `id`, which refers to `blobs`, is used. It is used if a lease
    /// keeps its name, its target, its topmost snapshot, or one of its blobs that is not a layer,
    /// or if a mounted or writable snapshot is based on its topmost snapshot. A leased layer does
    /// not count, because images share layers.
    pub(super) fn has(&self, graph: &Graph, id: Id, blobs: &[Id], target: Digest) -> bool {
        if self.leased.is_empty() && self.bases.is_empty() {
            return false;
        }
        let target = graph.find(&Resource::Content(target));
        let own = |blob: &&Id| Some(**blob) == target || !graph.weight(**blob).is_layer;
        let is_based_on = |blob: &Id| {
            let mut edges = graph.edges(*blob).iter().map(|(to, _)| to);
            edges.any(|to| {
                let is_snapshot = matches!(graph.node(*to), Resource::Snapshot { .. });
                self.bases.contains(to) || is_snapshot && self.leased.contains(to)
            })
        };
        self.leased.contains(&id)
            || blobs
                .iter()
                .filter(own)
                .any(|blob| self.leased.contains(blob))
            || blobs.iter().any(is_based_on)
    }
}
