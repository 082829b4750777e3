//! Reads a store in the order that makes a collection safe.
//!
//! The scan first reads the revision of every blob record, then the list of snapshots, then the
//! leases, then the images, and then the references in the blob records. A job that adds a root or
//! a reference creates a lease, pins every blob that the root or reference will lead to, writes the
//! root or reference, and ends the lease. So each blob that the job pins stays, in one of three
//! ways. If the blob was pinned after its revision was read, the sweep finds another revision, and
//! skips the blob. If the blob was pinned earlier, and the lease still existed when the leases were
//! read, the scan finds the lease. If the lease had ended by then, the scan finds the name or
//! reference that the job wrote, because names and references are read after the leases.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use super::graph::{Graph, Id, Reach, Reason};
use super::labels::back_references;
use crate::complete::is_of_document;
use crate::content::{ContentExt, IngestStatus, Stat};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch;
use crate::document::Document;
use crate::document_type::document_type;
use crate::error::{ErrorKind, Result};
use crate::image::{Reference, Root};
use crate::labels::{GC_FLAT, LEASE, expiry};
use crate::limit;
use crate::media_type::MediaType;
use crate::owner::Owner;
use crate::records::blob::decode;
use crate::records::{
    BlobRecord, CLOCK_SKEW, Lease, Resource, Revision, Table, UNLEASED_TTL, each,
};
use crate::snapshot::{self, Info, Snapshotter};
use crate::store::Store;

/// What a scan found.
pub(super) struct Scan {
    /// Blobs with a record, and the revision of the record before anything else was read.
    pub(super) blobs: Vec<(Digest, Revision)>,
    /// Blobs that another collection has tombstoned but not yet removed.
    pub(super) tombstoned: BTreeSet<Digest>,
    /// Snapshots as they were before the leases were read, with the number of their snapshotter.
    pub(super) snapshots: Vec<(usize, Info)>,
    /// Images that have expired, with their targets.
    pub(super) expired: Vec<(Reference, Descriptor)>,
    pub(super) ingests: Vec<IngestStatus>,
    /// The owners that claim each blob.
    pub(super) claims: HashMap<Digest, BTreeSet<Owner>>,
    /// The names that do not belong to the owner whose content is collected. Empty if the
    /// collection is not for an owner.
    pub(super) foreign: HashSet<Id>,
    /// The documents whose children are in the graph. Other documents may have edges, too, because
    /// of their labels.
    pub(super) listed: HashSet<Id>,
    /// The blobs that may be documents, but whose records list no children.
    pub(super) bare: HashSet<Id>,
    /// The indexes, each with a child that its record states as absent.
    pub(super) left_out: Vec<(Id, Digest)>,
    /// The blobs that keep snapshots by back references.
    pub(super) keepers: HashSet<Id>,
    pub(super) graph: Graph,
}

/// Reads everything. The claims of `owner` do not become roots. Expired leases are deleted on the
/// way, unless the scan is `read_only`.
pub(super) async fn scan(
    store: &Store,
    snapshotters: &[&dyn Snapshotter],
    now: SystemTime,
    read_only: bool,
    owner: Option<&Owner>,
) -> Result<Scan> {
    let mut scan = Scan {
        blobs: Vec::new(),
        tombstoned: BTreeSet::new(),
        snapshots: Vec::new(),
        expired: Vec::new(),
        ingests: Vec::new(),
        claims: HashMap::new(),
        foreign: HashSet::new(),
        listed: HashSet::new(),
        bare: HashSet::new(),
        left_out: Vec::new(),
        keepers: HashSet::new(),
        graph: Graph::default(),
    };
    scan.read_revisions(store).await?;
    for (number, snapshotter) in snapshotters.iter().enumerate() {
        scan.read_snapshot_list(number, *snapshotter).await?;
    }
    let leases = live_leases(store, now, read_only).await?;
    let roots = store.images.roots().await?;
    scan.ingests = store.content.ingests().await?;

    scan.read_blobs(store, &leases, now, owner).await?;
    scan.read_snapshots(snapshotters, now);
    scan.read_ingests(now);
    scan.read_leases(&leases);
    scan.read_roots(store, roots, now, owner).await?;
    scan.graph.resolve_conditions(now);
    scan.read_bare(store).await?;
    scan.read_left_out(store).await?;
    Ok(scan)
}

