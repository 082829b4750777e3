//! Interrupted pulls, and the pulls that resume them.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::cas;
use super::fake::{Answer, Fake};
use super::sample::Sample;
use crate::common::shop::names;
use crate::common::{fails, ok};

/// Size in bytes of a blob that is larger than the buffers between the network and the disk.
pub(super) const LARGE: usize = 6 << 20;

pub(super) fn leases(root: &Path) -> Vec<String> {
    let listed = ok(crate::common::cas(root).args(["lease", "ls", "--json"]));
    let id = |line: &str| {
        let lease: Value = serde_json::from_str(line).unwrap();
        lease["id"].as_str().unwrap().to_owned()
    };
    listed.lines().map(id).collect()
}

fn blobs(root: &Path) -> usize {
    let listed = ok(crate::common::cas(root).args(["blob", "ls", "--json"]));
    listed.lines().count()
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let sample = Sample::new(&[1000, 2000]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    for _ in 0..2 {
        ok(cas(&root, scratch.path()).args(["pull", &registry.image()]));
        assert_eq!(registry.count("GET", "/v2/"), 4);
    }
    assert_eq!(registry.count("HEAD", "/manifests/1"), 2);
    assert!(leases(&root).is_empty());
}

/// Returns whether a part of the large blob is stored.
fn has_part(root: &Path) -> bool {
    let ingests = fs::read_dir(root.join("store/.cas/ingest"));
    let mut ingests = ingests.into_iter().flatten().flatten();
    ingests.any(|ingest| ingest.metadata().is_ok_and(|data| data.len() > 1000))
}

/// The second pull requests only the rest, and accepts the whole blob from a registry without
/// ranges. If the stored beginning was wrong, it then fetches the whole blob.
#[test]
fn a_pull_resumes_after_a_lost_connection() {
    for (ranges, damaged) in [(true, false), (false, false), (true, true)] {
        let sample = Sample::new(&[LARGE]);
        let layer = sample.layers[0].digest.to_string();
        let (good, broken) = (sample.clone(), Arc::new(AtomicBool::new(true)));
        let (breaks, path) = (Arc::clone(&broken), format!("/blobs/{layer}"));
        let part = path.clone();
        let registry = Fake::start(move |request| {
            if !request.path.ends_with(&part) {
                return good.answer(request);
            }
            if breaks.swap(false, Ordering::SeqCst) {
                let answer = good.answer(request);
                let lie = vec![7; LARGE];
                let answer = if damaged { answer.body(&lie) } else { answer };
                return answer.cut(LARGE - 1000);
            }
            if ranges {
                good.answer(request)
            } else {
                Answer::new(200).body(&good.content[&layer])
            }
        });
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        let once = ["pull", &registry.image(), "--retry-for", "0s"];
        fails(cas(&root, scratch.path()).args(once), 7);
        assert!(names(&root).is_empty());
        ok(cas(&root, scratch.path()).args(["pull", &registry.image()]));
        let seen = registry.seen();
        let asked = seen.iter().filter(|one| one.path.ends_with(&path));
        let ranged: Vec<bool> = asked.map(|one| one.header("range").is_some()).collect();
        let expected: &[bool] = if damaged {
            &[false, true, false]
        } else {
            &[false, true]
        };
        assert_eq!(ranged, expected);
        ok(cas(&root, scratch.path()).args(["blob", "cat", &sample.layers[0].digest.to_string()]));
    }
}

#[test]
fn after_a_kill_the_same_pull_succeeds_and_a_collection_leaves_nothing() {
    let sample = Sample::new(&[1000, LARGE]);
    let (good, slow) = (sample.clone(), Arc::new(AtomicBool::new(true)));
    let large = sample.layers[1].digest.to_string();
    let (waits, part) = (Arc::clone(&slow), large.clone());
    let registry = Fake::start(move |request| {
        let answer = good.answer(request);
        if request.path.ends_with(&part) && waits.load(Ordering::SeqCst) {
            answer.cut(LARGE - 1000).stall()
        } else {
            answer
        }
    });
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let mut pull = cas(&root, scratch.path());
    let mut pull = pull.args(["pull", &registry.image()]).spawn().unwrap();
    // Wait until a part of the blob is stored. The rest never arrives.
    while !has_part(&root) {
        assert_eq!(pull.try_wait().unwrap(), None);
        thread::sleep(Duration::from_millis(10));
    }
    pull.kill().unwrap();
    pull.wait().unwrap();
    assert!(names(&root).is_empty());
    slow.store(false, Ordering::SeqCst);
    let left = leases(&root);
    assert_eq!(
        left.len(),
        1,
        "the lease of the killed pull outlives it for a while"
    );
    ok(cas(&root, scratch.path()).args(["pull", &registry.image(), "--json"]));
    assert_eq!(names(&root).len(), 1);
    let seen = registry.seen();
    let again = seen.iter().rfind(|one| one.path.ends_with(&large));
    assert!(
        again.unwrap().header("range").is_some(),
        "the pull did not resume from the stored bytes"
    );
    ok(cas(&root, scratch.path()).args(["rmi", &registry.image()]));
    ok(cas(&root, scratch.path()).args(["lease", "rm", "--force", &left[0]]));
    ok(cas(&root, scratch.path()).arg("gc"));
    assert_eq!(blobs(&root), 0);
}
