//! Finds the paths from gc roots to a resource. They explain why a collection keeps the resource.

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use super::graph::{Graph, Id, Reach, Reason, Root};
use super::scan::scan;
use crate::error::{Error, Result};
use crate::records::Resource;
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// Maximum number of paths that are returned.
const MAX_PATHS: usize = 100;

/// A path from a gc root to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPath {
    /// Why the first resource of the path is a gc root.
    pub reason: Reason,
    /// The resources on the path, from the gc root to the resource itself.
    pub steps: Vec<Resource>,
}

/// Why a resource is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Paths to the resource, at most 100. If there are none, nothing keeps the resource, and the
    /// next collection of the whole store removes it. Two kinds of resources stay even then: blobs
    /// without a record, and resources that come into use before the collection.
    pub paths: Vec<RootPath>,
    /// When the last path to the resource expires. `None` if a path never expires, or if there are
    /// no paths. A path from an image name counts as a path that never expires, even if the name
    /// has the label [`GC_EXPIRE`](crate::labels::GC_EXPIRE).
    pub until: Option<SystemTime>,
}

/// Returns why a collection at the time `now` would keep `resource`.
///
/// # Errors
/// `NotFound` if the store has no record of the resource and nothing refers to it; `Corrupt` if a
/// record or a document is damaged; errors of the stores.
pub async fn explain(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    resource: &Resource,
    now: SystemTime,
) -> Result<Explanation> {
    let scan = scan(store, snapshotters, now, true, None).await?;
    if let Some(id) = scan.graph.find(resource) {
        let search = Search::new(&scan.graph, id);
        return Ok(Explanation {
            paths: search.paths(),
            until: search.until(),
        });
    }
    match resource {
        Resource::Content(digest) if scan.tombstoned.contains(digest) => Ok(Explanation {
            paths: Vec::new(),
            until: None,
        }),
        _ => Err(Error::not_found(
            "the store has no record of this resource, and nothing refers to it; check the \
                 name, key or digest, or run `cas fsck`",
        )
        .operation("explain")
        .subject(resource)),
    }
}

/// Returns the paths to the resource with this number.
pub(super) fn paths_to(graph: &Graph, id: Id) -> Vec<RootPath> {
    Search::new(graph, id).paths()
}

/// Returns when a reason expires, or `None` if it never does.
fn ending(reason: &Reason) -> Option<SystemTime> {
    match reason {
        Reason::Name | Reason::Unnamed | Reason::Claim { .. } | Reason::Label => None,
        Reason::Lease { until, .. } => *until,
        Reason::Young { until } => Some(*until),
    }
}

