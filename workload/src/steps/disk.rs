//! Steps that compare the space that a column takes on disk with the size of its blobs.

use cas_core::{Context, Error, Result};

use crate::disk;
use crate::lane::Lane;

/// Measures the space of the small blobs that earlier steps stored.
pub(super) async fn small(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let stored = lane.stored;
    lane.column().await?;
    overhead(lane, stored)
}

/// Measures the space of the large blob that the step `large` stored. It must have run before.
pub(super) async fn large(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    overhead(lane, lane.scale.large_size)
}

fn overhead(lane: &Lane<'_>, stored: u64) -> Result<Vec<f64>> {
    if lane.is_volatile() {
        return Err(Error::unsupported(
            "the column is in memory, so it takes no space on disk",
        ));
    }
    let directory = &lane.directory;
    let file = std::fs::File::open(directory).during("open", directory.display())?;
    // Some file systems allocate blocks only when they write data back, so sync before counting.
    rustix::fs::syncfs(&file).map_err(std::io::Error::from)?;
    if stored == 0 {
        return Err(Error::unsupported(
            "no other row stored small blobs to compare with; also measure put, batch or read",
        ));
    }
    Ok(vec![disk::taken(directory)? as f64 / stored as f64])
}
