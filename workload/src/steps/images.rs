//! Steps that store images, and change their records, names and snapshots.

use std::time::Instant;

use cas_core::{Digest, Result};

use crate::column::{Blob, Column};
use crate::lane::{Lane, Taken, millis};

/// Maximum number of names that a round creates.
const NAMES: usize = 200;
/// Maximum number of blobs that a round labels.
const LABELS: usize = 1000;
/// Maximum number of images whose edges a round records.
const EDGES: usize = 100;
/// Number of snapshots that a round prepares.
const PREPARED: usize = 20;

/// Stores all images.
pub(super) async fn fill(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let fixture = lane.fixture;
    let column = lane.column().await?;
    let begun = Instant::now();
    column.fill(&fixture.images).await?;
    Ok(vec![Taken::since(begun, fixture.blobs() as f64).rate()])
}

/// Records which blobs an image refers to, for many images in one batch.
pub(super) async fn edges(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let images = &lane.fixture.images;
    let images = &images[..EDGES.min(images.len())];
    let column = lane.column().await?;
    let begun = Instant::now();
    column.edges(images).await?;
    Ok(vec![millis(begun)])
}

/// Sets labels, one by one.
pub(super) async fn label(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let value = format!("round {}", lane.round);
    let present = &lane.fixture.present;
    let digests = &present[..LABELS.min(present.len())];
    let work = async |column: &dyn Column, some: &[Digest]| column.label(some, &value).await;
    Ok(vec![lane.timed(digests, 10, work).await?.micros()])
}

/// Creates names, one by one.
pub(super) async fn tag(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let round = lane.round;
    let name = |number| format!("example.org/tag-{round}:{number}");
    let names: Vec<String> = (0..NAMES).map(name).collect();
    let target: &Blob = &lane.fixture.images[0].root;
    let work = async |column: &dyn Column, some: &[String]| column.tag(some, target).await;
    Ok(vec![lane.timed(&names, 10, work).await?.micros()])
}

/// Prepares writable snapshots of an image with many layers.
pub(super) async fn prepare(lane: &mut Lane<'_>) -> Result<Vec<f64>> {
    let layers = lane.scale.layers;
    let time = lane.column().await?.prepare(layers, PREPARED).await?;
    let amount = PREPARED as f64;
    Ok(vec![Taken { amount, time }.micros()])
}
