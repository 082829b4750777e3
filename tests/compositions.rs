//! A root with a store made of stores: the tool shows the same as for a single store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::tree::{Entry, scan};
use common::{cas, fails, ok, small_archive};

const URL: &str = "by-size://?small=fs&large=fs&threshold=1KiB";

const TABLE: &str = r#"
format = 1
store = "mixed"
snapshotter = "native"

[stores.mixed]
kind = "by-size"
small = "fs"
large = "fs"
threshold = "1KiB"
"#;

/// Returns what the tool shows of an imported image and its content.
fn listed(root: &Path, scratch: &Path) -> Vec<String> {
    let archive = small_archive(scratch);
    ok(cas(root).args(["import", "--name", "app:1"]).arg(&archive));
    let said = [&["blob", "ls"][..], &["tree", "app:1"]];
    said.map(|what| ok(cas(root).args(what).arg("--json")))
        .to_vec()
}

/// Returns the unpacked tree without the time of its root directory, which the image does not set.
fn unpacked(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let out = root.with_extension("tree");
    ok(cas(root).args(["unpack", "app:1"]).arg(&out));
    let mut tree = scan(&out);
    tree.remove(Path::new(""));
    tree
}

fn blobs(layout: &Path) -> Vec<u64> {
    let entries = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    entries
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect()
}

/// Asserts that each member has the blobs of its size.
fn assert_split(place: &Path) {
    let (small, large) = (blobs(&place.join("small")), blobs(&place.join("large")));
    assert!(
        !small.is_empty() && small.iter().all(|size| *size <= 1024),
        "{small:?}"
    );
    assert!(
        !large.is_empty() && large.iter().all(|size| *size > 1024),
        "{large:?}"
    );
}

#[test]
fn a_store_by_size_shows_the_same_as_a_plain_one() {
    let scratch = tempfile::tempdir().unwrap();
    let place = |name: &str| scratch.path().join(name);
    let plain = listed(&place("plain"), scratch.path());
    for _ in 0..2 {
        ok(cas(&place("url")).args(["--store", URL, "init"]));
    }
    assert_eq!(listed(&place("url"), scratch.path()), plain);
    assert_split(&place("url/stores/by-size"));
    let names = |root: &str| ok(cas(&place(root)).args(["images", "--quiet"]));
    assert!(names("url").contains("app:1"), "{}", names("url"));
    assert!(unpacked(&place("url")) == unpacked(&place("plain")));
    fs::create_dir(place("table")).unwrap();
    fs::write(place("table/cas.toml"), TABLE).unwrap();
    assert_eq!(listed(&place("table"), scratch.path()), plain);
    assert_split(&place("table/stores/mixed"));
}

#[test]
fn an_invalid_composition_is_refused_before_anything_is_created() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let refused = |url: &str, word: &str| {
        let said = fails(cas(&root).args(["--store", url, "init"]), 2);
        assert!(said.contains(word), "{url}: {said}");
        assert!(!root.exists(), "{url}");
    };
    refused("by-size", "small=SCHEME");
    refused("by-size://?small=fs", "large=SCHEME");
    refused(
        "by-size://?small=fs&large=fs&threshold=64KB",
        "\"threshold\"",
    );
    refused(
        "by-size://?small=fs&large=fs&treshold=1",
        "unknown option \"treshold\"",
    );
    refused("by-size://?small=fs&large=nowhere", "compiled in: fs");
    refused("by-size://?small=fs&large=Fs", "option \"large\"");
}

#[test]
fn backends_lists_the_ways_to_compose() {
    let scratch = tempfile::tempdir().unwrap();
    let said = ok(cas(scratch.path()).args(["backends"]));
    assert!(
        said.contains("by-size") && said.contains("small, large"),
        "{said}"
    );
}
