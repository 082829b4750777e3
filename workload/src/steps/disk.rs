//! The step that compares the space that a column takes on disk with the size of its blobs.

use cas_core::{Context, Error, Result};

use crate::disk;
use crate::lane::Lane;

/// Returns the number of bytes on disk for each byte of the blobs that earlier steps stored.
pub(super) async fn overhead(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    lane.column().await?;
    if lane.is_volatile() {
        return Err(Error::unsupported(
            "the column is in memory, so it takes no space on disk",
        ));
    }
    let directory = &lane.directory;
    let file = std::fs::File::open(directory).during("open", directory.display())?;
    // Some file systems allocate blocks only when they write data back, so sync before counting.
    rustix::fs::syncfs(&file).map_err(std::io::Error::from)?;
    if lane.stored == 0 {
        return Err(Error::unsupported(
            "no row before this one stored blobs; if you measure disk, also measure put, batch or \
             read; if you measure disk-large, also measure large",
        ));
    }
    Ok(vec![disk::taken(directory)? as f64 / lane.stored as f64])
}
