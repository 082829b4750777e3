//! Snapshots by key: made from an image, mounted, measured, listed and removed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use cas::gc::GcOptions;
use cas::snapshot::{SnapshotKind, Usage};
use cas::{ErrorKind, Labels, MountSnapshotOptions, SnapshotOptions, UnmountOptions, UsageOptions};

use super::{Scene, each, each_store, mounts};

const DAYS: Duration = Duration::from_secs(30 * 86_400);

fn usage(scene: &Scene, key: &str, parents: bool) -> Usage {
    let options = UsageOptions::default().with_parents(parents);
    scene.cas.snapshot_usage_with(key, options).unwrap()
}

#[test]
fn a_snapshot_of_an_image_is_made_once_and_kept_from_collections() {
    each_store(|scene| {
        let cas = &scene.cas;
        for key in ["sha256:0123", super::KEY, "two words"] {
            cas.create_snapshot(key, "app:1").unwrap();
            let again = cas.create_snapshot(key, "other:1").unwrap_err();
            assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{again}");
        }
        cas.remove("app:1").unwrap();
        cas.remove("other:1").unwrap();
        let later = SystemTime::now() + DAYS;
        cas.gc_with(GcOptions::default().with_now(later)).unwrap();
        cas.mount_snapshot(super::KEY, scene.path("mnt")).unwrap();
        let app = fs::read_to_string(scene.path("mnt/app")).unwrap();
        assert_eq!(app, "one", "with all its layers");
        let absent = cas.create_snapshot("new", "app:1").unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn bad_keys_make_nothing() {
    each(|scene| {
        let long = "k".repeat(2000);
        for key in ["", "a\nb", &long, "mounted /mnt"] {
            let refused = scene.cas.create_snapshot(key, "app:1").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
        }
        assert!(scene.keys().is_empty());
    });
}

#[test]
fn of_many_that_make_one_snapshot_one_succeeds() {
    each(|scene| {
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let make = |_| {
                scope.spawn(|| {
                    let made = scene.another().create_snapshot("one", "app:1");
                    made.map_err(|error| error.kind())
                })
            };
            let threads: Vec<_> = (0..4).map(make).collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(made, 1, "{outcomes:?}");
        let refused = outcomes.iter().filter_map(|outcome| outcome.err());
        assert!(refused.clone().all(|kind| kind == ErrorKind::AlreadyExists));
        assert_eq!(scene.keys(), ["one"]);
    });
}

#[test]
fn what_is_written_stays_over_mounts_until_the_snapshot_is_removed() {
    each_store(|scene| {
        let (cas, target) = (&scene.cas, scene.path("mnt"));
        cas.create_snapshot("one", "app:1").unwrap();
        assert!(!cas.unmount_snapshot("one").unwrap(), "never mounted");
        for round in 0..3 {
            cas.mount_snapshot("one", &target).unwrap();
            let other = cas.mount_snapshot("one", scene.path("dirs")).unwrap_err();
            assert_eq!(other.kind(), ErrorKind::AlreadyExists);
            assert!(other.to_string().contains("mnt"), "{other}");
            let kept = cas.remove_snapshot("one").unwrap_err();
            assert_eq!(kept.kind(), ErrorKind::Busy, "{kept}");
            assert_eq!(target.join("new").exists(), round > 0);
            fs::write(target.join("new"), "kept").unwrap();
            assert!(cas.unmount_snapshot("one").unwrap());
            assert!(!cas.unmount_snapshot("one").unwrap());
            assert!(fs::read_dir(&target).unwrap().next().is_none());
        }
        assert!(cas.remove_snapshot("one").unwrap());
        assert!(!cas.remove_snapshot("one").unwrap(), "it is idempotent");
        let gone = cas.mount_snapshot("one", &target).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        let gone = cas.unmount_snapshot("one").unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn another_snapshot_that_is_mounted_at_the_same_place_later_is_left_alone() {
    each(|scene| {
        let (cas, target) = (&scene.cas, scene.path("mnt"));
        for key in ["one", "two"] {
            cas.create_snapshot(key, "app:1").unwrap();
        }
        cas.mount_snapshot("one", &target).unwrap();
        assert!(cas.unmount_snapshot("one").unwrap());
        cas.mount_snapshot("two", &target).unwrap();
        fs::write(target.join("new"), "of two").unwrap();
        assert!(!cas.unmount_snapshot("one").unwrap());
        assert_eq!(fs::read_to_string(target.join("new")).unwrap(), "of two");
        cas.gc_with(GcOptions::default().with_now(SystemTime::now() + DAYS))
            .unwrap();
        cas.mount_snapshot("one", scene.path("dirs")).unwrap();
        assert!(cas.unmount_snapshot("one").unwrap());
        assert!(cas.remove_snapshot("one").unwrap());
        assert_eq!(fs::read_to_string(target.join("new")).unwrap(), "of two");
        assert!(cas.unmount_snapshot("two").unwrap());
    });
}

/// Nothing is mounted after a restart of the machine, whatever the records say.
#[test]
fn a_snapshot_that_something_else_has_unmounted_is_mounted_and_removed() {
    each(|scene| {
        let (cas, target) = (&scene.cas, scene.path("mnt"));
        cas.create_snapshot("one", "app:1").unwrap();
        cas.mount_snapshot("one", &target).unwrap();
        fs::write(target.join("new"), "kept").unwrap();
        crate::common::unmount(&target);
        cas.gc_with(GcOptions::default().with_now(SystemTime::now() + DAYS))
            .unwrap();
        assert!(!cas.unmount_snapshot("one").unwrap());
        cas.mount_snapshot("one", &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("new")).unwrap(), "kept");
        crate::common::unmount(&target);
        assert!(cas.remove_snapshot("one").unwrap());
    });
}

#[test]
fn a_view_is_read_only_and_rights_are_given_only_if_they_are_asked_for() {
    each(|scene| {
        let (cas, target) = (&scene.cas, scene.path("mnt"));
        let view = SnapshotOptions::default().with_writable(false);
        cas.create_snapshot_with("view", "app:1", view).unwrap();
        let options = || {
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let here = format!(" {} ", target.display());
            let line = table.lines().find(|line| line.contains(&here)).unwrap();
            line.split(' ').nth(5).unwrap().to_owned()
        };
        cas.mount_snapshot("view", &target).unwrap();
        assert!(fs::write(target.join("new"), "").is_err());
        let restricted = options();
        assert!(restricted.contains("nosuid") && restricted.contains("nodev"));
        assert!(cas.unmount_snapshot("view").unwrap());
        let all = MountSnapshotOptions::default()
            .with_suid(true)
            .with_devices(true);
        cas.mount_snapshot_with("view", &target, all).unwrap();
        let given = options();
        assert!(!given.contains("nosuid") && !given.contains("nodev"));
        assert!(cas.unmount_snapshot("view").unwrap());
    });
}

#[test]
fn a_place_that_cannot_be_mounted_on_is_refused_and_changes_nothing() {
    each(|scene| {
        let cas = &scene.cas;
        cas.create_snapshot("one", "app:1").unwrap();
        fs::write(scene.path("file"), "").unwrap();
        let foreign = scene.path("mnt").join(std::ffi::OsStr::from_bytes(b"\xff"));
        fs::create_dir(&foreign).unwrap();
        for (place, kind) in [
            (scene.path("file"), ErrorKind::InvalidArgument),
            (scene.path("file/below"), ErrorKind::InvalidArgument),
            (scene.path("absent"), ErrorKind::NotFound),
            (foreign, ErrorKind::InvalidArgument),
        ] {
            let refused = cas.mount_snapshot("one", &place).unwrap_err();
            assert_eq!(refused.kind(), kind, "{refused}");
        }
        let layer = cas.snapshot("app:1").unwrap().unwrap().to_string();
        let committed = cas.mount_snapshot(&layer, scene.path("mnt")).unwrap_err();
        assert_eq!(committed.kind(), ErrorKind::FailedPrecondition);
        // A link leads to the directory.
        symlink(scene.path("dirs"), scene.path("link")).unwrap();
        cas.mount_snapshot("one", scene.path("link")).unwrap();
        let there = mounts(scene.scratch.path());
        assert_eq!(there, [scene.path("dirs").display().to_string()]);
        assert!(cas.unmount_snapshot("one").unwrap());
        // The directory may be gone by then.
        cas.mount_snapshot("one", scene.path("dirs")).unwrap();
        assert!(cas.unmount_snapshot("one").unwrap());
        fs::remove_dir(scene.path("dirs")).unwrap();
        assert!(!cas.unmount_snapshot("one").unwrap());
        assert!(cas.remove_snapshot("one").unwrap());
    });
}

/// A mount there would hide the root, even from the command that ends the mount.
#[test]
fn nothing_is_mounted_over_the_root_or_in_it() {
    each(|scene| {
        let cas = &scene.cas;
        cas.create_snapshot("one", "app:1").unwrap();
        symlink(scene.path("root"), scene.path("link")).unwrap();
        for place in ["root", "root/store", "link", ""] {
            let place = scene.path(place);
            for refused in [
                cas.mount_snapshot("one", &place),
                cas.mount("app:1", &place),
            ] {
                let refused = refused.unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
            }
        }
        assert!(mounts(scene.scratch.path()).is_empty());
        assert_eq!(scene.keys(), ["one"]);
    });
}

#[test]
fn a_busy_snapshot_is_detached_only_if_that_is_asked_for() {
    each(|scene| {
        let (cas, target) = (&scene.cas, scene.path("mnt"));
        cas.create_snapshot("one", "app:1").unwrap();
        cas.mount_snapshot("one", &target).unwrap();
        let held = fs::File::open(target.join("app")).unwrap();
        for force in [false, true] {
            let options = UnmountOptions::default().with_force(force);
            let busy = cas.unmount_snapshot_with("one", options).unwrap_err();
            assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
        }
        let options = UnmountOptions::default().with_lazy(true);
        assert!(cas.unmount_snapshot_with("one", options).unwrap());
        assert!(!target.join("app").exists());
        assert_eq!(std::io::read_to_string(held).unwrap(), "one");
    });
}

#[test]
fn usage_with_parents_is_the_sum_of_the_chain_and_of_nothing_else() {
    each(|scene| {
        let cas = &scene.cas;
        cas.create_snapshot("one", "app:1").unwrap();
        cas.create_snapshot("other", "other:1").unwrap();
        cas.mount_snapshot("one", scene.path("mnt")).unwrap();
        fs::write(scene.path("mnt/big"), vec![7; 1 << 20]).unwrap();
        cas.unmount_snapshot("one").unwrap();
        let own = usage(scene, "one", false);
        assert!(own.bytes >= 1 << 20 && own.inodes >= 1, "{own:?}");
        let mut sum = own;
        let mut parent = None;
        let all = cas.snapshots().unwrap();
        let parent_of = |key: &str| all.iter().find(|info| info.key == key).unwrap();
        let mut next = parent_of("one").parent.clone();
        let mut layers = 0;
        while let Some(key) = next.take() {
            sum += usage(scene, &key, false);
            next.clone_from(&parent_of(&key).parent);
            parent = Some(key);
            layers += 1;
        }
        assert_eq!(layers, 2);
        assert_eq!(usage(scene, "one", true), sum);
        let lowest = parent.unwrap();
        assert_eq!(usage(scene, &lowest, true), usage(scene, &lowest, false));
        let absent = cas.snapshot_usage("absent").unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        let shown = scene.tool(&["snapshot", "usage", "one", "--parents", "--json"]);
        let shown = crate::common::ok(&mut { shown });
        let shown: serde_json::Value = shown.parse().unwrap();
        assert_eq!(shown["bytes"], sum.bytes);
    });
}

#[test]
fn keys_are_listed_in_order_and_parents_are_busy() {
    each_store(|scene| {
        let cas = &scene.cas;
        for key in ["b", "a", "c"] {
            cas.create_snapshot(key, "app:1").unwrap();
        }
        assert_eq!(scene.keys(), ["a", "b", "c"]);
        let all = cas.snapshots().unwrap();
        let layers = all
            .iter()
            .filter(|info| info.kind == SnapshotKind::Committed);
        for layer in layers {
            let busy = cas.remove_snapshot(&layer.key).unwrap_err();
            assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
            assert!(busy.to_string().contains("parent"), "{busy}");
        }
        for key in ["a", "b", "c"] {
            assert!(cas.remove_snapshot(key).unwrap());
        }
        cas.remove("app:1").unwrap();
        let top = all.iter().find(|info| info.key == all[0].key).unwrap();
        assert_eq!(top.kind, SnapshotKind::Active);
    });
}

/// A snapshot that `Cas::mount` has made is removed with its mount, not before.
#[test]
fn the_snapshot_of_a_mounted_image_is_busy() {
    each(|scene| {
        let target = scene.path("mnt");
        scene.cas.mount("app:1", &target).unwrap();
        let key = scene.keys().remove(0);
        let busy = scene.cas.remove_snapshot(&key).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
        crate::common::fails(&mut scene.tool(&["snapshot", "rm", &key]), 5);
        scene.cas.unmount(&target).unwrap();
        assert!(scene.keys().is_empty());
    });
}

/// A snapshot that something else has made can be mounted, too.
#[test]
fn a_foreign_snapshot_is_mounted_and_keeps_its_labels() {
    each(|scene| {
        let cas = &scene.cas;
        let labels = Labels::from([("mine".to_owned(), "yes".to_owned())]);
        let snapshotter = cas.snapshotter().unwrap();
        let made = snapshotter.prepare("theirs", None, labels);
        cas::backend::pool::wait(made).unwrap();
        cas.mount_snapshot("theirs", scene.path("mnt")).unwrap();
        fs::write(scene.path("mnt/file"), "").unwrap();
        cas.unmount_snapshot("theirs").unwrap();
        let info = cas.snapshots().unwrap().pop().unwrap();
        assert_eq!(info.labels["mine"], "yes");
        assert!(usage(scene, "theirs", true).inodes > 0);
    });
}
