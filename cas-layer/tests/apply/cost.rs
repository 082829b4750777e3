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
    tar.pax(&[("linkpath", target.as_bytes())])
        .symlink(name, "x")
}

/// Returns a chain of links. Each leads through as many directories as fit, and the last one is
/// `l40`.
fn chain(depth: usize) -> Tar {
    let deep = "d/".repeat(depth);
    let mut tar = deep_file(Tar::new(), &format!("{deep}file"));
    tar = deep_link(tar, "l1", &deep);
    for n in 2..=limit::LINKS {
        // From the root, because the link is found there.
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
