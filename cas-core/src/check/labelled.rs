//! Blobs that labels keep. A label of a blob, an image or a snapshot can refer to another blob. A
//! blob can name what keeps it, in a back reference, and a label can make a blob a gc root.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, Use};
use crate::digest::Digest;
use crate::error::{ErrorKind, Result};
use crate::gc;
use crate::image::{Reference, Root};
use crate::labels::GC_ROOT;
use crate::media_type::MediaType;
use crate::records::{BlobRecord, Resource, Table, blob, each};
use crate::snapshot::all_sound;

/// A blob that a label keeps.
struct Labelled {
    digest: Digest,
    /// The blob that keeps it, or `None` if it is a gc root, or if an image or a snapshot keeps it.
    keeper: Option<Digest>,
    /// The name of the image that keeps it, if one does.
    image: Option<Reference>,
}

impl Labelled {
    fn new(digest: Digest, keeper: Option<Digest>, image: Option<&Reference>) -> Self {
        Labelled {
            digest,
            keeper,
            image: image.cloned(),
        }
    }
}

/// The images and the snapshots that can keep blobs by labels.
struct Keepers<'a> {
    images: BTreeMap<&'a str, &'a Reference>,
    snapshots: BTreeSet<Resource>,
}

impl Checker<'_> {
    /// Checks the blobs that labels keep, and the blobs that these need. A blob of which the store
    /// has neither the bytes nor a record is not reported, because a label may refer to a blob that
    /// will be stored later. Missing checkpoints of a layer are not reported, either: the next
    /// unpack of the layer records them again. `roots` are the images of the store.
    pub(super) async fn check_labelled(&mut self, roots: &[Root]) -> Result<()> {
        let mut waiting = self.labelled(roots).await?;
        // A blob that a label keeps may be the keeper of another one.
        loop {
            waiting.retain(|one| !self.uses.contains_key(&one.digest));
            let is_kept = |one: &Labelled| {
                let keeper = one.keeper.as_ref();
                keeper.is_none_or(|keeper| self.uses.contains_key(keeper))
            };
            let (kept, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_kept);
            if kept.is_empty() {
                return Ok(());
            }
            for one in kept {
                self.check_one_labelled(one).await?;
            }
            waiting = rest;
        }
    }

    async fn check_one_labelled(&mut self, one: Labelled) -> Result<()> {
        let Some(descriptor) = self.known(&one.digest).await? else {
            return Ok(());
        };
        if descriptor.media_type == MediaType::LAYER_CHECKPOINTS {
            return Ok(());
        }
        let keeper = one.keeper.and_then(|keeper| self.uses.get(&keeper));
        let image = one.image.or_else(|| keeper?.image.clone());
        self.check_tree(Use { descriptor, image }).await
    }

    /// Returns the blobs that labels keep if their keepers are kept.
    async fn labelled(&self, roots: &[Root]) -> Result<Vec<Labelled>> {
        let mut found = Vec::new();
        let mut keepers = Keepers {
            images: BTreeMap::new(),
            snapshots: BTreeSet::new(),
        };
        for root in roots {
            let name = root.name.as_ref();
            let named = name.map(|name| (name.as_str(), name));
            keepers.images.extend(named);
            let referenced = gc::referenced_content(&root.labels);
            found.extend(referenced.map(|digest| Labelled::new(digest, None, name)));
        }
        for snapshotter in self.snapshotters {
            let listed = match all_sound(*snapshotter).await {
                // `check_snapshots` reports damaged records.
                Err(error) if error.kind() == ErrorKind::Corrupt => continue,
                listed => listed?,
            };
            for info in listed.snapshots {
                let referenced = gc::referenced_content(&info.labels);
                found.extend(referenced.map(|digest| Labelled::new(digest, None, None)));
                keepers.snapshots.insert(Resource::Snapshot {
                    snapshotter: snapshotter.name().to_owned(),
                    key: info.key,
                });
            }
        }
        each(&*self.store.records, Table::Blobs, "", |record| {
            // `check_records` has reported a damaged record.
            if let (Ok(digest), Ok(blob)) = (record.key.parse(), blob::decode(record)) {
                found.extend(keepers.labelled(digest, &blob));
            }
            Ok(())
        })
        .await?;
        Ok(found)
    }
}

impl Keepers<'_> {
    /// Returns the blobs that a blob keeps by its labels. If labels state that the blob itself is
    /// kept, returns the blob, too.
    fn labelled(&self, own: Digest, record: &BlobRecord) -> Vec<Labelled> {
        let labels = &record.labels;
        if record.tombstone.is_some() {
            return Vec::new();
        }
        let referenced = gc::referenced_content(labels);
        let mut found: Vec<Labelled> = referenced
            .map(|digest| Labelled::new(digest, Some(own), None))
            .collect();
        if labels.keys().any(|key| key.starts_with(GC_ROOT)) {
            found.push(Labelled::new(own, None, None));
        }
        for keeper in gc::back_references(labels) {
            found.extend(match &keeper {
                Resource::Content(keeper) => Some(Labelled::new(own, Some(*keeper), None)),
                Resource::Image(name) => {
                    let name = self.images.get(name.as_str());
                    name.map(|name| Labelled::new(own, None, Some(*name)))
                }
                _ => {
                    let exists = self.snapshots.contains(&keeper);
                    exists.then(|| Labelled::new(own, None, None))
                }
            });
        }
        found
    }
}
