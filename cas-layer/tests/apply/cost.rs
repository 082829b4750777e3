//! What hostile layers cost: no member makes the work of others grow.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cas_core::{ErrorKind, Result, limit};
use cas_layer::apply::Applied;

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

/// Returns a chain of links, each through as many directories as fit, of which the last is `l40`.
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

fn timed(tar: Tar, tree: &Path) -> (Duration, Result<Applied>) {
    let begun = Instant::now();
    let applied = tar.apply(tree);
    (begun.elapsed(), applied)
}

#[test]
fn a_long_way_through_links_is_taken_once() {
    let time = |links: &str| {
        let cage = Cage::new();
        let mut tar = chain(490);
        for n in 0..20_000 {
            tar = tar.file(format!("{links}new{n}/file"), "");
        }
        let (spent, applied) = timed(tar, &cage.root());
        applied.unwrap();
        let end = if links.is_empty() {
            "."
        } else {
            &"d/".repeat(490)
        };
        assert!(cage.root().join(end).join("new19999/file").exists());
        spent
    };
    time("");
    let (short, long) = (time(""), time("l40/"));
    // Resolving it for each member takes 300 times as long.
    assert!(long < short * 30, "{short:?} {long:?}");
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
    assert!(error.to_string().contains("names"), "{error}");
    let made = names(cage.root().join("d/".repeat(490)));
    assert!(made.len() < 1000, "{}", made.len());
}

#[test]
fn a_parent_far_below_the_root_costs_as_much_as_one_near_it() {
    for (what, between) in [
        ("new", ""),
        ("one below another", "below/"),
        ("links", "link/"),
    ] {
        let time = |depth: usize| {
            let cage = Cage::new();
            let deep = "d/".repeat(depth);
            let mut tar = deep_file(Tar::new(), &format!("{deep}real/file"));
            if between == "link/" {
                tar = tar.pax(&[("path", format!("{deep}link").as_bytes())]);
                tar = tar.symlink("x", "real");
            }
            for n in 0..1000 {
                let path = match between {
                    "link/" => format!("{deep}link/new{n}/file"),
                    _ => format!("{deep}new{n}/{between}file"),
                };
                tar = deep_file(tar, &path);
            }
            let (spent, applied) = timed(tar, &cage.root());
            applied.unwrap();
            spent
        };
        let near = time(2).min(time(2));
        let far = time(500).min(time(500));
        // Walking from the root for each member takes 20 times as long, and a longer path 4 times.
        assert!(far < near * 12, "{what}: {near:?} {far:?}");
    }
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
