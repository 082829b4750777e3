//! Tars and metadata of the snapshotter `erofs` that have other bytes, but the same length and the
//! same time, and tars that are lost although the root keeps nothing else of their layers.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cas::backend::pool::wait;
use cas::blocking::Cas;
use cas::content::Durability;
use cas::lease::LeaseGuard;
use cas::records::{Lease, Resource};
use cas::{Descriptor, GcOptions, Image, MediaType, Platform};
use serde_json::json;

use crate::common::mounting_snapshotters;
use crate::common::unkept::lose_labels;
use crate::scene::{Scene, files, has};

fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.set_times(FileTimes::new().set_modified(modified))
        .unwrap();
}

/// Damages a file.
type Damage = fn(&Path);

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

/// The store does not have the layers, so a repair fetches them, unpacks them, and removes them
/// again.
#[test]
fn a_damaged_tar_that_is_the_only_copy_is_fetched_again() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::of_tars();
    let snapshots = scene.root.join("snapshots/erofs");
    let blobs = || files(&scene.root.join("store/blobs")).len();
    assert_eq!(blobs(), 2, "the manifest and its configuration");
    let tars = || {
        files(&snapshots)
            .into_iter()
            .filter(|file| file.ends_with("layer.tar"))
    };
    tars().for_each(|tar| flip(&tar, 0));
    let (code, found) = scene.fsck(&["--read-data", "--repair"]);
    assert_eq!(code, 4, "no source has the layers: {found:#?}");
    assert_eq!(tars().count(), 3, "what is damaged stays");
    scene.heals("snapshot-damaged", "erofs");
    assert_eq!((blobs(), tars().count()), (2, 3));
}

/// The damage is found even if the tar has the length and the time of before.
#[test]
fn an_import_replaces_a_damaged_tar_that_is_the_only_copy() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::of_tars();
    let archive = crate::common::small_archive(scene.scratch.path());
    let tars = || {
        let files = files(&scene.root.join("snapshots/erofs")).into_iter();
        files.filter(|file| file.ends_with("layer.tar"))
    };
    let truncate: Damage = |tar| {
        let file = File::options().write(true).open(tar).unwrap();
        file.set_len(10).unwrap();
    };
    let damages: [(&str, Damage); 3] = [
        ("flipped", |tar| flip(tar, 0)),
        ("truncated", truncate),
        ("removed", |tar| fs::remove_file(tar).unwrap()),
    ];
    for (how, damage) in damages {
        tars().for_each(|tar| damage(&tar));
        if how == "removed" {
            let mut unpack = crate::common::cas(&scene.root);
            unpack.args(["unpack", "app:1"]);
            let said = crate::common::fails(unpack.arg(scene.scratch.path().join("refused")), 4);
            assert!(said.contains("run `cas fsck --repair`, or pull"), "{said}");
        }
        let import = ["import", "--name", "app:1"];
        crate::common::ok(crate::common::cas(&scene.root).args(import).arg(&archive));
        scene.works();
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{how}");
        assert_eq!(files(&scene.root.join("store/blobs")).len(), 2, "{how}");
        assert_eq!(tars().count(), 3, "{how}");
    }
}

/// Nothing but the absence of the tar shows the damage.
#[test]
fn a_lost_tar_is_found_and_healed_if_its_manifest_is_lost_too() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::of_tars();
    let snapshots = scene.root.join("snapshots/erofs");
    let damages: [(&str, Damage); 3] = [
        ("removed", |_| {}),
        ("directory", |tar| fs::create_dir(tar).unwrap()),
        ("link", |tar| {
            std::os::unix::fs::symlink("absent", tar).unwrap()
        }),
    ];
    for (how, damage) in damages {
        let files = files(&snapshots).into_iter();
        let tar = files
            .filter(|file| file.ends_with("layer.tar"))
            .min()
            .unwrap();
        fs::remove_file(&tar).unwrap();
        fs::remove_dir_all(snapshots.join("manifests")).unwrap();
        damage(&tar);
        for arguments in [&["--read-data"][..], &["--read-data", "--repair"]] {
            let (code, found) = scene.fsck(arguments);
            assert!(
                has(&found, "snapshot-damaged", "erofs"),
                "{how}: {found:#?}"
            );
            assert_eq!(code, 4, "{how}: no source has the layer");
        }
        scene.heals("snapshot-damaged", "erofs");
        scene.works();
    }
}

