//! Damage whose repair is killed.

use std::fs;

use cas::ContentExt;
use cas::blocking::Cas;

use crate::place::{BASE, Place};

/// Damages the image: a blob is lost, or files or the directory of a snapshot.
pub(crate) fn damage(place: &Place) {
    match place.round % 4 {
        0 => lose_blob(place, 0),
        1 => lose_blob(place, 1),
        2 => empty_file(place),
        _ => lose_snapshot(place),
    }
}

/// Damages a layer that is read on demand: its table of contents or its directory is lost.
#[cfg(feature = "on-demand")]
pub(crate) fn damage_on_demand(place: &Place) {
    let mut layers = snapshots(place).into_iter();
    let layer = layers.find(|directory| directory.join("fs/lazy.toc").exists());
    let layer = layer.expect("a layer that is read on demand");
    // Independent of what the verb has prepared in this round.
    if place.round % 4 < 2 {
        fs::remove_file(layer.join("fs/lazy.toc")).unwrap();
    } else {
        fs::remove_dir_all(layer).unwrap();
    }
}

fn lose_blob(place: &Place, layer: usize) {
    let cas = Cas::open(&place.root).unwrap();
    // An earlier kill may have left the image without the blobs that its manifest lists, but not
    // without the manifest.
    let manifest = cas.manifest(BASE).unwrap().manifest;
    let content = &cas.store().content;
    cas::backend::pool::wait(content.remove(&manifest.layers[layer].digest)).unwrap();
    cas.close().unwrap();
}

/// Returns the directories of snapshots.
fn snapshots(place: &Place) -> Vec<std::path::PathBuf> {
    let snapshotters = fs::read_dir(place.root.join("snapshots")).unwrap();
    let places = snapshotters.map(|one| one.unwrap().path().join("snapshots"));
    let found = places.flat_map(|place| fs::read_dir(place).unwrap());
    found.map(|entry| entry.unwrap().path()).collect()
}

fn empty_file(place: &Place) {
    for directory in snapshots(place) {
        let file = directory.join("fs/base/large");
        if file.exists() {
            fs::write(file, "").unwrap();
        }
    }
}

fn lose_snapshot(place: &Place) {
    if let Some(directory) = snapshots(place).first() {
        fs::remove_dir_all(directory).unwrap();
    }
}
