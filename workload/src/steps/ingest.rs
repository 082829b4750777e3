//! Steps that store blobs.

use std::time::Instant;

use cas_core::Result;

use crate::data;
use crate::lane::{Lane, Taken, millis};

/// Size in bytes of the blob that several writers store.
const SAME_SIZE: u64 = 16 << 20;
/// Number of writers that store this blob.
const WRITERS: usize = 8;

/// Stores small blobs one by one.
pub(super) async fn put(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let blobs = data::small(lane.seed(1), lane.scale.small_blobs);
    let taken = lane
        .timed(&blobs, 100, async |column, some| column.put(some).await)
        .await?;
    Ok(vec![stored(lane, &taken)])
}

/// Stores small blobs together.
pub(super) async fn batch(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let blobs = data::small(lane.seed(2), lane.scale.small_blobs);
    let taken = lane
        .timed(&blobs, 1024, async |column, some| {
            column.put_batched(some).await
        })
        .await?;
    Ok(vec![stored(lane, &taken)])
}

/// Adds the size of small blobs to [`Lane::stored`]. Returns the number of blobs per second.
fn stored(lane: &mut Lane<'_>, taken: &Taken) -> f64 {
    lane.stored += taken.amount as u64 * data::SMALL as u64;
    taken.rate()
}

/// Stores one large blob.
pub(super) async fn large(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let (size, round) = (lane.scale.large_size, lane.round as u64);
    let column = lane.column().await?;
    let begun = Instant::now();
    column.put_large(round, size).await?;
    let mib = size as f64 / f64::from(1 << 20);
    let rate = Taken::since(begun, mib).rate();
    lane.stored += size;
    Ok(vec![rate])
}

/// Stores one blob with several concurrent writers.
pub(super) async fn same(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let seed = 1 << 20 | lane.round as u64;
    let column = lane.column().await?;
    // This call caches the digest, so that `put_same` does not calculate it. A pull also knows the
    // digest in advance.
    data::digest(seed, SAME_SIZE);
    let begun = Instant::now();
    column.put_same(seed, SAME_SIZE, WRITERS).await?;
    Ok(vec![millis(begun)])
}
