//! Removes images by their last use, so that a store stays within bounds.
//!
//! The least recently used images are removed first. Images share blobs, so the bytes of a blob are
//! freed only when the last image that refers to it is removed. The images that refer to each blob
//! are therefore counted, and no more images are removed than the bounds require.

mod in_use;
mod options;
mod plan;
mod seen;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::SystemTime;

pub use self::options::PruneOptions;

use self::in_use::InUse;
use self::plan::{Candidate, Plan};
use self::seen::{Seen, delete};
use super::graph::{Graph, Reason};
use super::removed::Removed;
use super::scan::{Scan, scan};
use super::{GcOptions, collect};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::image::{Image, Reference};
use crate::pool;
use crate::records::{Resource, Revision};
use crate::snapshot::Snapshotter;
use crate::store::Store;

/// Maximum number of blobs in one page.
const PAGE: usize = 1000;

/// What [`prune`] removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pruned {
    /// The images whose names were removed, least recently used first.
    pub images: Vec<PrunedImage>,
    /// Number of bytes that only the removed images kept. Like `later` and `missing`, this number
    /// was computed before the names were removed, and leaves out bytes that the store has lost.
    pub freed: u64,
    /// Number of bytes of the removed images that this collection cannot free, because the content
    /// was stored less than a day ago or a lease keeps it. A later collection can free them.
    pub later: u64,
    /// Images that exceed the bounds, but stay because they are mounted, leased or used by a job.
    pub in_use: Vec<Reference>,
    /// Number of bytes by which a bound is still missed, because the remaining images must stay, or
    /// because the removal of all images does not free enough. If two bounds are missed, this is
    /// the larger number.
    pub missing: u64,
    /// What the collection removed, including the content of the removed images. In a dry run, what
    /// a collection would remove now, without the content of the images in `images`, because the
    /// names of these images still exist.
    pub removed: Removed,
}

/// An image that was removed, or that a dry run would remove.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunedImage {
    /// The name.
    pub name: Reference,
    /// When the image was last used, created or changed, whichever is the latest.
    pub used_at: SystemTime,
    /// Number of bytes of the blobs to which only this image refers, once the images before this
    /// one in [`Pruned::images`] are removed. References from images of other owners do not count,
    /// and neither do bytes that the store has lost.
    pub bytes: u64,
}

/// Removes the names of the images that exceed the bounds in `options`, and then collects garbage.
/// Returns what was removed, or for a dry run what would be removed. `uses` has the time of the
/// last use of each name, as [`Uses::all`](crate::image::Uses::all) returns it. The age of an image
/// is the time since it was last used, created or changed, whichever is the latest. Other jobs may
/// use the store meanwhile. If another job changes a name or begins to use its image before the
/// name is removed, the name stays. If the pruning is interrupted, the next collection frees the
/// content of the removed images.
///
/// Right before the pruning removes a name, a job that pulls or imports the image may find that the
/// name exists. Such a job does not write the name. After the removal, the pruning therefore checks
/// whether a job has begun to use the image. If so, the pruning creates the name again. The name
/// stays removed in two cases: the pruning is killed after the removal and before it creates the
/// name again, or the job ends in this time and another collection removes the content of the
/// image.
///
/// Images that are mounted, leased or used by a job stay, and so do the names of other owners. If
/// the store is not opened for an owner, only names without an owner are removed.
///
/// # Errors
/// `InvalidArgument` if the options set no bound, or `keep_free` without `free`; errors of
/// [`collect`].
pub async fn prune(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    uses: &BTreeMap<String, SystemTime>,
    options: &PruneOptions,
) -> Result<Pruned> {
    options.check()?;
    let images = store.images.list(&[]).await?;
    let own = images
        .into_iter()
        .filter(|image| image.owner.as_ref() == store.owner());
    let own = own.map(|image| (last_use(&image, uses), image)).collect();
    let mut found = scan(store, snapshotters, options.now, true, store.owner()).await?;
    weigh_absent(store, &mut found.graph).await?;
    let names = snapshotters.iter().map(|one| one.name().to_owned());
    let (names, options_of_plan) = (names.collect(), options.clone());
    let work = move || Ok(select(own, &found, names, &options_of_plan));
    let (mut pruned, seen) = pool::run(work).await?;
    if !options.dry_run {
        let deleted = delete(store, &seen).await?;
        pruned.images.retain(|image| deleted.contains(&image.name));
    }
    let collection = GcOptions::default()
        .with_now(options.now)
        .with_dry_run(options.dry_run);
    pruned.removed = collect(store, snapshotters, &collection).await?;
    Ok(pruned)
}

