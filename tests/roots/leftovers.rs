//! Preparing and removing over what earlier jobs and other programs have left.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use cas::{ErrorKind, Labels, UnmountOptions};

use super::{Scene, each, each_store, names};
use crate::common::{ok, unmount};

/// A name for a leftover, and the function that makes it.
type Left = (&'static str, fn(&Scene));

/// What may be there before a root directory is prepared.
const LEFT: &[Left] = &[
    ("nothing", |_| {}),
    ("mounted, of the same image", |scene| scene.prepare("app:1")),
    ("mounted, of another image", |scene| {
        scene.prepare("other:1")
    }),
    ("unmounted", |scene| {
        scene.prepare("other:1");
        scene.cas.unmount_root_dir(scene.dir()).unwrap();
    }),
    ("unmounted by a restart of the machine", |scene| {
        scene.prepare("other:1");
        unmount(&scene.rootfs());
    }),
    ("written to, mounted and not", |scene| {
        scene.prepare("other:1");
        fs::create_dir_all(scene.rootfs().join("a/b")).unwrap();
        scene.cas.unmount_root_dir(scene.dir()).unwrap();
        fs::create_dir_all(scene.rootfs().join("c/d")).unwrap();
        fs::write(scene.rootfs().join("c/file"), "").unwrap();
    }),
    ("mounted twice", |scene| {
        scene.prepare("other:1");
        let bind = Command::new("mount")
            .arg("--bind")
            .arg(scene.path("mnt"))
            .arg(scene.rootfs())
            .status();
        assert!(bind.unwrap().success());
    }),
    ("a snapshot only", |scene| {
        scene.cas.create_snapshot(super::KEY, "other:1").unwrap();
    }),
    ("a snapshot whose directory was removed", |scene| {
        scene.prepare("other:1");
        scene.cas.unmount_root_dir(scene.dir()).unwrap();
        fs::remove_dir_all(scene.dir()).unwrap();
    }),
    ("a snapshot whose directory was moved here", |scene| {
        let before = scene.path("mnt").join(super::KEY);
        scene.cas.prepare_root_dir(&before, "other:1").unwrap();
        scene.cas.unmount_root_dir(&before).unwrap();
        fs::rename(before, scene.dir()).unwrap();
    }),
    ("a directory only", |scene| {
        scene.prepare("other:1");
        scene.cas.unmount_root_dir(scene.dir()).unwrap();
        scene.cas.remove_snapshot(super::KEY).unwrap();
    }),
    ("an empty directory", |scene| {
        fs::create_dir(scene.dir()).unwrap();
    }),
    ("a half-made directory", |scene| {
        fs::create_dir_all(scene.rootfs()).unwrap();
        fs::write(scene.dir().join("image-config.json"), "{").unwrap();
    }),
    ("files of whatever ran the container", |scene| {
        scene.prepare("other:1");
        fs::write(scene.dir().join("environment"), "A=b").unwrap();
        fs::create_dir(scene.dir().join("modules")).unwrap();
        symlink("/", scene.dir().join("link")).unwrap();
    }),
    ("a file in place of the mount point", |scene| {
        scene.prepare("other:1");
        scene.cas.unmount_root_dir(scene.dir()).unwrap();
        fs::remove_dir(scene.rootfs()).unwrap();
        fs::write(scene.rootfs(), "").unwrap();
    }),
    ("a link in place of the mount point", |scene| {
        scene.prepare("other:1");
        scene.cas.unmount_root_dir(scene.dir()).unwrap();
        fs::remove_dir(scene.rootfs()).unwrap();
        symlink(scene.path("mnt"), scene.rootfs()).unwrap();
        fs::write(scene.path("mnt/precious"), "").unwrap();
    }),
];

/// Checks that the files that a case has put next to the root directories are there, and removes
/// them.
fn assert_beside(scene: &Scene, what: &str) {
    let beside = scene.path("mnt");
    let kept: &[&str] = if what.starts_with("a link") {
        &["precious"]
    } else {
        &[]
    };
    assert_eq!(names(&beside), kept, "{what}");
    fs::remove_dir_all(&beside).unwrap();
    fs::create_dir(&beside).unwrap();
}

#[test]
fn a_root_directory_is_prepared_over_anything() {
    each_store(|scene| {
        for (what, leave) in LEFT {
            leave(scene);
            let prepared = scene.cas.prepare_root_dir(scene.dir(), "app:1");
            prepared.unwrap_or_else(|error| panic!("{what}: {error}"));
            scene.assert_prepared("app:1");
            assert!(scene.cas.remove_root_dir(scene.dir()).unwrap(), "{what}");
            scene.assert_nothing_left();
            assert_beside(scene, what);
        }
    });
}

#[test]
fn anything_is_removed_and_nothing_behind_it() {
    each_store(|scene| {
        for (what, leave) in LEFT {
            leave(scene);
            let removed = scene.cas.remove_root_dir(scene.dir());
            let removed = removed.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(removed, *what != "nothing", "{what}");
            scene.assert_nothing_left();
            assert!(!scene.cas.remove_root_dir(scene.dir()).unwrap(), "{what}");
            assert_beside(scene, what);
        }
    });
}

/// EVE's removal went on after a failed unmount, and deleted through the mount.
#[test]
fn a_live_mount_is_never_entered() {
    each(|scene| {
        scene.prepare("app:1");
        fs::write(scene.rootfs().join("new"), "precious").unwrap();
        // Something else is mounted in the directory. No verb may unmount it, or delete anything in
        // it.
        let disk = scene.dir().join("disk");
        fs::create_dir(&disk).unwrap();
        fs::write(scene.path("mnt/precious"), "").unwrap();
        let bind = |target: &Path| {
            let mut mount = Command::new("mount");
            ok(mount.arg("--bind").arg(scene.path("mnt")).arg(target));
        };
        bind(&disk);
        for refused in [
            scene.cas.remove_root_dir(scene.dir()).unwrap_err(),
            scene
                .cas
                .prepare_root_dir(scene.dir(), "app:1")
                .unwrap_err(),
        ] {
            assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
            assert!(refused.to_string().contains("/disk; "), "{refused}");
            assert_eq!(names(&scene.path("mnt")), ["precious"]);
            assert_eq!(names(&scene.rootfs()), ["app", "etc", "new"]);
            assert_eq!(names(&scene.dir()).len(), 4);
        }
        ok(Command::new("umount").arg(&disk));
        scene.prepare("app:1");
        // A mount inside the root file system keeps all of it.
        bind(&scene.rootfs().join("etc"));
        let refused = scene.cas.remove_root_dir(scene.dir()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert_eq!(names(&scene.rootfs().join("etc")), ["precious"]);
        ok(Command::new("umount").arg(scene.rootfs().join("etc")));
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        // The directory itself may be a mount.
        fs::create_dir(scene.dir()).unwrap();
        bind(&scene.dir());
        fs::remove_file(scene.path("mnt/precious")).unwrap();
        scene.cas.prepare_root_dir(scene.dir(), "app:1").unwrap();
        let refused = scene.cas.remove_root_dir(scene.dir()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
        assert!(refused.to_string().contains("itself"), "{refused}");
        ok(Command::new("umount").arg(scene.dir()));
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        scene.assert_nothing_left();
    });
}

#[test]
fn a_directory_of_something_else_is_refused_and_keeps_its_files() {
    each(|scene| {
        let files: &[&[&str]] = &[
            &["precious"],
            &["config.json", "rootfs/bin"],
            &["rootfs/file"],
            &["image-name", "other"],
        ];
        for files in files {
            fs::create_dir_all(scene.dir()).unwrap();
            for file in *files {
                let file = scene.dir().join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            let before = names(&scene.dir());
            for refused in [
                scene
                    .cas
                    .prepare_root_dir(scene.dir(), "app:1")
                    .unwrap_err(),
                scene.cas.remove_root_dir(scene.dir()).unwrap_err(),
            ] {
                assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
            }
            assert_eq!(names(&scene.dir()), before);
            assert!(scene.keys().is_empty());
            fs::remove_dir_all(scene.dir()).unwrap();
        }
    });
}

#[test]
fn a_mount_of_something_else_is_not_unmounted() {
    each(|scene| {
        assert!(!scene.cas.unmount_root_dir(scene.dir()).unwrap());
        fs::create_dir_all(scene.rootfs()).unwrap();
        assert!(!scene.cas.unmount_root_dir(scene.dir()).unwrap());
        fs::write(scene.path("mnt/precious"), "").unwrap();
        let mut mount = Command::new("mount");
        ok(mount
            .arg("--bind")
            .arg(scene.path("mnt"))
            .arg(scene.rootfs()));
        for lazy in [false, true] {
            let options = UnmountOptions::default().with_lazy(lazy);
            let refused = scene.cas.unmount_root_dir_with(scene.dir(), options);
            let refused = refused.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused}");
            assert_eq!(names(&scene.rootfs()), ["precious"]);
        }
        ok(Command::new("umount").arg(scene.rootfs()));
        assert_eq!(names(&scene.path("mnt")), ["precious"]);
    });
}

#[test]
fn a_snapshot_of_something_else_is_refused_and_stays() {
    each(|scene| {
        let cas = &scene.cas;
        let refuse = |path: &Path| {
            let refused = cas.prepare_root_dir(path, "app:1").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::AlreadyExists, "{refused}");
            let removed = cas.remove_root_dir(path).unwrap();
            assert!(!removed, "it was not created for this");
        };
        // Another root directory with the same last component.
        scene.prepare("app:1");
        refuse(&scene.path("mnt").join(super::KEY));
        assert!(cas.unmount_root_dir(scene.dir()).unwrap());
        refuse(&scene.path("mnt").join(super::KEY));
        assert!(cas.remove_root_dir(scene.dir()).unwrap());
        // A snapshot that is mounted elsewhere.
        cas.create_snapshot(super::KEY, "app:1").unwrap();
        cas.mount_snapshot(super::KEY, scene.path("mnt")).unwrap();
        refuse(&scene.dir());
        assert!(cas.unmount_snapshot(super::KEY).unwrap());
        assert!(cas.remove_snapshot(super::KEY).unwrap());
        // A layer, and a snapshot that another program has made.
        let layer = cas.snapshot("app:1").unwrap().unwrap().to_string();
        refuse(&scene.path("dirs").join(layer));
        let snapshotter = cas.snapshotter().unwrap();
        let theirs = snapshotter.prepare(super::KEY, None, Labels::new());
        cas::backend::pool::wait(theirs).unwrap();
        refuse(&scene.dir());
        assert!(cas.remove_snapshot(super::KEY).unwrap());
        scene.assert_nothing_left();
    });
}

#[test]
fn many_prepare_one_directory_and_one_of_them_is_there() {
    each(|scene| {
        std::thread::scope(|scope| {
            for number in 0..6 {
                scope.spawn(move || {
                    let cas = scene.another();
                    match number % 3 {
                        0 => cas.prepare_root_dir(scene.dir(), "app:1").unwrap(),
                        1 => cas.prepare_root_dir(scene.dir(), "other:1").unwrap(),
                        _ => drop(cas.remove_root_dir(scene.dir()).unwrap()),
                    }
                });
            }
        });
        let name = fs::read_to_string(scene.dir().join("image-name"));
        match name.as_deref() {
            Ok("docker.io/library/app:1") => scene.assert_prepared("app:1"),
            Ok(_) => scene.assert_prepared("other:1"),
            Err(_) => scene.assert_nothing_left(),
        }
        scene.cas.remove_root_dir(scene.dir()).unwrap();
        scene.assert_nothing_left();
    });
}
