//! Images without a name are imported under their digests.

use std::fs;

use cas::Digest;
use serde_json::{Value, json};

use crate::common::ENGINES;
use crate::scene::{Scene, Tags, entries, ref_name};

/// The images of a source, and how many of its names and of its digests are new.
type Source<'a> = (&'a [(Tags<'a>, &'a str)], usize, usize);

#[test]
fn images_without_a_name_are_stored_listed_found_and_kept() {
    let sources: [Source<'_>; 6] = [
        (&[(Some(&["named:1"]), "a"), (None, "b")], 1, 1),
        (&[(None, "c"), (None, "d"), (Some(&[]), "e")], 0, 3),
        (&[(None, "f")], 0, 1),
        (&[(None, "g"), (None, "g")], 0, 1),
        (&[(Some(&["x:1"]), "h"), (None, "h")], 1, 0),
        (&[(None, "i"), (Some(&["y:1", "y:2"]), "j")], 2, 1),
    ];
    for (store, count) in ENGINES.iter().zip([sources.len(), 1, 1, 1]) {
        let scene = Scene::on(store);
        for (images, named, unnamed) in &sources[..count] {
            let before = scene.names();
            let file = scene.saved(images);
            let said = scene.ok(&["import", &file]);
            let mut new = scene.names();
            new.retain(|name, _| !before.contains_key(name));
            assert_eq!(said.lines().count(), named + unnamed, "{store}: {said}");
            let is_digest = |(name, digest): &(&String, &Digest)| **name == digest.to_string();
            let digests = new.iter().filter(is_digest).count();
            assert_eq!(
                (new.len() - digests, digests),
                (*named, *unnamed),
                "{store}: {new:?}"
            );
            assert!(scene.json(&["gc"]).is_empty(), "{store}");
            for digest in new.values() {
                assert_eq!(scene.target(&digest.short()), digest.to_string());
            }
            // A second import changes nothing.
            let all = scene.names();
            scene.ok(&["import", &file]);
            assert_eq!(scene.names(), all, "{store}");
        }
    }
}

#[test]
fn an_image_without_a_name_goes_out_and_comes_back_without_one() {
    let scene = Scene::new();
    let file = scene.saved(&[(None, "a"), (None, "b")]);
    scene.ok(&["import", &file]);
    let names: Vec<String> = scene.names().into_keys().collect();
    for format in ["oci", "docker"] {
        let out = scene.path("out.tar");
        let export = [
            "export", &names[0], &names[1], "--format", format, "-o", &out,
        ];
        assert_eq!(scene.ok(&export).lines().count(), 2);
        assert!(
            entries(&out)
                .iter()
                .all(|entry| entry["annotations"].is_null())
        );
        let other = Scene::new();
        other.ok(&["import", &out]);
        assert_eq!(other.names(), scene.names(), "{format}");
    }
    // The image gets a name later, which is removed without the digest.
    scene.ok(&["tag", &names[0], "app:1"]);
    scene.ok(&["rmi", "app:1"]);
    assert_eq!(scene.names().len(), 2);
    scene.ok(&["rmi", &names[0]]);
    assert_eq!(scene.listed(), names[1..]);
    assert_eq!(scene.json(&["gc"]).len(), 3);
}

#[test]
fn layouts_without_names_come_in_whole() {
    let scene = Scene::new();
    for entries in [
        [(Value::Null, "a"), (json!({}), "b")],
        [(json!({"other": "x"}), "c"), (ref_name(""), "d")],
        [(Value::Null, "e"), (ref_name("named:1"), "f")],
    ] {
        let before = scene.names().len();
        let layout = scene.layout(&entries);
        assert_eq!(scene.ok(&["import", &layout]).lines().count(), 2);
        assert_eq!(scene.names().len(), before + 2);
        // An `fs` store is a layout, too.
        let other = Scene::new();
        other.ok(&["import", &format!("{}/store", scene.root.display())]);
        assert_eq!(other.names(), scene.names());
    }
}

#[test]
fn a_platform_chooses_one_of_several_and_a_name_suits_one() {
    let scene = Scene::new();
    let file = scene.saved_for(&[
        (None, "a", "amd64"),
        (None, "b", "arm64"),
        (None, "c", "s390x"),
    ]);
    for (platform, text) in [
        ("linux/amd64", "a"),
        ("linux/arm64", "b"),
        ("linux/s390x", "c"),
    ] {
        let options = ["--platform", platform, "--name", "mine:1"];
        let import = [&["import", &file][..], &options].concat();
        assert_eq!(scene.ok(&import), "mine:1\n");
        let directory = scene.path(text);
        scene.ok(&["unpack", "mine:1", &directory, "--platform", platform]);
        let found = fs::read_to_string(format!("{directory}/hello"));
        assert_eq!(found.unwrap(), text);
    }
    assert_eq!(scene.names().len(), 1);
    for name in ["mine", "mine:1"] {
        let said = scene.fails(&["import", &file, "--name", name], 2);
        assert!(
            said.contains("--platform") && said.contains("without --name"),
            "{said}"
        );
    }
    scene.ok(&["import", &file]);
    assert_eq!(scene.names().len(), 4);
    scene.fails(&["import", &file, "--platform", "linux/riscv64"], 3);
}

/// Other programs add entries without a name to the store.
#[test]
fn entries_of_other_programs_are_listed_and_removed_by_digest() {
    let scene = Scene::new();
    scene.import(&["app:1"]);
    let digest = scene.target("app:1");
    let file = scene.root.join("store/index.json");
    let mut index: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let mut entry = index["manifests"][0].clone();
    entry.as_object_mut().unwrap().remove("annotations");
    let more = [entry.clone(), entry];
    index["manifests"].as_array_mut().unwrap().extend(more);
    fs::write(&file, index.to_string()).unwrap();
    scene.ok(&["rmi", "app:1"]);
    assert!(scene.json(&["gc"]).is_empty());
    assert_eq!(scene.listed(), std::slice::from_ref(&digest));
    scene.ok(&["tag", &digest[..19], "back:1"]);
    scene.fails(&["rmi", &digest], 2);
    scene.ok(&["rmi", "back:1"]);
    scene.ok(&["rmi", &digest]);
    assert!(scene.names().is_empty());
    assert_eq!(scene.json(&["gc"]).len(), 3);
}
