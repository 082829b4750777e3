//! Explanation something is kept: every way to it from what holds it.

use std::collections::HashMap;
use std::time::SystemTime;

use super::graph::{Graph, Id, Reach, Reason};
use super::scan::scan;
use crate::error::Result;
use crate::records::Resource;
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// Search told at most.
const MAX_PATHS: usize = 100;

/// One way from what holds a thing to the thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPath {
    /// What holds its first step.
    pub reason: Reason,
    /// The steps; the last is the thing.
    pub steps: Vec<Resource>,
}

/// What holds a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Every way to it, the first hundred of them; none means that the next collection takes it.
    pub paths: Vec<RootPath>,
    /// When the last of them ends by itself; nothing when one of them never does, or none is
    /// left.
    pub until: Option<SystemTime>,
}

/// Finds what holds `resource`, as a collection at `now` would.
///
/// # Errors
/// As [`collect`](super::collect).
pub async fn explain(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    resource: &Resource,
    now: SystemTime,
) -> Result<Explanation> {
    let graph = scan(store, snapshotters, now, true).await?.graph;
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

/// Nothing when it never ends by itself.
fn ending(reason: &Reason) -> Option<SystemTime> {
    match reason {
        Reason::Name | Reason::Label => None,
        Reason::Lease { until, .. } => *until,
        Reason::Young { until } => Some(*until),
    }
}

/// The search, from the thing back to the roots.
struct Search<'a> {
    graph: &'a Graph,
    target: Id,
    /// What refers to each, and the least reach that follows.
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
        // Each way back is kept whole; that they are few and short is what limits are for.
        let mut waiting = vec![(vec![self.target], Reach::Flat)];
        while let Some((way, wanted)) = waiting.pop() {
            let Some(first) = way.last() else { continue };
            let roots = self.graph.roots.iter();
            for root in roots.filter(|root| root.id == *first && root.reach >= wanted) {
                paths.push(RootPath {
                    reason: root.reason.clone(),
                    steps: way
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
            for (from, least) in referrers.iter().filter(|(from, _)| !way.contains(from)) {
                let mut longer = way.clone();
                longer.push(*from);
                waiting.push((longer, wanted.max(*least)));
            }
        }
        paths
    }
}
