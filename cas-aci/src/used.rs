//! When ACIs were read, noted in memory.

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

/// Reads that the catalogue does not know of yet. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct NotedReads(Arc<Mutex<BTreeMap<Key, SystemTime>>>);

impl NotedReads {
    /// Notes that an ACI is read at `now`. Returns whether as many are noted as are allowed.
    pub(crate) fn note(&self, key: Key, now: SystemTime) -> bool {
        let mut noted = lock(&self.0);
        noted.insert(key, now);
        noted.len() >= limit::NOTED_READS
    }

    /// Forgets the reads of an ACI that was removed.
    pub(crate) fn forget(&self, key: &Key) {
        lock(&self.0).remove(key);
    }

    /// Returns the information with what is noted.
    pub(crate) fn merged(&self, mut info: AciInfo) -> AciInfo {
        if let Some(noted) = lock(&self.0).get(&info.key) {
            info.last_used = info.last_used.max(*noted);
        }
        info
    }

    /// Writes what is noted to the catalogue. If the store is read-only or full, it stays noted.
    ///
    /// # Errors
    /// Errors of the store. What was not written stays noted.
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
            lock(&self.0).retain(|key, time| !some.contains(&(*key, *time)));
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

/// Writes reads of images that others change meanwhile. One that is changed again keeps the time
/// that the other writer gave it.
async fn one_by_one(catalogue: &Catalogue, reads: &[(Key, SystemTime)]) -> Result<()> {
    for read in reads {
        match write(catalogue, std::slice::from_ref(read)).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            outcome => outcome?,
        }
    }
    Ok(())
}