/// Returns the key of the topmost snapshot.
fn top(open: &Cas) -> String {
    let committed = open.snapshots().unwrap();
    let parents: Vec<_> = committed
        .iter()
        .filter_map(|info| info.parent.clone())
        .collect();
    let mut keys = committed.into_iter().map(|info| info.key);
    keys.find(|key| !parents.contains(key)).unwrap()
}

/// There are as many leases as paths that `cas why` shows, and their paths are shorter than the
/// path from the name.
#[test]
fn a_tar_that_is_the_only_copy_is_not_removed_however_many_leases_keep_it() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::of_tars();
    let open = Cas::open(&scene.root).unwrap();
    let key = top(&open);
    let resource = Resource::Snapshot {
        snapshotter: "erofs".to_owned(),
        key: key.clone(),
    };
    for number in 0..100 {
        let mut lease = Lease::new("test", None);
        lease.resources.insert(resource.clone());
        let leases = open.store().leases();
        wait(leases.create(&format!("lease-{number}"), &lease)).unwrap();
    }
    let why = open.explain(&resource).unwrap();
    assert!(why.paths.iter().all(|path| path.steps.len() == 1));
    let refused = open.remove_snapshot(&key).unwrap_err();
    assert_eq!(refused.kind(), cas::ErrorKind::Busy, "{refused}");
    assert!(refused.to_string().contains("app:1"), "{refused}");
}

/// The record of the manifest says that the snapshotter has the layer.
#[test]
fn a_lost_tar_that_is_the_only_copy_is_found_and_its_layer_is_stored_again() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::of_tars();
    let open = Cas::open(&scene.root).unwrap();
    let key = top(&open);
    let refused = open.remove_snapshot(&key).unwrap_err();
    assert_eq!(refused.kind(), cas::ErrorKind::Busy, "{refused}");
    wait(open.snapshotter().unwrap().remove(&key)).unwrap();
    drop(open);
    let lost = scene.manifest.layers.last().unwrap().digest;
    scene.heals("blob-missing", lost.to_string());
    // The image is unpacked from the layer, which is then removed.
    let archive = scene.scratch.path().join("again.tar");
    crate::common::ok(
        crate::common::cas(&scene.root)
            .args(["export", "app:1", "-o"])
            .arg(&archive),
    );
    crate::common::ok(crate::common::cas(&scene.root).arg("import").arg(&archive));
    assert_eq!(files(&scene.root.join("store/blobs")).len(), 2);
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
}

/// Deletes all records of the store.
fn lose_records(scene: &Scene) {
    lose_records_in(scene, "store/.cas");
}

/// Deletes all records in a directory of the root.
fn lose_records_in(scene: &Scene, directory: &str) {
    for name in ["records.db", "records.db-wal", "records.db-shm"] {
        let lost = scene.root.join(directory).join(name);
        let removed = fs::remove_file(&lost);
        assert!(removed.is_ok() || name != "records.db", "{removed:?}");
    }
}

/// Without the records, nothing in the store says that the snapshotter has the layers.
#[test]
fn a_collection_keeps_tars_whose_records_were_lost_and_a_repair_finds_them() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::of_tars();
    lose_records(&scene);
    crate::common::ok(crate::common::cas(&scene.root).arg("gc"));
    let (code, found) = scene.fsck(&["--repair"]);
    assert_eq!(code, 0, "no source is needed: {found:#?}");
    let lost = scene.manifest.layers.len();
    let missing = found.iter().filter(|one| one["problem"] == "blob-missing");
    assert_eq!(missing.count(), lost, "{found:#?}");
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
    crate::common::ok(crate::common::cas(&scene.root).arg("gc"));
    scene.works();
}

