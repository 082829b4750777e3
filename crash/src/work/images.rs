//! Work that changes images and snapshots, and that runs garbage collections.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use cas::gc::GcOptions;

use super::changes::change;
use super::{LATER, Worker, each_thread};

/// The number of changes and collections, in total, that each thread makes.
const CHANGES: u64 = 14;
/// The name of the file that fills the disk. The file is in the parent directory of the root.
pub(crate) const FILLER: &str = "filler";

/// Makes [`CHANGES`] changes and collections in each thread. If `fill` is a directory, the first
/// thread fills the file system of this directory, and frees the space again five changes later.
pub(super) fn run(worker: &Worker, seed: u64, fill: Option<&Path>) -> Result<()> {
    // A collection whose clock is days ahead also ends the leases of running jobs. So no thread
    // makes a change during a collection.
    let collecting = RwLock::new(());
    let ahead = if worker.is_shared {
        Duration::ZERO
    } else {
        LATER
    };
    each_thread(seed, |thread, mut random| {
        for number in 0..CHANGES {
            match fill {
                Some(directory) if thread == 0 && number == 4 => fill_disk(directory)?,
                Some(directory) if thread == 0 && number == 9 => {
                    fs::remove_file(directory.join(FILLER))?;
                }
                _ => {}
            }
            let done = if random.below(8) == 0 {
                let _alone = collecting.write().unwrap_or_else(PoisonError::into_inner);
                let later = GcOptions::default().with_now(SystemTime::now() + ahead);
                let collected = worker.cas.gc_with(later).map(|_| ());
                collected.map_err(Into::into)
            } else {
                let _together = collecting.read().unwrap_or_else(PoisonError::into_inner);
                change(worker, thread, &mut random)
            };
            match done {
                // A change may fail while the disk is full or faulty. An engine whose file could
                // not grow refuses everything until it is opened again, so the error may be any.
                Err(_) if worker.accepts_errors => {}
                done => done?,
            }
        }
        Ok(())
    })
}

/// Writes a file until its file system is full.
fn fill_disk(directory: &Path) -> Result<()> {
    let mut file = File::create(directory.join(FILLER))?;
    let mut piece = vec![1_u8; 1 << 20];
    while piece.len() >= 4096 {
        if file
            .write_all(&piece)
            .and_then(|()| file.sync_data())
            .is_err()
        {
            piece.truncate(piece.len() / 4);
        }
    }
    Ok(())
}
