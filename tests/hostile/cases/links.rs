//! Links whose targets go up, and long ways through links. They lead to the same place everywhere.

use super::{CORRUPT, Make, harmless, refused};
use testkit::archive::Tar;

fn deep_link(tar: Tar, name: &str, target: &str) -> Tar {
    tar.pax(&[("linkpath", target.as_bytes())])
        .symlink(name, "x")
}

/// Returns links. The last one leads through all others, and through many directories before each.
fn long_way(depth: usize, links: usize) -> Tar {
    let (deep, up) = ("d/".repeat(depth), "../".repeat(depth));
    let tar = Tar::new().pax(&[("path", format!("{deep}file").as_bytes())]);
    let tar = deep_link(tar.file("x", ""), "l1", &deep);
    (2..=links).fold(tar, |tar, n| {
        deep_link(tar, &format!("l{n}"), &format!("{deep}{up}l{}", n - 1))
    })
}

pub(super) const ALL: &[Make] = &[
    |_| {
        let below = Tar::new().dir("dir").symlink("d", "..");
        harmless(
            "a link of the layer below to the parent of the root",
            vec![below, Tar::new().file("d/x", "x").dir("d/dir/y")],
        )
    },
    |_| {
        let below = Tar::new().dir("a/b").symlink("a/b/up", "../../..");
        let below = below
            .symlink("a/one", "..")
            .symlink("a/b/two", "up/../a/..");
        let next = Tar::new()
            .file("a/b/up/x", "x")
            .file("a/one/y", "y")
            .file("a/b/two/a/z", "z")
            .file("a/b/two/new/w", "w");
        harmless("links of the layer below that go up", vec![below, next])
    },
    |_| {
        let below = Tar::new()
            .dir("run")
            .dir("var")
            .symlink("var/run", "../run");
        let below = below.symlink("up", "/../../run/..").file("run/old", "");
        let next = Tar::new()
            .file("var/run/.wh.old", "")
            .file("var/run/pid", "1")
            .file("up/up/var/run/deep/er", "2");
        harmless(
            "whiteouts and files through links that go up",
            vec![below, next],
        )
    },
    |_| {
        let below = Tar::new()
            .symlink("gone", "no/where/..")
            .symlink("l", "gone/../no");
        let next = Tar::new().file("l/x", "x").file("gone/y", "y");
        harmless(
            "links that go up from what does not exist",
            vec![below, next],
        )
    },
    |_| {
        let below = Tar::new().dir("a").file("a/file", "f").symlink("d", "a/..");
        let next = Tar::new()
            .hardlink("hard", "d/a/file")
            .hardlink("d/hard2", "d/d/a/file");
        harmless("hard links through links that go up", vec![below, next])
    },
    |_| {
        let below = Tar::new().dir("a").file("f", "").symlink("d", "f/..");
        let next = Tar::new().file("d/a/x", "x");
        harmless(
            "a link up from a file, which a directory replaces",
            vec![below, next],
        )
    },
    |_| {
        let next = (0..50).fold(Tar::new(), |tar, n| tar.file(format!("l40/{n}/f"), ""));
        harmless("a long way for each member", vec![long_way(490, 40), next])
    },
    |_| {
        let next = Tar::new().file("l41/f", "");
        refused("a link too many", CORRUPT, vec![long_way(3, 41), next])
    },
    |_| {
        let next = Tar::new()
            .file("l39/f", "")
            .symlink("to", "l40")
            .file("to/f", "");
        refused(
            "a link too many after a known way",
            CORRUPT,
            vec![long_way(3, 40), next],
        )
    },
];
