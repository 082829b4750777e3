//! Tars and metadata of the snapshotter `erofs` that have other bytes, but the same length and the
//! same time.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::mounting_snapshotters;
use crate::scene::{Scene, files};

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.set_times(FileTimes::new().set_modified(modified))
        .unwrap();
}

#[test]
fn other_bytes_in_tars_and_metadata_are_found_and_healed() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::with("fs", "erofs");
    let snapshots = scene.root.join("snapshots/erofs");
    let metadata: Vec<_> = files(&snapshots)
        .into_iter()
        .filter(|file| file.ends_with("image.erofs"))
        .collect();
    assert_eq!(metadata.len(), 1);
    flip(&metadata[0], 1100);
    assert_eq!(scene.fsck(&[]), (0, Vec::new()), "nothing was read");
    scene.heals("snapshot-damaged", "erofs");
    for keeps_manifests in [true, false] {
        let tars = files(&snapshots)
            .into_iter()
            .filter(|file| file.ends_with("layer.tar"));
        tars.for_each(|tar| flip(&tar, 0));
        if !keeps_manifests {
            fs::remove_dir_all(snapshots.join("manifests")).unwrap();
        }
        assert_eq!(scene.fsck(&[]), (0, Vec::new()), "nothing was read");
        scene.heals("snapshot-damaged", "erofs");
    }
}