impl Scan {
    async fn read_revisions(&mut self, store: &Store) -> Result<()> {
        each(&*store.records, Table::Blobs, "", |record| {
            let digest = record.key.parse()?;
            self.blobs.push((digest, record.revision.clone()));
            Ok(())
        })
        .await
    }

    async fn read_snapshot_list(
        &mut self,
        number: usize,
        snapshotter: &dyn Snapshotter,
    ) -> Result<()> {
        let found = snapshot::all(snapshotter).await?;
        let found = found.into_iter().map(|info| (number, info));
        self.snapshots.extend(found);
        Ok(())
    }

    async fn read_blobs(
        &mut self,
        store: &Store,
        leases: &[(String, Lease)],
        now: SystemTime,
        owner: Option<&Owner>,
    ) -> Result<()> {
        let live: HashMap<&str, &Lease> = leases
            .iter()
            .map(|(id, lease)| (id.as_str(), lease))
            .collect();
        each(&*store.records, Table::Blobs, "", |record| {
            let (digest, blob): (Digest, BlobRecord) = (record.key.parse()?, decode(record)?);
            if !blob.owners.is_empty() {
                self.claims.insert(digest, blob.owners.clone());
            }
            if blob.tombstone.is_some() {
                self.tombstoned.insert(digest);
                return Ok(());
            }
            let graph = &mut self.graph;
            let id = graph.id(&Resource::Content(digest));
            let is_layer = blob.media_type.as_ref().is_some_and(MediaType::is_layer);
            graph.weigh(id, blob.size, is_layer);
            for child in blob
                .children
                .iter()
                .filter(|child| !blob.absent.contains(child))
            {
                graph.refer(id, &Resource::Content(*child));
                self.listed.insert(id);
            }
            let media_type = blob.media_type.as_ref();
            if media_type.is_some_and(MediaType::is_index) {
                let left_out = blob.absent.iter().map(|child| (id, *child));
                self.left_out.extend(left_out);
            }
            if blob.children.is_empty() && media_type.is_none_or(MediaType::is_document) {
                self.bare.insert(id);
            }
            graph.label(id, &blob.labels);
            for claimant in blob.owners.iter().filter(|one| Some(*one) != owner) {
                let owner = claimant.clone();
                graph.root(id, Reach::Flat, Reason::Claim { owner });
            }
            for (holder, lease) in blob
                .leases
                .iter()
                .filter_map(|id| live.get_key_value(&**id))
            {
                graph.root(id, Reach::Full, reason(holder, lease));
            }
            if let Some(until) = blob.expires_at.filter(|until| *until > now) {
                graph.root(id, Reach::Full, Reason::Young { until });
            }
            Ok(())
        })
        .await
    }

    fn read_snapshots(&mut self, snapshotters: &[&dyn Snapshotter], now: SystemTime) {
        for (number, info) in &self.snapshots {
            let snapshotter = snapshotters[*number].name();
            let named = |key: &str| Resource::Snapshot {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
            };
            let id = self.graph.id(&named(&info.key));
            if let Some(parent) = &info.parent {
                self.graph.consist(id, &named(parent));
            }
            self.graph.label(id, &info.labels);
            for keeper in back_references(&info.labels) {
                if matches!(keeper, Resource::Content(_)) {
                    self.keepers.insert(self.graph.id(&keeper));
                }
            }
            let until = info.created_at + UNLEASED_TTL;
            if !info.labels.contains_key(LEASE) && until > now {
                self.graph.root(id, Reach::Full, Reason::Young { until });
            }
        }
    }

    fn read_ingests(&mut self, now: SystemTime) {
        for ingest in &self.ingests {
            let id = self.graph.id(&Resource::Ingest(ingest.key.clone()));
            // The key of most ingests is the digest of the blob.
            if let Ok(digest) = ingest.key.parse() {
                self.graph.refer(id, &Resource::Content(digest));
            }
            // The time of a file can be so late that no day can be added to it.
            let until = ingest.updated_at.checked_add(UNLEASED_TTL);
            let until = until.unwrap_or(ingest.updated_at);
            if until > now {
                self.graph.root(id, Reach::Full, Reason::Young { until });
            }
        }
    }

