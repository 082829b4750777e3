//! Collections in a loop beside other commands.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{cas, demo_archive, mounting_snapshotters, ok, small_archive, text};
use crate::json;

/// Imports, tags, unpacks and removes under its own names until the time is over.
fn work(root: &Path, archive: &Path, number: usize, over: &AtomicBool) -> usize {
    let [one, two] = ["a", "b"].map(|name| format!("w{number}:{name}"));
    let (mut rounds, out) = (0, root.with_file_name(format!("out-{number}")));
    while !over.load(Ordering::Relaxed) {
        ok(cas(root)
            .args(["import", "--unpack", "--name", &one])
            .arg(archive));
        ok(cas(root).args(["tag", &one, &two]));
        ok(cas(root).args(["rmi", &one]));
        ok(cas(root).args(["unpack", &two]).arg(&out));
        std::fs::remove_dir_all(&out).unwrap();
        if rounds % 2 == 0 {
            ok(cas(root).args(["rmi", &two]));
        }
        rounds += 1;
    }
    rounds
}

/// Kills imports after different times.
fn be_killed(root: &Path, archive: &Path, over: &AtomicBool) {
    let mut after = 1;
    while !over.load(Ordering::Relaxed) {
        let mut import = cas(root);
        let import = import
            .args(["import", "--unpack", "--name", "killed:1"])
            .arg(archive);
        let silent = import.stdout(Stdio::null()).stderr(Stdio::null());
        let mut import = silent.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(after));
        import.kill().unwrap();
        import.wait().unwrap();
        after = (after * 7) % 311;
    }
}

/// Runs every command that lists or checks. None of them may fail because something that it has
/// listed is removed meanwhile.
fn look(root: &Path, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        for command in [
            &["df"][..],
            &["df", "--json"],
            &["snapshot", "ls"],
            &["snapshot", "tree"],
            &["images"],
            &["blob", "ls"],
            &["lease", "ls"],
            &["gc", "--dry-run"],
        ] {
            ok(cas(root).args(command));
        }
        // `cas fsck` may find what the killed imports left.
        let out = cas(root).arg("fsck").output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(matches!(out.status.code(), Some(0 | 4)), "{said}");
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(!said.contains("snapshot missing"), "{said}");
    }
}

#[test]
fn collections_in_a_loop_remove_nothing_that_other_processes_need() {
    let scratch = tempfile::tempdir().unwrap();
    let (root, archive) = (scratch.path().join("root"), demo_archive(scratch.path()));
    ok(cas(&root).arg("init"));
    let (over, collections) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rounds = std::thread::scope(|scope| {
        let (root, archive, over, collections) = (&root, &archive, &over, &collections);
        let workers = [0, 1].map(|number| scope.spawn(move || work(root, archive, number, over)));
        scope.spawn(move || be_killed(root, archive, over));
        let looking = scope.spawn(move || look(root, over));
        let collector = scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                ok(cas(root).arg("gc"));
                collections.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (begun, made) = (Instant::now(), || collections.load(Ordering::Relaxed));
        // Waits for at least four collections, however slow the machine is.
        while begun.elapsed() < Duration::from_secs(6) || made() < 4 && !collector.is_finished() {
            std::thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
        collector.join().expect("a collection ended");
        looking.join().expect("a listing ended");
        workers.map(|worker| worker.join().expect("a worker lost something"))
    });
    let collections = collections.into_inner();
    assert!(
        rounds.iter().all(|rounds| *rounds > 0) && collections > 3,
        "{rounds:?} {collections}"
    );
    for image in json(&root, &["images"]) {
        let out = scratch.path().join("out");
        ok(cas(&root)
            .args(["unpack", image["name"].as_str().unwrap()])
            .arg(&out));
        std::fs::remove_dir_all(&out).unwrap();
    }
}

/// How long the commands of the next test run for each snapshotter.
const BESIDE: Duration = Duration::from_millis(800);

/// Runs commands one after the other until `end`. None of them may fail or print a warning.
fn repeat(root: &Path, commands: &[&[&str]], end: Instant) {
    loop {
        for command in commands {
            let out = cas(root).args(*command).output().unwrap();
            let said = [text(&out.stdout), text(&out.stderr)];
            let status = out.status;
            assert!(status.success(), "{command:?}: {status}: {said:?}");
            assert_eq!(said[1], "", "{command:?}");
        }
        if Instant::now() >= end {
            return;
        }
    }
}

/// No job is killed, so `cas fsck` finds nothing. The engine of the store is `fs`, because in a
/// directory, the other engines let only one process at a time use a store that it can write to.
#[test]
fn no_command_that_lists_or_checks_is_disturbed_by_what_vanishes_meanwhile() {
    let scratch = tempfile::tempdir().unwrap();
    let archive = small_archive(scratch.path());
    let archive = archive.to_str().unwrap();
    for snapshotter in mounting_snapshotters() {
        let root = &scratch.path().join(snapshotter);
        ok(cas(root).args(["--snapshotter", snapshotter, "init"]));
        ok(cas(root).args(["import", "--name", "kept:1", archive]));
        let end = Instant::now() + BESIDE;
        std::thread::scope(|scope| {
            for command in [
                &["df"][..],
                &["gc", "--dry-run"],
                &["fsck"],
                &["snapshot", "ls"],
                &["images"],
                &["lease", "ls"],
                &["gc"],
            ] {
                scope.spawn(move || repeat(root, &[command], end));
            }
            scope.spawn(move || {
                let changes: [&[&str]; 4] = [
                    &["import", "--unpack", "--name", "app:1", archive],
                    &["lease", "create", "--id", "mine", "--expire", "1h"],
                    &["rmi", "app:1"],
                    &["lease", "rm", "mine"],
                ];
                repeat(root, &changes, end);
            });
        });
    }
}
