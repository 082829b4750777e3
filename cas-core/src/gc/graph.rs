//! The graph of resources, the references between them, and the roots.

use std::collections::HashMap;
use std::time::SystemTime;

use super::labels::{self, Age, Effect};
use crate::labels::Labels;
use crate::owner::Owner;
use crate::records::Resource;

/// Why a resource is a gc root. A gc root is kept even if nothing refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The resource is the name of an image.
    Name,
    /// The image store lists the resource as a gc root without a name.
    Unnamed,
    /// The resource is a blob, and an owner claims it.
    Claim {
        /// The owner.
        owner: Owner,
    },
    /// A lease keeps the resource.
    Lease {
        /// The id of the lease.
        id: String,
        /// When the lease expires; `None` if it never does.
        until: Option<SystemTime>,
    },
    /// A label marks the resource as a gc root.
    Label,
    /// The resource is a blob or a snapshot that was stored without a lease less than a day ago, or
    /// an ingest that grew less than a day ago.
    Young {
        /// When this reason ends.
        until: SystemTime,
    },
}

/// How much a root keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reach {
    /// The root and what the root consists of: the target of an image, the parents of a snapshot.
    Flat,
    /// The root and everything that the root refers to.
    Full,
}

/// The number of a resource in the graph.
pub(super) type Id = usize;

pub(super) struct Root {
    pub(super) id: Id,
    pub(super) reach: Reach,
    pub(super) reason: Reason,
}

/// The size of a blob, and whether the blob is a layer.
#[derive(Clone, Copy, Default)]
pub(super) struct Weight {
    /// Its size in bytes.
    pub(super) bytes: u64,
    pub(super) is_layer: bool,
}

/// Resources and references, by number. A resource that is referred to need not exist.
#[derive(Default)]
pub(super) struct Graph {
    ids: HashMap<Resource, Id>,
    nodes: Vec<Resource>,
    /// The weights of the blobs of which a record or a descriptor was found.
    weights: Vec<Option<Weight>>,
    /// The references of each resource, with the least reach that follows them.
    edges: Vec<Vec<(Id, Reach)>>,
    pub(super) roots: Vec<Root>,
    conditions: Vec<(Id, Id, Age)>,
    used: HashMap<Id, SystemTime>,
}

impl Graph {
    /// Returns the number of a resource. A new resource is added to the graph.
    pub(super) fn id(&mut self, resource: &Resource) -> Id {
        if let Some(id) = self.ids.get(resource) {
            return *id;
        }
        let id = self.nodes.len();
        self.ids.insert(resource.clone(), id);
        self.nodes.push(resource.clone());
        self.weights.push(None);
        self.edges.push(Vec::new());
        id
    }

    /// Returns the number of a resource, or `None` if it is not in the graph.
    pub(super) fn find(&self, resource: &Resource) -> Option<Id> {
        self.ids.get(resource).copied()
    }

    pub(super) fn node(&self, id: Id) -> &Resource {
        &self.nodes[id]
    }

    pub(super) fn weigh(&mut self, id: Id, bytes: u64, is_layer: bool) {
        self.weights[id] = Some(Weight { bytes, is_layer });
    }

    /// Returns the weight of a resource, which is 0 bytes if it has none.
    pub(super) fn weight(&self, id: Id) -> Weight {
        self.weights[id].unwrap_or_default()
    }

    /// Returns whether a record or a descriptor of a blob was found.
    pub(super) fn is_weighed(&self, id: Id) -> bool {
        self.weights[id].is_some()
    }

    pub(super) fn edges(&self, id: Id) -> &[(Id, Reach)] {
        &self.edges[id]
    }

    /// Returns the resources to which something refers, once for each reference.
    pub(super) fn targets(&self) -> impl Iterator<Item = Id> {
        self.edges.iter().flatten().map(|(to, _)| *to)
    }

