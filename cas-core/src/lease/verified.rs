//! The blobs whose bytes a job has: which of them were verified, and which stored copies are
//! damaged and must be replaced.

use std::collections::BTreeMap;

use super::guard::{Known, LeaseGuard};
use super::intact::is_intact;
use super::pin::{self, BlobRef, Pinned};
use crate::blob::note_damaged;
use crate::capability::Capability;
use crate::content::{Stat, Version, Writer};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

impl LeaseGuard {
    /// Pins a blob whose bytes the caller has. The blob need not be stored yet. Returns whether its
    /// bytes are in the store and have its digest. The guard replaces a damaged copy when the blob
    /// is published.
    ///
    /// # Errors
    /// As [`LeaseGuard::pin`].
    pub async fn pin_intact(&self, blob: BlobRef) -> Result<bool> {
        let pinned = pin::pin(&self.store, Some(&self.id), &blob).await?;
        self.check_pinned(&blob, pinned).await
    }

    /// Pins blobs whose bytes the caller has, in one batch if possible. Returns for each blob what
    /// [`LeaseGuard::pin_intact`] returns.
    ///
    /// # Errors
    /// As [`LeaseGuard::pin`].
    pub async fn pin_all_intact(&self, blobs: &[BlobRef]) -> Result<Vec<bool>> {
        let pinned = pin::pin_all(&self.store, Some(&self.id), blobs).await?;
        let mut intact = Vec::with_capacity(blobs.len());
        for (blob, pinned) in blobs.iter().zip(pinned) {
            intact.push(self.check_pinned(blob, pinned).await?);
        }
        Ok(intact)
    }

    /// Adds a pinned blob to the blobs of the guard. Returns whether its bytes are in the store and
    /// have its digest.
    async fn check_pinned(&self, blob: &BlobRef, pinned: Option<Pinned>) -> Result<bool> {
        let there = self.add_pinned(blob, pinned.as_ref());
        let found = pinned.and_then(|pinned| Some((pinned.stat?, pinned.record)));
        let Some((stat, record)) = found.filter(|_| there) else {
            return Ok(false);
        };
        let intact =
            !self.is_damaged(&stat) && is_intact(&self.store, &stat, Some(&record)).await?;
        let version = Some(stat.version);
        let mut pinned = self.lock();
        let known = pinned.entry(stat.digest).or_default();
        known.stored = intact;
        if !intact {
            known.damaged = version;
        } else if record.verified != version {
            known.verified = version;
        }
        Ok(intact)
    }

    /// Records in the guard that the stored bytes of a blob are damaged, whatever its record
    /// states.
    pub(crate) fn note_damaged(&self, stat: &Stat) {
        self.lock().entry(stat.digest).or_default().damaged = Some(stat.version);
    }

    /// Returns whether the stored bytes of a blob are known to be damaged.
    pub(crate) fn is_damaged(&self, stat: &Stat) -> bool {
        let pinned = self.lock();
        let known = pinned.get(&stat.digest);
        known.is_some_and(|known| known.damaged == Some(stat.version))
    }

    /// If a job has failed with an error that damaged bytes can cause, records that the blobs which
    /// may be damaged are not verified any more. Damage may have changed no time. The next job that
    /// has the right bytes then hashes the stored bytes.
    pub(super) async fn distrust_after(&self, failed: Option<&Error>) {
        let suspects = failed.map(|error| self.suspects(error));
        for digest in suspects.into_iter().flatten() {
            note_damaged(&self.store, &digest).await;
        }
    }

    /// Returns the pinned blobs whose damage may have caused the error of a job: all of them if the
    /// error is `Corrupt`, because an error about a layer may name only its image. A damaged layer
    /// may also look as if it were too large or of an unknown format. Then the error must name it.
    fn suspects(&self, error: &Error) -> Vec<Digest> {
        use ErrorKind::{Corrupt, OutOfRange, Unsupported};
        let pinned: Vec<Digest> = self.lock().keys().copied().collect();
        match error.kind() {
            Corrupt => pinned,
            OutOfRange | Unsupported => {
                let text = error.to_string();
                let is_named = |digest: &Digest| text.contains(&digest.to_string());
                pinned.into_iter().filter(is_named).collect()
            }
            _ => Vec::new(),
        }
    }

    /// If the stored copy of a blob is known to be damaged, verifies the bytes of `writer` and
    /// removes the copy. Returns whether it was removed.
    ///
    /// # Errors
    /// `Corrupt` if the writer has other bytes; errors of the store.
    pub(crate) async fn replace_damaged(
        &self,
        writer: &mut Writer,
        digest: &Digest,
    ) -> Result<bool> {
        let damaged = self.lock().get(digest).and_then(|known| known.damaged);
        let Some(version) = damaged else {
            return Ok(false);
        };
        writer.verify().await?;
        self.store.content.remove_version(digest, version).await
    }

    /// Records in the guard that a pinned blob is in the store. If the store is not joint, also
    /// records which version of the bytes was verified.
    pub(crate) async fn note_published(&self, digest: &Digest) -> Result<()> {
        // In a joint store, `is_unchanged` returns false, so the bytes are hashed again anyway.
        let verified = match self.store.content.capabilities().has(Capability::Joint) {
            true => None,
            false => self.store.content.stat(digest).await?,
        };
        self.lock().insert(
            *digest,
            Known {
                stored: true,
                verified: verified.map(|stat| stat.version),
                damaged: None,
            },
        );
        Ok(())
    }

    /// Returns the verified versions of pinned blobs that their records do not state yet.
    pub(super) fn verified(&self) -> BTreeMap<Digest, Version> {
        let pinned = self.lock();
        let pinned = pinned.iter();
        pinned
            .filter_map(|(digest, known)| Some((*digest, known.verified?)))
            .collect()
    }
}
