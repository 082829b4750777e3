//! Leases and garbage collection by the tool.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod beside;
#[path = "../common/mod.rs"]
mod common;
mod each_snapshotter;
mod left;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{cas, demo_archive, fails, ok};
use serde_json::Value;

fn lines(text: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).expect(line);
    text.lines().map(parse).collect()
}

fn json(root: &Path, arguments: &[&str]) -> Vec<Value> {
    lines(&ok(cas(root).args(arguments).arg("--json")))
}

/// Returns the digest of the first layer of an image.
fn layer(root: &Path, image: &str) -> String {
    let tree = json(root, &["inspect", image]).remove(0);
    tree["manifest"]["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn removed_content_is_freed_and_kept_content_is_explained() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    ok(cas(&root)
        .args(["import", "--unpack", "--name", "app:1"])
        .arg(&archive));
    ok(cas(&root).args(["tag", "app:1", "app:2"]));
    assert_eq!(
        ok(cas(&root).arg("gc")),
        "freed 0 blobs, 0 snapshots: 0 B\n"
    );

    let layer = layer(&root, "app:1");
    let why = ok(cas(&root).args(["why", &layer[..20]]));
    assert_eq!(why.lines().count(), 2, "{why}");
    assert!(why.starts_with("name: images/app:"), "{why}");
    let top = json(&root, &["snapshot", "ls"]).pop().unwrap();
    let snapshotter = json(&root, &["init"]).remove(0)["snapshotter"].clone();
    let snapshotter = snapshotter.as_str().unwrap();
    let top = format!(
        "snapshots/{snapshotter}/{}",
        top["info"]["key"].as_str().unwrap()
    );
    let why = json(&root, &["why", &top]).remove(0);
    assert_eq!(why["held"], true, "{why}");

    let said = ok(cas(&root).args(["rmi", "app:1"]));
    assert!(
        said.ends_with("would free 0 blobs, 0 snapshots: 0 B\n"),
        "{said}"
    );
    let said = ok(cas(&root).args(["rmi", "app:2"]));
    assert!(said.contains("would free 5 blobs, 3 snapshots"), "{said}");
    let would = json(&root, &["gc", "--dry-run"]);
    assert_eq!(would.len(), 8, "{would:?}");
    let why = ok(cas(&root).args(["why", &layer]));
    assert!(why.starts_with("nothing keeps content/sha256:"), "{why}");
    assert_eq!(json(&root, &["gc"]).len(), 8);
    assert!(json(&root, &["blob", "ls"]).is_empty());
    assert!(json(&root, &["snapshot", "ls"]).is_empty());
    for absent in [&layer, &format!("content/{layer}"), "images/app:1", &top] {
        fails(cas(&root).args(["why", absent]), 3);
    }
    fails(cas(&root).args(["why", "snapshots/native"]), 2);
}

#[test]
fn a_lease_made_by_hand_keeps_an_image_without_a_name() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    ok(cas(&root).args(["import", "--name", "app:1"]).arg(&archive));
    let made = ok(cas(&root).args(["lease", "create", "--id", "audit", "--expire", "2h"]));
    assert_eq!(made, "audit\n");
    fails(cas(&root).args(["lease", "create", "--id", "audit"]), 5);
    let endless = ["lease", "create", "--expire", "500000000000years"];
    fails(cas(&root).args(endless), 2);
    fails(
        cas(&root).args(["lease", "add", "audit", "images/absent"]),
        3,
    );
    fails(
        cas(&root).args(["lease", "add", "absent", "images/app:1"]),
        3,
    );
    fails(cas(&root).args(["lease", "add", "audit", "nothing"]), 2);
    let target = json(&root, &["images"])[0]["target"]["digest"].clone();
    let target = format!("content/{}", target.as_str().unwrap());
    ok(cas(&root).args(["lease", "add", "audit", "images/app:1", &target]));
    let listed = json(&root, &["lease", "ls"]);
    assert_eq!(
        listed.len(),
        1,
        "other jobs have ended their leases: {listed:?}"
    );
    assert_eq!(listed[0]["resources"].as_array().unwrap().len(), 2);
    ok(cas(&root).args(["rmi", "app:1"]));
    assert!(json(&root, &["gc"]).is_empty());
    let why = ok(cas(&root).args(["why", &target]));
    assert!(
        why.contains("lease audit") && why.contains("kept until"),
        "{why}"
    );
    ok(cas(&root).args(["lease", "rm", "audit"]));
    fails(cas(&root).args(["lease", "rm", "audit"]), 3);
    assert_eq!(json(&root, &["gc"]).len(), 5);
}

#[test]
fn what_a_killed_import_left_is_collected_when_its_lease_ends() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let archive = demo_archive(scratch.path());
    let image = std::fs::read(&archive).unwrap();
    // The import stops in the middle, because the rest of the archive never arrives.
    let mut import = cas(&root);
    let import = import
        .args(["import", "--name", "app:1", "-"])
        .stdin(Stdio::piped());
    let mut import = import.stderr(Stdio::null()).spawn().unwrap();
    let mut input = import.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &image[..image.len() - 2048]).unwrap();
    let begun = Instant::now();
    while json(&root, &["blob", "ls"]).is_empty() && begun.elapsed() < Duration::from_secs(120) {}
    assert!(
        json(&root, &["gc"]).is_empty(),
        "collected under a running import"
    );
    import.kill().unwrap();
    import.wait().unwrap();
    assert!(!json(&root, &["blob", "ls"]).is_empty());
    assert!(
        json(&root, &["gc"]).is_empty(),
        "the lease of a killed import outlives it for a while"
    );
    let lease = json(&root, &["lease", "ls"]).remove(0);
    let id = lease["id"].as_str().unwrap();
    let refused = fails(cas(&root).args(["lease", "rm", id]), 1);
    assert!(refused.contains("import of process"), "{refused}");
    ok(cas(&root).args(["lease", "rm", "--force", id]));
    ok(cas(&root).arg("gc"));
    assert!(json(&root, &["blob", "ls"]).is_empty());
}
