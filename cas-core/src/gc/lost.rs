//! What is kept although the records that led to it may be lost.

use std::collections::HashSet;
use std::time::SystemTime;

use super::graph::{Id, Reach, Reason};
use super::scan::{Scan, scan, stored_children};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::records::Resource;
use crate::snapshot::Snapshotter;
use crate::store::Store;

impl Scan {
    /// Adds references from reached indexes to children that the records of the indexes state as
    /// absent, if such a child leads to a lost keeper. After a loss of records, a job that stores
    /// another platform of an index records a child as absent, although the child was stored and
    /// unpacked. The snapshots of the child may have the only copy of its layers.
    pub(super) async fn read_left_out(&mut self, store: &Store) -> Result<()> {
        let lost = self.lost_keepers(store).await?;
        if lost.is_empty() {
            return Ok(());
        }
        let (marks, mut found) = (self.graph.mark(), Vec::new());
        for (index, child) in &self.left_out {
            if marks[*index].is_some() && self.leads_to(store, child, &lost).await? {
                found.push((*index, *child));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        for (index, child) in found {
            self.graph.refer(index, &Resource::Content(child));
        }
        self.read_bare(store).await
    }

    /// Returns the stored keepers of unreached snapshots to which a lost record may have led: no
    /// record refers to the keeper, and its own record lists no children.
    async fn lost_keepers(&self, store: &Store) -> Result<HashSet<Id>> {
        let mut lost = HashSet::new();
        if self.keepers.is_empty() || self.left_out.is_empty() {
            return Ok(lost);
        }
        let (graph, marks) = (&self.graph, self.graph.mark());
        let is_reached = |(to, _): &(Id, Reach)| marks[*to].is_some();
        let unlisted = self.keepers.iter().filter(|id| !self.listed.contains(*id));
        let mut found: HashSet<Id> = unlisted
            .filter(|id| !graph.edges(**id).iter().all(is_reached))
            .copied()
            .collect();
        if found.is_empty() {
            return Ok(lost);
        }
        for to in graph.targets() {
            found.remove(&to);
        }
        for id in found {
            if let Resource::Content(digest) = graph.node(id)
                && store.content.stat(digest).await?.is_some()
            {
                lost.insert(id);
            }
        }
        Ok(lost)
    }

    /// Returns whether a stored document is in `wanted`, or lists something in `wanted`, directly
    /// or not. Only documents whose children no record lists are read.
    async fn leads_to(
        &self,
        store: &Store,
        document: &Digest,
        wanted: &HashSet<Id>,
    ) -> Result<bool> {
        let find = |digest: &Digest| self.graph.find(&Resource::Content(*digest));
        let is_wanted = |digest: &Digest| find(digest).is_some_and(|id| wanted.contains(&id));
        let (mut waiting, mut seen) = (vec![*document], HashSet::new());
        while let Some(digest) = waiting.pop() {
            let is_listed = find(&digest).is_some_and(|id| self.listed.contains(&id));
            if is_listed || self.tombstoned.contains(&digest) || !seen.insert(digest) {
                continue;
            }
            let Some((_, children)) = stored_children(store, &digest).await? else {
                continue;
            };
            if is_wanted(&digest) || children.iter().any(|child| is_wanted(&child.digest)) {
                return Ok(true);
            }
            let documents = children.iter().filter(|one| one.media_type.is_document());
            waiting.extend(documents.map(|one| one.digest));
        }
        Ok(false)
    }

    /// As the function [`unattributed`].
    async fn unattributed(self, store: &Store) -> Result<Vec<Digest>> {
        let graph = &self.graph;
        let marks = graph.mark_from(|root| !matches!(root.reason, Reason::Young { .. }));
        let mut is_known: Vec<bool> = marks.iter().map(Option::is_some).collect();
        for id in graph.targets().chain(self.listed.iter().copied()) {
            is_known[id] = true;
        }
        for id in self.bare.iter().filter(|id| marks[**id].is_none()) {
            let Resource::Content(digest) = graph.node(*id) else {
                continue;
            };
            let children = match stored_children(store, digest).await {
                // The blobs that it lists are not known.
                Err(error) if error.kind() == ErrorKind::Corrupt => continue,
                found => found?.map(|(_, children)| children).unwrap_or_default(),
            };
            is_known[*id] |= !children.is_empty();
            let children = children.iter().map(|one| Resource::Content(one.digest));
            for child in children.filter_map(|child| graph.find(&child)) {
                is_known[child] = true;
            }
        }
        let is_unknown = |digest: &Digest| {
            let id = graph.find(&Resource::Content(*digest));
            id.is_some_and(|id| !is_known[id])
        };
        let blobs = self.blobs.iter().map(|(digest, _)| *digest);
        Ok(blobs.filter(is_unknown).collect())
    }
}

/// Returns the blobs with a record that no document lists, that no label refers to, and that no gc
/// root reaches. Documents with children, and blobs that are being removed, are left out. Young
/// content does not count as a gc root here.
///
/// # Errors
/// `Corrupt` if a record is damaged, or a document that a gc root reaches; errors of the store and
/// of the snapshotters.
pub(crate) async fn unattributed(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
) -> Result<Vec<Digest>> {
    let found = scan(store, snapshotters, SystemTime::now(), true, None).await?;
    found.unattributed(store).await
}
