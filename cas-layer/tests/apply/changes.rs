//! How a layer changes the layers below it: replacing, hiding, and preserving times.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cas_core::ErrorKind;

use cas_core::limit;

use super::{names, read};
use crate::common::{Apply, Cage, Tar};

#[test]
fn types_replace_each_other() {
    let cage = Cage::new();
    let root = cage.root();
    // A directory becomes a link and then gets a child, in one layer and across two.
    Tar::new()
        .file("d/old", "")
        .dir("real")
        .symlink("d", "real")
        .file("d/new", "n")
        .apply(&root)
        .unwrap();
    assert_eq!(names(root.join("real")), ["new"]);
    Tar::new()
        .symlink("real", cage.canary())
        .file("d/x", "")
        .apply(&root)
        .unwrap();
    assert!(root.join(format!(".{}/x", cage.canary())).exists());
    Tar::new()
        .file("n", "1")
        .dir("n")
        .file("n/a", "")
        .symlink("n", "z")
        .file("N", "")
        .apply(&root)
        .unwrap();
    assert_eq!(fs::read_link(root.join("n")).unwrap(), Path::new("z"));
    // A directory replaces a link; a parent that is a file becomes a directory.
    Tar::new()
        .dir("n")
        .file("N/deep/er", "e")
        .apply(&root)
        .unwrap();
    assert!(fs::symlink_metadata(root.join("n")).unwrap().is_dir());
    assert_eq!(read(root.join("N/deep/er")), "e");
    let parent = fs::metadata(root.join("N/deep")).unwrap();
    assert_eq!(
        (parent.mode() & 0o7777, parent.uid(), parent.mtime()),
        (0o755, 0, 0)
    );
    // The target of a dangling link is created as a directory.
    Tar::new()
        .symlink("lib", "usr/lib")
        .file("lib/so", "s")
        .apply(&root)
        .unwrap();
    assert_eq!(read(root.join("usr/lib/so")), "s");
    cage.assert_untouched();
}

#[test]
fn whiteouts_do_not_affect_their_own_layer() {
    let lower = || {
        Tar::new()
            .file("gone", "")
            .file("d/a", "")
            .file("d/sub/low", "")
            .file("d/sub/deep/low", "")
            .hardlink("d/hard", "d/a")
            .file("o/a", "")
            .file("o/sub/low", "")
            .file("file", "")
            .symlink("link", "o")
    };
    let whiteouts = [
        ".wh.gone",
        ".wh.absent",
        "no/where/.wh.x",
        "file/.wh.inner",
        ".wh.d",
    ];
    for first in [true, false] {
        let cage = Cage::new();
        lower().apply(&cage.root()).unwrap();
        let mut tar = Tar::new();
        let hide = |mut tar: Tar| {
            for whiteout in whiteouts {
                tar = tar.file(whiteout, "");
            }
            // The opaque marker is reached through a link, the members are not.
            tar.file("link/.wh..wh..opq", "")
                .file("o/sub/.wh..wh..opq", "")
        };
        if first {
            tar = hide(tar);
        }
        tar = tar
            .hardlink("o/kept", "file")
            .file("o/sub/up", "")
            .file("o/a", "new");
        tar = tar.file("d/sub/up", "").file("gone2", "");
        if !first {
            tar = hide(tar);
        }
        tar.apply(&cage.root()).unwrap();
        let root = cage.root();
        assert_eq!(names(&root), ["d", "file", "gone2", "link", "o"]);
        assert_eq!(names(root.join("d")), ["sub"]);
        assert_eq!(names(root.join("d/sub")), ["up"]);
        assert_eq!(names(root.join("o")), ["a", "kept", "sub"]);
        assert_eq!(names(root.join("o/sub")), ["up"]);
        assert_eq!(read(root.join("o/a")), "new");
    }
    for bad in [".wh.", ".wh..", ".wh...", "d/.wh."] {
        let error = Tar::new()
            .file(bad, "")
            .apply(&Cage::new().root())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{bad}");
    }
}