/// A search from a resource back to the roots.
struct Search<'a> {
    graph: &'a Graph,
    target: Id,
    roots: HashMap<Id, Vec<&'a Root>>,
    /// What refers to each resource, and the least reach that follows the reference.
    referrers: HashMap<Id, Vec<(Id, Reach)>>,
    /// How far each resource is reached from the roots.
    marks: Vec<Option<Reach>>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph, target: Id) -> Self {
        let mut roots: HashMap<Id, Vec<&Root>> = HashMap::new();
        for root in &graph.roots {
            roots.entry(root.id).or_default().push(root);
        }
        let mut referrers: HashMap<Id, Vec<(Id, Reach)>> = HashMap::new();
        for from in 0..graph.len() {
            for (to, least) in graph.edges(from) {
                referrers.entry(*to).or_default().push((from, *least));
            }
        }
        Search {
            graph,
            target,
            roots,
            referrers,
            marks: graph.mark(),
        }
    }

    /// Returns the roots at `id` whose reach is at least `wanted`.
    fn roots_of(&self, id: Id, wanted: Reach) -> impl Iterator<Item = &Root> {
        let roots = self.roots.get(&id).into_iter().flatten().copied();
        roots.filter(move |root| root.reach >= wanted)
    }

    /// A path needs the reach `wanted` at `id`. At a referrer of `id`, it needs the same reach, or
    /// more if the reference requires more. Returns the referrers that roots reach that far, each
    /// with the reach that the path needs there.
    fn referrers_of(&self, id: Id, wanted: Reach) -> impl Iterator<Item = (Id, Reach)> {
        let referrers = self.referrers.get(&id).into_iter().flatten();
        referrers
            .map(move |(from, least)| (*from, wanted.max(*least)))
            .filter(|(from, wanted)| self.marks[*from] >= Some(*wanted))
    }

    /// Returns the first [`MAX_PATHS`] paths that it finds, because there may be very many.
    fn paths(&self) -> Vec<RootPath> {
        let mut paths = Vec::new();
        let mut waiting = vec![(vec![self.target], Reach::Flat)];
        while let Some((path, wanted)) = waiting.pop() {
            let Some(first) = path.last() else { continue };
            for root in self.roots_of(*first, wanted) {
                let steps = path.iter().rev();
                paths.push(RootPath {
                    reason: root.reason.clone(),
                    steps: steps.map(|id| self.graph.node(*id).clone()).collect(),
                });
                if paths.len() == MAX_PATHS {
                    return paths;
                }
            }
            for (from, wanted) in self.referrers_of(*first, wanted) {
                if !path.contains(&from) {
                    waiting.push(([&path[..], &[from]].concat(), wanted));
                }
            }
        }
        paths
    }

    /// Returns when the last root that keeps the resource expires. Returns `None` if no root keeps
    /// the resource, or if one of these roots never expires.
    fn until(&self) -> Option<SystemTime> {
        let mut until = None;
        let mut seen = HashSet::new();
        let mut waiting = vec![(self.target, Reach::Flat)];
        while let Some((id, wanted)) = waiting.pop() {
            if !seen.insert((id, wanted)) {
                continue;
            }
            for root in self.roots_of(id, wanted) {
                until = until.max(Some(ending(&root.reason)?));
            }
            waiting.extend(self.referrers_of(id, wanted));
        }
        until
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// There are more roots than returned paths, and only the last root never expires.
    #[test]
    fn a_root_whose_path_is_not_returned_counts_for_the_time() {
        let (mut graph, now) = (Graph::default(), SystemTime::now());
        let target = graph.id(&Resource::Image("target".into()));
        let root = |graph: &mut Graph, number: usize, reason| {
            let from = graph.id(&Resource::Image(format!("{number}")));
            graph.refer(from, &Resource::Image("target".into()));
            graph.root(from, Reach::Full, reason);
        };
        for number in 0..2 * MAX_PATHS {
            let until = now + Duration::from_secs(number as u64);
            root(&mut graph, number, Reason::Young { until });
        }
        let search = Search::new(&graph, target);
        assert_eq!(search.paths().len(), MAX_PATHS);
        let last = now + Duration::from_secs(2 * MAX_PATHS as u64 - 1);
        assert_eq!(search.until(), Some(last));

        root(&mut graph, 2 * MAX_PATHS, Reason::Name);
        assert_eq!(Search::new(&graph, target).until(), None);
    }

    /// Each resource refers to all ten resources of the next level. So there are 10^12 ways from
    /// the first level to the target. None of them begins at a root.
    #[test]
    fn ways_that_no_root_begins_are_not_followed() {
        let mut graph = Graph::default();
        let node = |level: usize, number: usize| Resource::Image(format!("{level}-{number}"));
        for level in 0..12 {
            for (from, to) in (0..10).flat_map(|from| (0..10).map(move |to| (from, to))) {
                let from = graph.id(&node(level, from));
                graph.refer(from, &node(level + 1, to));
            }
        }
        let target = graph.id(&node(12, 0));
        let root = graph.id(&node(11, 0));
        graph.root(root, Reach::Full, Reason::Name);
        assert_eq!(Search::new(&graph, target).paths().len(), 1);
    }
}
