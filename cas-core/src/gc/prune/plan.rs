//! Chooses the images to remove.

use std::collections::HashSet;
use std::time::SystemTime;

use super::options::PruneOptions;
use crate::gc::graph::{Graph, Id, Reason, Root};
use crate::image::{Image, Reference};
use crate::records::Resource;

/// An image that may be removed if nothing uses it.
pub(super) struct Candidate {
    pub(super) id: Id,
    pub(super) used_at: SystemTime,
    pub(super) in_use: bool,
    /// The blobs that it reaches, each once.
    pub(super) blobs: Vec<Id>,
    pub(super) image: Image,
}

/// Which images are removed, and what stays.
pub(super) struct Plan {
    /// The images that are removed, least recently used first. Each has the number of bytes of the
    /// blobs to which no other candidate refers, once the images before it are removed.
    pub(super) chosen: Vec<(Candidate, u64)>,
    /// Images that would be removed if nothing used them.
    pub(super) in_use: Vec<Reference>,
    /// Number of bytes by which a bound is missed: the larger one if two bounds are missed.
    pub(super) missing: u64,
}

impl Plan {
    pub(super) fn new(
        graph: &Graph,
        mut candidates: Vec<Candidate>,
        options: &PruneOptions,
    ) -> Self {
        candidates.sort_by(|one, other| {
            let key = |candidate: &Candidate| candidate.used_at;
            key(one)
                .cmp(&key(other))
                .then_with(|| one.image.name.cmp(&other.image.name))
        });
        let mut space = Space::new(graph, &candidates, options);
        let last = candidates.len() - candidates.len().min(options.keep_last.unwrap_or(0));
        let mut chosen = Vec::new();
        let mut in_use = Vec::new();
        for (position, candidate) in candidates.into_iter().enumerate() {
            let is_too_old = options.is_too_old(candidate.used_at);
            if position >= last || !is_too_old && space.missing() == 0 {
                break;
            }
            if candidate.in_use {
                in_use.push(candidate.image.name);
                continue;
            }
            space.remove(&candidate.blobs);
            chosen.push(candidate);
        }
        // An image that was chosen early may have freed nothing. Or the images that were chosen
        // later may have freed so much that the early image need not be removed. Such images stay,
        // unless they are too old.
        let mut needed: Vec<Candidate> = Vec::with_capacity(chosen.len());
        let was_missing = space.missing();
        while let Some(candidate) = chosen.pop() {
            if !options.is_too_old(candidate.used_at) {
                space.restore(&candidate.blobs);
                if space.missing() <= was_missing {
                    continue;
                }
                space.remove(&candidate.blobs);
            }
            needed.push(candidate);
        }
        needed.reverse();
        // An image may share blobs with images that stay after all, and then frees fewer bytes than
        // when it was chosen. So the bytes of each image are counted again.
        for candidate in &needed {
            space.restore(&candidate.blobs);
        }
        let with_bytes = |candidate: Candidate| {
            let bytes = space.remove(&candidate.blobs);
            (candidate, bytes)
        };
        Plan {
            chosen: needed.into_iter().map(with_bytes).collect(),
            in_use,
            missing: space.missing(),
        }
    }

    /// Returns how many bytes of the chosen images a collection frees now, and how many bytes a
    /// later collection frees.
    pub(super) fn effect(&self, graph: &Graph) -> (u64, u64) {
        let removed: HashSet<Id> = self.chosen.iter().map(|(one, _)| one.id).collect();
        let stays = |root: &Root| root.reason != Reason::Name || !removed.contains(&root.id);
        let now = graph.mark_from(stays);
        let lasting = graph.mark_from(|root| stays(root) && !passes(&root.reason));
        let blobs = self.chosen.iter().flat_map(|(one, _)| &one.blobs);
        let blobs: HashSet<Id> = blobs.copied().collect();
        let (mut freed, mut later) = (0, 0);
        for blob in blobs {
            let bytes = graph.weight(blob).bytes;
            match (now[blob], lasting[blob]) {
                (None, _) => freed += bytes,
                (Some(_), None) => later += bytes,
                (Some(_), Some(_)) => {}
            }
        }
        (freed, later)
    }
}

