//! All kinds of damage at once, on each store.

use std::fs;

use bytes::Bytes;
use cas::ContentExt;
use cas::content::{Expected, Writer};
use cas::records::{Batch, Expect, Table};

use crate::common::{ENGINES, can, cas, ok, unmount};
use crate::scene::{Scene, files, has, overwrite};

/// Mounts the image at `mnt`, and unmounts it so that the tool does not notice.
pub(crate) fn leave_mount(scene: &Scene) {
    let target = scene.scratch.path().join("mnt");
    fs::create_dir(&target).unwrap();
    ok(cas(&scene.root).args(["mount", "app:1"]).arg(&target));
    unmount(&target);
}

/// Deletes the directory of one snapshot, and empties a file of another.
pub(crate) fn spoil_snapshots(scene: &Scene) {
    let snapshots = scene.root.join("snapshots/native/snapshots");
    let mut directories: Vec<_> = fs::read_dir(&snapshots)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !files(path).is_empty())
        .collect();
    directories.sort();
    let (gone, spoilt) = (directories.remove(0), directories.remove(0));
    fs::remove_dir_all(gone).unwrap();
    let filled = |file: &std::path::PathBuf| file.metadata().unwrap().len() > 0;
    let file = files(&spoilt).into_iter().find(filled).unwrap();
    overwrite(&file, b"");
}

#[test]
fn all_kinds_of_damage_are_found_and_healed_together() {
    if !can(&["umount"]) {
        return;
    }
    for store in ENGINES {
        let scene = Scene::new(store);
        leave_mount(&scene);
        spoil_snapshots(&scene);
        let layers: Vec<_> = scene.manifest.layers.iter().map(|one| one.digest).collect();
        let (flipped, garbled) = (scene.layer(), scene.manifest_digest);
        let removed = *layers.iter().find(|one| **one != flipped).unwrap();
        scene.open(async |store| {
            assert!(store.content.remove(&removed).await.unwrap());
            let begun = Writer::begin(&*store.content, "left", Expected::ANY).await;
            let mut writer = begun.unwrap();
            writer.write(Bytes::from(vec![7; 3_000_000])).await.unwrap();
            drop(writer);
            let mut batch = Batch::new();
            let wrong = Bytes::from_static(b"{");
            batch.put(Table::Blobs, garbled.to_string(), Expect::Any, wrong);
            let config = scene.manifest.config.digest.to_string();
            batch.delete(Table::Blobs, config, Expect::Any);
            store.records.commit(&batch).await.unwrap();
        });
        scene.flip(&flipped);
        let expected = [
            ("blob-damaged", flipped.hex()),
            ("blob-missing", removed.hex()),
            ("record-damaged", garbled.hex()),
            ("record-missing", scene.manifest.config.digest.hex()),
            ("snapshot-missing", "native".to_owned()),
            ("snapshot-damaged", "native".to_owned()),
            ("ingest-left", "left".to_owned()),
            ("mount-left", "mnt".to_owned()),
        ];
        let (code, found) = scene.fsck(&["--read-data"]);
        let (healed, repaired) = scene.repair_from_source();
        assert_eq!((code, healed), (4, 0), "on {store}: {repaired:#?}");
        for (problem, subject) in &expected {
            // An ingest in a directory of objects ends with its process.
            if (*problem, *store) != ("ingest-left", "dir") {
                assert!(
                    has(&found, problem, subject),
                    "{problem} on {store}: {found:#?}"
                );
                assert!(has(&repaired, problem, subject), "{problem}: {repaired:#?}");
            }
        }
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        scene.works();
    }
}
