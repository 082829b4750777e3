//! Finds out whether everything below a document is in the store, and corrects the records of
//! indexes that wrongly count a manifest as stored.

mod available;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

pub use self::available::Available;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::dispatch::{self, Handler, Next, dispatch};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::media_type::MediaType;
use crate::records::blob::decode;
use crate::records::{Batch, Blobs, Expect, Notes, Table, each, retry};
use crate::store::Store;
use crate::sync::lock;

/// The namespace and the key of the note that exists once the records of indexes were corrected.
const CORRECTED: (&str, &str) = ("records", "indexes-corrected");

/// Maximum number of blobs that are looked up, or read if they are documents, concurrently.
const CONCURRENT: usize = 4;

/// Which parts of an image are in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completeness {
    /// The first blob that the image needs and the store does not have; `None` if nothing is
    /// missing. An index needs one of its children, and everything that this child needs. An index
    /// without children needs nothing.
    pub missing: Option<Digest>,
    /// The incomplete children of indexes. A child is incomplete if the store lacks the child, or a
    /// blob that the child needs.
    pub left_out: BTreeSet<Digest>,
}

/// Returns which parts of the image below `root` are in the store. These layers do not count as
/// missing:
///
/// - layers that registries do not distribute;
/// - layers whose tars a snapshotter keeps, as the record of the manifest states;
/// - other layers that the record of the manifest lists as absent, for example because a pull
///   discarded them. This does not apply to a manifest that an index records as absent, because no
///   job has completed the manifest for this index.
///
/// If the record of a manifest is damaged, all layers that the store does not have count as
/// missing, except those that registries do not distribute. A configuration that the store does not
/// have always counts as missing.
///
/// # Errors
/// `Corrupt` for a damaged document, or for a blob of another size than its descriptor states;
/// `OutOfRange` for a document that is too large to be read, or if the image exceeds a bound of
/// [`walk`](crate::dispatch::walk()); errors of the store.
pub async fn completeness(store: &Store, root: &Descriptor) -> Result<Completeness> {
    find(store, root, Unreadable::Fail).await
}

/// As [`completeness`], but what is damaged or unsupported below `root` counts as missing.
///
/// # Errors
/// As [`completeness`], but `Corrupt` and `Unsupported` only for `root` itself.
pub(crate) async fn sound_completeness(store: &Store, root: &Descriptor) -> Result<Completeness> {
    find(store, root, Unreadable::Missing).await
}

async fn find(store: &Store, root: &Descriptor, unreadable: Unreadable) -> Result<Completeness> {
    let finder = Finder {
        store,
        root: root.digest,
        unreadable,
        parts: Mutex::default(),
    };
    let limiter = Semaphore::new(CONCURRENT);
    dispatch(&finder, Some(&limiter), std::slice::from_ref(root)).await?;
    let parts = finder.parts.into_inner();
    Ok(judge(
        parts.unwrap_or_else(PoisonError::into_inner),
        root.digest,
    ))
}

/// How damaged content below the root is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    /// It is an error.
    Fail,
    /// It counts as complete.
    Complete,
    /// It counts as missing, and so does an unsupported document.
    Missing,
}

impl Unreadable {
    /// Returns what a part counts as if it cannot be read because of `error`.
    ///
    /// # Errors
    /// `error`, if such a part is an error.
    fn part(self, error: Error) -> Result<Part> {
        match self {
            Unreadable::Complete if is_of_document(&error) => Ok(Part::Leaf),
            Unreadable::Missing if is_damage(&error) => Ok(Part::Missing),
            _ => Err(error),
        }
    }
}

/// A blob of an image.
enum Part {
    Missing,
    /// A blob that lists nothing.
    Leaf,
    /// An index, which needs one of its children.
    Index(Listed),
    /// A manifest, which needs all of its children. If an index records the manifest as stored, it
    /// does not need those that are recorded as absent.
    Manifest(Listed),
}

/// The children of a document.
struct Listed {
    children: Vec<Digest>,
    /// The children that the record of the document states as absent.
    absent: BTreeSet<Digest>,
}