/// Returns whether a reason to keep something ends by itself.
fn passes(reason: &Reason) -> bool {
    matches!(reason, Reason::Lease { .. } | Reason::Young { .. })
}

/// Counts the bytes that the candidates keep.
struct Space<'a> {
    graph: &'a Graph,
    /// How many candidates refer to each blob.
    images: Vec<u32>,
    /// Whether something other than the candidates keeps a blob for good.
    held: Vec<bool>,
    /// Bytes of the blobs that candidates refer to.
    kept: u64,
    /// Bytes that are free, or will be.
    free: u64,
    max_size: Option<u64>,
    keep_free: u64,
}

impl<'a> Space<'a> {
    fn new(graph: &'a Graph, candidates: &[Candidate], options: &PruneOptions) -> Self {
        let own: HashSet<Id> = candidates.iter().map(|candidate| candidate.id).collect();
        let others = graph.mark_from(|root| {
            let is_own = root.reason == Reason::Name && own.contains(&root.id);
            !is_own && !passes(&root.reason)
        });
        let mut space = Space {
            graph,
            images: vec![0; graph.len()],
            held: others.iter().map(Option::is_some).collect(),
            kept: 0,
            free: options.free.unwrap_or(0),
            max_size: options.max_size,
            keep_free: options.keep_free.unwrap_or(0),
        };
        for candidate in candidates {
            for blob in &candidate.blobs {
                space.images[*blob] += 1;
                if space.images[*blob] == 1 {
                    space.kept = space.kept.saturating_add(graph.weight(*blob).bytes);
                }
            }
        }
        space
    }

    /// Returns by how many bytes a bound is missed: the larger number if two bounds are missed.
    fn missing(&self) -> u64 {
        let over = self
            .max_size
            .map_or(0, |most| self.kept.saturating_sub(most));
        over.max(self.keep_free.saturating_sub(self.free))
    }

    /// Removes a candidate. Returns the number of bytes that no other candidate refers to.
    fn remove(&mut self, blobs: &[Id]) -> u64 {
        let before = self.kept;
        for blob in blobs {
            self.images[*blob] -= 1;
            if self.images[*blob] == 0 {
                let bytes = self.graph.weight(*blob).bytes;
                self.kept = self.kept.saturating_sub(bytes);
                if !self.held[*blob] {
                    self.free = self.free.saturating_add(bytes);
                }
            }
        }
        before - self.kept
    }

    /// Undoes the removal of a candidate.
    fn restore(&mut self, blobs: &[Id]) {
        for blob in blobs {
            self.images[*blob] += 1;
            if self.images[*blob] == 1 {
                let bytes = self.graph.weight(*blob).bytes;
                self.kept = self.kept.saturating_add(bytes);
                if !self.held[*blob] {
                    self.free = self.free.saturating_sub(bytes);
                }
            }
        }
    }
}

/// Finds what images reach.
pub(super) struct Walk<'a> {
    graph: &'a Graph,
    /// The number of the last walk that came to each resource.
    visited: Vec<u32>,
    number: u32,
}

impl<'a> Walk<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        let visited = vec![0; graph.len()];
        Walk {
            graph,
            visited,
            number: 0,
        }
    }

    /// Returns the blobs that `id` reaches, each once.
    pub(super) fn blobs(&mut self, id: Id) -> Vec<Id> {
        self.number += 1;
        let (mut blobs, mut waiting) = (Vec::new(), vec![id]);
        while let Some(id) = waiting.pop() {
            if std::mem::replace(&mut self.visited[id], self.number) == self.number {
                continue;
            }
            if matches!(self.graph.node(id), Resource::Content(_)) {
                blobs.push(id);
            }
            waiting.extend(self.graph.edges(id).iter().map(|(to, _)| *to));
        }
        blobs
    }
}
