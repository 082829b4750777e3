//! Stores of earlier releases have names as they were given.

use cas::image::Reference;
use cas::{Image, ImageRef, Store, blocking};

use crate::scene::{Scene, entries, image_name};

/// Gives an image names exactly as an earlier release stored them.
fn store_names(scene: &Scene, names: &[(&str, &str)]) {
    let cas = blocking::Cas::open(&scene.root).unwrap();
    for (typed, name) in names {
        let target = cas.image(ImageRef::typed(*typed)).unwrap().target;
        create(cas.store(), name, target);
    }
}

fn create(store: &Store, name: &str, target: cas::Descriptor) {
    let name: Reference = name.parse().unwrap();
    let created = store.images.create(Image::new(name, target));
    cas::backend::pool::wait(created).unwrap();
}

#[test]
fn short_names_are_found_and_replaced() {
    for (short, others) in [
        (
            "old:1",
            ["old:1", "docker.io/library/old:1", "index.docker.io/old:1"],
        ),
        ("old", ["old", "old:latest", "docker.io/library/old:latest"]),
        (
            "library/old:1",
            ["old:1", "library/old:1", "docker.io/old:1"],
        ),
        (
            "me/old:1",
            ["me/old:1", "docker.io/me/old:1", "index.docker.io/me/old:1"],
        ),
        (
            "x.test/old",
            ["x.test/old", "x.test/old:latest", "x.test/old"],
        ),
    ] {
        let scene = Scene::new();
        scene.import(&["app:1", "app:2"]);
        store_names(&scene, &[("app:1", short)]);
        let names = scene.names();
        assert!(names.contains_key(short), "{names:?}");
        let familiar = others[0]
            .parse::<cas::image::FullName>()
            .unwrap()
            .familiar();
        assert!(
            scene.ok(&["images"]).contains(&format!(" {familiar} ")),
            "{short}"
        );
        for typed in others {
            assert_eq!(
                scene.target(typed),
                scene.target("app:1"),
                "{short} as {typed}"
            );
        }
        let out = scene.path("out.tar");
        scene.ok(&["export", others[1], "-o", &out]);
        let full = others[0]
            .parse::<cas::image::FullName>()
            .unwrap()
            .to_string();
        assert_eq!(image_name(&entries(&out)[0]), Some(&*full), "{short}");

        // Another image takes the name, and the old spelling is removed.
        scene.ok(&["tag", "app:2", others[2]]);
        let names = scene.names();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(names[&full], names["docker.io/library/app:2"]);
        scene.ok(&["rmi", others[0]]);
        assert_eq!(scene.names().len(), 2, "{short}");
    }
}

#[test]
fn an_import_replaces_the_short_name() {
    let scene = Scene::new();
    scene.import(&["app:1"]);
    for short in ["new:1", "docker.io/new:1", "library/new:1"] {
        store_names(&scene, &[("app:1", short)]);
        scene.import(&["new:1"]);
        let names = scene.names();
        let all: Vec<&String> = names.keys().collect();
        assert_eq!(all, ["docker.io/library/app:1", "docker.io/library/new:1"]);
        scene.ok(&["rmi", "new:1"]);
    }
}

#[test]
fn two_spellings_of_one_image_are_one() {
    let scene = Scene::new();
    scene.import(&["app:1"]);
    let short = ["docker.io/app:1", "app:1", "library/app:1"];
    store_names(&scene, &short.map(|name| ("docker.io/library/app:1", name)));
    assert_eq!(scene.json(&["images"]).len(), 1);
    scene.ok(&["inspect", "app:1"]);
    let removed = scene.json(&["rmi", "app:1"]).remove(0);
    assert_eq!(removed["familiar"], "app:1");
    assert!(scene.names().is_empty(), "{:?}", scene.names());
}

#[test]
fn two_spellings_of_two_images_are_told_apart() {
    let scene = Scene::new();
    scene.import(&["app:1", "app:2"]);
    store_names(&scene, &[("app:2", "app:1")]);
    let full = "docker.io/library/app:1";
    let table = scene.ok(&["images"]);
    for whole in [" app:1 ", " docker.io/library/app:1 ", " app:2 "] {
        assert!(table.contains(whole), "{table}");
    }
    let out = scene.path("out");
    for command in [
        &["inspect", "app:1"][..],
        &["tree", "docker.io/app:1"],
        &["rmi", "app:1"],
        &["tag", "library/app:1", "x:1"],
        &["unpack", "app:1", &out],
        &["export", "app:1", "-o", &out],
    ] {
        let said = scene.fails(command, 2);
        let listed = said.contains("app:1 (sha256:") && said.contains(&format!("{full} (sha256:"));
        assert!(listed, "{said}");
    }
    // The full name and the digests each find one image. A new tag replaces both spellings.
    assert_ne!(scene.target(full), scene.target("app:2"));
    scene.ok(&["tag", "app:2", "app:1"]);
    assert_eq!(scene.target("app:1"), scene.target("app:2"));
    assert_eq!(scene.names().len(), 2);
}
