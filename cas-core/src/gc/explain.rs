//! Why something is kept: every path to it from a root.

use std::collections::HashMap;
use std::time::SystemTime;

use super::graph::{Graph, Id, Reach, Reason};
use super::scan::scan;
use crate::error::Result;
use crate::records::Resource;
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// The maximum number of paths that are returned.
const MAX_PATHS: usize = 100;

/// A path from a root to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPath {
    /// Why the first step is kept.
    pub reason: Reason,
    /// The resources on the path. The last one is the resource itself.
    pub steps: Vec<Resource>,
}

/// Why a resource is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The paths to it, at most a hundred. If there are none, the next collection removes it.
    pub paths: Vec<RootPath>,
    /// When the last of the paths expires; `None` if one of them never expires, or there are none.
    pub until: Option<SystemTime>,
}

/// Explains why a collection at the time `now` would keep `resource`.
///
/// # Errors
/// As [`collect`](super::collect).
pub async fn explain(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    resource: &Resource,
    now: SystemTime,
) -> Result<Explanation> {
    let graph = scan(store, snapshotters, now, true, None).await?.graph;
    let paths = match graph.find(resource) {
        Some(id) => Search::new(&graph, id).find(),
        None => Vec::new(),
    };
    let ends = paths.iter().map(|path| ending(&path.reason));
    let until = ends
        .collect::<Option<Vec<_>>>()
        .and_then(|ends| ends.into_iter().max());
    Ok(Explanation { paths, until })
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
    /// What refers to each resource, and the least reach that follows the reference.
    referrers: HashMap<Id, Vec<(Id, Reach)>>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph, target: Id) -> Self {
        let mut referrers: HashMap<Id, Vec<(Id, Reach)>> = HashMap::new();
        for from in 0..graph.len() {
            for (to, least) in graph.edges(from) {
                referrers.entry(*to).or_default().push((from, *least));
            }
        }
        Search {
            graph,
            target,
            referrers,
        }
    }

    fn find(&self) -> Vec<RootPath> {
        let mut paths = Vec::new();
        // Every path back is kept as a whole; the bounds of documents keep them few and short.
        let mut waiting = vec![(vec![self.target], Reach::Flat)];
        while let Some((path, wanted)) = waiting.pop() {
            let Some(first) = path.last() else { continue };
            let roots = self.graph.roots.iter();
            for root in roots.filter(|root| root.id == *first && root.reach >= wanted) {
                paths.push(RootPath {
                    reason: root.reason.clone(),
                    steps: path
                        .iter()
                        .rev()
                        .map(|id| self.graph.node(*id).clone())
                        .collect(),
                });
                if paths.len() == MAX_PATHS {
                    return paths;
                }
            }
            let referrers = self
                .referrers
                .get(first)
                .map(Vec::as_slice)
                .unwrap_or_default();
            for (from, least) in referrers.iter().filter(|(from, _)| !path.contains(from)) {
                let mut longer = path.clone();
                longer.push(*from);
                waiting.push((longer, wanted.max(*least)));
            }
        }
        paths
    }
}
