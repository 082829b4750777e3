//! Kills at each step of preparing and removing a root directory.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use cas::ErrorKind;
use cas::gc::GcOptions;

use super::{KEY, Scene, names};
use crate::common::{append, can, killed_at};

/// Longer than the lease of a killed job lasts, and shorter than content without a lease is kept.
const LATER: Duration = Duration::from_secs(3600);

/// How long to wait for tests that hold a mount namespace.
const PATIENCE: Duration = Duration::from_secs(60);

/// System calls that change something. Each such call is a step.
const CALLS: &[&str] = &[
    "mkdir,mkdirat",
    "openat,open",
    "write,pwrite64",
    "fsync,fdatasync",
    "fchmod",
    "unlink,unlinkat,rmdir",
    "move_mount",
    "umount2",
];

/// The highest step at which a command is killed for one kind of call.
const STEPS: usize = 400;

/// Runs the tool and kills it at the step `step` of a kind of call. Returns false if it made fewer
/// such calls and did its work.
fn killed(scene: &Scene, calls: &str, step: usize, arguments: &[&str]) -> bool {
    let mut tool = scene.tool(arguments);
    let mut killed = killed_at(tool.arg(scene.dir()), calls, step);
    !killed.output().unwrap().status.success()
}

/// Kills a command at steps of each kind, first all and then fewer, until it is complete. After
/// each kill, `check` gets the number of the kill.
fn at_each_step(scene: &Scene, prepare: fn(&Scene), arguments: &[&str], check: fn(&Scene, usize)) {
    let mut kills = 0;
    for calls in CALLS {
        let mut step = 1;
        while step < STEPS {
            prepare(scene);
            if !killed(scene, calls, step, arguments) {
                break;
            }
            kills += 1;
            check(scene, kills);
            // The first calls of most kinds open the root; there are many.
            step += 1 + step / 8;
        }
        remove(scene);
        scene.assert_nothing_left();
    }
    assert!(kills > 20, "{kills}");
}

/// Continues after a kill in one of three ways: with a collection, or by preparing the root
/// directory again, or by removing it.
fn go_on(scene: &Scene, kill: usize) {
    match kill % 3 {
        0 => {
            collect(scene);
            let is_whole = scene.keys() == [KEY];
            // A kill may come before the snapshot is made or after it is removed.
            let left = names(&scene.path("dirs"));
            assert!(is_whole || scene.keys().is_empty(), "{left:?}");
            assert_eq!(scene.mounts().is_empty(), !is_whole);
        }
        1 => {
            scene.prepare("other:1");
            scene.assert_prepared("other:1");
        }
        _ => {}
    }
    remove(scene);
    collect(scene);
    scene.assert_nothing_left();
    let snapshots = scene.path("root/snapshots").join(scene.snapshotter);
    let left = names(&snapshots.join("snapshots")).len();
    assert_eq!(left, scene.cas.snapshots().unwrap().len());
}

/// Removes the root directory. Another test may have copied the mount table into a namespace of its
/// own, and the directory counts as mounted there until that test ends.
fn remove(scene: &Scene) {
    let begun = Instant::now();
    loop {
        match scene.cas.remove_root_dir(scene.dir()) {
            Err(error) if error.kind() == ErrorKind::Busy && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(100));
            }
            removed => {
                removed.unwrap();
                return;
            }
        }
    }
}

fn collect(scene: &Scene) {
    let later = SystemTime::now() + LATER;
    scene
        .cas
        .gc_with(GcOptions::default().with_now(later))
        .unwrap();
}

fn each(test: impl Fn(&Scene)) {
    if can(&["strace", "umount"]) {
        for scene in ["native", "overlay"].map(Scene::new) {
            scene.cas.snapshot("app:1").unwrap();
            scene.cas.snapshot("other:1").unwrap();
            test(&scene);
        }
    }
}

#[test]
fn a_killed_preparation_is_handled_by_the_next_job() {
    let arguments = ["rootfs", "prepare", "--image", "app:1"];
    each(|scene| at_each_step(scene, |_| {}, &arguments, go_on));
}

#[test]
fn a_killed_preparation_over_another_one_is_handled_by_the_next_job() {
    let arguments = ["rootfs", "prepare", "--image", "app:1"];
    each(|scene| at_each_step(scene, |scene| scene.prepare("other:1"), &arguments, go_on));
}

#[test]
fn a_killed_removal_is_handled_by_the_next_job() {
    let arguments = ["rootfs", "remove"];
    each(|scene| at_each_step(scene, |scene| scene.prepare("other:1"), &arguments, go_on));
}

/// Prepares a root directory. The mount fails, and the tool is killed at the step `step` of the
/// removal of what it has made. Returns false if the removal has fewer steps.
fn failed_and_killed(scene: &Scene, step: usize) -> bool {
    let mut tool = scene.tool(&["rootfs", "prepare", "--image", "app:1"]);
    tool.arg(scene.dir());
    let removals = "unlink,unlinkat,rmdir";
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
    strace.arg(format!("trace=move_mount,{removals}"));
    strace.args(["-e", "inject=move_mount:error=EIO", "-e"]);
    strace.arg(format!("inject={removals}:signal=KILL:when={step}"));
    append(&mut strace, &tool);
    let status = strace.output().unwrap().status;
    assert!(!status.success());
    status.signal().is_some()
}

#[test]
fn a_collection_removes_what_a_killed_preparation_has_not_removed_after_a_failure() {
    each(|scene| {
        let mut step = 1;
        while failed_and_killed(scene, step) {
            collect(scene);
            assert_eq!(scene.keys(), [""; 0], "step {step}");
            let left = scene.dir();
            assert!(!left.exists() || names(&left).is_empty(), "step {step}");
            remove(scene);
            scene.assert_nothing_left();
            step += 1;
        }
        // The removal of the snapshot alone makes more calls.
        assert!(step > 5, "{step}");
        scene.assert_nothing_left();
    });
}

/// A collection removes the whole of a root directory that was never complete.
#[test]
fn a_collection_removes_what_was_never_complete() {
    each(|scene| {
        let arguments = ["rootfs", "prepare", "--image", "app:1"];
        assert!(killed(scene, "move_mount", 1, &arguments));
        assert_eq!(scene.keys(), [KEY]);
        assert_eq!(names(&scene.dir()).len(), 3);
        let soon = GcOptions::default();
        scene.cas.gc_with(soon).unwrap();
        assert_eq!(
            scene.keys(),
            [KEY],
            "the root directory may still be in progress"
        );
        collect(scene);
        scene.assert_nothing_left();
    });
}

/// Files that were written are not lost by an unmount that was killed, nor by an unmount that
/// fails.
#[test]
fn a_collection_keeps_what_is_complete() {
    each(|scene| {
        scene.prepare("app:1");
        fs::write(scene.rootfs().join("new"), "kept").unwrap();
        assert!(killed(scene, "umount2", 1, &["rootfs", "unmount"]));
        collect(scene);
        assert_eq!(names(&scene.rootfs()), ["app", "etc", "new"]);
        assert!(killed(scene, "umount2", 1, &["rootfs", "remove"]));
        collect(scene);
        assert_eq!(names(&scene.rootfs()), ["app", "etc", "new"], "mounted");
        assert!(scene.cas.unmount_root_dir(scene.dir()).unwrap());
        collect(scene);
        scene.cas.mount_snapshot(KEY, scene.rootfs()).unwrap();
        assert_eq!(names(&scene.rootfs()), ["app", "etc", "new"]);
    });
}
