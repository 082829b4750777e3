//! skopeo and umoci read names from the layouts and archives that `cas` writes.

use std::process::Command;

use crate::common::{can, fails, ok};
use crate::scene::Scene;

fn skopeo(source: &str) -> String {
    ok(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}", source]))
}

#[test]
fn skopeo_finds_names_in_stores_and_archives() {
    if !can(&["skopeo", "umoci"]) {
        return;
    }
    let scene = Scene::new();
    scene.import(&["app:1", "x.test:5000/a/b-c:V1", "foo__bar:1"]);
    let store = format!("{}/store", scene.root.display());
    let out = scene.path("out.tar");
    scene.ok(&[
        "export",
        "app:1",
        "x.test:5000/a/b-c:V1",
        "foo__bar:1",
        "-o",
        &out,
    ]);
    for (typed, full) in [
        ("app:1", "docker.io/library/app:1"),
        ("x.test:5000/a/b-c:V1", "x.test:5000/a/b-c:V1"),
    ] {
        let digest = scene.target(typed);
        for source in [
            format!("oci:{store}:{full}"),
            format!("oci-archive:{out}:{full}"),
        ] {
            assert_eq!(skopeo(&source).trim(), digest, "{source}");
        }
    }
    // An image whose name skopeo cannot select does not disturb the others. From an archive of this
    // image alone, skopeo copies it without a name.
    let source = format!("oci:{store}:docker.io/library/foo__bar:1");
    fails(Command::new("skopeo").args(["inspect", &source]), 1);
    let listed = ok(Command::new("umoci").args(["ls", "--layout", &store]));
    assert!(
        listed.contains("docker.io/library/foo__bar:1\n"),
        "{listed}"
    );
    scene.ok(&["export", "foo__bar:1", "-o", &out]);
    let digest = scene.target("foo__bar:1");
    assert_eq!(skopeo(&format!("oci-archive:{out}")).trim(), digest);
    scene.ok(&["export", "foo__bar:1", "--format", "docker", "-o", &out]);
    skopeo(&format!("docker-archive:{out}:foo__bar:1"));
}

#[test]
fn what_skopeo_and_umoci_add_is_found_by_any_spelling() {
    if !can(&["skopeo", "umoci"]) {
        return;
    }
    let scene = Scene::new();
    scene.import(&["app:1"]);
    let store = format!("{}/store", scene.root.display());
    let full = format!("oci:{store}:docker.io/library/app:1");
    for (name, typed) in [
        ("short:1", "docker.io/library/short:1"),
        ("short", "short:latest"),
        ("docker.io/library/whole:1", "whole:1"),
        ("X-y.Z", "X-y.Z"),
    ] {
        let to = format!("oci:{store}:{name}");
        ok(Command::new("skopeo").args(["copy", "-q", &full, &to]));
        assert_eq!(scene.target(typed), scene.target("app:1"), "{name}");
    }
    let image = format!("{store}:docker.io/library/app:1");
    ok(Command::new("umoci").args(["tag", "--image", &image, "by-umoci"]));
    scene.ok(&["inspect", "by-umoci"]);
    ok(Command::new("skopeo").args(["copy", "-q", &full, &format!("oci:{store}")]));
    let digest = scene.target("app:1");
    assert!(
        scene.names().contains_key(&digest),
        "an entry without a name"
    );
}
