//! Tars that are the only copies of layers, and whose snapshots have lost their records.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cas::backend::pool::wait;
use cas::blocking::Cas;
use cas::content::Durability;
use cas::lease::LeaseGuard;
use cas::records::{Batch, Expect, Records, Table};
use cas::{Descriptor, Digest, Image, MediaType};
use cas_records_sqlite::SqliteRecords;
use serde_json::Value;

use crate::common::{cas, mounting_snapshotters, ok};
use crate::scene::{Scene, files, has};
use crate::written::{layers, lose_local_records};

/// How the record of a snapshot is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flipped,
    Truncated,
    Deleted,
}

const DAMAGES: [Damage; 3] = [Damage::Flipped, Damage::Truncated, Damage::Deleted];

/// Damages the record of a snapshot.
fn damage(root: &Path, key: &str, how: Damage) {
    let records = SqliteRecords::open(&root.join("local/records.db")).unwrap();
    let row = format!("erofs/{key}");
    let found = wait(records.load(Table::Snapshots, &row)).unwrap().unwrap();
    let (mut value, mut batch) = (found.value.to_vec(), Batch::new());
    let middle = value.len() / 2;
    match how {
        Damage::Flipped => value[middle] ^= 1,
        Damage::Truncated => value.truncate(middle),
        Damage::Deleted => {}
    }
    match how {
        Damage::Deleted => batch.delete(Table::Snapshots, row, Expect::Any),
        _ => batch.put(Table::Snapshots, row, Expect::Any, value.into()),
    }
    wait(records.commit(&batch)).unwrap();
}

/// Returns the path of the tar of a snapshot.
fn tar_of(root: &Path, key: &str) -> PathBuf {
    let records = SqliteRecords::open(&root.join("local/records.db")).unwrap();
    let found = wait(records.load(Table::Snapshots, &format!("erofs/{key}")));
    let record: Value = serde_json::from_slice(&found.unwrap().unwrap().value).unwrap();
    let directory = root.join("snapshots/erofs/snapshots");
    directory.join(format!("{}/fs/layer.tar", record["id"]))
}

/// Returns the number of tars.
fn tars(root: &Path) -> usize {
    let files = files(&root.join("snapshots/erofs")).into_iter();
    files.filter(|file| file.ends_with("layer.tar")).count()
}

/// Exports an image, and imports the archive into a new root. Returns the digest that the image has
/// there.
fn exported(scene: &Scene, name: &str) -> Digest {
    let scratch = tempfile::tempdir_in(scene.scratch.path()).unwrap();
    let (archive, root) = (scratch.path().join("out.tar"), scratch.path().join("root"));
    ok(cas(&scene.root).args(["export", name, "-o"]).arg(&archive));
    let import = ["import", "--name", name];
    ok(cas(&root).args(import).arg(&archive));
    let open = Cas::open(&root).unwrap();
    open.manifest(name).unwrap().descriptor.digest
}

/// Collects. Only a damaged record, which a collection does not read past, makes this fail.
fn collect(root: &Path, how: Damage) {
    let collected = cas(root).arg("gc").output().unwrap();
    let expected = if how == Damage::Deleted { 0 } else { 4 };
    assert_eq!(collected.status.code(), Some(expected), "{collected:?}");
}

/// Checks that fsck reports the tars, that a repair without a source makes the snapshots again, and
/// that fsck then finds nothing.
fn heals_from_tars(scene: &Scene) {
    let (code, found) = scene.fsck(&[]);
    assert_eq!(code, 4, "{found:#?}");
    assert!(has(&found, "snapshot-left", "layer.tar"), "{found:#?}");
    assert!(!has(&found, "blob-missing", ""), "{found:#?}");
    let (code, found) = scene.fsck(&["--repair"]);
    assert_eq!(code, 0, "no source is needed: {found:#?}");
    let is_made = |one: &Value| {
        let detail = one["detail"].as_str().unwrap();
        one["problem"] == "snapshot-left" && detail.contains("was made again from the tar")
    };
    assert!(found.iter().any(is_made), "{found:#?}");
    assert!(!has(&found, "blob-missing", ""), "{found:#?}");
    assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
    assert_eq!(tars(&scene.root), 3, "a copied tar is removed");
    assert_eq!(files(&scene.root.join("store/blobs")).len(), 2);
}

/// Checks that a container can be started from the image.
fn can_be_mounted(scene: &Scene, image: &str) {
    let open = Cas::open(&scene.root).unwrap();
    open.create_snapshot("container", image).unwrap();
    assert!(open.remove_snapshot("container").unwrap());
}

#[test]
fn a_tar_that_is_the_only_copy_stays_if_its_record_is_damaged_and_a_repair_uses_it() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    for how in DAMAGES {
        for is_top in [false, true] {
            let scene = Scene::of_tars();
            let (before, chain) = (exported(&scene, "app:1"), layers(&scene));
            let lost = if is_top { chain.last() } else { chain.first() };
            damage(&scene.root, lost.unwrap(), how);
            collect(&scene.root, how);
            assert_eq!(tars(&scene.root), 3, "{how:?}, top: {is_top}");
            heals_from_tars(&scene);
            assert_eq!(layers(&scene), chain, "{how:?}, top: {is_top}");
            can_be_mounted(&scene, "app:1");
            scene.works();
            assert_eq!(exported(&scene, "app:1"), before, "{how:?}, top: {is_top}");
            ok(cas(&scene.root).arg("gc"));
            assert_eq!(tars(&scene.root), 3, "{how:?}, top: {is_top}");
        }
    }
}

