//! What a killed `cas mount` or `cas umount` leaves, and which parts of that a collection removes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use cas::Labels;
use cas::blocking::Cas;
use cas::gc::GcOptions;
use cas::labels::GC_ROOT;

use common::{can, cas, demo_archive, fails, killed_at, ok};

/// Longer than the lease of a killed job lasts, and shorter than content without a lease is kept.
const LATER: Duration = Duration::from_secs(3600);

/// A root with an unpacked image, and a directory to mount at.
struct Scene {
    scratch: tempfile::TempDir,
    root: PathBuf,
    target: PathBuf,
}

impl Scene {
    fn new(snapshotter: &str) -> Self {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let scene = Scene {
            root: scratch.path().join("root"),
            target: scratch.path().join("a target"),
            scratch,
        };
        fs::create_dir(&scene.target).unwrap();
        ok(cas(&scene.root).args(["--snapshotter", snapshotter, "init"]));
        let archive = demo_archive(scene.scratch.path());
        let import = ["import", "--unpack", "--name", "app:1"];
        ok(cas(&scene.root).args(import).arg(archive));
        scene
    }

    fn mount(&self) {
        ok(cas(&self.root)
            .args(["mount", "--rw", "app:1"])
            .arg(&self.target));
    }

    /// Kills a command of the tool when it makes this system call.
    fn kill(&self, call: &str, arguments: &[&str]) {
        let mut command = cas(&self.root);
        let killed = killed_at(command.args(arguments).arg(&self.target), call, 1).status();
        assert!(!killed.unwrap().success(), "{call} was not called");
    }

    /// Returns whether the snapshot of the mount is there.
    fn has_snapshot(&self) -> bool {
        ok(cas(&self.root).args(["--json", "snapshot", "ls"])).contains("a target")
    }

    fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.contains(&self.target.to_str().unwrap().replace(' ', "\\040"))
    }

    /// Collects after this time. Returns whether the snapshot is still there.
    fn stays_after(&self, time: Duration) -> bool {
        let open = Cas::open(&self.root).unwrap();
        let options = GcOptions::default().with_now(SystemTime::now() + time);
        let would = open.gc_with(options.clone().with_dry_run(true)).unwrap();
        let removed = open.gc_with(options).unwrap();
        open.close().unwrap();
        let stays = self.has_snapshot();
        assert_eq!(
            would.snapshots.is_empty(),
            stays,
            "a dry run reports the same"
        );
        assert_eq!(removed.snapshots.is_empty(), stays);
        stays
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        while self.is_mounted() {
            ok(Command::new("umount").arg("-l").arg(&self.target));
        }
    }
}

/// Runs a test on each snapshotter that works here.
fn each(test: impl Fn(&Scene)) {
    if can(&["strace", "umount"]) {
        ["native", "overlay"].map(Scene::new).iter().for_each(test);
    }
}

#[test]
fn a_mount_that_was_killed_before_it_was_visible_is_collected() {
    each(|scene| {
        scene.kill("move_mount", &["mount", "app:1"]);
        assert!(scene.has_snapshot() && !scene.is_mounted());
        assert!(
            scene.stays_after(Duration::ZERO),
            "the mount may still be in progress"
        );
        assert!(!scene.stays_after(LATER));
        scene.mount();
        ok(cas(&scene.root).arg("umount").arg(&scene.target));
    });
}

#[test]
fn what_a_killed_mount_left_can_be_unmounted_at_once() {
    each(|scene| {
        scene.kill("move_mount", &["mount", "--rw", "app:1"]);
        let taken = fails(
            cas(&scene.root).args(["mount", "app:1"]).arg(&scene.target),
            5,
        );
        assert!(taken.contains("cas umount"), "{taken}");
        ok(cas(&scene.root).arg("umount").arg(&scene.target));
        assert!(!scene.has_snapshot());
    });
}

#[test]
fn an_unmount_that_was_killed_is_completed_by_a_collection() {
    each(|scene| {
        scene.mount();
        scene.kill("umount2", &["umount"]);
        assert!(scene.has_snapshot() && scene.is_mounted());
        // This is what a kill a moment later leaves.
        ok(Command::new("umount").arg(&scene.target));
        assert!(!scene.stays_after(LATER));
    });
}

#[test]
fn what_is_still_mounted_after_a_kill_stays() {
    each(|scene| {
        scene.mount();
        fs::write(scene.target.join("written"), "kept").unwrap();
        scene.kill("umount2", &["umount"]);
        assert!(scene.stays_after(LATER) && scene.is_mounted());
        let written = fs::read_to_string(scene.target.join("written"));
        assert_eq!(written.unwrap(), "kept");
        ok(cas(&scene.root).arg("umount").arg(&scene.target));
        assert!(!scene.has_snapshot());
    });
}

/// A mount that was killed between the mount and the note of it counts as complete.
#[test]
fn a_mount_that_was_killed_once_it_was_visible_stays() {
    each(|scene| {
        scene.mount();
        let open = Cas::open(&scene.root).unwrap();
        let labels = Labels::from([(GC_ROOT.to_owned(), "mounting-1".to_owned())]);
        let (key, path) = (
            format!("mounted {}", scene.target.display()),
            format!("labels.{GC_ROOT}"),
        );
        let snapshotter = open.snapshotter().unwrap();
        cas::backend::pool::wait(snapshotter.update(&key, labels, &[&path])).unwrap();
        open.close().unwrap();
        assert!(scene.stays_after(LATER));
        ok(Command::new("umount").arg(&scene.target));
        assert!(
            scene.stays_after(LATER),
            "it may have been unmounted by a restart"
        );
    });
}

/// What was written to a mount is there after a restart of the machine, until `cas umount`.
#[test]
fn a_complete_mount_stays_until_it_is_unmounted_by_the_tool() {
    each(|scene| {
        scene.mount();
        ok(Command::new("umount").arg(&scene.target));
        assert!(scene.stays_after(LATER));
        ok(cas(&scene.root).arg("umount").arg(&scene.target));
        assert!(!scene.has_snapshot());
    });
}

#[test]
fn a_busy_mount_stays_complete() {
    each(|scene| {
        scene.mount();
        let held = fs::File::open(&scene.target).unwrap();
        fails(cas(&scene.root).arg("umount").arg(&scene.target), 5);
        drop(held);
        ok(Command::new("umount").arg(&scene.target));
        assert!(scene.stays_after(LATER));
    });
}
