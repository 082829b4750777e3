//! Archives with many files that no image needs. Such an archive can be small: 5,000 files of zeros
//! have 100 KB with gzip.

use std::sync::Arc;

use cas_core::Digest;
use cas_core::compose::observe::{Counters, Operation, observe};
use cas_core::error::ErrorKind;
use cas_layer::import::ImportOptions;
use serde_json::json;
use testkit::compress::xz;

use super::{import, named, state_of, store};
use crate::common::source::{Files, gzip, in_file, in_stream, noise};

/// A size that is not small.
const MEDIUM: usize = (64 << 10) + 1;

/// Adds files of this size, each with other bytes, under names of blobs or under other names.
fn add(files: &mut Files, count: usize, size: usize, as_blobs: bool) {
    for number in 0..count {
        let mut data = vec![0; size];
        data[..4].copy_from_slice(&(number as u32).to_le_bytes());
        match as_blobs {
            true => files.add(
                &format!("blobs/sha256/{}", Digest::sha256(&data).hex()),
                &data,
            ),
            false => files.add(&format!("extra/{number}"), &data),
        }
    }
}

/// Returns a layout with an image, after `count` files of `size` bytes.
fn layout(before: usize, count: usize, size: usize, as_blobs: bool) -> Files {
    let mut files = Files::layout();
    for number in 0..before {
        files.add(&format!("before/{number}"), &[0; 64 << 10]);
    }
    add(&mut files, count, size, as_blobs);
    let image = files.image(1, "amd64");
    files.entries(&[(Some("x.io/a:1"), &image)]);
    files
}

#[tokio::test]
async fn more_files_that_no_image_needs_cost_no_more_calls_of_the_store() {
    // As many small files as are kept in memory come first, so the further ones are not.
    let filling = (32 << 20) / (64 << 10);
    for (before, size) in [(filling, 5), (0, MEDIUM)] {
        for as_blobs in [false, true] {
            let mut calls = Vec::new();
            for count in [70, 90] {
                let counters = Arc::new(Counters::new());
                let store = observe(store(), counters.clone());
                let source = in_stream(&layout(before, count, size, as_blobs).tar());
                import(&store, source, &ImportOptions::default())
                    .await
                    .unwrap();
                let counted = counters.snapshot();
                let appends = counters.of(Operation::Append).calls;
                let all: u64 = counted.values().map(|counts| counts.calls).sum();
                calls.push(all - appends);
                let state = state_of(&store).await;
                let left = (state.blobs.len(), state.records.len(), state.ingests.len());
                assert_eq!(left, (4, 4, 0), "{before} {size} {as_blobs}");
            }
            assert_eq!(calls[0], calls[1], "{before} {size} {as_blobs}");
        }
    }
}

#[tokio::test]
async fn files_that_are_kept_together_are_stored_if_an_image_needs_them() {
    let scratch = tempfile::tempdir().unwrap();
    let layers = [noise(1, 100_000), noise(2, 200_000), noise(3, 70_000)];
    let diff_ids = layers
        .each_ref()
        .map(|layer| Digest::sha256(layer).to_string());
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let mut docker = Files::default();
    add(&mut docker, 70, MEDIUM, false);
    docker.add("config.json", config.to_string().as_bytes());
    docker.add("0", &layers[0]);
    docker.add("1", &gzip(&layers[1]));
    docker.add("2", &xz(&layers[2]));
    let listed = json!([{"Config": "config.json", "Layers": ["0", "1", "2"]}]);
    docker.add("manifest.json", listed.to_string().as_bytes());
    for files in [
        layout(0, 70, MEDIUM, true),
        layout(0, 70, 70_000, false),
        docker,
    ] {
        let tar = files.tar();
        let mut states = Vec::new();
        for source in [
            in_file(scratch.path(), &tar),
            in_stream(&tar),
            in_stream(&gzip(&tar)),
        ] {
            let store = store();
            import(&store, source, &named("app:1")).await.unwrap();
            states.push(state_of(&store).await);
        }
        assert!(states[0].ingests.is_empty());
        assert_eq!(states[0], states[1]);
        assert_eq!(states[0], states[2]);
    }
}

#[tokio::test]
async fn an_import_that_fails_discards_the_files_that_are_kept_together() {
    let mut files = layout(0, 70, MEDIUM, false);
    // The layer is among the files that are kept together.
    let shared = Digest::sha256(&noise(0, 70_000));
    files.file(&format!("blobs/sha256/{}", shared.hex()))[0] ^= 1;
    let store = store();
    let before = state_of(&store).await;
    let outcome = import(&store, in_stream(&files.tar()), &ImportOptions::default()).await;
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(state_of(&store).await, before);
}
