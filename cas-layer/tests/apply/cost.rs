//! What hostile layers cost: no member makes the work of others grow.

use std::fs;
use std::path::Path;

use cas_core::{ErrorKind, limit};

use super::names;
use crate::common::{Apply, Cage, Tar};

/// Appends a file whose path fits into no header.
fn deep_file(tar: Tar, path: &str) -> Tar {
    tar.pax(&[("path", path.as_bytes())]).file("x", "")
}

fn deep_link(tar: Tar, name: &str, target: &str) -> Tar {
    let paths = [("path", name.as_bytes()), ("linkpath", target.as_bytes())];
    tar.pax(&paths).symlink("x", "x")
}

/// Returns a chain of links. Each leads through as many directories as fit, and the last one is
/// `l40`.
fn chain(depth: usize) -> Tar {
    let deep = "d/".repeat(depth);
    let mut tar = deep_file(Tar::new(), &format!("{deep}file"));
    tar = deep_link(tar, "l1", &deep);
    for n in 2..=limit::LINKS {
        // The target leads back up to the root, because the previous link is there.
        let up = "../".repeat(depth);
        tar = deep_link(tar, &format!("l{n}"), &format!("{deep}{up}l{}", n - 1));
    }
    tar
}

#[test]
fn a_way_through_links_is_bounded_where_it_cannot_be_remembered() {
    let cage = Cage::new();
    let mut tar = chain(490);
    for n in 0..100_000 {
        tar = tar
            .symlink("other", ".")
            .file(format!("l40/new{n}/file"), "");
    }
    let error = tar.apply(&cage.root()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    assert!(error.to_string().contains("lookups allowed"), "{error}");
    let made = names(cage.root().join("d/".repeat(490)));
    assert!(made.len() < 1000, "{}", made.len());
}

#[test]
fn implied_directories_count_before_they_are_made() {
    let made = |root: &Path| {
        let mut waiting = vec![root.to_owned()];
        let mut made = 0;
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    waiting.push(entry.path());
                    made += 1;
                }
            }
        }
        made
    };
    let deep = "d/".repeat(500);
    let many = |path: &dyn Fn(usize) -> String| {
        (0..400).fold(Tar::new().symlink("link", &deep[..90]), |tar, n| {
            deep_file(tar, &path(n))
        })
    };
    let tars = [
        many(&|n| format!("{n}/{deep}file")),
        many(&|n| format!("link/{n}/{}file", "d/".repeat(440))),
    ];
    for tar in tars {
        let cage = Cage::new();
        let error = tar.apply(&cage.root()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        let made = made(&cage.root());
        let most = limit::IMPLIED + limit::IMPLIED_BY_ENTRY * 400;
        assert!(made > limit::IMPLIED - 600 && made < most, "{made}");
    }
}

#[test]
fn many_members_may_imply_many_directories() {
    let cage = Cage::new();
    let count = limit::IMPLIED / 5;
    let mut tar = Tar::new();
    for n in 0..count {
        tar = tar.file(format!("{}/{n}/a/b/c/d/e/f/g/h/file", n % 10), "");
    }
    tar.apply(&cage.root()).unwrap();
    assert_eq!(names(cage.root()).len(), 10);
}

/// What layers of hostile links, hard links and whiteouts result in. Each row has so many members
/// that a layer would take minutes if one member made the work of others grow.
#[test]
fn a_thousand_hostile_members_have_the_right_result() {
    const MANY: usize = 1000;
    let deep = "d/".repeat(490);
    let each = |begin: Tar, member: &dyn Fn(Tar, usize) -> Tar| (0..MANY).fold(begin, member);
    let below = || deep_file(Tar::new(), &format!("{deep}file"));
    let circle = |length: usize| {
        let link = |tar: Tar, n| tar.symlink(format!("c{n}"), format!("c{}", (n + 1) % length));
        (0..length).fold(Tar::new(), link).file("c0/file", "")
    };
    for length in [1, 2, 3, 41, MANY] {
        let error = circle(length).apply(&Cage::new().root()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}: {error}");
        assert!(error.to_string().contains("symbolic links"), "{error}");
    }
    let up = deep_link(below(), &format!("{deep}up"), &"../".repeat(490));
    let short = below();
    let short = deep_link(short, "a", &format!("{deep}{}", "../".repeat(490)));
    let chain = (1..38).fold(short.symlink("l1", "a/."), |tar, n| {
        tar.symlink(format!("l{}", n + 1), format!("l{n}/."))
    });
    let to_deep = deep_link(below(), "l", &deep);
    // The members, and how many names are then in the root directory.
    for (what, tar, names_in_root) in [
        (
            "links up from a deep directory",
            each(up, &|tar, n| deep_file(tar, &format!("{deep}up/n{n}/file"))),
            MANY + 1,
        ),
        (
            "links to links to `..`",
            each(chain, &|tar, n| tar.file(format!("l38/n{n}/file"), "")),
            MANY + 40,
        ),
        (
            "hard links through a link",
            each(to_deep.clone(), &|tar, n| {
                tar.hardlink(format!("h{n}"), "l/file")
            }),
            MANY + 2,
        ),
        (
            "new links through a link",
            each(to_deep.clone(), &|tar, n| {
                tar.symlink(format!("l/s{n}"), "..")
                    .file(format!("l/s{n}/q{n}/file"), "")
            }),
            2,
        ),
        (
            "a link that is replaced each time",
            each(below(), &|tar, n| {
                deep_link(tar, "s", &deep).file(format!("s/g{n}"), "")
            }),
            2,
        ),
        (
            "whiteouts with deep parents",
            each(Tar::new(), &|tar, n| {
                deep_file(tar, &format!("{deep}p{n}/.wh.x"))
            }),
            0,
        ),
        (
            "opaque directories with deep parents",
            each(Tar::new(), &|tar, n| {
                deep_file(tar, &format!("{deep}p{n}/.wh..wh..opq"))
            }),
            0,
        ),
        (
            "a directory that is opaque each time",
            each(Tar::new(), &|tar, n| {
                tar.file(format!("o/f{n}"), "").file("o/.wh..wh..opq", "")
            }),
            1,
        ),
    ] {
        let cage = Cage::new();
        tar.apply(&cage.root()).unwrap();
        assert_eq!(names(cage.root()).len(), names_in_root, "{what}");
        if what.starts_with("a directory") {
            assert_eq!(names(cage.root().join("o")).len(), MANY, "{what}");
        }
    }
}
