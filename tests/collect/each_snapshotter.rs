//! Collections, checks and counts cover every snapshotter of a root.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cas::GcOptions;
use cas::backend::pool;
use cas::blocking::Cas;
use cas::lease::UNLEASED_TTL;
use cas::records::{Batch, Expect, Records, Table};
use cas_records_sqlite::SqliteRecords;

use crate::common::{can, cas, fails, mounting_snapshotters, ok, small_archive, text};
use crate::{json, lines};

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

/// Makes a root with the snapshotter `native`, and mounts an image in it with another snapshotter,
/// which the option `other` names. Returns the root and the directory of the mount.
fn mounted_with(other: &[&str], scratch: &Path) -> (PathBuf, PathBuf) {
    let (root, mount) = (scratch.join("root"), scratch.join("mnt"));
    ok(cas(&root).args(["--snapshotter", "native", "init"]));
    let mut import = cas(&root);
    ok(import
        .args(["import", "--name", "app:1"])
        .arg(small_archive(scratch)));
    std::fs::create_dir(&mount).unwrap();
    ok(cas(&root).args(other).args(["mount", "app:1"]).arg(&mount));
    (root, mount)
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
        let other = ["--snapshotter", other];
        let scratch = tempfile::tempdir().unwrap();
        let (root, mount) = mounted_with(&other, scratch.path());
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
fn a_mount_of_another_snapshotter_is_found_by_its_directory() {
    if !can(&["mount"]) {
        return;
    }
    let mounting = mounting_snapshotters();
    for other in mounting.into_iter().filter(|one| *one != "native") {
        let scratch = tempfile::tempdir().unwrap();
        let (root, mount) = mounted_with(&["--snapshotter", other], scratch.path());
        // The directory is taken, whichever snapshotter would mount there.
        let taken = fails(cas(&root).args(["mount", "app:1"]).arg(&mount), 5);
        assert!(taken.contains("already has a mount"), "{taken}");
        ok(cas(&root).arg("umount").arg(&mount));
        assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0);
        for listed in json(&root, &["snapshot", "ls"]) {
            assert_eq!(listed["info"]["kind"], "committed", "{listed}");
        }
        let said = fails(cas(&root).arg("umount").arg(&mount), 3);
        assert!(said.contains("nothing mounted"), "{said}");
    }
}

#[test]
fn a_root_directory_of_another_snapshotter_is_removed_with_its_snapshot() {
    if !can(&["mount"]) {
        return;
    }
    let mounting = mounting_snapshotters();
    for other in mounting.into_iter().filter(|one| *one != "native") {
        let scratch = tempfile::tempdir().unwrap();
        let (root, archive) = (scratch.path().join("root"), small_archive(scratch.path()));
        ok(cas(&root).args(["--snapshotter", "native", "init"]));
        ok(cas(&root).args(["import", "--name", "app:1"]).arg(&archive));
        let (directory, other) = (scratch.path().join("container"), ["--snapshotter", other]);
        let prepare = ["rootfs", "prepare", "--image", "app:1"];
        for unmounts in [true, false] {
            ok(cas(&root).args(other).args(prepare).arg(&directory));
            if unmounts {
                ok(cas(&root).args(["rootfs", "unmount"]).arg(&directory));
            }
            ok(cas(&root).args(["rootfs", "remove"]).arg(&directory));
            assert!(!directory.exists(), "{other:?}");
            for listed in json(&root, &["snapshot", "ls"]) {
                assert_eq!(listed["info"]["kind"], "committed", "{listed}");
            }
        }
    }
}

#[test]
fn snapshots_of_every_snapshotter_are_listed_and_leased() {
    let scratch = tempfile::tempdir().unwrap();
    let (root, archive) = (scratch.path().join("root"), small_archive(scratch.path()));
    ok(cas(&root).args(["--snapshotter", "native", "init"]));
    let import = ["import", "--unpack", "--name", "app:1"];
    ok(cas(&root).args(import).arg(&archive));
    let alone = ok(cas(&root).args(["snapshot", "ls"]));
    assert!(!alone.contains("SNAPSHOTTER"), "{alone}");
    let other = ["--snapshotter", "overlay"];
    ok(cas(&root).args(other).args(import).arg(&archive));
    let three = |name: &str| vec![name.to_owned(); 3];
    let both = [three("native"), three("overlay")].concat();
    let names = |arguments: &[&str]| -> Vec<String> {
        let listed = json(&root, arguments).into_iter();
        let name = |one: serde_json::Value| one["snapshotter"].as_str().unwrap().to_owned();
        listed.map(name).collect()
    };
    for command in ["ls", "tree"] {
        assert_eq!(names(&["snapshot", command]), both);
        let chosen = names(&[&other[..], &["snapshot", command]].concat());
        assert_eq!(chosen, three("overlay"));
    }
    let table = ok(cas(&root).args(["snapshot", "ls"]));
    let header = table.lines().next().unwrap();
    assert!(header.trim_end().ends_with("SNAPSHOTTER"), "{table}");
    assert_eq!(table.matches("overlay").count(), 3, "{table}");
    let tree = ok(cas(&root).args(["snapshot", "tree"]));
    assert_eq!(tree.matches("(committed, overlay)").count(), 3, "{tree}");

    // The lease keeps the topmost snapshot of one of them, and its parents.
    let top = json(&root, &["snapshot", "tree"]).pop().unwrap();
    assert_eq!(top["depth"], 2);
    let key = top["info"]["key"].as_str().unwrap();
    ok(cas(&root).args(["lease", "create", "--id", "audit"]));
    let typed = format!("snapshots/overlay/{}", &key[..19]);
    let said = ok(cas(&root).args(["lease", "add", "audit", &typed]));
    assert_eq!(said, format!("audit keeps snapshots/overlay/{key}\n"));
    let why = json(&root, &["why", &typed]).remove(0);
    assert_eq!(why["resource"], format!("snapshots/overlay/{key}"));
    ok(cas(&root).args(["rmi", "app:1"]));
    ok(cas(&root).arg("gc"));
    assert_eq!(names(&["snapshot", "ls"]), three("overlay"));
    let said = fails(cas(&root).args(["snapshot", "info", key]), 3);
    let expected = "the snapshotter native does not have this snapshot";
    assert!(said.contains(expected), "{said}");
    ok(cas(&root).args(other).args(["snapshot", "info", key]));
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

/// The record of a snapshot of another snapshotter is damaged, and the mount would have this key.
#[test]
fn a_mount_does_not_fail_because_of_a_snapshotter_that_it_does_not_use() {
    if !can(&["mount"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (root, mount) = mounted_with(&["--snapshotter", "overlay"], scratch.path());
    ok(cas(&root).arg("umount").arg(&mount));
    let place = mount.canonicalize().unwrap();
    let key = format!("overlay/mounted {}", place.display());
    let mut batch = Batch::new();
    let damaged = b"{".to_vec();
    batch.put(Table::Snapshots, key, Expect::Any, damaged.into());
    let records = SqliteRecords::open(&root.join("local/records.db")).unwrap();
    pool::wait(records.commit(&batch)).unwrap();
    drop(records);
    let mut command = cas(&root);
    let out = command.args(["mount", "app:1"]).arg(&mount).output();
    let out = out.unwrap();
    let said = text(&out.stderr);
    assert!(out.status.success() && said.contains("overlay"), "{said}");
    assert!(std::fs::read_dir(mount.join("app")).unwrap().count() > 0);
    ok(cas(&root).arg("umount").arg(&mount));
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0);
}