#[test]
fn all_tars_stay_if_all_records_of_snapshots_are_lost_and_a_repair_uses_them() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::of_tars();
    let (before, chain) = (exported(&scene, "app:1"), layers(&scene));
    lose_local_records(&scene.root);
    for _ in 0..2 {
        ok(cas(&scene.root).args(["gc", "--dry-run"]));
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(tars(&scene.root), 3);
    }
    heals_from_tars(&scene);
    assert_eq!(layers(&scene), chain);
    can_be_mounted(&scene, "app:1");
    assert_eq!(exported(&scene, "app:1"), before);
}

/// Adds the image `base:1` to the root: the lowest layer of `app:1`, with a configuration of its
/// own.
fn add_base(scene: &Scene) {
    let bytes = scene.bytes(&scene.manifest_digest);
    let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
    let bytes = scene.bytes(&scene.manifest.config.digest);
    let mut config: Value = serde_json::from_slice(&bytes).unwrap();
    let lowest = |list: &mut Value| list.as_array_mut().unwrap().truncate(1);
    lowest(&mut config["rootfs"]["diff_ids"]);
    config.as_object_mut().unwrap().remove("history");
    let config = config.to_string();
    let of_config = Descriptor::of(scene.manifest.config.media_type.clone(), config.as_bytes());
    lowest(&mut manifest["layers"]);
    manifest["config"] = serde_json::to_value(&of_config).unwrap();
    let manifest = manifest.to_string();
    let target = Descriptor::of(MediaType::OCI_MANIFEST, manifest.as_bytes());
    let source = Cas::open(scene.source()).unwrap();
    wait(async {
        let guard = LeaseGuard::begin(source.store(), "test").await.unwrap();
        for (blob, data) in [(&of_config, config), (&target, manifest)] {
            let (data, level) = (Bytes::from(data), Durability::Full);
            guard.put(blob, data, level).await.unwrap();
        }
        guard.pin_tree_found(&target).await.unwrap();
        let image = Image::new("docker.io/library/base:1".parse().unwrap(), target);
        guard.name_one(image, &["target"]).await.unwrap();
    });
    source.close().unwrap();
    let archive = scene.scratch.path().join("base.tar");
    ok(cas(&scene.source())
        .args(["export", "base:1", "-o"])
        .arg(&archive));
    ok(cas(&scene.root)
        .args(["import", "--name", "base:1"])
        .arg(&archive));
    assert_eq!(tars(&scene.root), 3, "the images share the lowest layer");
}

#[test]
fn a_tar_that_two_images_need_is_used_for_both() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    // An export may store a blob, so another root shows what the exported images are.
    let undamaged = Scene::of_tars();
    add_base(&undamaged);
    let images = ["app:1", "base:1"];
    let expected = images.map(|image| exported(&undamaged, image));
    for how in DAMAGES {
        let scene = Scene::of_tars();
        add_base(&scene);
        damage(&scene.root, &layers(&scene)[0], how);
        collect(&scene.root, how);
        assert_eq!(tars(&scene.root), 3, "{how:?}");
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "{how:?}: no source is needed: {found:#?}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "{how:?}");
        for (image, expected) in images.into_iter().zip(expected) {
            can_be_mounted(&scene, image);
            assert_eq!(exported(&scene, image), expected, "{how:?}: {image}");
        }
        ok(cas(&scene.root).args(["rmi", "app:1"]));
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(tars(&scene.root), 1, "{how:?}");
        can_be_mounted(&scene, "base:1");
    }
}

#[test]
fn a_damaged_tar_without_a_record_is_removed_and_its_layer_is_fetched() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    for is_top in [false, true] {
        let scene = Scene::of_tars();
        let chain = layers(&scene);
        let lost = if is_top { chain.last() } else { chain.first() };
        let tar = tar_of(&scene.root, lost.unwrap());
        damage(&scene.root, lost.unwrap(), Damage::Deleted);
        let file = File::options().read(true).write(true).open(&tar).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 0).unwrap();
        ok(cas(&scene.root).arg("gc"));
        assert!(!tar.exists());
        assert_eq!(tars(&scene.root), 2, "the other tars stay");
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 4, "no source has the layer: {found:#?}");
        assert!(has(&found, "blob-missing", ""), "{found:#?}");
        assert_eq!(tars(&scene.root), 2, "top: {is_top}");
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(tars(&scene.root), 2, "top: {is_top}");
        let (code, found) = scene.repair_from_source();
        assert_eq!(code, 0, "{found:#?}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
        scene.works();
    }
}

#[test]
fn a_tar_without_a_record_that_no_image_needs_is_removed() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    for is_top in [false, true] {
        let scene = Scene::of_tars();
        let chain = layers(&scene);
        let lost = if is_top { chain.last() } else { chain.first() };
        let tar = tar_of(&scene.root, lost.unwrap());
        damage(&scene.root, lost.unwrap(), Damage::Deleted);
        ok(cas(&scene.root).args(["rmi", "app:1"]));
        ok(cas(&scene.root).arg("gc"));
        assert!(!tar.exists(), "top: {is_top}");
        // The parent of the lost snapshot still counts its child.
        assert_eq!(scene.fsck(&["--repair"]).0, 0);
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(tars(&scene.root), 0, "top: {is_top}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()));
    }
}

/// The store has the blob of the layer, so the tar is not the only copy.
#[test]
fn a_tar_without_a_record_is_removed_if_the_store_has_its_layer() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let scene = Scene::with("fs", "erofs");
    damage(&scene.root, &layers(&scene)[0], Damage::Deleted);
    ok(cas(&scene.root).arg("gc"));
    assert_eq!(tars(&scene.root), 2);
}
