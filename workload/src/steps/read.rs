//! Steps that read blobs, lists and names.

use std::time::Instant;

use cas_core::{Digest, ErrorKind, Result};

use crate::column::Column;
use crate::data;
use crate::lane::{Lane, Taken, expect, millis};

/// Number of small blobs that are read.
const BLOBS: usize = 1000;
/// The seed of the small blobs that are read.
const BLOBS_SEED: u64 = 3 << 8;
/// Number of bytes in a range.
const RANGE: usize = 64 << 10;
/// Number of ranges that are read.
const RANGES: u64 = 1000;

/// Reads small blobs that were read before.
pub(super) async fn blobs(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let blobs = data::small(BLOBS_SEED, BLOBS);
    if lane.round == 0 {
        let column = lane.column().await?;
        match column.put_batched(&blobs).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => column.put(&blobs).await?,
            outcome => outcome?,
        }
        lane.stored += (BLOBS * data::SMALL) as u64;
    }
    let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let column = lane.column().await?;
    // The first read fills the caches.
    column.read(&digests).await?;
    let work = async |column: &dyn Column, some: &[Digest]| {
        let bytes = column.read(some).await? as usize;
        expect("bytes", some.len() * data::SMALL, bytes)
    };
    Ok(vec![lane.timed(&digests, 100, work).await?.micros()])
}

/// Reads the same ranges of a large blob twice, and measures the second time.
pub(super) async fn ranges(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let (size, round) = (lane.scale.large_size, lane.round as u64);
    let column = lane.column().await?;
    let digest = data::digest(round, size);
    if column.stat(&[digest]).await? == 0 {
        column.put_large(round, size).await?;
    }
    let last = size - RANGE as u64;
    let offsets: Vec<u64> = (0..RANGES)
        .map(|number| number * 15_485_863 * 4096 % last)
        .collect();
    // The first read fills the caches.
    column.read_ranges(&digest, &offsets, RANGE).await?;
    let begun = Instant::now();
    let bytes = column.read_ranges(&digest, &offsets, RANGE).await?;
    let taken = Taken::since(begun, RANGES as f64);
    expect("bytes", RANGE * RANGES as usize, bytes as usize)?;
    Ok(vec![taken.micros()])
}

/// Looks up blobs that exist.
pub(super) async fn stat(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let work = async |column: &dyn Column, some: &[Digest]| {
        expect("blobs", some.len(), column.stat(some).await?)
    };
    let present = &lane.fixture.present;
    Ok(vec![lane.timed(present, 1000, work).await?.micros()])
}

/// Looks up blobs that do not exist.
pub(super) async fn absent(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let work =
        async |column: &dyn Column, some: &[Digest]| expect("blobs", 0, column.stat(some).await?);
    let absent = &lane.fixture.absent;
    Ok(vec![lane.timed(absent, 1000, work).await?.micros()])
}

/// Lists all blobs.
pub(super) async fn list(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let expected = lane.fixture.blobs();
    let column = lane.column().await?;
    let begun = Instant::now();
    let found = column.list().await?;
    let taken = millis(begun);
    expect("blobs", expected, found)?;
    Ok(vec![taken])
}

/// Looks up names.
pub(super) async fn resolve(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let images = lane.fixture.images.iter();
    let names: Vec<String> = images.map(|image| image.name.clone()).collect();
    let work = async |column: &dyn Column, some: &[String]| {
        expect("names", some.len(), column.resolve(some).await?)
    };
    Ok(vec![lane.timed(&names, 10, work).await?.micros()])
}
