//! An image has one name, however it is spelled.

use std::fs;
use std::path::Path;

use crate::scene::{Scene, entries, image_name, ref_name};

/// For each stored name, what people type for it.
const SPELLINGS: [(&str, &[&str]); 5] = [
    (
        "docker.io/library/app:latest",
        &[
            "app",
            "app:latest",
            "library/app",
            "docker.io/app",
            "docker.io/app:latest",
            "index.docker.io/app",
            "index.docker.io/library/app",
            "docker.io/library/app",
            "docker.io/library/app:latest",
        ],
    ),
    (
        "docker.io/library/app:1",
        &["app:1", "library/app:1", "docker.io/app:1"],
    ),
    (
        "docker.io/me/app:1",
        &["me/app:1", "docker.io/me/app:1", "index.docker.io/me/app:1"],
    ),
    (
        "localhost/app:latest",
        &["localhost/app", "localhost/app:latest"],
    ),
    (
        "x.test:5000/app:latest",
        &["x.test:5000/app", "x.test:5000/app:latest"],
    ),
];

#[test]
fn every_command_finds_every_spelling() {
    let scene = Scene::new();
    for (name, _) in SPELLINGS {
        scene.import(&[name]);
    }
    let names = scene.names();
    assert_eq!(names.len(), SPELLINGS.len());
    scene.ok(&["lease", "create", "--id", "audit"]);
    for (at, (name, spellings)) in SPELLINGS.into_iter().enumerate() {
        let digest = names[name].to_string();
        for (number, typed) in spellings.iter().enumerate() {
            assert_eq!(scene.target(typed), digest, "{typed}");
            assert!(scene.ok(&["tree", typed]).contains("layer"), "{typed}");
            let directory = scene.path(&format!("tree-{at}-{number}"));
            scene.ok(&["unpack", typed, &directory]);
            let text = fs::read_to_string(Path::new(&directory).join("hello")).unwrap();
            assert_eq!(text, name, "{typed}");
            let bundle = scene.path(&format!("bundle-{at}-{number}"));
            scene.ok(&["bundle", typed, &bundle]);
            let out = scene.path("out.tar");
            scene.ok(&["export", typed, "-o", &out]);
            assert_eq!(image_name(&entries(&out)[0]), Some(name), "{typed}");
            let kept = scene.json(&["lease", "add", "audit", &format!("images/{typed}")]);
            let kept = kept[0]["resources"].to_string();
            assert!(
                kept.contains(&format!("\"images/{name}\"")),
                "{typed}: {kept}"
            );
            let why = scene.json(&["why", &format!("images/{typed}")]).remove(0);
            assert_eq!(why["resource"], format!("images/{name}"), "{typed}");
        }
    }
}

/// Each way to name an image, under each spelling, leaves one name in full.
#[test]
fn names_are_written_in_full_and_listed_once() {
    let scene = Scene::new();
    let (name, spellings) = SPELLINGS[0];
    for typed in spellings {
        let file = scene.saved(&[(Some(&["other:1"]), typed)]);
        assert_eq!(
            scene.ok(&["import", &file, "--name", typed]),
            "app:latest\n"
        );
        let names = scene.names();
        assert_eq!(names.keys().collect::<Vec<_>>(), [name], "{typed}");
        scene.ok(&["tag", typed, "x:1"]);
        scene.ok(&["rmi", typed]);
        assert!(
            scene
                .ok(&["tag", "x:1", typed])
                .starts_with("app:latest -> ")
        );
        scene.ok(&["rmi", "x:1"]);
        assert_eq!(scene.names(), names, "{typed}");
        let table = scene.ok(&["images"]);
        assert!(table.contains(" app:latest "), "{table}");
        assert!(!table.contains("docker.io"), "{table}");
        let shown = scene.json(&["images"]).remove(0);
        assert_eq!(
            (&shown["name"], &shown["familiar"]),
            (&name.into(), &"app:latest".into())
        );
        for filter in [
            "name==app:latest",
            "name==docker.io/library/app:latest",
            "name~=^app",
        ] {
            assert_eq!(
                scene.json(&["images", "--filter", filter]).len(),
                1,
                "{filter}"
            );
        }
    }
}

/// Newer tools write two annotations with the name of an image. The full name is taken.
#[test]
fn archives_of_older_and_newer_tools_give_one_name() {
    let scene = Scene::new();
    let full = "docker.io/library/app:1";
    let both = serde_json::json!({
        "io.containerd.image.name": full,
        "org.opencontainers.image.ref.name": "1",
    });
    for annotations in [
        both,
        ref_name("app:1"),
        ref_name(full),
        ref_name("docker.io/app:1"),
    ] {
        let layout = scene.layout(&[(annotations, "text")]);
        assert_eq!(scene.ok(&["import", &layout]), "app:1\n");
        assert_eq!(scene.listed(), [full]);
        scene.ok(&["rmi", "app:1"]);
    }
    let tags: &[&str] = &["app:1", full, "library/app:1"];
    let file = scene.saved(&[(Some(tags), "text")]);
    assert_eq!(scene.ok(&["import", &file]), "app:1\n");
    assert_eq!(scene.ok(&["import", &file, "--name", "mine:1"]), "mine:1\n");
    let file = scene.saved(&[(Some(&["app:1"]), "one"), (Some(&[full]), "other")]);
    scene.fails(&["import", &file], 4);
}

#[test]
fn a_name_with_a_digest_finds_the_image_of_its_repository() {
    let scene = Scene::new();
    scene.import(&["x.test:5000/app:1", "x.test:5000/app:2", "app:1"]);
    let digest = |name: &str| scene.names()[name].to_string();
    let (one, other) = (
        digest("x.test:5000/app:1"),
        digest("docker.io/library/app:1"),
    );
    for typed in [
        format!("x.test:5000/app@{one}"),
        format!("x.test:5000/app:1@{one}"),
    ] {
        assert_eq!(scene.target(&typed), one, "{typed}");
    }
    for typed in [
        format!("x.test:5000/app:2@{one}"),
        format!("x.test:5000/app@{other}"),
        format!("app@{one}"),
        format!("app@sha256:{}", "0".repeat(64)),
    ] {
        scene.fails(&["inspect", &typed], 3);
    }
    // A digest in a given name must be the digest of the image.
    scene.ok(&["tag", "app:1", &format!("pinned@{other}")]);
    scene.ok(&["inspect", &format!("docker.io/library/pinned@{other}")]);
    scene.fails(&["tag", "app:1", &format!("pinned@{one}")], 2);
}
