//! Several processes that pull one image into one root at the same time.

use std::process::Stdio;

use super::cas;
use super::fake::Fake;
use super::sample::Sample;
use crate::common::ok;
use crate::common::shop::names;

/// How many processes pull.
const PULLS: usize = 8;
/// How many collections run at the same time.
const COLLECTIONS: usize = 2;

#[test]
fn pulls_of_one_image_share_what_they_fetch() {
    let sample = sample();
    for round in 0..4 {
        share(&sample, &[], round);
    }
}

#[test]
#[ignore = "minutes; `cargo xtask long` runs it"]
fn pulls_of_one_image_share_what_they_fetch_200_times() {
    let sample = sample();
    for round in 0..200 {
        share(&sample, &[], round);
    }
}

#[test]
fn pulls_with_options_share_what_they_fetch() {
    let archive = |name: &str, size| testkit::archive::Tar::new().file(name, vec![1; size]).end();
    let archives = Sample::of_archives(vec![archive("a", 1000), archive("b", 2_000_000)]);
    for (round, options) in [
        &["--unpack"][..],
        &["--parallel"],
        &["--ranges", "4"],
        &["--policy", "missing"],
        &["--all-platforms"],
    ]
    .into_iter()
    .enumerate()
    {
        share(&archives, options, round);
    }
}

fn sample() -> Sample {
    Sample::new(&[1000, 300_000, 2_000_000])
}

/// Each blob is fetched once, by the first process that needs it, and the others wait for it.
fn share(sample: &Sample, options: &[&str], round: usize) {
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root, scratch.path()).arg("init"));
    let start = |arguments: &[&str]| {
        let mut command = cas(&root, scratch.path());
        let command = command.args(arguments).stdout(Stdio::null());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let image = registry.image();
    let pull = [&["pull", &image], options].concat();
    let mut running: Vec<_> = (0..PULLS).map(|_| start(&pull)).collect();
    running.extend((0..COLLECTIONS).map(|_| start(&["gc"])));
    for process in running {
        let ended = process.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success(), "{options:?}, round {round}: {said}");
    }
    assert_eq!(names(&root).len(), 1);
    let is_blob = |digest: &&String| **digest != sample.root.digest.to_string();
    for digest in sample.content.keys().filter(is_blob) {
        let fetched = registry.count("GET", &format!("/blobs/{digest}"));
        assert_eq!(fetched, 1, "{options:?}, round {round}: {digest}");
    }
    ok(cas(&root, scratch.path()).args(["fsck", "--read-data"]));
}
