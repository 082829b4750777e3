//! Checks and repairs of the checkpoints of layers.
#![allow(clippy::unwrap_used)]

use cas_core::MediaType;
use cas_core::check::{CheckOptions, NoSources, Problem, ReadData, Repair, check};
use cas_core::image::Image;
use cas_core::labels::GC_REF_CHECKPOINTS;
use cas_core::lease::set_labels;

mod support;
use support::wrapped::{Flaw, Wrapped};
use support::{named, parts, put, store};

/// No source has the checkpoints of a layer. A repair removes damaged ones, and then the store is
/// sound, although the layer still refers to them.
#[tokio::test]
async fn damaged_checkpoints_are_removed_and_missing_ones_are_no_damage() {
    let plain = store();
    let manifest = named(&plain, "linux/amd64").await;
    let image = Image::new("app:1".parse().unwrap(), manifest.clone());
    plain.images.create(image).await.unwrap();
    let layer = parts(&plain, &manifest).await.remove(1);
    let checkpoints = put(&plain, MediaType::LAYER_CHECKPOINTS, b"checkpoints").await;
    let label = (
        GC_REF_CHECKPOINTS.to_owned(),
        checkpoints.digest.to_string(),
    );
    let labels = [label].into();
    set_labels(&plain, &layer, &labels).await.unwrap();
    let mut content = Wrapped::new(&plain);
    content.damaged = Some((checkpoints.digest, Flaw::First));
    let mut options = CheckOptions {
        read_data: ReadData::All,
        ..CheckOptions::default()
    };
    let damaged = content.of(&plain);
    let found = check(&damaged, &[], &options).await.unwrap().findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].detail.contains("a repair removes them"),
        "{found:?}"
    );
    options.repair = Some(Repair {
        sources: &NoSources,
        rebuilder: None,
    });
    let report = check(&damaged, &[], &options).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.findings[0].problem, Problem::BlobDamaged);
    let left = plain.content.stat(&checkpoints.digest).await.unwrap();
    assert_eq!(left, None);
    let report = check(&plain, &[], &options).await.unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}
