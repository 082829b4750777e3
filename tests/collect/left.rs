//! What killed jobs leave is counted and collected.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use cas::GcOptions;
use cas::blocking::Cas;
use cas::gc::Leftover;
use cas::lease::UNLEASED_TTL;

use crate::common::usage::usage;
use crate::common::{append, can, cas, demo_archive, killed_at, ok};
use crate::json;

/// Lock files and files of manifests that killed jobs have left are removed. Files stay if they are
/// in use, or if `cas` did not make them.
#[test]
fn what_killed_jobs_left_next_to_snapshots_is_collected() {
    let scratch = tempfile::tempdir().unwrap();
    let archive = demo_archive(scratch.path());
    let root = scratch.path().join("root");
    ok(cas(&root).args(["--snapshotter", "native", "init"]));
    let import = ["import", "--unpack", "--name", "app:1"];
    ok(cas(&root).args(import).arg(&archive));
    let snapshots = root.join("snapshots/native");
    let files = |name: &str| std::fs::read_dir(snapshots.join(name)).unwrap().count();
    let before = files("manifests");
    for name in [
        "9998",
        "9997.replaced",
        "9996.replaced",
        "9996.new",
        "9996",
        "other",
    ] {
        std::fs::write(snapshots.join("manifests").join(name), "x").unwrap();
    }
    for text in ["one", "two"] {
        let name = cas::Digest::sha256(text.as_bytes()).to_string();
        std::fs::write(snapshots.join("locks").join(name), "").unwrap();
    }
    ok(cas(&root).args(["gc", "--dry-run"]));
    assert_eq!((files("manifests"), files("locks")), (before + 6, 2));
    let said = ok(cas(&root).arg("gc"));
    assert!(said.contains("7 leftover files"), "{said}");
    assert_eq!((files("manifests"), files("locks")), (before + 1, 0));
    ok(cas(&root).arg("fsck"));
}

/// Kills a collection at one of the removals below the snapshots, and collects again.
#[test]
fn what_a_killed_collection_left_of_a_snapshot_is_counted_and_collected() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: no collection was killed; install strace to kill one");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let archive = demo_archive(scratch.path());
    for (snapshotter, at) in [
        ("native", 1),
        ("native", 20),
        ("overlay", 1),
        ("overlay", 20),
    ] {
        let root = scratch.path().join(format!("{snapshotter}-{at}"));
        let init = ["init", "--snapshotter", snapshotter];
        if !cas(&root).args(init).status().unwrap().success() {
            eprintln!("SKIPPED: the snapshotter {snapshotter} does not work here");
            continue;
        }
        ok(cas(&root)
            .args(["import", "--unpack", "--name", "app:1"])
            .arg(&archive));
        ok(cas(&root).args(["rmi", "app:1"]));
        let directories = root.join(format!("snapshots/{snapshotter}/snapshots"));
        let directories = || std::fs::read_dir(&directories).unwrap().count();
        let made = directories();
        assert!(made > 0);
        let mut killed = killed_at(cas(&root).arg("gc"), "unlinkat", at);
        assert!(!killed.status().unwrap().success());
        assert!(directories() > 0, "it was killed too late: {at}");
        let left = json(&root, &["df"]).into_iter();
        let left = left
            .filter(|share| ["snapshots", "leftovers"].contains(&share["kind"].as_str().unwrap()));
        let counted: u64 = left.map(|share| share["count"].as_u64().unwrap()).sum();
        assert_eq!(counted, directories() as u64, "{snapshotter} at {at}");
        ok(cas(&root).arg("gc"));
        assert_eq!(directories(), 0, "{snapshotter} at {at}");
    }
}

/// There may be more killed runs than a process may have files open.
#[test]
fn any_number_of_killed_runs_is_counted_and_collected() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    ok(cas(&root).args(["--snapshotter", "native", "init"]));
    let runs = root.join("run");
    std::fs::create_dir(&runs).unwrap();
    for number in 0..200 {
        std::fs::write(runs.join(format!("cas-native-{number}.lock")), "").unwrap();
    }
    let limited = |arguments: &[&str]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 100; exec \"$@\"", "sh"]);
        append(&mut shell, cas(&root).args(arguments));
        ok(&mut shell)
    };
    limited(&["df"]);
    limited(&["gc", "--dry-run"]);
    let said = limited(&["gc"]);
    assert!(said.contains("200 leftover files"), "{said}");
    assert_eq!(std::fs::read_dir(&runs).unwrap().count(), 0);
}

