//! Recovery at the first opening for writing after a boot.
//!
//! If only a process is killed, every blob stays complete, and every ingest can be resumed. A crash
//! of the kernel may lose bytes of ingests, and bytes of blobs that were published without a sync.
//! Recovery therefore removes the ingests of earlier boots. If a marker shows that blobs may have
//! lost bytes, recovery also checks all blobs and removes the damaged ones.

use std::time::SystemTime;

use cas_core::{Digest, Result};
use cas_host::{Dir, Lock, Reserve};

use crate::blobs::Blobs;
use crate::reader::hashes_to;
use crate::staging;
use crate::time;
use crate::unsynced::Markers;

/// The file with the ID of the boot in which the store was last opened for writing.
const BOOT: &str = "boot";
/// Maximum number of blobs in one page.
const PAGE: usize = 1024;

/// Recovers the store if it was last opened for writing in another boot. Returns the time at which
/// the store was first opened for writing in this boot.
pub(crate) fn recover(cas_dir: &Dir, blobs: &Blobs, boot: &str) -> Result<SystemTime> {
    let _lock = Lock::exclusive(cas_dir, "lock")?;
    // A damaged file counts as one of another boot.
    let last = cas_dir.read(BOOT, 64).ok().flatten();
    if last.as_deref() != Some(boot.as_bytes()) {
        staging::remove_stale(&cas_dir.open_dir("ingest")?, boot)?;
        Markers::check_and_remove(cas_dir, || remove_damaged(blobs))?;
        // The disk may be full. The store must still open, so that a collection can free space.
        Reserve(cas_dir).remove_with(|| {
            let temporary = (cas_dir, "boot.new");
            Ok(cas_dir.replace(BOOT, boot.as_bytes(), 0o600, temporary)?)
        })?;
    }
    let stat = cas_dir.stat(BOOT)?;
    Ok(stat.map_or_else(SystemTime::now, |stat| time::modified(&stat)))
}

/// Removes the blobs whose bytes do not have their digest.
fn remove_damaged(blobs: &Blobs) -> Result<()> {
    let mut after: Option<Digest> = None;
    loop {
        let page = blobs.digests(after.as_ref(), PAGE)?.digests;
        for digest in &page {
            if let Some(stat) = blobs.stat(digest)?
                && let Some((file, _)) = blobs.open_blob(digest)?
                && !hashes_to(&file, digest)?
                && blobs.remove(digest, stat.version)?
            {
                tracing::warn!(%digest, "removed a damaged blob; store it again");
            }
        }
        match page.get(PAGE - 1) {
            Some(last) => after = Some(*last),
            None => break,
        }
    }
    // Next, the caller removes the markers that led to this check. Without this sync, a power loss
    // could then bring damaged blobs back, and nothing would check them again.
    Ok(blobs.sync()?)
}