    fn read_leases(&mut self, leases: &[(String, Lease)]) {
        for (id, lease) in leases {
            let reach = if lease.labels.contains_key(GC_FLAT) {
                Reach::Flat
            } else {
                Reach::Full
            };
            for resource in &lease.resources {
                let node = self.graph.id(resource);
                self.graph.root(node, reach, reason(id, lease));
            }
        }
    }

    async fn read_roots(
        &mut self,
        store: &Store,
        roots: Vec<Root>,
        now: SystemTime,
        owner: Option<&Owner>,
    ) -> Result<()> {
        for root in roots {
            self.read_documents(store, &root.target).await?;
            let target = Resource::Content(root.target.digest);
            let Some(name) = root.name else {
                let id = self.graph.id(&target);
                self.graph.root(id, Reach::Full, Reason::Unnamed);
                continue;
            };
            let id = self.graph.id(&Resource::Image(name.to_string()));
            self.graph.consist(id, &target);
            self.graph.label(id, &root.labels);
            let foreign = owner.is_some() && root.owner.as_ref() != owner;
            if foreign {
                self.foreign.insert(id);
            }
            if expiry(&root.labels).is_none_or(|at| at >= now) {
                self.graph.root(id, Reach::Full, Reason::Name);
            } else if !foreign {
                self.expired.push((name, root.target));
            }
        }
        Ok(())
    }

    /// Reads `root` and the documents below it, and adds their children to the graph. If the record
    /// of a document lists a child that is not absent, the document is not read, and nothing below
    /// it is visited from there. A document without a record, which another program may have
    /// stored, is read.
    ///
    /// [`Scan::read_bare`] reads the documents below that have lost their records.
    async fn read_documents(&mut self, store: &Store, root: &Descriptor) -> Result<()> {
        let mut waiting = vec![root.clone()];
        while let Some(descriptor) = waiting.pop() {
            let id = self.graph.id(&Resource::Content(descriptor.digest));
            let media_type = &descriptor.media_type;
            self.graph.weigh(id, descriptor.size, media_type.is_layer());
            if !media_type.is_document() || !self.listed.insert(id) {
                continue;
            }
            let listed = match children(store, &descriptor).await {
                // It was removed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                outcome => outcome?,
            };
            for child in listed {
                self.graph.refer(id, &Resource::Content(child.digest));
                waiting.push(child);
            }
        }
        Ok(())
    }

    /// Reads the documents that roots reach and whose children no record lists, and adds the
    /// children to the graph. The record of such a document was lost or is being repaired, or a job
    /// has pinned the document since and has made a record without children. The record of the
    /// index above may still list the document.
    pub(super) async fn read_bare(&mut self, store: &Store) -> Result<()> {
        let mut read = HashSet::new();
        loop {
            let found = self.reached_bare(&mut read);
            if found.is_empty() {
                return Ok(());
            }
            for (id, digest) in found {
                let Some((size, listed)) = stored_children(store, &digest).await? else {
                    continue;
                };
                self.graph.weigh(id, size, false);
                for child in listed {
                    self.graph.refer(id, &Resource::Content(child.digest));
                }
            }
        }
    }

    /// Returns the reached blobs that may be documents and whose children are not known: blobs
    /// without a record, and bare blobs that something refers to. Leaves out the blobs in `read`,
    /// and adds the returned blobs to it.
    fn reached_bare(&self, read: &mut HashSet<Id>) -> Vec<(Id, Digest)> {
        let graph = &self.graph;
        let mut is_referred = vec![false; graph.len()];
        for to in graph.targets() {
            is_referred[to] = true;
        }
        let mut found = Vec::new();
        for (id, is_referred) in is_referred.into_iter().enumerate() {
            let Resource::Content(digest) = graph.node(id) else {
                continue;
            };
            let is_bare = match graph.is_weighed(id) {
                true => is_referred && self.bare.contains(&id),
                false => !self.tombstoned.contains(digest),
            };
            if is_bare && !self.listed.contains(&id) && !read.contains(&id) {
                found.push((id, *digest));
            }
        }
        if !found.is_empty() {
            let marks = graph.mark();
            found.retain(|(id, _)| marks[*id].is_some());
        }
        read.extend(found.iter().map(|(id, _)| *id));
        found
    }
}

