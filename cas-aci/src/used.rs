//! Keeps in memory the times at which ACIs were read, until a flush writes these times to the
//! catalogue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use cas_core::lease::cannot_write;
use cas_core::records::{Batch, Expect};
use cas_core::sync::lock;
use cas_core::{ErrorKind, Result, limit};

use crate::catalogue::Catalogue;
use crate::info::AciInfo;
use crate::key::Key;

/// Maximum number of changes in one batch.
const BATCH: usize = 256;

/// The times of reads that are not yet written to the catalogue. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct NotedReads(Arc<Mutex<BTreeMap<Key, SystemTime>>>);

impl NotedReads {
    /// Stores the time of a read of an ACI, unless the times of [`limit::NOTED_READS`] other ACIs
    /// are stored already. Returns true if this call reached that number. The caller should then
    /// flush.
    pub(crate) fn note(&self, key: Key, now: SystemTime) -> bool {
        let mut noted = lock(&self.0);
        if let Some(time) = noted.get_mut(&key) {
            *time = now;
            return false;
        }
        if noted.len() < limit::NOTED_READS {
            noted.insert(key, now);
            return noted.len() == limit::NOTED_READS;
        }
        false
    }

    /// Forgets the reads of an ACI that was removed.
    pub(crate) fn forget(&self, key: &Key) {
        lock(&self.0).remove(key);
    }

    /// Returns `info`. If a later read of the ACI is noted in memory, `last_used` is its time.
    pub(crate) fn merged(&self, mut info: AciInfo) -> AciInfo {
        if let Some(noted) = lock(&self.0).get(&info.key) {
            info.last_used = info.last_used.max(*noted);
        }
        info
    }

    /// Writes the times to the catalogue. If the store is read-only or full, they stay in memory,
    /// and this call does not fail. If another writer changes an ACI meanwhile, the times of the
    /// batch are written again, one by one. A time is dropped if the catalogue no longer has the
    /// ACI, or if another writer changes the ACI during this second attempt.
    ///
    /// # Errors
    /// `FailedPrecondition` if the catalogue is closed; `Corrupt` if the information on an ACI does
    /// not parse; errors of the store. After an error, times that were not written stay in memory.
    pub(crate) async fn flush(&self, catalogue: &Catalogue) -> Result<()> {
        let noted: Vec<(Key, SystemTime)> = {
            let noted = lock(&self.0);
            noted.iter().map(|(key, time)| (*key, *time)).collect()
        };
        for some in noted.chunks(BATCH) {
            let written = match write(catalogue, some).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    one_by_one(catalogue, some).await
                }
                outcome => outcome,
            };
            match written {
                Err(error) if cannot_write(&error) => return Ok(()),
                outcome => outcome?,
            }
            let mut noted = lock(&self.0);
            for (key, time) in some {
                if noted.get(key) == Some(time) {
                    noted.remove(key);
                }
            }
        }
        Ok(())
    }
}

async fn write(catalogue: &Catalogue, reads: &[(Key, SystemTime)]) -> Result<()> {
    let mut batch = Batch::new();
    for (key, time) in reads {
        let Some((mut info, revision)) = catalogue.load(key).await? else {
            continue;
        };
        if info.last_used < *time {
            info.last_used = *time;
            catalogue.put(&mut batch, &info, Expect::Revision(revision))?;
        }
    }
    if batch.is_empty() {
        return Ok(());
    }
    catalogue.commit(&batch).await
}

/// Writes the times of ACIs one by one, because another writer has changed some of these ACIs. If
/// an ACI is changed again meanwhile, its time is not written.
async fn one_by_one(catalogue: &Catalogue, reads: &[(Key, SystemTime)]) -> Result<()> {
    for read in reads {
        match write(catalogue, std::slice::from_ref(read)).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cas_core::{Algorithm, Digest};

    use super::*;

    #[test]
    fn as_many_reads_are_noted_as_are_allowed() {
        let reads = NotedReads::default();
        let key = |number: usize| {
            let digest = Digest::of(Algorithm::Sha512, &number.to_be_bytes());
            Key::new(digest).unwrap()
        };
        let now = SystemTime::now();
        let full: Vec<bool> = (0..=limit::NOTED_READS)
            .map(|one| reads.note(key(one), now))
            .collect();
        assert_eq!(
            full.iter().position(|full| *full),
            Some(limit::NOTED_READS - 1)
        );
        assert!(!full[limit::NOTED_READS]);
        assert_eq!(lock(&reads.0).len(), limit::NOTED_READS);
        reads.forget(&key(0));
        assert!(reads.note(key(limit::NOTED_READS), now));
    }
}