/// Gives each blob whose bytes are absent the size 0, because its removal frees nothing.
async fn weigh_absent(store: &Store, graph: &mut Graph) -> Result<()> {
    let mut is_stored = vec![false; graph.len()];
    let mut after = None;
    loop {
        let page = store.content.entries(after.as_ref(), PAGE).await?;
        for entry in &page {
            if let Some(id) = graph.find(&Resource::Content(*entry.digest())) {
                is_stored[id] = true;
            }
        }
        // Most stores answer without yielding, and other tasks share this thread.
        pool::give_way().await;
        match page.get(PAGE - 1) {
            Some(last) => after = Some(*last.digest()),
            None => break,
        }
    }
    for (id, is_stored) in is_stored.into_iter().enumerate() {
        if !is_stored {
            let is_layer = graph.weight(id).is_layer;
            graph.weigh(id, 0, is_layer);
        }
    }
    Ok(())
}

/// Returns when an image was last used, created or changed.
fn last_use(image: &Image, uses: &BTreeMap<String, SystemTime>) -> SystemTime {
    let used = uses.get(image.name.as_str()).copied();
    let changed = image.updated_at.max(image.created_at);
    used.map_or(changed, |used| used.max(changed))
}

/// Returns what is pruned, and the state that each image must still have when its name is deleted.
fn select(
    own: Vec<(SystemTime, Image)>,
    found: &Scan,
    snapshotters: Vec<String>,
    options: &PruneOptions,
) -> (Pruned, Vec<Seen>) {
    let graph = &found.graph;
    let named: HashSet<usize> = graph
        .roots
        .iter()
        .filter(|root| root.reason == Reason::Name)
        .map(|root| root.id)
        .collect();
    let in_use = InUse::new(found, &snapshotters);
    let candidates = own.into_iter().filter_map(|(used_at, image)| {
        let id = graph.find(&Resource::Image(image.name.to_string()))?;
        // An image that has expired is removed by the collection.
        named.contains(&id).then_some((id, used_at, image))
    });
    let mut walk = plan::Walk::new(graph);
    let candidates: Vec<Candidate> = candidates
        .map(|(id, used_at, image)| {
            let blobs = walk.blobs(id);
            let in_use = in_use.has(graph, id, &blobs, image.target.digest);
            Candidate {
                id,
                used_at,
                in_use,
                blobs,
                image,
            }
        })
        .collect();
    let plan = Plan::new(graph, candidates, options);
    report(found, plan)
}

fn report(found: &Scan, plan: Plan) -> (Pruned, Vec<Seen>) {
    let graph = &found.graph;
    let revisions = found
        .blobs
        .iter()
        .map(|(digest, revision)| (digest, revision));
    let revisions: HashMap<&Digest, &Revision> = revisions.collect();
    let (freed, later) = plan.effect(graph);
    let mut pruned = Pruned {
        freed,
        later,
        in_use: plan.in_use,
        missing: plan.missing,
        ..Pruned::default()
    };
    let mut seen = Vec::with_capacity(plan.chosen.len());
    for (candidate, bytes) in plan.chosen {
        pruned.images.push(PrunedImage {
            name: candidate.image.name.clone(),
            used_at: candidate.used_at,
            bytes,
        });
        let revision = revisions
            .get(&candidate.image.target.digest)
            .copied()
            .cloned();
        seen.push(Seen {
            image: candidate.image,
            revision,
        });
    }
    (pruned, seen)
}

impl PruneOptions {
    /// Checks that the options set a bound, and have the number of free bytes if the bound requires
    /// it.
    fn check(&self) -> Result<()> {
        let why = if self.keep_free.is_some() && self.free.is_none() {
            "the number of free bytes is not known; set `free`, or set `max_size` instead of \
             `keep_free`"
        } else if self.is_unbounded() {
            "expected a bound, found none; set `older_than`, `keep_last`, `max_size` or `keep_free`"
        } else {
            return Ok(());
        };
        Err(Error::invalid(why).operation("prune"))
    }
}
