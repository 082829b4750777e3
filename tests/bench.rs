//! `cas bench`: its counts are right, and it removes all that it wrote.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use common::{cas, fails, ok, text};
use serde_json::Value;

/// Returns a directory, in memory if possible, where a sync costs nothing.
fn scratch() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).unwrap()
}

fn is_empty(directory: &tempfile::TempDir) -> bool {
    fs::read_dir(directory.path()).unwrap().next().is_none()
}

#[test]
fn it_counts_what_is_known_and_leaves_nothing() {
    let on = scratch();
    let root = on.path().join("no-root");
    let mut bench = cas(&root);
    bench.args(["bench", "--quick", "--rows", "put,syncs", "--json"]);
    bench.args(["--store", "fs", "--on"]).arg(on.path());
    let said: Value = serde_json::from_str(&ok(&mut bench)).unwrap();
    let median = |row: usize, column: &str| said["rows"][row]["columns"][column]["median"].as_f64();
    assert!(median(0, "fs").unwrap() > 1.0, "{said}");
    match median(1, "plain files") {
        // One sync each for bytes, directory and record: plain files keep the same promise.
        Some(syncs) => {
            assert!((2.99..3.01).contains(&syncs), "{syncs} syncs a plain file");
            assert!(median(1, "fs").unwrap() >= 2.9, "{said}");
        }
        None => eprintln!("SKIPPED: syncs were not counted; install strace to count them"),
    }
    assert!(is_empty(&on), "something is left");
}

#[test]
fn space_on_disk_is_compared_only_with_blobs_that_were_stored() {
    let on = scratch();
    for (rows, is_known) in [("disk-large", false), ("large,disk-large", true)] {
        let mut bench = cas(&on.path().join("no-root"));
        bench.args(["bench", "--quick", "--rows", rows, "--json"]);
        bench.args(["--store", "fs", "--on"]).arg(on.path());
        let said: Value = serde_json::from_str(&ok(&mut bench)).unwrap();
        let measured = said["rows"].as_array().unwrap().last().unwrap();
        let median = measured["columns"]["fs"]["median"].as_f64();
        assert_eq!(median.is_some_and(|ratio| ratio >= 1.0), is_known, "{said}");
    }
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    let on = scratch();
    let mut bench = cas(&on.path().join("no-root"));
    bench
        .args(["bench", "--rows", "put", "--on"])
        .arg(on.path());
    let bench = bench.stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while is_empty(&on) {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "it did not begin"
        );
        thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&bench);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = bench.wait_with_output().unwrap();
    assert!(
        text(&ended.stderr).contains("stopped by signal 15"),
        "{ended:?}"
    );
    assert_eq!(ended.status.code(), Some(128 + 15));
    assert!(is_empty(&on), "something is left");
}

#[test]
fn what_it_cannot_measure_is_refused() {
    let on = scratch();
    let refused = |arguments: &[&str], words: &str| {
        let said = fails(cas(on.path()).arg("bench").args(arguments), 2);
        assert!(said.contains(words), "{said}");
    };
    refused(&["--rows", "nosuch"], "rows are: put, batch");
    refused(&["--store", "nosuch"], "compiled in: fs");
    refused(
        &["--store", "fs", "--quick", "--full"],
        "cannot be used with",
    );
}