impl Listed {
    fn new(children: &[Descriptor], absent: BTreeSet<Digest>) -> Self {
        Listed {
            children: children.iter().map(|child| child.digest).collect(),
            absent,
        }
    }
}

/// Finds the parts of an image.
struct Finder<'a> {
    store: &'a Store,
    root: Digest,
    unreadable: Unreadable,
    parts: Mutex<HashMap<Digest, Part>>,
}

#[async_trait]
impl Handler for Finder<'_> {
    async fn handle(&self, descriptor: &Descriptor) -> Result<Next> {
        let is_root = descriptor.digest == self.root;
        let (part, children) = match self.find(descriptor).await {
            Err(error) if !is_root => (self.unreadable.part(error)?, Vec::new()),
            found => found?,
        };
        lock(&self.parts).insert(descriptor.digest, part);
        Ok(Next::Children(children))
    }
}

impl Finder<'_> {
    /// Returns the part at `descriptor`, and its children.
    async fn find(&self, descriptor: &Descriptor) -> Result<(Part, Vec<Descriptor>)> {
        if descriptor.data.is_none() && !self.store.present(descriptor).await? {
            return Ok((Part::Missing, Vec::new()));
        }
        if !descriptor.media_type.is_document() {
            return Ok((Part::Leaf, Vec::new()));
        }
        let mut children = dispatch::children(&*self.store.content, descriptor).await?;
        let record = self.store.blobs().load_sound(&descriptor.digest).await?;
        if descriptor.media_type.is_index() {
            let absent = record.map(|record| record.absent).unwrap_or_default();
            return Ok((Part::Index(Listed::new(&children, absent)), children));
        }
        let mut absent = BTreeSet::new();
        if let Some(record) = record {
            let config = children.first().map(|config| config.digest);
            children.retain(|child| !record.is_tar(&child.digest));
            absent = record.absent;
            absent.retain(|child| Some(*child) != config);
        }
        children.retain(|child| !child.media_type.is_non_distributable());
        Ok((Part::Manifest(Listed::new(&children, absent)), children))
    }
}

/// Finds what is missing. Judges children before the documents that list them. The function does
/// not recurse, because shared indexes can form a chain that is longer than the nesting limit.
fn judge(parts: HashMap<Digest, Part>, root: Digest) -> Completeness {
    let mut missing: HashMap<Digest, Option<Digest>> = HashMap::new();
    let recorded = recorded(&parts, root);
    let mut left_out = BTreeSet::new();
    let mut steps = vec![(root, false)];
    while let Some((digest, children_are_judged)) = steps.pop() {
        if missing.contains_key(&digest) {
            continue;
        }
        let first = match parts.get(&digest) {
            None | Some(Part::Missing) => Some(digest),
            Some(Part::Leaf) => None,
            Some(Part::Index(listed) | Part::Manifest(listed)) if !children_are_judged => {
                steps.push((digest, true));
                steps.extend(listed.children.iter().map(|child| (*child, false)));
                continue;
            }
            Some(Part::Manifest(Listed { children, absent })) => {
                let is_recorded = recorded.contains(&digest);
                let mut needed = children
                    .iter()
                    .filter(|child| !is_recorded || !absent.contains(child));
                needed.find_map(|child| missing[child])
            }
            Some(Part::Index(Listed { children, .. })) => {
                let incomplete = children.iter().filter(|child| missing[*child].is_some());
                let incomplete: Vec<Digest> = incomplete.copied().collect();
                left_out.extend(&incomplete);
                let first = incomplete.first().and_then(|child| missing[child]);
                first.filter(|_| incomplete.len() == children.len())
            }
        };
        missing.insert(digest, first);
    }
    Completeness {
        missing: missing[&root],
        left_out,
    }
}

/// Returns the documents that are recorded as stored: `root`, and the children of recorded indexes,
/// except those that are recorded as absent.
fn recorded(parts: &HashMap<Digest, Part>, root: Digest) -> HashSet<Digest> {
    let (mut found, mut waiting) = (HashSet::from([root]), vec![root]);
    while let Some(digest) = waiting.pop() {
        if let Some(Part::Index(Listed { children, absent })) = parts.get(&digest) {
            let stored = children.iter().filter(|child| !absent.contains(child));
            waiting.extend(stored.filter(|child| found.insert(**child)));
        }
    }
    found
}