/// Returns the children of a document. Another program may have written a descriptor with a wrong
/// size, a wrong type or wrong embedded data. The stored document is then read as what it is,
/// because a collection must keep what it lists. If the store does not have the document, or if the
/// stored content is intact but no valid document, there are no children. Such content must not
/// stop every collection, because no repair can make it valid.
///
/// # Errors
/// `Corrupt` if the stored content is damaged, because what it lists is then not known; errors of
/// the store.
async fn children(store: &Store, descriptor: &Descriptor) -> Result<Vec<Descriptor>> {
    let error = match dispatch::children(&*store.content, descriptor).await {
        Err(error) if is_of_document(&error) => error,
        outcome => return outcome,
    };
    let Some(stat) = store.content.stat(&descriptor.digest).await? else {
        return Ok(Vec::new());
    };
    if let Some(listed) = recognised_children(store, &stat).await? {
        return Ok(listed);
    }
    let what = "a collection cannot read a document, and keeps nothing that it lists";
    tracing::warn!(digest = %stat.digest, %error, "{what}");
    Ok(Vec::new())
}

/// Returns the size and the children of a stored document whose type is not known. There are no
/// children if the content is not a valid document, or is too large to be read. Returns `None` if
/// the store does not have the content.
///
/// # Errors
/// As [`children`].
pub(super) async fn stored_children(
    store: &Store,
    digest: &Digest,
) -> Result<Option<(u64, Vec<Descriptor>)>> {
    let Some(stat) = store.content.stat(digest).await? else {
        return Ok(None);
    };
    match recognised_children(store, &stat).await {
        // It was removed meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        listed => Ok(Some((stat.size, listed?.unwrap_or_default()))),
    }
}

/// Returns the children of a stored document whose type is not known. Returns `None` if the content
/// is not a valid document, or is too large to be read.
///
/// # Errors
/// As [`children`]; `NotFound` if the content was removed.
async fn recognised_children(store: &Store, stat: &Stat) -> Result<Option<Vec<Descriptor>>> {
    if stat.size > limit::DOCUMENT_READ {
        return Ok(None);
    }
    let stored = Descriptor::new(MediaType::BYTES, stat.digest, stat.size);
    let data = store.content.fetch(&stored).await?;
    let Some(media_type) = document_type(&data) else {
        return Ok(None);
    };
    let document = Document::parse(&media_type, &data)?;
    Ok(Some(document.children().cloned().collect()))
}

/// Returns the leases that have not expired. A lease counts as expired only [`CLOCK_SKEW`] after
/// the time that it states. An expired lease is deleted by compare-and-swap before it is ignored,
/// so that either this deletion or a concurrent renewal by its job fails. If `read_only` is set, no
/// lease is deleted.
pub(crate) async fn live_leases(
    store: &Store,
    now: SystemTime,
    read_only: bool,
) -> Result<Vec<(String, Lease)>> {
    let leases = store.leases();
    let mut live = Vec::new();
    for (id, mut lease, mut revision) in leases.list().await? {
        loop {
            if lease.expiry().is_none_or(|at| at + CLOCK_SKEW > now) {
                live.push((id, lease));
                break;
            }
            let ended = if read_only {
                Ok(())
            } else {
                leases.remove(&id, revision).await
            };
            match ended {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    match leases.load(&id).await? {
                        Some(found) => (lease, revision) = found,
                        None => break,
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(live)
}

/// Returns the reason why a lease keeps what it pins or lists.
fn reason(id: &str, lease: &Lease) -> Reason {
    Reason::Lease {
        id: id.to_owned(),
        until: lease.expiry(),
    }
}
