//! Finds the paths from gc roots to a resource. They explain why a collection keeps the resource.

use std::collections::VecDeque;
use std::iter;
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
    /// The shortest path from each gc root that keeps the resource. A resource that is a gc root for
    /// several reasons has a path for each reason. There are at most 100 paths, and the shortest
    /// paths come first. If there are none, nothing keeps the resource, and the next collection of
    /// the whole store removes it. Two kinds of resources stay even then: blobs without a record,
    /// and resources that come into use before the collection.
    pub paths: Vec<RootPath>,
    /// The shortest path from an image, with or without a name, or `None` if no image keeps the
    /// resource. `paths` may lack this path, because it has at most 100 paths.
    pub image: Option<RootPath>,
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
        let search = Search::new(&scan.graph, id, |_| true);
        return Ok(Explanation {
            paths: search.paths(),
            image: search.image(),
            until: search.until(),
        });
    }
    match resource {
        Resource::Content(digest) if scan.tombstoned.contains(digest) => Ok(Explanation {
            paths: Vec::new(),
            image: None,
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

/// Returns the paths from the selected roots to the resource with this number, as
/// [`Explanation::paths`] has them.
pub(super) fn paths_to(graph: &Graph, id: Id, select: impl Fn(&Root) -> bool) -> Vec<RootPath> {
    Search::new(graph, id, select).paths()
}

/// Returns when a reason expires, or `None` if it never does.
fn ending(reason: &Reason) -> Option<SystemTime> {
    match reason {
        Reason::Name | Reason::Unnamed | Reason::Claim { .. } | Reason::Label => None,
        Reason::Lease { until, .. } => *until,
        Reason::Young { until } => Some(*until),
    }
}

/// A resource from which references lead to the target of a search.
struct Visit {
    id: Id,
    /// How far a root at the resource must reach to keep the target along this path.
    wanted: Reach,
    /// The number of the visit to the next resource on the path. `None` at the target.
    next: Option<usize>,
}

/// A search from a resource back to the roots that keep it.
struct Search<'a> {
    graph: &'a Graph,
    visits: Vec<Visit>,
    /// The roots that keep the target, nearest first, and the numbers of the visits at which their
    /// paths begin.
    found: Vec<(&'a Root, usize)>,
}

impl<'a> Search<'a> {
    /// Searches breadth first. Visits each resource at most once for each reach, so the time is
    /// linear in the size of the graph.
    fn new(graph: &'a Graph, target: Id, select: impl Fn(&Root) -> bool) -> Self {
        let mut roots = vec![Vec::new(); graph.len()];
        for root in graph.roots.iter().filter(|root| select(root)) {
            roots[root.id].push(root);
        }
        let mut referrers = vec![Vec::new(); graph.len()];
        for from in 0..graph.len() {
            for (to, least) in graph.edges(from) {
                referrers[*to].push((from, *least));
            }
        }
        let (mut visits, mut found) = (Vec::new(), Vec::new());
        let mut seen: Vec<Option<Reach>> = vec![None; graph.len()];
        let mut waiting = VecDeque::from([Visit {
            id: target,
            wanted: Reach::Flat,
            next: None,
        }]);
        while let Some(visit) = waiting.pop_front() {
            let Visit { id, wanted, .. } = visit;
            let earlier = seen[id];
            // The earlier visit has found every root that this visit could find.
            if earlier.is_some_and(|earlier| earlier <= wanted) {
                continue;
            }
            seen[id] = Some(wanted);
            let number = visits.len();
            visits.push(visit);
            let new = roots[id].iter().filter(|root| {
                root.reach >= wanted && earlier.is_none_or(|earlier| root.reach < earlier)
            });
            found.extend(new.map(|root| (*root, number)));
            waiting.extend(referrers[id].iter().map(|(from, least)| Visit {
                id: *from,
                wanted: wanted.max(*least),
                next: Some(number),
            }));
        }
        Search {
            graph,
            visits,
            found,
        }
    }

    /// Returns the paths from the nearest [`MAX_PATHS`] roots.
    fn paths(&self) -> Vec<RootPath> {
        let found = self.found.iter().take(MAX_PATHS);
        found.map(|found| self.path(found)).collect()
    }

    /// Returns the path from the nearest image, or `None` if no image keeps the resource.
    fn image(&self) -> Option<RootPath> {
        let is_image = |root: &Root| matches!(root.reason, Reason::Name | Reason::Unnamed);
        let found = self.found.iter().find(|(root, _)| is_image(root));
        found.map(|found| self.path(found))
    }

    /// Returns the path from a root, which begins at the visit `first`.
    fn path(&self, (root, first): &(&Root, usize)) -> RootPath {
        let visits = iter::successors(Some(&self.visits[*first]), |visit| {
            Some(&self.visits[visit.next?])
        });
        let steps = visits.map(|visit| self.graph.node(visit.id).clone());
        RootPath {
            reason: root.reason.clone(),
            steps: steps.collect(),
        }
    }

    /// Returns when the last root that keeps the resource expires. Returns `None` if no root keeps
    /// the resource, or if one of these roots never expires.
    fn until(&self) -> Option<SystemTime> {
        let mut until = None;
        for (root, _) in &self.found {
            until = until.max(Some(ending(&root.reason)?));
        }
        until
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn image(name: impl ToString) -> Resource {
        Resource::Image(name.to_string())
    }

    fn refer(graph: &mut Graph, from: &Resource, to: &Resource) {
        let from = graph.id(from);
        graph.refer(from, to);
    }

    fn root(graph: &mut Graph, resource: &Resource, reach: Reach, reason: Reason) {
        let id = graph.id(resource);
        graph.root(id, reach, reason);
    }

    fn search<'a>(graph: &'a Graph, target: &Resource) -> Search<'a> {
        Search::new(graph, graph.find(target).unwrap(), |_| true)
    }

    /// Returns the resources on each path to `target`.
    fn paths(graph: &Graph, target: &Resource) -> Vec<Vec<Resource>> {
        let paths = search(graph, target).paths().into_iter();
        paths.map(|path| path.steps).collect()
    }

    /// There are more roots than returned paths, and only the last root never expires.
    #[test]
    fn a_root_whose_path_is_not_returned_counts_for_the_time() {
        let (mut graph, now) = (Graph::default(), SystemTime::now());
        let target = image("target");
        let add = |graph: &mut Graph, number: usize, reason| {
            refer(graph, &image(number), &target);
            root(graph, &image(number), Reach::Full, reason);
        };
        for number in 0..2 * MAX_PATHS {
            let until = now + Duration::from_secs(number as u64);
            add(&mut graph, number, Reason::Young { until });
        }
        let found = search(&graph, &target);
        assert_eq!(found.paths().len(), MAX_PATHS);
        let last = now + Duration::from_secs(2 * MAX_PATHS as u64 - 1);
        assert_eq!(found.until(), Some(last));

        add(&mut graph, 2 * MAX_PATHS, Reason::Name);
        assert_eq!(search(&graph, &target).until(), None);
    }

    #[test]
    fn an_image_is_found_behind_any_number_of_other_roots() {
        let mut graph = Graph::default();
        let [name, target] = ["name", "target"].map(image);
        for _ in 0..MAX_PATHS {
            root(&mut graph, &target, Reach::Full, Reason::Label);
        }
        assert_eq!(search(&graph, &target).image(), None);
        refer(&mut graph, &name, &target);
        root(&mut graph, &name, Reach::Full, Reason::Name);
        let found = search(&graph, &target);
        let paths = found.paths();
        assert!(paths.iter().all(|path| path.reason == Reason::Label));
        let expected = RootPath {
            reason: Reason::Name,
            steps: vec![name, target],
        };
        assert_eq!(found.image(), Some(expected));
    }

    /// A ladder of 30 diamonds, through which 2^30 ways lead.
    #[test]
    fn a_root_has_one_path_even_if_very_many_ways_lead_from_it() {
        let mut graph = Graph::default();
        let side = |level: usize, side: &str| image(format!("{level} {side}"));
        for level in 0..30 {
            for side in [side(level, "left"), side(level, "right")] {
                refer(&mut graph, &image(level), &side);
                refer(&mut graph, &side, &image(level + 1));
            }
        }
        for level in [0, 15] {
            root(&mut graph, &image(level), Reach::Full, Reason::Name);
        }
        let path = |first: usize| {
            let below = |level| [side(level, "left"), image(level + 1)];
            let steps = iter::once(image(first)).chain((first..30).flat_map(below));
            steps.collect::<Vec<_>>()
        };
        assert_eq!(paths(&graph, &image(30)), [path(15), path(0)]);
    }

    /// Each of 30 images refers to all of them, and the root refers to one of them.
    #[test]
    fn a_path_through_cycles_is_the_shortest_one() {
        let mut graph = Graph::default();
        for (from, to) in (0..30).flat_map(|from| (0..30).map(move |to| (from, to))) {
            refer(&mut graph, &image(from), &image(to));
        }
        refer(&mut graph, &image("root"), &image(7));
        root(&mut graph, &image("root"), Reach::Full, Reason::Name);
        let direct = vec![image("root"), image(7)];
        assert_eq!(paths(&graph, &image(7)), [direct]);
        let longer = vec![image("root"), image(7), image(8)];
        assert_eq!(paths(&graph, &image(8)), [longer]);
    }

    /// The shorter path needs a full reach. The same resource is also a root with a flat reach.
    #[test]
    fn a_flat_root_has_a_path_of_what_it_consists_of() {
        let mut graph = Graph::default();
        let [top, middle, target] = ["top", "middle", "target"].map(image);
        refer(&mut graph, &top, &target);
        for (whole, part) in [(&top, &middle), (&middle, &target)] {
            let whole = graph.id(whole);
            graph.consist(whole, part);
        }
        root(&mut graph, &top, Reach::Flat, Reason::Unnamed);
        root(&mut graph, &top, Reach::Full, Reason::Name);
        let path = |reason, steps: &[&Resource]| RootPath {
            reason,
            steps: steps.iter().copied().cloned().collect(),
        };
        let expected = [
            path(Reason::Name, &[&top, &target]),
            path(Reason::Unnamed, &[&top, &middle, &target]),
        ];
        assert_eq!(search(&graph, &target).paths(), expected);
    }
}
