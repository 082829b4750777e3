//! Roots that keep layers only as tars, and images that share layers.

use cas::backend::pool::wait;
use cas::blocking::Cas;
use cas::labels::{GC_BACK_REF, Labels};
use cas::{Digest, limit};
use serde_json::Value;
use testkit::archive::Tar;

use super::only_tars::{Pack, Scene, lower, ours, upper};
use crate::common::layout::layout_of_platforms;
use crate::common::{cas, ok};

/// The record of each image states how the blob of the lower layer is made.
#[test]
fn a_layer_that_images_share_is_a_tar_of_each_of_them() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let other = Tar::new().file("etc/other", "o");
    let [lower, upper, other]: [(&Tar, Pack); 3] =
        [(&lower(), ours), (&upper(), ours), (&other, ours)];
    let are_tars = |manifest: &Value| {
        let layers = &manifest["children"].as_array().unwrap()[1..];
        layers.iter().all(|layer| layer["tar"] == true)
    };
    for (name, layers) in [
        ("first", &[lower, upper][..]),
        ("second", &[lower, other]),
        ("third", &[lower]),
    ] {
        scene.import(&scene.layout(name, layers), name);
        let tree = scene.tree(name);
        assert!(are_tars(&tree), "{tree}");
    }
    ok(scene.cas().args(["rmi", "first"]));
    ok(scene.cas().arg("gc"));
    for name in ["second", "third"] {
        let said = scene.export(name, &format!("{name}.tar"));
        assert_eq!(said, "", "the image keeps its digest");
    }

    let (layout, tar) = (scene.at("both"), Tar::new().file("file", "f").end());
    layout_of_platforms(&layout, &[("amd64", tar.clone()), ("s390x", tar)]);
    for platform in ["linux/amd64", "linux/s390x"] {
        let import = ["import", "--name", "both", "--platform", platform];
        ok(scene.cas().args(import).arg(&layout));
    }
    let tree = scene.tree("both");
    assert!(tree["children"].as_array().unwrap().iter().all(are_tars));
}

/// An image leaves two labels on the topmost snapshot of its layers, which another image may have,
/// too.
#[test]
fn labels_of_removed_images_do_not_keep_new_images_out() {
    for is_removed in [true, false] {
        let Some(scene) = Scene::new() else {
            return;
        };
        let (layout, tar) = (scene.at("layout"), Tar::new().file("file", "f").end());
        layout_of_platforms(&layout, &[("amd64", tar.clone()), ("s390x", tar)]);
        let import = |platform: &str| {
            let import = ["import", "--name", platform, "--platform"];
            let mut command = cas(&scene.root);
            let out = command.args(import).arg(platform).arg(&layout).output();
            let out = out.unwrap();
            let said = String::from_utf8(out.stderr).unwrap();
            assert!(out.status.success(), "{said}");
            said
        };
        import("linux/amd64");
        let open = Cas::open(&scene.root).unwrap();
        let snapshot = open.snapshots().unwrap().remove(0);
        assert_eq!(snapshot.labels.keys().filter(|key| is_back(key)).count(), 2);
        let mut labels = snapshot.labels.iter();
        let (_, stored) = labels.find(|(key, _)| is_back(key)).unwrap();
        let label = |number: usize| {
            let keeper = match is_removed {
                true => Digest::sha256(&number.to_le_bytes()).to_string(),
                false => stored.clone(),
            };
            (format!("{GC_BACK_REF}content.{number}"), keeper)
        };
        let labels: Labels = (2..limit::DESCRIPTORS).map(label).collect();
        let paths: Vec<String> = labels.keys().map(|key| format!("labels.{key}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let snapshotter = open.snapshotter().unwrap();
        wait(snapshotter.update(&snapshot.key, labels, &paths)).unwrap();
        open.close().unwrap();

        let said = import("linux/s390x");
        assert_eq!(said.contains("too many labels"), !is_removed, "{said}");
        let open = Cas::open(&scene.root).unwrap();
        let snapshot = open.snapshots().unwrap().remove(0);
        let left = snapshot.labels.keys().filter(|key| is_back(key)).count();
        let expected = if is_removed { 4 } else { limit::DESCRIPTORS };
        assert_eq!(left, expected);
        open.close().unwrap();
    }
}

fn is_back(label: &str) -> bool {
    label.starts_with(GC_BACK_REF)
}
