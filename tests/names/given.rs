//! `--name` never makes an illegal name.

use crate::scene::{Scene, Tags, ref_name};

#[test]
fn a_name_without_a_tag_gets_those_of_the_source() {
    for (tags, name, made) in [
        (&["app:1", "app:2"][..], "mine", &["mine:1", "mine:2"][..]),
        (
            &["a:1", "b:2", "b:3"],
            "x.test/y",
            &["x.test/y:1", "x.test/y:2", "x.test/y:3"],
        ),
        (&["a:1", "docker.io/library/a:1"], "mine", &["mine:latest"]),
        (
            &["[::1]:5000/a:1", "localhost:5000/a:2"],
            "me/b",
            &["me/b:1", "me/b:2"],
        ),
        (&["app:1"], "mine", &["mine:latest"]),
        (&["app:1"], "mine:2", &["mine:2"]),
        (
            &["a:1", "a:_x", "a:V--1"],
            "mine",
            &["mine:1", "mine:V--1", "mine:_x"],
        ),
    ] {
        let scene = Scene::new();
        let file = scene.saved(&[(Some(tags), "text")]);
        let said = scene.ok(&["import", &file, "--name", name]);
        let mut said: Vec<&str> = said.lines().collect();
        said.sort_unstable();
        assert_eq!(said, made, "{tags:?} as {name}");
        for name in made {
            scene.ok(&["inspect", name]);
        }
    }
}

#[test]
fn what_cannot_be_named_is_refused_with_the_way_out() {
    let two = |one, other| vec![(Some(one), "one"), (Some(other), "other")];
    let cases: Vec<(Vec<(Tags<'_>, &str)>, &str)> = vec![
        (vec![(Some(&["app:1", "app:2"]), "one")], "mine:1"),
        (
            vec![(Some(&["app:1", "app:2"]), "one")],
            "localhost:5000/mine:1",
        ),
        (two(&["app:1"][..], &["app:2"][..]), "mine:1"),
        (two(&["a:1"], &["b:1"]), "mine"),
        (two(&["a:1"], &["x.test/b:1"]), "mine"),
        (vec![(None, "one"), (None, "other")], "mine"),
        (vec![(None, "one"), (None, "other")], "mine:1"),
        (vec![(Some(&["app:1", "app:2"]), "one")], "Mine"),
    ];
    for (images, name) in cases {
        let scene = Scene::new();
        let file = scene.saved(&images);
        let said = scene.fails(&["import", &file, "--name", name], 2);
        if name != "Mine" {
            assert!(said.contains("without --name"), "{said}");
        }
        assert!(scene.names().is_empty(), "{images:?} as {name}");
        assert!(
            scene.json(&["blob", "ls"]).is_empty(),
            "{images:?} as {name}"
        );
        scene.ok(&["import", &file]);
    }
}

/// Names in layouts are often only tags, and may be invalid as tags.
#[test]
fn names_of_layouts_are_tags() {
    let scene = Scene::new();
    let layout = scene.layout(&[(ref_name("1"), "one"), (ref_name("v2-x"), "other")]);
    let said = scene.ok(&["import", &layout, "--name", "mine"]);
    assert_eq!(said, "mine:1\nmine:v2-x\n");
    let digest = scene.target("mine:v2-x");
    for odd in ["a+b", &format!("x.test/a@{digest}"), "1@2"] {
        let other = Scene::new();
        let layout = other.layout(&[(ref_name("1"), "one"), (ref_name(odd), "other")]);
        let said = other.fails(&["import", &layout, "--name", "mine"], 2);
        assert!(said.contains("without --name"), "{odd}: {said}");
        assert!(other.names().is_empty(), "{odd}");
    }
}

#[test]
fn a_name_goes_to_the_named_image_and_others_keep_their_digests() {
    let scene = Scene::new();
    let file = scene.saved(&[(Some(&["app:1"]), "one"), (None, "other")]);
    for name in ["mine", "mine:2"] {
        let said = scene.ok(&["import", &file, "--name", name]);
        assert_eq!(said.lines().count(), 2, "{said}");
        scene.ok(&["inspect", name]);
    }
    assert_eq!(scene.names().len(), 3);
    scene.fails(&["inspect", "app:1"], 3);
}