/// Leaves what kills leave: of an unpack, of a repair, of a pull in parallel
/// mode, of an ingest and of a run.
fn leave(root: &Path, scratch: &Path, snapshotter: &str) {
    let archive = demo_archive(scratch);
    let import = ["import", "--unpack", "--name", "app:1"];
    let mut killed = killed_at(cas(root).args(import).arg(&archive), "utimensat", 300);
    assert!(!killed.status().unwrap().success());
    ok(cas(root).args(import).arg(&archive));

    // A repair leaves the directory of a snapshot that it has replaced while the directory is used.
    let snapshots = root.join("snapshots").join(snapshotter);
    let replaced = snapshots.join("snapshots/9990/fs");
    std::fs::write(snapshots.join("manifests/9990.replaced"), "sha256:gone").unwrap();
    let (job, run) = (
        snapshots.join("jobs/abcdef0123456789/1/fs"),
        root.join("run"),
    );
    let bundle = run.join(format!("cas-{snapshotter}-1/rootfs"));
    for directory in [&job, &bundle, &replaced] {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("file"), vec![7; 300_000]).unwrap();
    }
    std::fs::write(run.join(format!("cas-{snapshotter}-1.lock")), "").unwrap();
    let mut ingest = cas(root);
    ingest.args(["blob", "add", "-"]).stdin(Stdio::piped());
    let mut ingest = ingest.spawn().unwrap();
    let mut input = ingest.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &vec![9; 3 << 20]).unwrap();
    while usage(&root.join("store/.cas")) < 1 << 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    ingest.kill().unwrap();
    ingest.wait().unwrap();
}

#[test]
fn what_kills_leave_is_counted_and_freed_as_the_disk_says() {
    if !can(&["strace"]) {
        return;
    }
    for snapshotter in ["native", "overlay"] {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = scratch.path().join("root");
        ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
        leave(&root, scratch.path(), snapshotter);
        let sum = |found: &[Leftover]| found.iter().map(|one| one.usage.bytes).sum::<u64>();
        let taken = || usage(&root);
        let open = Cas::open(&root).unwrap();
        let counted = open.leftovers().unwrap();
        for place in ["", "/jobs"] {
            let place = format!("snapshots/{snapshotter}{place}");
            let found = counted.iter().find(|one| one.place == place);
            assert!(found.is_some_and(|one| one.usage.bytes > 0), "{counted:?}");
        }
        let before = taken();
        ok(cas(&root).args(["rmi", "app:1"]));
        let late = GcOptions::default().with_now(SystemTime::now() + 3 * UNLEASED_TTL);
        let would = open.gc_with(late.clone().with_dry_run(true)).unwrap();
        let removed = open.gc_with(late).unwrap();
        let freed = before - taken();
        assert_eq!(would.bytes(), removed.bytes(), "{snapshotter}");
        assert_eq!(sum(&would.leftovers), sum(&removed.leftovers));
        // The directories and manifests of snapshots, and the ends of pages, are not counted.
        let error = freed.abs_diff(removed.bytes());
        assert!(
            error < freed / 20,
            "{snapshotter}: {} of {freed}",
            removed.bytes()
        );

        // Only the run is left, which the tool removes.
        let left = open.leftovers().unwrap();
        let run = format!("run/cas-{snapshotter}-1");
        assert_eq!(
            left.iter().map(|one| &one.place).collect::<Vec<_>>(),
            [&run]
        );
        open.close().unwrap();
        let before = taken();
        let said = json(&root, &["gc"]);
        let listed = said
            .iter()
            .filter_map(|one| one["bytes"].as_u64())
            .sum::<u64>();
        assert_eq!(
            (before - taken(), listed),
            (sum(&left), sum(&left)),
            "{said:?}"
        );
        assert!(json(&root, &["df"]).iter().all(|share| share["bytes"] == 0));
    }
}