#[test]
fn an_opaque_root_keeps_parents_of_members() {
    let cage = Cage::new();
    Tar::new()
        .file("a/b/low", "")
        .file("a/low", "")
        .file("c/low", "")
        .apply(&cage.root())
        .unwrap();
    let tar = Tar::new()
        .file("a/b/up", "")
        .file("c/.wh.low", "")
        .file(".wh..wh..opq", "");
    tar.apply(&cage.root()).unwrap();
    assert_eq!(names(cage.root()), ["a"]);
    assert_eq!(
        (names(cage.root().join("a")), names(cage.root().join("a/b"))),
        (vec!["b".into()], vec!["up".into()])
    );
}

#[test]
fn times_of_directories_are_restored() {
    let cage = Cage::new();
    let root = cage.root();
    Tar::new()
        .dir("d")
        .dir("d/e")
        .file("d/e/f", "")
        .symlink("l", "d/e")
        .apply(&root)
        .unwrap();
    let mtime = |path: &str| fs::metadata(root.join(path)).unwrap().mtime();
    assert_eq!((mtime("d"), mtime("d/e")), (1_000_000_000, 1_000_000_000));
    // The times stay after writes through a link, after whiteouts, and if the layer has more
    // directories than are kept open.
    let mut tar = Tar::new().file("l/g", "").file("d/e/.wh.f", "");
    for n in 0..300 {
        tar = tar.file(format!("many/{n}/f"), "");
    }
    tar.file("d/e/h", "").apply(&root).unwrap();
    assert_eq!(
        (mtime("d"), mtime("d/e"), mtime("many/299")),
        (1_000_000_000, 1_000_000_000, 0)
    );
    assert_eq!(names(root.join("d/e")), ["g", "h"]);
}

/// Returns how long this thread has run. The time in which it waited, for example for a processor,
/// does not count.
fn time_of_this_thread() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap()
}

#[test]
fn cost_grows_with_the_size_of_the_layer_only() {
    // Whiteouts in one directory, an opaque marker for each of many members, nested markers.
    let time = |n: usize| {
        let cage = Cage::new();
        let mut lower = Tar::new();
        let mut upper = Tar::new();
        for n in 0..n {
            lower = lower
                .file(format!("w/{n}"), "")
                .file(format!("o/low{n}"), "");
            upper = upper
                .file(format!("w/.wh.{n}"), "")
                .file(format!("o/up{n}"), "");
            upper = upper.file("o/.wh..wh..opq", "");
        }
        for depth in (1..40).rev() {
            upper = upper.file(format!("o{}/.wh..wh..opq", "/d".repeat(depth)), "");
        }
        lower.apply(&cage.root()).unwrap();
        let start = time_of_this_thread();
        upper.apply(&cage.root()).unwrap();
        let spent = time_of_this_thread() - start;
        assert_eq!(names(cage.root().join("w")), [""; 0]);
        assert_eq!(names(cage.root().join("o")).len(), n);
        spent
    };
    time(200);
    let (small, large) = (time(1500), time(12_000));
    // Eight times the work; quadratic cost would be 64 times.
    assert!(large < small * 24, "{small:?} {large:?}");
}

#[test]
fn the_deepest_tree_is_hidden_and_purged_within_the_default_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let found = getrlimit(Resource::Nofile);
    let usual = rustix::process::Rlimit {
        current: Some(1024),
        ..found
    };
    setrlimit(Resource::Nofile, usual).unwrap();
    let cage = Cage::new();
    let path = |end: &str| format!("{}{end}", "d/".repeat(limit::PATH_DEPTH - 1));
    let lower = || {
        Tar::new()
            .pax(&[("path", path("low").as_bytes())])
            .file("x", "")
    };
    // Purged: the directories stay, because the upper layer has a file at their end.
    lower().apply(&cage.root()).unwrap();
    let upper = Tar::new()
        .pax(&[("path", path("up").as_bytes())])
        .file("x", "")
        .file(".wh..wh..opq", "");
    upper.apply(&cage.root()).unwrap();
    assert_eq!(names(cage.root().join(path(""))), ["up"]);
    // Hidden: the directories are removed.
    Tar::new().file(".wh.d", "").apply(&cage.root()).unwrap();
    assert_eq!(names(cage.root()), [""; 0]);
}
