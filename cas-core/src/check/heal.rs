//! Fetching blobs again, and setting damaged bytes aside.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Checker, Problem, QUARANTINE, Use};
use crate::blob::note_damaged;
use crate::content::{ContentExt, Durability, Expected, OwnIngest, Stat, Writer};
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::media_type::MediaType;
use crate::records::{Expect, Lease, Notes, Record, Resource};
use crate::store::Store;
use crate::transfer::{PullOptions, fetch_into};

/// The room of the notes on damaged bytes: the first part of their keys. The rest of a key is the
/// digest of the blob, a slash, and the digest of the damaged bytes, because a blob can be damaged
/// again after its bytes were back. Earlier releases left out the slash and what follows it.
const ROOM: &str = "quarantine";

/// A note on damaged bytes that were set aside.
#[derive(Serialize, Deserialize)]
struct Aside {
    /// The digest under which the bytes are stored.
    found: Digest,
    /// Number of bytes.
    size: u64,
}

impl Checker<'_> {
    /// Reports a blob that is missing or damaged. A repair fetches the blob again. If this fails,
    /// the repair sets damaged bytes aside. Returns whether the blob was fetched.
    pub(super) async fn heal(&mut self, problem: Problem, blob: &Use, why: &str) -> Result<bool> {
        let digest = &blob.descriptor.digest;
        let within = blob.image.as_ref();
        let within = within
            .map(|image| format!(" (image {image})"))
            .unwrap_or_default();
        if problem == Problem::BlobDamaged {
            note_damaged(self.store, digest).await;
        }
        // The fetch makes the record again.
        let lost = match self.note_unrecorded(digest).await? {
            true => "; the blob had no record, so its labels may be lost",
            false => "",
        };
        let fetched = self.fetch(blob).await?;
        let detail = match &fetched {
            Some(Ok(())) => format!("{why}{within}; the blob was fetched again{lost}"),
            Some(Err(error)) => {
                format!("{why}{within}; the blob could not be fetched: {error}{lost}")
            }
            None => format!(
                "{why}{within}; a repair fetches the blob again; if that fails, pull or import the \
                 image again"
            ),
        };
        let healed = matches!(fetched, Some(Ok(())));
        self.hashed.insert(*digest);
        if !healed && fetched.is_some() && problem == Problem::BlobDamaged {
            self.quarantine(digest).await?;
        }
        self.add(problem, digest, detail, healed);
        Ok(healed)
    }

    /// Fetches a missing or damaged blob from the first source that has it. Returns the last error
    /// if every source fails, an error if no source exists, or `None` if the check does not repair.
    async fn fetch(&self, blob: &Use) -> Result<Option<Result<()>>> {
        let (Some(repair), Some(guard)) = (&self.options.repair, self.guard) else {
            return Ok(None);
        };
        let options = PullOptions::default().with_progress(Arc::clone(&self.options.progress));
        let sources = match repair.sources.of(blob.image.as_ref()).await {
            Ok(sources) => sources,
            Err(error) => return Ok(Some(Err(error))),
        };
        // Damage may change the bytes of a file but not its times, so the blob keeps its version.
        // Another job that read the blob before the damage may still record this version as
        // verified. Without this call, the pull would rely on the record, and not fetch the blob.
        if let Some(stat) = self.store.content.stat(&blob.descriptor.digest).await? {
            guard.note_damaged(&stat);
        }
        let mut last =
            Error::not_found("no source is known for the blob; pull or import the image again");
        for source in sources {
            match fetch_into(self.store, guard, &*source, &blob.descriptor, &options).await {
                Ok(_) => {
                    self.store.content.flush().await?;
                    return Ok(Some(Ok(())));
                }
                Err(error) => last = error,
            }
        }
        Ok(Some(Err(last)))
    }

    /// Stores the damaged bytes of a blob under their own digest, and then removes the blob. A blob
    /// that cannot be read stays.
    async fn quarantine(&self, digest: &Digest) -> Result<()> {
        let Some(stat) = self.store.content.stat(digest).await? else {
            return Ok(());
        };
        let Some(aside) = copy_aside(self.store, &stat).await? else {
            return Ok(());
        };
        let note = serde_json::to_vec(&aside).map_err(|error| {
            Error::internal("a note on damaged bytes could not be serialized; please report it")
                .source(error)
        })?;
        // A repair that is killed before it adds the bytes to the lease leaves a note, which the
        // next repair deletes. In the other order, nothing would remove the bytes from the lease.
        let notes = self.quarantined()?;
        let key = format!("{digest}/{}", aside.found);
        notes.put(&key, note.into(), Expect::Any).await?;
        keep(self.store, QUARANTINE, &[aside.found]).await?;
        self.store
            .content
            .remove_version(digest, stat.version)
            .await?;
        Ok(())
    }

    /// Reports the blobs that are still missing, and whose damaged bytes the lease [`QUARANTINE`]
    /// keeps. A repair removes the damaged bytes of the other blobs from the lease, and deletes the
    /// notes on them.
    pub(super) async fn report_quarantine(&mut self) -> Result<()> {
        let notes = self.quarantined()?;
        let kept = self.kept_by(QUARANTINE).await?;
        let (mut needed, mut done) = (BTreeSet::new(), Vec::new());
        for note in notes.list("").await? {
            let digest = note.key.split('/').next().unwrap_or_default();
            let digest: Digest = digest.parse()?;
            let found = found(&note);
            // A user may have ended the lease.
            let is_kept = found.is_none_or(|found| kept.contains(&found));
            if !is_kept || self.store.content.stat(&digest).await?.is_some() {
                done.push((note.key, found));
                continue;
            }
            needed.extend(found);
            let name = found.map(|found| format!(" as {found}"));
            let detail = format!(
                "its damaged bytes are kept{} under the lease `{QUARANTINE}`; pull or import an \
                 image with the blob, or give up all damaged bytes with \
                 `cas lease rm --force {QUARANTINE}`",
                name.unwrap_or_default()
            );
            self.add(Problem::Quarantined, digest, detail, false);
        }
        if self.options.repair.is_none() {
            return Ok(());
        }
        let unneeded = done.iter().filter_map(|(_, found)| *found);
        let unneeded = unneeded.filter(|found| kept.contains(found) && !needed.contains(found));
        let_go(self.store, QUARANTINE, &unneeded.collect()).await?;
        for (key, _) in done {
            notes.delete(&key, Expect::Any).await?;
        }
        Ok(())
    }

    /// Returns the damaged bytes of which the notes state that they were set aside.
    pub(super) async fn noted_as_damaged(&self) -> Result<BTreeSet<Digest>> {
        let notes = self.quarantined()?.list("").await?;
        Ok(notes.iter().filter_map(found).collect())
    }

    fn quarantined(&self) -> Result<Notes> {
        Notes::new(Arc::clone(&self.store.records), ROOM)
    }
}