/// Corrects the records of all indexes, when it is first called for a store. Skips an index if a
/// document at or below it cannot be read.
///
/// In earlier releases, a failed pull or import left wrong records. A manifest of an index counted
/// as stored, although the manifest or a blob that it needs was missing. This function records such
/// manifests as absent, and also manifests that were lost before. From then on, a manifest that is
/// missing and not recorded as absent was lost, unless its index was skipped.
///
/// # Errors
/// `Corrupt` if a record does not parse; `Conflict` if every attempt to change a record lost
/// against another writer; errors of the store.
pub(crate) async fn correct_indexes(store: &Store) -> Result<()> {
    let (room, key) = CORRECTED;
    let notes = Notes::new(Arc::clone(&store.records), room)?;
    if notes.load(key).await?.is_some() {
        return Ok(());
    }
    let mut indexes = Vec::new();
    each(&*store.records, Table::Blobs, "", |record| {
        let (digest, blob) = (record.key.parse()?, decode(record)?);
        let media_type = blob.media_type.filter(MediaType::is_index);
        let has_children = !blob.children.is_empty() && blob.tombstone.is_none();
        indexes.extend(
            media_type
                .filter(|_| has_children)
                .map(|media_type| Descriptor::new(media_type, digest, blob.size)),
        );
        Ok(())
    })
    .await?;
    for index in &indexes {
        let corrected = retry(|| correct_index(store, index)).await;
        corrected.during("correct index", index.digest)?;
    }
    match notes.put(key, Bytes::new(), Expect::Any).await {
        // A collection must be able to run on a full disk. The next call corrects again.
        Err(error) if error.kind() == ErrorKind::Full => Ok(()),
        noted => noted,
    }
}

/// Records manifests of an index as absent if they are not complete.
async fn correct_index(store: &Store, index: &Descriptor) -> Result<()> {
    // A job that completes a manifest of this index changes the record of the index at its end. If
    // this happens before the commit below, the commit fails. If it happens later, the job itself
    // removes the manifest from `absent`.
    let Some((mut record, revision)) = store.blobs().load(&index.digest).await? else {
        return Ok(());
    };
    let left_out = incomplete_children(store, index).await?;
    let is_wrong = |child: &&Digest| left_out.contains(child) && !record.absent.contains(child);
    let wrong: Vec<Digest> = record.children.iter().filter(is_wrong).copied().collect();
    if wrong.is_empty() {
        return Ok(());
    }
    record.absent.extend(wrong);
    let (mut batch, expect) = (Batch::new(), Expect::Revision(revision));
    Blobs::put(&mut batch, &index.digest, &record, expect)?;
    store.records.commit(&batch).await
}

/// Returns the incomplete children of an index, at any depth. Returns an empty set if a document at
/// or below the index cannot be read, because the blobs that such a document needs are not known.
///
/// # Errors
/// Errors of the store.
pub(crate) async fn incomplete_children(
    store: &Store,
    index: &Descriptor,
) -> Result<BTreeSet<Digest>> {
    match completeness(store, index).await {
        Err(error) if is_of_document(&error) => {
            tracing::debug!(
                digest = %index.digest,
                %error,
                "cannot find out which children of an index are incomplete, because a document at \
                 or below the index cannot be read; run `cas fsck`"
            );
            Ok(BTreeSet::new())
        }
        found => Ok(found?.left_out),
    }
}

/// Returns whether an error states that a document is damaged or unsupported.
pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
}

/// Returns whether an error states that a document is missing, damaged, too large or unsupported.
/// Returns false for a limit of the system, although such an error has the kind `OutOfRange`, too.
pub(crate) fn is_of_document(error: &Error) -> bool {
    use ErrorKind::{Corrupt, NotFound, OutOfRange, Unsupported};
    match error.kind() {
        OutOfRange => Error::of_system(error).is_none(),
        kind => matches!(kind, Corrupt | NotFound | Unsupported),
    }
}
