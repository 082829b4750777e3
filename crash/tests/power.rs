//! 325 disks that a loss of power can leave, and planted faults that the checks must find.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::process::Output;

use common::crash;

/// What a trial needs.
const PROGRAMS: [&str; 7] = [
    "losetup",
    "mount",
    "mkfs.ext4",
    "mkfs.xfs",
    "mkfs.btrfs",
    "strace",
    "docker-registry",
];

/// Runs a trial, or says why it is skipped.
fn run(arguments: &[&str]) -> Option<Output> {
    crash(&[&["power"], arguments].concat(), &PROGRAMS)
}

/// Checks 25 disks.
fn keeps_promises(store: &str, snapshotter: &str, file_system: &str, work: &str) {
    keeps_promises_with(store, snapshotter, file_system, work, &[]);
}

fn keeps_promises_with(
    store: &str,
    snapshotter: &str,
    file_system: &str,
    work: &str,
    more: &[&str],
) {
    let usual = ["--store", store, "--snapshotter", snapshotter];
    let disk = ["--file-system", file_system, "--work", work];
    let arguments = [&usual[..], &disk, &["--disks", "25"], more].concat();
    let Some(output) = run(&arguments) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let cause = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{cause}");
    assert!(said.ends_with("0 violations in 25 disks\n"), "{said}");
}

/// Checks 30 disks, of which at least one must break a promise.
fn is_found(arguments: &[&str]) {
    let Some(output) = run(&[arguments, &["--disks", "30"]].concat()) else {
        return;
    };
    let cause = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {cause}");
}

/// Defines a test for each line: a store, a snapshotter, a file system and a kind of work.
macro_rules! trials {
    ($($name:ident $store:literal $snapshotter:literal $file_system:literal $work:literal;)*) => {
        $(
            #[test]
            fn $name() {
                keeps_promises($store, $snapshotter, $file_system, $work);
            }
        )*
    };
}

trials! {
    fs_on_ext4 "fs" "overlay" "ext4" "images";
    fs_on_btrfs "fs" "native" "btrfs" "repair";
    fs_on_full_ext4 "fs" "overlay" "ext4" "full";
    fs_on_full_btrfs "fs" "native" "btrfs" "full";
    redb_on_ext4 "redb" "native" "ext4" "ingest";
    redb_on_xfs "redb" "overlay" "xfs" "images";
    redb_on_btrfs "redb" "erofs" "btrfs" "repair";
    dir_on_ext4 "dir" "overlay" "ext4" "images";
    dir_on_xfs "dir" "native" "xfs" "ingest";
    by_size_on_ext4 "by-size://?small=redb&large=fs&threshold=64KiB" "erofs" "ext4" "images";
    by_size_on_btrfs "by-size://?small=redb&large=fs&threshold=64KiB" "overlay" "btrfs" "ingest";
}

#[test]
fn two_processes_on_xfs() {
    keeps_promises_with("fs", "erofs", "xfs", "images", &["--processes", "2"]);
}

#[test]
fn no_sync_is_found() {
    is_found(&["--plant", "no-sync", "--work", "images"]);
}

#[test]
fn no_sync_of_bytes_is_found() {
    is_found(&["--plant", "no-data-sync", "--work", "ingest"]);
}

#[test]
fn no_sync_of_a_directory_is_found() {
    is_found(&["--plant", "no-directory-sync", "--work", "ingest"]);
}

#[test]
fn no_sync_of_records_is_found() {
    is_found(&["--plant", "no-record-sync", "--work", "ingest"]);
}

/// In redb, blobs need no syncfs.
#[test]
fn a_snapshot_before_its_files_is_found() {
    let work = ["--store", "redb", "--work", "images"];
    is_found(&[&work[..], &["--plant", "snapshot-before-syncfs"]].concat());
}

/// Without the flushes that it acknowledged, a disk may not even have a file system.
#[test]
fn a_disk_that_lies_is_found() {
    is_found(&["--fault", "lie", "--work", "images", "--file-system", "xfs"]);
}

#[test]
fn a_disk_whose_flushes_fail_keeps_promises() {
    keeps_promises_with("fs", "overlay", "ext4", "images", &["--fault", "flush"]);
}

#[test]
fn a_check_finds_bits_that_have_changed() {
    keeps_promises_with("fs", "overlay", "ext4", "images", &["--fault", "rot"]);
}

#[test]
fn a_name_before_its_bytes_is_found() {
    is_found(&["--work", "name-first"]);
}
