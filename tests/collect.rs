//! Leases and garbage collection by the tool, and `cas gc` in a loop while other commands run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use cas::GcOptions;
use cas::blocking::Cas;
use cas::gc::Leftover;
use cas::lease::UNLEASED_TTL;
use common::usage::usage;
use common::{
    can, cas, demo_archive, fails, killed_at, mounting_snapshotters, ok, small_archive, text,
};
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
    while json(&root, &["blob", "ls"]).is_empty() && begun.elapsed() < Duration::from_secs(20) {}
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
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                ok(cas(root).arg("gc"));
                collections.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        // Waits for at least four collections, however slow the machine is.
        while begun.elapsed() < Duration::from_secs(6) || collections.load(Ordering::Relaxed) < 4 {
            std::thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
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

/// Returns the number of snapshots that `cas df` counts.
fn counted(root: &Path) -> u64 {
    let mut shares = json(root, &["df"]).into_iter();
    let share = shares.find(|share| share["kind"] == "snapshots").unwrap();
    share["count"].as_u64().unwrap()
}

/// Returns the number of directories that a snapshotter has for its snapshots.
fn directories(root: &Path, snapshotter: &str) -> usize {
    let place = root.join(format!("snapshots/{snapshotter}/snapshots"));
    std::fs::read_dir(place).unwrap().count()
}

#[test]
fn snapshots_of_every_snapshotter_are_counted_checked_kept_and_collected() {
    for [own, other] in [
        ["overlay", "native"],
        ["native", "overlay"],
        ["native", "erofs"],
    ] {
        // The metadata of the images of erofs cannot be in memory.
        let scratch = tempfile::tempdir().unwrap();
        let (root, archive) = (scratch.path().join("root"), small_archive(scratch.path()));
        ok(cas(&root).args(["--snapshotter", own, "init"]));
        let import = ["import", "--unpack", "--name", "app:1"];
        ok(cas(&root).args(import).arg(&archive));
        assert_eq!(counted(&root), 3, "{own}");
        let import = [&["--snapshotter", other][..], &import].concat();
        ok(cas(&root).args(import).arg(&archive));
        assert_eq!(counted(&root), 6, "{own} {other}");
        let listed = json(&root, &["--snapshotter", other, "df"]);
        assert_eq!(json(&root, &["df"]), listed);

        // The image keeps the snapshots of both.
        assert!(json(&root, &["gc"]).is_empty());
        assert_eq!(counted(&root), 6);
        let top = json(&root, &["--snapshotter", other, "snapshot", "ls"]).remove(0);
        let top = format!("snapshots/{other}/{}", top["info"]["key"].as_str().unwrap());
        assert_eq!(json(&root, &["why", &top]).remove(0)["held"], true);

        // Damage and leftovers are found and repaired where they are.
        ok(cas(&root).arg("fsck"));
        let places = root.join(format!("snapshots/{other}"));
        let layer = std::fs::read_dir(places.join("snapshots")).unwrap().next();
        std::fs::remove_dir_all(layer.unwrap().unwrap().path()).unwrap();
        std::fs::create_dir_all(places.join("snapshots/9999/fs/left")).unwrap();
        let said = fails(cas(&root).arg("fsck"), 4);
        let found = cas(&root).args(["fsck", "--json"]).output().unwrap();
        let found = lines(&String::from_utf8(found.stdout).unwrap());
        let of = |problem: &str| {
            let mut found = found.iter().filter(|one| one["problem"] == problem);
            let subject = found.next().map(|one| one["subject"].to_string());
            subject.is_some_and(|subject| subject.contains(other))
        };
        assert!(
            of("snapshot-missing") && of("snapshot-left"),
            "{said}{found:?}"
        );
        ok(cas(&root).args(["fsck", "--repair"]));
        ok(cas(&root).args(["fsck", "--read-data"]));
        assert_eq!((counted(&root), directories(&root, other)), (6, 3));

        // What killed jobs left beside the snapshots is counted and removed.
        let lock = cas::Digest::sha256(b"one").to_string();
        std::fs::write(places.join("locks").join(lock), "").unwrap();
        let said = ok(cas(&root).args(["gc", "--dry-run"]));
        assert!(said.contains("1 leftover file"), "{said}");
        let run = root.join(format!("run/cas-{other}-1"));
        std::fs::create_dir_all(run.join("rootfs")).unwrap();
        std::fs::write(run.with_extension("lock"), "").unwrap();
        ok(cas(&root).arg("gc"));
        assert_eq!(std::fs::read_dir(places.join("locks")).unwrap().count(), 0);
        assert!(!run.exists() && !run.with_extension("lock").exists());

        // Another store does not have the images that keep the snapshots.
        let elsewhere = format!("fs://{}", scratch.path().join("elsewhere").display());
        ok(cas(&root).args(["--store", &elsewhere, "gc"]));
        assert_eq!(counted(&root), 6);

        ok(cas(&root).args(["rmi", "app:1"]));
        let removed = json(&root, &["gc"]);
        let removed = removed.iter().filter_map(|one| one["resource"].as_str());
        let of = |name: &str| {
            let place = format!("snapshots/{name}/");
            removed
                .clone()
                .filter(|one| one.starts_with(&place))
                .count()
        };
        assert_eq!((of(own), of(other)), (3, 3));
        assert_eq!(counted(&root), 0);
        assert_eq!((directories(&root, own), directories(&root, other)), (0, 0));
        ok(cas(&root).arg("fsck"));
    }
}

#[test]
fn a_mount_of_another_snapshotter_is_kept_by_collections() {
    if !can(&["mount"]) {
        return;
    }
    let mounting = mounting_snapshotters();
    for other in mounting.into_iter().filter(|one| *one != "native") {
        let scratch = tempfile::tempdir().unwrap();
        let (root, archive) = (scratch.path().join("root"), small_archive(scratch.path()));
        ok(cas(&root).args(["--snapshotter", "native", "init"]));
        ok(cas(&root).args(["import", "--name", "app:1"]).arg(&archive));
        let (mount, other) = (scratch.path().join("mnt"), ["--snapshotter", other]);
        std::fs::create_dir(&mount).unwrap();
        ok(cas(&root).args(other).args(["mount", "app:1"]).arg(&mount));
        ok(cas(&root).args(["rmi", "app:1"]));
        let late = GcOptions::default().with_now(SystemTime::now() + 3 * UNLEASED_TTL);
        let open = Cas::open(&root).unwrap();
        open.gc_with(late.clone()).unwrap();
        ok(cas(&root).args(["fsck", "--repair"]));
        assert!(std::fs::read_dir(mount.join("app")).unwrap().count() > 0);
        ok(cas(&root).args(other).arg("umount").arg(&mount));
        open.gc_with(late).unwrap();
        assert_eq!(counted(&root), 0, "{other:?}");
    }
}

#[test]
fn a_snapshotter_that_cannot_be_opened_is_left_out_with_one_warning() {
    let scratch = tempfile::tempdir().unwrap();
    let (root, archive) = (scratch.path().join("root"), small_archive(scratch.path()));
    ok(cas(&root).args(["--snapshotter", "native", "init"]));
    let import = ["import", "--unpack", "--name", "app:1"];
    ok(cas(&root).args(import).arg(&archive));
    let other = root.join("snapshots/overlay");
    // An empty directory, as a probe leaves it, is not a snapshotter.
    std::fs::create_dir(&other).unwrap();
    ok(cas(&root).arg("gc"));
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0);
    std::fs::write(other.join("snapshots"), "not a directory").unwrap();
    ok(cas(&root).args(["rmi", "app:1"]));
    for (command, done) in [("df", "snapshots"), ("gc", "3 snapshots")] {
        let out = cas(&root).arg(command).output().unwrap();
        let (stdout, stderr) = (text(&out.stdout), text(&out.stderr));
        assert!(
            out.status.success() && stdout.contains(done),
            "{stdout}{stderr}"
        );
        let warnings = stderr
            .matches("cannot open the snapshotter overlay")
            .count();
        assert_eq!(warnings, 1, "{command}: {stderr}");
    }
}
