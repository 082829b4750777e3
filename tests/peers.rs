//! Beside skopeo and umoci: they read our store, we read theirs, and trees come out the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{can, cas, ok, real_image, tree};

fn skopeo(arguments: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    command.args(arguments);
    command
}

fn skopeo_copy(from: &str, to: &str) {
    ok(&mut skopeo(&["copy", "-q", from, to]));
}

/// The tree that umoci makes of `image:tag`.
fn umoci_unpack(image: &Path, tag: &str, tree: &Path) {
    let source = format!("{}:{tag}", image.display());
    ok(Command::new("umoci")
        .args(["raw", "unpack", "--image", &source])
        .arg(tree));
}

fn layout(path: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", path.display())
}

/// The tree that umoci makes of `layout:tag`, and ours, have no difference.
fn same_tree(image: &Path, tag: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root).arg("import").arg(image));
    let (ours, theirs) = (scratch.path().join("ours"), scratch.path().join("theirs"));
    ok(cas(&root).args(["unpack", tag]).arg(&ours));
    umoci_unpack(image, tag, &theirs);
    let found = tree::differences(&ours, &theirs);
    assert!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        found[..found.len().min(20)].join("\n")
    );
}

#[test]
fn small_unpacks_to_the_tree_that_umoci_makes() {
    let Some(image) = real_image("small") else {
        return;
    };
    if can(&["umoci"]) {
        same_tree(&image, "small");
    }
}

#[test]
#[ignore = "minutes; `cargo xtask long` runs it"]
fn multi_unpacks_to_the_tree_that_umoci_makes() {
    let Some(image) = real_image("debian-multi") else {
        return;
    };
    if can(&["umoci"]) {
        for tag in ["latest", "strict", "plain"] {
            same_tree(&image, tag);
        }
    }
}

/// umoci 0.4.7 refuses zstd; the same image in gzip is compared with it above.
#[test]
#[ignore = "half a minute; `cargo xtask long` runs it"]
fn zstd_layers_unpack_to_the_tree_of_their_gzip_twins() {
    let (Some(gzip), Some(zstd)) = (real_image("debian-multi"), real_image("debian-multi-zstd"))
    else {
        return;
    };
    if !can(&[]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let trees = [gzip, zstd].map(|image| {
        let root = scratch.path().join("root");
        ok(cas(&root).arg("import").arg(&image));
        let tree = scratch.path().join(image.file_name().unwrap());
        ok(cas(&root).args(["unpack", "latest"]).arg(&tree));
        tree
    });
    assert_eq!(
        tree::differences(&trees[0], &trees[1]),
        Vec::<String>::new()
    );
}

/// umoci names an index ambiguous, so each platform is compared under the tag of its manifest.
#[test]
#[ignore = "a minute; `cargo xtask long` runs it"]
fn nested_indexes_unpack_to_the_trees_of_their_platforms() {
    let Some(image) = real_image("debian-platforms") else {
        return;
    };
    if !can(&["umoci"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root).arg("import").arg(&image));
    for (tag, platform) in [
        ("amd64", "linux/amd64"),
        ("arm64", "linux/arm64/v8"),
        ("armhf", "linux/arm/v7"),
        ("s390x", "linux/s390x"),
    ] {
        let theirs = scratch.path().join(format!("theirs-{tag}"));
        umoci_unpack(&image, tag, &theirs);
        for index in ["multi", "nested", "deep"] {
            let ours = scratch.path().join(format!("ours-{tag}-{index}"));
            ok(cas(&root)
                .args(["unpack", index, "--platform", platform])
                .arg(&ours));
            assert_eq!(
                tree::differences(&ours, &theirs),
                Vec::<String>::new(),
                "{index} {tag}"
            );
        }
    }
    for image in ["multi", "amd64"] {
        let none = ["unpack", image, "--platform", "linux/riscv64"];
        common::fails(cas(&root).args(none).arg(scratch.path().join("x")), 3);
    }
}

#[test]
fn skopeo_and_umoci_read_our_store() {
    let Some(image) = real_image("small") else {
        return;
    };
    if !can(&["skopeo", "umoci"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root).arg("import").arg(&image));
    ok(cas(&root).args(["tag", "small", "other:1"]));
    let store = root.join("store");
    let listed = ok(Command::new("umoci").arg("ls").arg("--layout").arg(&store));
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["latest", "other:1", "small"]);

    let out = scratch.path().join("out");
    skopeo_copy(&layout(&store, "small"), &layout(&out, "small"));
    let raw = |path: &Path| ok(&mut skopeo(&["inspect", "--raw", &layout(path, "small")]));
    assert_eq!(raw(&image), raw(&out));
}

#[test]
fn what_skopeo_copies_in_is_seen() {
    let Some(image) = real_image("small") else {
        return;
    };
    if !can(&["skopeo"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root).arg("images"));
    let store = root.join("store");
    skopeo_copy(&layout(&image, "small"), &layout(&store, "theirs"));
    assert!(ok(cas(&root).args(["images", "--json"])).contains("\"name\":\"theirs\""));
    ok(cas(&root)
        .args(["unpack", "theirs"])
        .arg(scratch.path().join("tree")));
}

#[test]
fn archives_of_skopeo_are_imported_with_equal_layers() {
    let Some(image) = real_image("small") else {
        return;
    };
    if !can(&["skopeo", "umoci"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let theirs = scratch.path().join("theirs");
    umoci_unpack(&image, "small", &theirs);
    for (kind, reference) in [
        ("oci-archive", "small"),
        ("docker-archive", "example.test/small:1"),
    ] {
        let file = scratch.path().join(format!("{kind}.tar"));
        let target = format!("{kind}:{}:{reference}", file.display());
        skopeo_copy(&layout(&image, "small"), &target);
        ok(cas(&root).args(["import", "--name", kind]).arg(&file));
        let ours = scratch.path().join(kind);
        ok(cas(&root).args(["unpack", kind]).arg(&ours));
        assert_eq!(
            tree::differences(&ours, &theirs),
            Vec::<String>::new(),
            "{kind}"
        );
    }
}
