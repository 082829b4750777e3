//! A name that states a digest never leads to another image.

use std::fs;

use cas::image::{Reference, encode_image};
use cas::records::{Batch, Expect, Table};
use cas::{Digest, Image, ImageRef, blocking};
use serde_json::{Value, json};

use crate::common::{ENGINES, text};
use crate::scene::{Scene, ref_name};

fn absent() -> Digest {
    Digest::sha256(b"absent")
}

#[test]
fn a_given_name_with_another_digest_is_refused() {
    for store in ENGINES {
        let scene = Scene::on(store);
        scene.import(&["app:1"]);
        let (names, blobs) = (scene.names(), scene.json(&["blob", "ls"]).len());
        let wrong = format!("pinned@{}", absent());
        let file = scene.saved(&[(None, "other")]);
        let layout = scene.layout(&[(ref_name("v1"), "another")]);
        let copy = format!("{}#{wrong}", scene.path("copy"));
        for command in [
            &["import", &file, "--name", &wrong][..],
            &["import", &layout, "--name", &wrong],
            &["tag", "app:1", &wrong],
            &["copy", "app:1", &copy],
        ] {
            let said = scene.fails(command, 2);
            let expected = "use a name with this digest, or without a digest";
            assert!(said.contains(expected), "{store} {command:?}: {said}");
        }
        assert_eq!(scene.names(), names, "{store}");
        assert_eq!(scene.json(&["blob", "ls"]).len(), blobs, "{store}");

        scene.ok(&["import", &layout]);
        let right = format!("pinned@{}", scene.target("v1"));
        scene.ok(&["import", &layout, "--name", &right]);
        assert_eq!(scene.target(&right), scene.target("v1"), "{store}");
    }
}

#[test]
fn a_name_of_a_source_with_another_digest_is_left_out_with_a_warning() {
    let digest = absent().to_string();
    let names = [format!("x.test/app@{digest}"), format!("app:1@{digest}")];
    for wrong in [&names[0], &names[1], &digest].map(String::as_str) {
        let scene = Scene::new();
        let file = match wrong == digest {
            false => scene.saved(&[(Some(&[wrong, "good:1"]), "one"), (Some(&[wrong]), "two")]),
            // Docker does not accept a digest as a name.
            true => scene.layout(&[(ref_name("good:1"), "one"), (ref_name(wrong), "two")]),
        };
        let image_name = json!({"io.containerd.image.name": wrong});
        let layout = scene.layout_at(
            "second",
            &[(ref_name(wrong), "three"), (image_name, "four")],
        );
        for source in [&file, &layout] {
            let out = scene.cas(&["import", source]).output().unwrap();
            let said = text(&out.stderr);
            assert!(out.status.success(), "{wrong}: {said}");
            assert!(said.contains("without this name"), "{wrong}: {said}");
        }
        let stored = scene.names();
        let unnamed = |(name, target): &(&String, &Digest)| **name == target.to_string();
        assert_eq!(stored.len(), 4, "{wrong}: {stored:?}");
        assert_eq!(stored.iter().filter(unnamed).count(), 3, "{stored:?}");
        assert!(stored.contains_key("docker.io/library/good:1"));
        scene.fails(&["inspect", wrong], 3);
    }
}

#[test]
fn an_entry_of_another_program_with_another_digest_counts_as_one_without_a_name() {
    let scene = Scene::new();
    scene.import(&["app:1"]);
    let target = scene.target("app:1");
    let wrong = format!("docker.io/library/app@{}", absent());
    let path = scene.root.join("store/index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["manifests"][0]["annotations"] = ref_name(&wrong);
    fs::write(&path, index.to_string()).unwrap();
    let out = scene.path("out");
    for command in [
        &["inspect", &wrong][..],
        &["unpack", &wrong, &out],
        &["export", &wrong, "-o", &out],
    ] {
        scene.fails(command, 3);
    }
    scene.ok(&["gc"]);
    assert_eq!(scene.listed(), std::slice::from_ref(&target));
    let checked = scene.cas(&["fsck"]).output().unwrap();
    let said = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(4), "{said}");
    assert!(said.contains("which states another digest"), "{said}");
    scene.ok(&["fsck", "--repair"]);
    scene.ok(&["fsck", "--read-data"]);
    assert_eq!(scene.listed(), std::slice::from_ref(&target));
    scene.ok(&["unpack", &target, &out]);
}

/// Gives the image `app:1` a name as an earlier release did.
fn store_name(scene: &Scene, name: &str) {
    let cas = blocking::Cas::open(&scene.root).unwrap();
    let target = cas.image(ImageRef::typed("app:1")).unwrap().target;
    let image = Image::new(name.parse::<Reference>().unwrap(), target);
    let mut batch = Batch::new();
    let value = encode_image(name, &image).unwrap();
    batch.put(Table::Images, name, Expect::Absent, value);
    cas::backend::pool::wait(cas.store().records.commit(&batch)).unwrap();
}

#[test]
fn a_name_of_an_earlier_release_with_another_digest_leads_nowhere_and_can_be_corrected() {
    for store in ENGINES.iter().filter(|store| **store != "fs") {
        let scene = Scene::on(store);
        scene.import(&["app:1", "good:1"]);
        let (other, right) = (scene.target("app:1"), scene.target("good:1"));
        let wrong = format!("docker.io/library/pinned@{right}");
        let out = scene.path("out");
        store_name(&scene, &wrong);
        scene.fails(&["inspect", &wrong], 3);
        scene.fails(&["unpack", &wrong, &out], 3);
        scene.ok(&["rmi", &wrong]);
        assert_eq!(scene.names().len(), 2, "{store}");

        store_name(&scene, &wrong);
        scene.ok(&["tag", "good:1", &wrong]);
        assert_eq!(scene.target(&wrong), right, "{store}");
        scene.ok(&["rmi", &wrong]);

        store_name(&scene, &wrong);
        let checked = scene.cas(&["fsck"]).output().unwrap();
        let said = text(&checked.stdout);
        assert_eq!(checked.status.code(), Some(4), "{store}: {said}");
        assert!(said.contains("name wrong"), "{store}: {said}");
        scene.ok(&["fsck", "--repair"]);
        scene.ok(&["fsck", "--read-data"]);
        let names = scene.names();
        assert_eq!(names.len(), 3, "{store}: {names:?}");
        assert_eq!(names[&other].to_string(), other, "{store}");
    }
}
