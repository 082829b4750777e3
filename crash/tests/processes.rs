//! A few kills of processes at work, and a few changes beside collections.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::process::Output;

use common::crash;

/// Runs a trial, or says why it is skipped.
fn run(arguments: &[&str]) -> Option<Output> {
    crash(arguments, &["docker-registry"])
}

/// Runs a trial that must find nothing.
fn is_sound(arguments: &[&str], end: &str) {
    let Some(output) = run(arguments) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let cause = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{cause}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with(end), "{last}");
}

/// Kills at least 20 processes.
fn survives_kills(store: &str, snapshotter: &str) {
    let stack = ["--store", store, "--snapshotter", snapshotter];
    is_sound(
        &[&["kill", "--kills", "20"], &stack[..]].concat(),
        "0 violations in 2",
    );
}

#[test]
fn two_processes_on_one_store_are_killed() {
    survives_kills("fs", "overlay");
}

#[test]
fn a_process_with_a_database_is_killed() {
    survives_kills("redb", "native");
}

/// An image of EROFS is merged in a view, which a collection must not remove.
#[test]
fn collections_remove_nothing_that_jobs_need() {
    let storm = ["storm", "--changes", "120", "--snapshotter", "erofs"];
    is_sound(&storm, "0 violations in 120 changes beside ");
}

/// The processes note that an image is unpacked before it is.
#[test]
fn a_broken_promise_is_found() {
    let early = ["kill", "--work", "early", "--kills", "200"];
    if let Some(output) = run(&early) {
        assert_eq!(output.status.code(), Some(1));
    }
}
