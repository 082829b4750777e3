//! Two roots on one bucket, like two machines that share a store.
#![cfg(feature = "s3")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{cas, demo_archive, ok, text};
use serde_json::Value;

/// The time that each thread works.
const TIME: Duration = Duration::from_secs(15);
/// The time that each thread works on a machine that needs longer for two rounds of work.
const LONGEST: Duration = Duration::from_secs(300);

/// Runs a command that may lose a race and must then report it. Returns whether it succeeded.
fn done_or_lost(command: &mut Command) -> bool {
    let out = command.output().expect("start");
    let code = out.status.code();
    // Exit code 3: the other root removed the image. 5: the other root was faster, or uses the
    // image.
    assert!(
        matches!(code, Some(0 | 3 | 5)),
        "{command:?}: {}",
        text(&out.stderr)
    );
    code == Some(0)
}

/// Imports, tags and removes an image under the names of `worker`. Counts the rounds that succeed
/// in `named`.
fn work(root: &Path, archive: &Path, worker: &str, over: &AtomicBool, named: &AtomicUsize) {
    let [one, two] = ["a", "b"].map(|name| format!("{worker}:{name}"));
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        let import = done_or_lost(cas(root).args(["import", "--name", &one]).arg(archive));
        if import && done_or_lost(cas(root).args(["tag", &one, &two])) {
            assert!(
                done_or_lost(cas(root).args(["rmi", &one])),
                "{one} was lost"
            );
            if rounds % 2 == 0 {
                assert!(
                    done_or_lost(cas(root).args(["rmi", &two])),
                    "{two} was lost"
                );
            }
            rounds += 1;
            named.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Kills imports and collections after different times.
fn be_killed(root: &Path, archive: &Path, over: &AtomicBool) {
    let mut after = 40;
    while !over.load(Ordering::Relaxed) {
        let (mut import, mut collect) = (cas(root), cas(root));
        let import = import.args(["import", "--name", "killed:1"]).arg(archive);
        for command in [import, collect.arg("gc")] {
            let silent = command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut running = silent.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(after));
            running.kill().unwrap();
            running.wait().unwrap();
            after = (after * 7) % 1511;
        }
    }
}

fn collect(root: &Path, over: &AtomicBool) -> usize {
    let mut collections = 0;
    while !over.load(Ordering::Relaxed) {
        ok(cas(root).arg("gc"));
        collections += 1;
    }
    collections
}

#[test]
fn two_roots_on_one_bucket_lose_no_image() {
    let Some(host) = testkit::s3::service() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let archive = demo_archive(scratch.path());
    let store = format!("s3://{}/shared?endpoint=http://{host}", testkit::s3::BUCKET);
    let roots: [PathBuf; 2] = ["left", "right"].map(|name| scratch.path().join(name));
    for root in &roots {
        ok(cas(root).args(["--store", &store, "init"]));
    }
    let over = AtomicBool::new(false);
    let (named, collected) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (over, archive, named, collected) = (&over, &archive, &named, &collected);
        for (root, worker) in roots.iter().zip(["left", "right"]) {
            scope.spawn(move || work(root, archive, worker, over, named));
            scope.spawn(move || collected.fetch_add(collect(root, over), Ordering::Relaxed));
        }
        scope.spawn(|| be_killed(&roots[1], archive, over));
        let begun = Instant::now();
        let is_enough = || named.load(Ordering::Relaxed) > 1;
        while begun.elapsed() < if is_enough() { TIME } else { LONGEST } {
            std::thread::sleep(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
    });
    let (named, collected) = (named.into_inner(), collected.into_inner());
    println!("{named} rounds of work, {collected} collections");
    assert!(
        named > 1 && collected > 1,
        "{named} rounds of work, {collected} collections"
    );
    every_named_image_is_whole(&roots, scratch.path());
}

fn every_named_image_is_whole(roots: &[PathBuf], scratch: &Path) {
    for root in roots {
        let images = ok(cas(root).args(["images", "--json"]));
        for line in images.lines() {
            let image: Value = serde_json::from_str(line).unwrap();
            let out = scratch.join("out");
            ok(cas(root)
                .args(["unpack", image["name"].as_str().unwrap()])
                .arg(&out));
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
}
