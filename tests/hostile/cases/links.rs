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

/// Targets of a link at the root that lead to the root itself.
const TO_ROOT: [&str; 7] = [
    "..",
    "../..",
    ".",
    "/..",
    "./.././.",
    "dir/..",
    "/dir/../../",
];

/// Returns a layer with one link for each target of [`TO_ROOT`], and one link that leads through
/// two of the others.
fn links_to_root() -> Tar {
    let below = Tar::new()
        .file("dir/old", "")
        .file("dir/kept", "")
        .file("gone", "");
    let links = (0..).zip(TO_ROOT);
    let tar = links.fold(below, |tar, (n, target)| {
        tar.symlink(format!("d{n}"), target)
    });
    tar.symlink("d7", "d0/./d3")
}

/// Returns a layer with a member for each link of [`links_to_root`].
fn through_each(member: impl Fn(Tar, &str, usize) -> Tar) -> Tar {
    (0..=TO_ROOT.len()).fold(Tar::new(), |tar, n| member(tar, &format!("d{n}"), n))
}

pub(super) const ALL: &[Make] = &[
    |_| {
        let files = through_each(|tar, link, n| {
            let tar = tar.file(format!("{link}/file{n}"), "x");
            let tar = tar.file(format!("{link}/dir/{link}/new/{n}/deep"), "x");
            tar.symlink(format!("{link}/link{n}"), format!("{link}/dir"))
        });
        let again = through_each(|tar, link, n| tar.file(format!("{link}/link{n}/again{n}"), ""));
        harmless(
            "files through every link to the root",
            vec![links_to_root(), files, again],
        )
    },
    |_| {
        let hard = through_each(|tar, link, n| {
            let tar = tar.hardlink(format!("{link}/hard{n}"), "dir/old");
            tar.hardlink(format!("hard-too{n}"), format!("{link}/{link}/gone"))
        });
        harmless(
            "hard links through every link to the root",
            vec![links_to_root(), hard],
        )
    },
    |_| {
        let removed = through_each(|tar, link, n| match n % 4 {
            0 => tar.file(format!("{link}/.wh.gone"), ""),
            1 => tar.file(format!("{link}/dir/.wh.old"), ""),
            2 => tar
                .file(format!("{link}/dir/.wh..wh..opq"), "")
                .file(format!("dir/{n}"), ""),
            _ => tar.file(format!("{link}/{link}/.wh.{link}"), ""),
        });
        harmless(
            "whiteouts through links to the root, one of which removes its own link",
            vec![links_to_root(), removed],
        )
    },
    |_| {
        let opaque = Tar::new().file("d0/.wh..wh..opq", "").file("d0/new", "");
        harmless(
            "the root is made opaque through a link to it",
            vec![links_to_root(), opaque],
        )
    },
    |_| {
        let next = Tar::new()
            .dir("d0")
            .file("d0/x", "")
            .dir("d5/")
            .file("d5/./y", "");
        harmless(
            "directories in the place of links to the root",
            vec![links_to_root(), next],
        )
    },
    |_| {
        let below = Tar::new().symlink("a", "b/..").symlink("b", "../a");
        refused(
            "links to the root that lead to each other",
            CORRUPT,
            vec![below, Tar::new().file("a/x", "")],
        )
    },
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
        let next = (0..200).fold(Tar::new(), |tar, n| tar.file(format!("l40/{n}/f"), ""));
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
    |_| {
        let layer = Tar::new()
            .symlink("l", "a")
            .hardlink("k", "l")
            .file("l/1", "")
            .dir("l")
            .file("l/2", "")
            .file("k/3", "");
        harmless(
            "a directory in the place of one of two names of a link",
            vec![layer],
        )
    },
    |_| {
        let layer = Tar::new()
            .symlink("p/l", "a")
            .hardlink("q/l", "p/l")
            .file("p/l/1", "")
            .file("q/l/2", "");
        harmless("a link with names in two directories", vec![layer])
    },
    |_| {
        let long = |name: &str| [name.repeat(250).as_str(); 8].join("/").into_bytes();
        let (path, target) = (long("\u{1b}"), long("\u{7f}"));
        let layer = Tar::new()
            .pax(&[("path", &path), ("linkpath", &target)])
            .hardlink("x", "y");
        refused(
            "a hard link with a long name and a long target of control characters",
            CORRUPT,
            vec![layer],
        )
    },
];