/// Returns the digest of the damaged bytes that a note is on, or `None` if the note does not parse.
fn found(note: &Record) -> Option<Digest> {
    let aside: Option<Aside> = serde_json::from_slice(&note.value).ok();
    aside.map(|aside| aside.found)
}

/// Stores a copy of damaged bytes under their own digest. Returns `None` if they cannot be read.
async fn copy_aside(store: &Store, stat: &Stat) -> Result<Option<Aside>> {
    let Some(reader) = store.content.open(&stat.digest).await? else {
        return Ok(None);
    };
    let ingest = OwnIngest::new(&store.content, "quarantine");
    let mut writer = Writer::begin(&*store.content, ingest.key(), Expected::ANY).await?;
    match writer.write_blob(&*reader).await {
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            return Ok(None);
        }
        written => written?,
    }
    let (found, size) = (writer.digest().await?, writer.offset());
    // Another job has brought the right bytes since the damage was found.
    if found == stat.digest {
        return Ok(None);
    }
    let descriptor = Descriptor::new(MediaType::BYTES, found, size);
    let published = store.publish(writer, &descriptor, Vec::new(), Durability::Full);
    published.await?;
    Ok(Some(Aside { found, size }))
}

/// Adds blobs to a lease that never expires. Creates the lease if it does not exist.
pub(super) async fn keep(store: &Store, lease: &str, blobs: &[Digest]) -> Result<()> {
    let leases = store.leases();
    match leases.create(lease, &Lease::new("fsck", None)).await {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let added = leases.update(lease, |lease| {
        lease
            .resources
            .extend(blobs.iter().copied().map(Resource::Content));
        Ok(())
    });
    added.await.map(|_| ())
}

/// Removes blobs from a lease. Ends the lease if it then lists nothing.
async fn let_go(store: &Store, lease: &str, blobs: &BTreeSet<Digest>) -> Result<()> {
    if blobs.is_empty() {
        return Ok(());
    }
    let leases = store.leases();
    let is_kept =
        |resource: &Resource| !matches!(resource, Resource::Content(blob) if blobs.contains(blob));
    let removed = leases.update(lease, |lease| {
        lease.resources.retain(is_kept);
        Ok(())
    });
    match removed.await {
        // A user has ended the lease meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    };
    let left = leases.load(lease).await?;
    match left.filter(|(left, _)| left.resources.is_empty()) {
        None => Ok(()),
        Some((_, revision)) => match leases.remove(lease, revision).await {
            // Another repair uses the lease.
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
            removed => removed,
        },
    }
}

/// Returns the bytes of a small blob, or `None` if they are missing or do not have its digest.
pub(super) async fn read_intact(store: &Store, stat: &Stat) -> Result<Option<Bytes>> {
    let descriptor = Descriptor::new(MediaType::BYTES, stat.digest, stat.size);
    match store.content.fetch(&descriptor).await {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.kind() == ErrorKind::Corrupt || error.kind() == ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
