//! Steps that run a task in a child process, to measure its memory, count its syncs, or kill it.

use std::time::Instant;

use cas_core::{Digest, Error, Result};

use crate::child;
use crate::data;
use crate::lane::{Lane, expect, millis};

/// Number of blobs that are stored one by one while system calls are traced.
const TRACED: usize = 1000;
/// Number of blobs that are stored together while system calls are traced.
const TRACED_BATCH: usize = 4096;

/// Stores one blob as a stream. Returns the rate in MiB/s and the peak memory in MiB.
pub(super) async fn stream(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let size = lane.scale.stream_size;
    let [_, seconds, peak] = lane.task().run(&format!("stream:{size}"))?;
    let mib = size as f64 / f64::from(1 << 20);
    Ok(vec![mib / seconds, peak])
}

/// Removes the names of `percent` % of the images, collects their blobs, and stores the images
/// again. Returns the seconds of the collection, and its peak memory in MiB if it ran in a child
/// process.
pub(super) async fn collect(lane: &mut Lane<'_>, percent: u32) -> Result<Vec<f64>> {
    let dead = (lane.scale.images * percent / 100).max(1) as usize;
    // The first image is left out, because the names from the step `tag` keep its blobs.
    let dead = lane.fixture.images.get(1..=dead);
    let dead =
        dead.ok_or_else(|| Error::invalid("the scale has fewer than 2 images; use at least 2"))?;
    let names: Vec<String> = dead.iter().map(|image| image.name.clone()).collect();
    lane.column().await?.forget(&names).await?;
    let (removed, values) = if lane.is_volatile() {
        let begun = Instant::now();
        let count = lane.column().await?.collect().await?;
        (count, vec![begun.elapsed().as_secs_f64()])
    } else {
        lane.column = None;
        let [count, seconds, peak] = lane.task().run("collect")?;
        (count as usize, vec![seconds, peak])
    };
    expect(
        "removed blobs",
        dead.len() * data::BLOBS_PER_IMAGE as usize,
        removed,
    )?;
    lane.column().await?.fill(dead).await?;
    Ok(values)
}

/// Opens the column after a writer was killed, and looks up a blob.
pub(super) async fn reopen(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    if lane.is_volatile() {
        return Err(Error::unsupported(
            "the column is in memory, so it cannot be reopened",
        ));
    }
    lane.task().kill_writer()?;
    let blobs = data::small(child::SEED, child::STORED);
    let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let begun = Instant::now();
    let column = lane.column().await?;
    column.stat(&digests[..1]).await?;
    let taken = millis(begun);
    let found = column.stat(&digests).await?;
    expect("acknowledged blobs", digests.len(), found)?;
    Ok(vec![taken])
}

/// Counts the syncs for a blob that is stored alone.
pub(super) async fn syncs(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    Ok(vec![lane.task().syncs("put", TRACED)?])
}

/// Counts the syncs for a blob that is stored with many others.
pub(super) async fn syncs_batch(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    Ok(vec![lane.task().syncs("batch", TRACED_BATCH)?])
}
