//! What a collection for one owner may change: the expired names and the claims of the owner, and
//! the blobs that no other owner claims.

use super::graph::{Reach, Reason};
use super::scan::Scan;
use super::unreachable::Unreachable;
use crate::digest::Digest;
use crate::owner::Owner;
use crate::records::Resource;

impl Unreachable {
    /// Selects the expired names of `owner` that no gc root reaches. Also selects the blobs that
    /// `owner` claims, except those that a name of the owner, a lease, a label or young content
    /// reaches. A selected blob is removed if no other gc root, such as a claim of another owner,
    /// reaches it. Otherwise, only the claim of `owner` is dropped. Also selects the tombstoned
    /// blobs that only `owner` claims. `found` is a scan for `owner`.
    pub(super) fn of_owner(found: Scan, owner: &Owner) -> Self {
        let Scan {
            mut blobs,
            mut tombstoned,
            expired: mut images,
            claims,
            foreign,
            graph,
            ..
        } = found;
        let all = graph.mark();
        let own = graph.mark_from(|root| match root.reason {
            Reason::Name => !foreign.contains(&root.id),
            Reason::Unnamed | Reason::Claim { .. } => false,
            Reason::Lease { .. } | Reason::Label | Reason::Young { .. } => true,
        });
        let reached = |marks: &[Option<Reach>], resource: &Resource| {
            graph.find(resource).is_some_and(|id| marks[id].is_some())
        };
        let has_claim = |digest: &Digest| claims.get(digest).is_some_and(|all| all.contains(owner));
        let is_alone = |digest: &Digest| claims.get(digest).is_some_and(|all| all.len() == 1);

        blobs.retain(|(digest, _)| {
            has_claim(digest)
                && !tombstoned.contains(digest)
                && !reached(&own, &Resource::Content(*digest))
        });
        let (released, blobs) = blobs
            .into_iter()
            .partition(|(digest, _)| reached(&all, &Resource::Content(*digest)));
        tombstoned.retain(|digest| has_claim(digest) && is_alone(digest));
        images.retain(|(name, _)| !reached(&all, &Resource::Image(name.to_string())));
        Unreachable {
            blobs,
            released,
            tombstoned,
            snapshots: Vec::new(),
            images,
            ingests: Vec::new(),
            leftovers: None,
        }
    }
}
