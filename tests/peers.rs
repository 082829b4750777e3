//! skopeo and umoci read the store of `cas`, `cas` reads the layouts that they write, and the trees
//! are the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::path::{Path, PathBuf};
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

/// Unpacks `image:tag` to `tree` with umoci.
fn umoci_unpack(image: &Path, tag: &str, tree: &Path) {
    let source = format!("{}:{tag}", image.display());
    ok(Command::new("umoci")
        .args(["raw", "unpack", "--image", &source])
        .arg(tree));
}

fn layout(path: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", path.display())
}

/// An image in two roots with overlays: in one its layers become snapshots when it is mounted, in
/// the other when it is imported.
struct Imported {
    scratch: tempfile::TempDir,
    roots: [PathBuf; 2],
}

impl Imported {
    fn new(image: &Path) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::create_dir(scratch.path().join("mnt")).unwrap();
        let roots = [("root", &[][..]), ("unpacked", &["--unpack"])].map(|(name, options)| {
            let root = scratch.path().join(name);
            ok(cas(&root).args(["--snapshotter", "overlay", "init"]));
            ok(cas(&root).arg("import").args(options).arg(image));
            root
        });
        Imported { scratch, roots }
    }

    /// Checks that the plain tree of an image and its mounts are the expected tree.
    fn shows(&self, image: &[&str], expected: &Path) {
        let plain = self.scratch.path().join("ours");
        ok(cas(&self.roots[0]).arg("unpack").args(image).arg(&plain));
        same(&plain, expected, &format!("{image:?} unpacked"));
        std::fs::remove_dir_all(&plain).unwrap();
        for root in &self.roots {
            let mounted = Mounted::new(root, image, self.scratch.path().join("mnt"));
            same(&mounted.at, expected, &format!("{image:?} mounted"));
        }
    }
}

/// A mounted image, until it is dropped.
struct Mounted<'a> {
    root: &'a Path,
    at: PathBuf,
}

impl<'a> Mounted<'a> {
    fn new(root: &'a Path, image: &[&str], at: PathBuf) -> Self {
        ok(cas(root).arg("mount").args(image).arg(&at));
        Mounted { root, at }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        ok(cas(self.root).arg("umount").arg(&self.at));
    }
}

fn same(ours: &Path, theirs: &Path, what: &str) {
    let found = tree::differences(ours, theirs);
    assert!(
        found.is_empty(),
        "{what}: {} differences:\n{}",
        found.len(),
        found[..found.len().min(20)].join("\n")
    );
    eprintln!("{what}: {} entries, all the same", tree::scan(ours).len());
}

#[test]
fn small_is_the_tree_that_umoci_makes() {
    let Some(image) = real_image("small").filter(|_| can(&["umoci"])) else {
        return;
    };
    let imported = Imported::new(&image);
    let theirs = imported.scratch.path().join("theirs");
    umoci_unpack(&image, "small", &theirs);
    imported.shows(&["small"], &theirs);
}

#[test]
#[ignore = "minutes; `cargo xtask long` runs it"]
fn multi_is_the_tree_that_umoci_makes_and_its_python_runs() {
    let Some(image) = real_image("debian-multi").filter(|_| can(&["umoci", "chroot"])) else {
        return;
    };
    let imported = Imported::new(&image);
    for tag in ["latest", "strict", "plain"] {
        let theirs = imported.scratch.path().join(tag);
        umoci_unpack(&image, tag, &theirs);
        imported.shows(&[tag], &theirs);
        std::fs::remove_dir_all(theirs).unwrap();
        let at = imported.scratch.path().join("mnt");
        let mounted = Mounted::new(&imported.roots[1], &[tag], at);
        let program = "import json, sys; print(json.dumps([sys.version_info[0], 6 * 7]))";
        let mut python = Command::new("chroot");
        python.arg(&mounted.at).args(["python3", "-c", program]);
        assert_eq!(ok(&mut python), "[3, 42]\n", "{tag}");
    }
}

/// umoci 0.4.7 does not support zstd, so it unpacks the same image in gzip.
#[test]
#[ignore = "a minute; `cargo xtask long` runs it"]
fn zstd_layers_are_the_tree_of_their_gzip_twins() {
    let (Some(gzip), Some(zstd)) = (real_image("debian-multi"), real_image("debian-multi-zstd"))
    else {
        return;
    };
    if can(&["umoci"]) {
        let imported = Imported::new(&zstd);
        let theirs = imported.scratch.path().join("theirs");
        umoci_unpack(&gzip, "latest", &theirs);
        imported.shows(&["latest"], &theirs);
    }
}

/// umoci rejects an index as ambiguous, so each platform is compared under the tag of its manifest.
#[test]
#[ignore = "minutes; `cargo xtask long` runs it"]
fn nested_indexes_are_the_trees_of_their_platforms() {
    let Some(image) = real_image("debian-platforms").filter(|_| can(&["umoci"])) else {
        return;
    };
    let imported = Imported::new(&image);
    for (tag, platform) in [
        ("amd64", "linux/amd64"),
        ("arm64", "linux/arm64/v8"),
        ("armhf", "linux/arm/v7"),
        ("s390x", "linux/s390x"),
    ] {
        let theirs = imported.scratch.path().join(tag);
        umoci_unpack(&image, tag, &theirs);
        for index in ["multi", "nested", "deep"] {
            imported.shows(&[index, "--platform", platform], &theirs);
        }
    }
    for image in ["multi", "amd64"] {
        let none = ["unpack", image, "--platform", "linux/riscv64"];
        let at = imported.scratch.path().join("x");
        common::fails(cas(&imported.roots[0]).args(none).arg(at), 3);
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
    let full = ["latest:latest", "other:1", "small:latest"];
    assert_eq!(names, full.map(|name| format!("docker.io/library/{name}")));

    let out = scratch.path().join("out");
    let small = "docker.io/library/small:latest";
    skopeo_copy(&layout(&store, small), &layout(&out, "small"));
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