/// The store has lost the records that lead to the tars, or the snapshotter has lost its own
/// records. Neither loss needs another source.
#[test]
fn a_verb_that_lacks_layers_after_a_loss_of_records_names_the_repair() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    for records in ["store/.cas", "local"] {
        let scene = Scene::of_tars();
        lose_records_in(&scene, records);
        let at = |name: &str| scene.scratch.path().join(name).display().to_string();
        let (archive, copy) = (at("out.tar"), format!("fs://{}", at("copy")));
        let verbs = [
            &["export", "app:1", "-o", &archive][..],
            &["copy", "app:1", &copy],
        ];
        let tool = |arguments: &[&str]| {
            let mut tool = crate::common::cas(&scene.root);
            tool.args(arguments);
            tool
        };
        for verb in verbs {
            let said = crate::common::fails(&mut tool(verb), 3);
            assert!(
                said.contains("run `cas fsck --repair`"),
                "{records}: {said}"
            );
            assert!(!said.contains("discard"), "{records}: {said}");
        }
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "{records}: {found:#?}");
        for verb in verbs {
            crate::common::ok(&mut tool(verb));
        }
    }
}

/// Names an index of the image and of another platform, which is stored but not unpacked.
fn name_index(scene: &Scene) {
    let layer = Descriptor::of(MediaType::OCI_LAYER, b"layer");
    let config = json!({
        "os": "linux",
        "architecture": "s390x",
        "rootfs": { "type": "layers", "diff_ids": [layer.digest.to_string()] },
    })
    .to_string();
    let of_config = Descriptor::of(MediaType::OCI_CONFIG, config.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST.as_str(),
        "config": of_config,
        "layers": [layer],
    })
    .to_string();
    let other = Descriptor::of(MediaType::OCI_MANIFEST, manifest.as_bytes());
    let other = other.with_platform("linux/s390x".parse().unwrap());
    let size = scene.bytes(&scene.manifest_digest).len() as u64;
    let own = Descriptor::new(MediaType::OCI_MANIFEST, scene.manifest_digest, size);
    let own = own.with_platform(Platform::host());
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_INDEX.as_str(),
        "manifests": [own, other],
    })
    .to_string();
    let target = Descriptor::of(MediaType::OCI_INDEX, index.as_bytes());
    let blobs = [
        (layer, "layer".to_owned()),
        (of_config, config),
        (other, manifest),
        (target.clone(), index),
    ];
    scene.open(async |store| {
        let guard = LeaseGuard::begin(store, "test").await.unwrap();
        for (blob, data) in blobs {
            let (data, level) = (Bytes::from(data), Durability::Full);
            guard.put(&blob, data, level).await.unwrap();
        }
        guard.pin_tree_found(&target).await.unwrap();
        let image = Image::new("docker.io/library/app:1".parse().unwrap(), target);
        guard.name_one(image, &["target"]).await.unwrap();
    });
}

/// These commands make the record of the index again.
#[test]
fn no_command_lets_a_collection_free_tars_whose_records_were_lost() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    for command in [&["tag", "app:1", "second:1"][..], &["export", "app:1"]] {
        let scene = Scene::of_tars();
        name_index(&scene);
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        lose_records(&scene);
        let mut tool = crate::common::cas(&scene.root);
        tool.args(command);
        if command[0] == "export" {
            tool.arg("-o").arg(scene.scratch.path().join("out.tar"));
        }
        crate::common::ok(&mut tool);
        crate::common::ok(crate::common::cas(&scene.root).arg("gc"));
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "no source is needed after {command:?}: {found:#?}");
        for layer in &scene.manifest.layers {
            let layer = layer.digest.to_string();
            assert!(has(&found, "blob-missing", layer), "{found:#?}");
        }
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{command:?}");
        crate::common::ok(crate::common::cas(&scene.root).arg("gc"));
        scene.works();
    }
}

/// In a root of an earlier release, only a label in this record keeps the tars.
#[test]
fn a_repair_keeps_tars_if_the_record_of_the_configuration_is_damaged_or_lost() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    for record in [Some("{"), None] {
        let scene = Scene::of_tars();
        lose_labels(&scene.root, "app:1", record);
        assert_eq!(scene.fsck(&[]).0, 4);
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "no source is needed: {found:#?}");
        for layer in &scene.manifest.layers {
            let layer = layer.digest.to_string();
            assert!(has(&found, "blob-missing", layer), "{found:#?}");
        }
        let open = Cas::open(&scene.root).unwrap();
        let later = SystemTime::now() + Duration::from_secs(40 * 24 * 3600);
        open.gc_with(GcOptions::default().with_now(later)).unwrap();
        open.close().unwrap();
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        scene.works();
    }
}
