//! Every name of the distribution project's grammar is accepted, and no other name is.

use serde_json::json;

use crate::scene::{Scene, entries, image_name, ref_name};

#[test]
fn legal_names_come_in_are_found_and_go_out() {
    let scene = Scene::new();
    let long = "r".repeat(255 - "library/".len());
    let tag = format!("T{}", "-._".repeat(42));
    let names = [
        "foo__bar:1".to_owned(),
        "a-----b:1".to_owned(),
        "e/a.b_c__d--e:1".to_owned(),
        "x:_".to_owned(),
        "x:1_".to_owned(),
        "x:a..b---c".to_owned(),
        format!("x:{tag}"),
        long,
        "127.0.0.1:5000/a__b:1".to_owned(),
        "localhost/a__b".to_owned(),
        "Reg.Test/a.b/c_d:V1".to_owned(),
        "[::1]:5000/app:1".to_owned(),
        "[2001:db8::1]/app".to_owned(),
    ];
    for name in &names {
        scene.import(&[name]);
        scene.ok(&["inspect", name]);
        scene.ok(&["tag", name, "other:1"]);
        let out = scene.path("out.tar");
        scene.ok(&["export", name, "-o", &out]);
        let other = Scene::new();
        other.ok(&["import", &out]);
        let (back, all) = (other.names(), scene.names());
        assert!(
            back.iter().all(|(name, digest)| all[name] == *digest),
            "{name}"
        );
        scene.ok(&["rmi", name]);
        scene.fails(&["inspect", name], 3);
    }
}

#[test]
fn other_text_is_refused_by_every_command() {
    let scene = Scene::new();
    scene.import(&["app:1"]);
    let (many, tag) = ("n".repeat(300), format!("a:{}", "t".repeat(129)));
    for bad in [
        "",
        " ",
        " app",
        "app ",
        "a b",
        "App:1",
        "a..b",
        "a___b",
        "a_",
        "-a",
        "a:",
        "a:-1",
        "a:b+c",
        "a//b",
        "/a",
        "x.test/",
        "x.test/A",
        "[::1/a",
        "[x]/a",
        "a@sha256:12",
        "größe",
        "../a",
        "http://x.test/a",
        "app\u{7}",
        &many,
        &tag,
    ] {
        let out = scene.path("out");
        for command in [
            &["inspect", "--", bad][..],
            &["tree", "--", bad],
            &["tag", "app:1", "--", bad],
            &["tag", "--", bad, "x:1"],
            &["rmi", "--", bad],
            &["export", "-o", &out, "--", bad],
            &["unpack", "--", bad, &out],
        ] {
            scene.fails(command, 2);
        }
        let file = scene.saved(&[(Some(&["b:1"]), "b")]);
        scene.fails(&["import", &file, &format!("--name={bad}")], 2);
    }
    assert_eq!(scene.names().len(), 1, "nothing was named");
}

#[cfg(feature = "registry")]
#[test]
fn other_text_is_refused_for_registries_too() {
    let scene = Scene::new();
    scene.import(&["app:1"]);
    for bad in [
        "",
        "App",
        "a b",
        "a___b",
        "http://x.test/a",
        "[x]/a",
        &"a1".repeat(32),
    ] {
        scene.fails(&["pull", "--", bad], 2);
        scene.fails(&["push", "app:1", "--", bad], 2);
        scene.fails(&["fsck", "--repair", &format!("--from={bad}")], 2);
    }
}

/// Names that docker would refuse are refused in archives of docker. A layout may have the names
/// that its own specification allows.
#[test]
fn names_of_sources_are_legal_too() {
    let scene = Scene::new();
    for bad in ["Foo:1", "a___b:1", "a b:1", "a:1+2", "x.test/A:1"] {
        let file = scene.saved(&[(Some(&[bad]), "text")]);
        let said = scene.fails(&["import", &file], 2);
        assert!(said.contains("--name"), "{said}");
        scene.ok(&["import", &file, "--name", "given:1"]);
    }
    scene.ok(&["rmi", "given:1"]);
    for (name, stored) in [
        ("App-1.0+x", "App-1.0+x"),
        ("v1", "docker.io/library/v1:latest"),
        ("a_1:2", "docker.io/library/a_1:2"),
        ("foo__bar:1", "docker.io/library/foo__bar:1"),
        ("X/y@z", "X/y@z"),
    ] {
        let layout = scene.layout(&[(ref_name(name), name)]);
        scene.ok(&["import", &layout]);
        assert_eq!(scene.listed(), [stored]);
        scene.ok(&["inspect", name]);
        scene.ok(&["rmi", name]);
    }
    for bad in ["a___b", "a b", "../x", "a~b"] {
        let layout = scene.layout(&[(ref_name(bad), bad)]);
        scene.fails(&["import", &layout], 2);
    }
    assert!(scene.names().is_empty());
}

/// A name that the grammar of layouts does not allow is kept, with a warning about readers of
/// layouts.
#[test]
fn names_that_layouts_may_not_have_are_kept_with_a_warning() {
    for (store, warns) in [("fs", true), ("redb", false)] {
        let scene = Scene::on(store);
        scene.import(&["app:1"]);
        let out = scene.path("out.tar");
        for odd in ["foo__bar:1", "a---b:1", "x:1_", "[::1]:5000/a:1", "x:a..b"] {
            for (command, warned) in [
                (&["tag", "app:1", odd][..], warns),
                (&["export", odd, "-o", &out], true),
                (&["import", &out], warns),
            ] {
                let done = scene.cas(command).output().unwrap();
                let said = String::from_utf8(done.stderr).unwrap();
                assert!(done.status.success(), "{store} {command:?}: {said}");
                let found = said.contains("warning") && said.contains("skopeo");
                assert_eq!(found, warned, "{store} {command:?}: {said}");
            }
            let entries = entries(&out);
            assert!(
                image_name(&entries[0]).unwrap().ends_with(odd),
                "{entries:?}"
            );
            assert_eq!(
                entries[0]["annotations"],
                json!({
                    "io.containerd.image.name": image_name(&entries[0]),
                    "org.opencontainers.image.ref.name": image_name(&entries[0]),
                })
            );
        }
        let done = scene
            .cas(&["tag", "app:1", "plain-1.x/y:1"])
            .output()
            .unwrap();
        assert!(done.stderr.is_empty(), "{done:?}");
    }
}