    /// Returns how many resources there are. They are numbered from 0 in the order in which they
    /// were added.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn root(&mut self, id: Id, reach: Reach, reason: Reason) {
        self.roots.push(Root { id, reach, reason });
    }

    /// Adds a reference that only a full reach follows.
    pub(super) fn refer(&mut self, from: Id, to: &Resource) {
        let to = self.id(to);
        self.edges[from].push((to, Reach::Full));
    }

    /// Adds a reference to something that the resource consists of.
    pub(super) fn consist(&mut self, from: Id, of: &Resource) {
        let of = self.id(of);
        self.edges[from].push((of, Reach::Flat));
    }

    /// Adds the effects of a resource's labels. A label that makes a gc root has no effect on an
    /// image.
    pub(super) fn label(&mut self, id: Id, labels: &Labels) {
        for effect in labels::effects(labels) {
            match effect {
                Effect::Root if !matches!(self.nodes[id], Resource::Image(_)) => {
                    self.root(id, Reach::Full, Reason::Label);
                }
                Effect::Root => {}
                Effect::Reference(to) => self.refer(id, &to),
                Effect::BackReference(from) => {
                    let from = self.id(&from);
                    self.edges[from].push((id, Reach::Full));
                }
                Effect::Condition(snapshot, age) => {
                    let snapshot = self.id(&snapshot);
                    self.conditions.push((id, snapshot, age));
                }
                Effect::UsedAt(time) => {
                    self.used.insert(id, time);
                }
            }
        }
    }

    /// Turns the conditions that hold into references, once all labels are known.
    pub(super) fn resolve_conditions(&mut self, now: SystemTime) {
        for (from, snapshot, age) in std::mem::take(&mut self.conditions) {
            if self
                .used
                .get(&snapshot)
                .is_some_and(|used| age.fits(*used, now))
            {
                self.edges[from].push((snapshot, Reach::Full));
            }
        }
    }

    /// Returns how far each resource is reached from the roots; `None` if it is not.
    pub(super) fn mark(&self) -> Vec<Option<Reach>> {
        self.mark_from(|_| true)
    }

    /// As [`Graph::mark`], from the selected roots.
    pub(super) fn mark_from(&self, select: impl Fn(&Root) -> bool) -> Vec<Option<Reach>> {
        let mut marks = vec![None; self.nodes.len()];
        let mut waiting: Vec<(Id, Reach)> = self
            .roots
            .iter()
            .filter(|root| select(root))
            .map(|root| (root.id, root.reach))
            .collect();
        while let Some((id, reach)) = waiting.pop() {
            if marks[id] >= Some(reach) {
                continue;
            }
            marks[id] = Some(reach);
            let followed = self.edges[id].iter().filter(|(_, least)| *least <= reach);
            waiting.extend(followed.map(|(to, _)| (*to, reach)));
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str) -> Resource {
        Resource::Image(name.into())
    }

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (from, to) in edges {
            let from = graph.id(&image(from));
            graph.refer(from, &image(to));
        }
        graph
    }

    fn reached(graph: &Graph) -> String {
        let marks = graph.mark();
        let name = |id: usize| match graph.node(id) {
            Resource::Image(name) => name.clone(),
            _ => String::new(),
        };
        let mut names: Vec<_> = (0..marks.len()).filter(|id| marks[*id].is_some()).collect();
        names.sort_by_key(|id| name(*id));
        names.into_iter().map(name).collect()
    }

    #[test]
    fn what_a_root_reaches_is_marked_even_in_a_cycle() {
        let mut graph = graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "b"), ("e", "e")]);
        let a = graph.id(&image("a"));
        graph.root(a, Reach::Full, Reason::Name);
        assert_eq!(reached(&graph), "abc");
    }

    #[test]
    fn a_flat_root_keeps_what_it_consists_of_and_a_full_one_also_keeps_the_rest() {
        let mut graph = graph(&[("a", "x"), ("b", "y")]);
        let a = graph.id(&image("a"));
        graph.consist(a, &image("b"));
        graph.root(a, Reach::Flat, Reason::Name);
        assert_eq!(reached(&graph), "ab");
        graph.root(a, Reach::Full, Reason::Name);
        assert_eq!(reached(&graph), "abxy");
    }

    #[test]
    fn conditions_are_references_while_they_hold() {
        let now = SystemTime::now();
        let snapshot = Resource::Snapshot {
            snapshotter: "o".into(),
            key: "k".into(),
        };
        for (age, reached) in [("1h", false), ("3h", true)] {
            let mut graph = Graph::default();
            let (a, s) = (graph.id(&image("a")), graph.id(&snapshot));
            let condition = (
                "containerd.io/gc.cond.snapshot.o".into(),
                format!("usedat<{age}|k"),
            );
            graph.label(a, &[condition].into());
            let used = now - std::time::Duration::from_secs(7200);
            let used = humantime::format_rfc3339(used).to_string();
            graph.label(
                s,
                &[("containerd.io/gc.cond.value-usedat".into(), used)].into(),
            );
            graph.resolve_conditions(now);
            graph.root(a, Reach::Full, Reason::Name);
            assert_eq!(graph.mark()[s].is_some(), reached, "{age}");
        }
    }
}
