//! Paths of root directories.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use cas::ErrorKind;

use super::{Scene, each, names};
use crate::common::ok;

#[test]
fn all_paths_to_a_directory_are_the_same() {
    each(|scene| {
        symlink(scene.path("dirs"), scene.path("link")).unwrap();
        let spellings = [
            format!("dirs/{}", super::KEY),
            format!("./dirs/./{}/", super::KEY),
            format!("link/{}", super::KEY),
            format!("mnt/../dirs/{}/.", super::KEY),
            scene.dir().display().to_string(),
        ];
        for spelling in &spellings {
            ok(&mut scene.tool(&["rootfs", "prepare", "--image", "app:1", spelling]));
            scene.assert_prepared("app:1");
        }
        for spelling in &spellings {
            let unmount = ["rootfs", "unmount", spelling];
            let said = ok(&mut scene.tool(&unmount));
            let expected = if spelling == &spellings[0] {
                "unmounted"
            } else {
                "not mounted"
            };
            assert!(said.starts_with(expected), "{said}");
        }
        ok(&mut scene.tool(&["rootfs", "remove", &spellings[2]]));
        scene.assert_nothing_left();
    });
}

#[test]
fn names_with_blanks_and_other_letters_are_keys() {
    each(|scene| {
        for name in ["two words", "#", "größe", "-dash", "a,b:c\\d"] {
            let path = scene.path("dirs").join(name);
            scene.cas.prepare_root_dir(&path, "app:1").unwrap();
            scene.cas.prepare_root_dir(&path, "app:1").unwrap();
            assert_eq!(scene.keys(), [name]);
            assert_eq!(names(&path.join("rootfs")), ["app", "etc"]);
            assert!(scene.cas.remove_root_dir(&path).unwrap());
            scene.assert_nothing_left();
        }
    });
}

/// Calls all verbs, which must fail in the same way.
fn refuse(scene: &Scene, path: &PathBuf, kind: ErrorKind) {
    for refused in [
        scene.cas.prepare_root_dir(path, "app:1").unwrap_err(),
        scene.cas.unmount_root_dir(path).unwrap_err(),
        scene.cas.remove_root_dir(path).unwrap_err(),
    ] {
        assert_eq!(refused.kind(), kind, "{refused}");
    }
}

#[test]
fn a_path_that_names_no_directory_is_refused() {
    each(|scene| {
        let dirs = scene.path("dirs");
        fs::write(dirs.join("file"), "kept").unwrap();
        fs::create_dir(dirs.join("real")).unwrap();
        symlink("real", dirs.join("link")).unwrap();
        symlink("nowhere", dirs.join("dangling")).unwrap();
        let foreign = OsStr::from_bytes(b"\xff\xfe");
        for path in [
            PathBuf::from("/"),
            PathBuf::new(),
            dirs.join(".."),
            dirs.join("real/.."),
            dirs.join("file"),
            dirs.join("file/below"),
            dirs.join("link"),
            dirs.join("dangling"),
            dirs.join(foreign),
        ] {
            refuse(scene, &path, ErrorKind::InvalidArgument);
        }
        fs::create_dir(dirs.join(foreign)).unwrap();
        let below = dirs.join(foreign).join("name");
        refuse(scene, &below, ErrorKind::InvalidArgument);
        let newline = scene.cas.prepare_root_dir(dirs.join("a\nb"), "app:1");
        assert_eq!(newline.unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(names(&dirs.join("real")), [""; 0]);
        assert_eq!(fs::read_to_string(dirs.join("file")).unwrap(), "kept");
        assert!(!dirs.join("a\nb").exists());
        assert!(scene.keys().is_empty() && scene.mounts().is_empty());
    });
}

#[test]
fn what_is_not_there_has_nothing_to_unmount_or_to_remove() {
    each(|scene| {
        let path = scene.path("absent").join(super::KEY);
        let refused = scene.cas.prepare_root_dir(&path, "app:1").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused}");
        assert!(refused.to_string().contains("parent"), "{refused}");
        for path in [path, scene.dir()] {
            assert!(!scene.cas.unmount_root_dir(&path).unwrap());
            assert!(!scene.cas.remove_root_dir(&path).unwrap());
        }
        // The parent is gone, but the snapshot is not.
        scene.prepare("app:1");
        assert!(scene.cas.unmount_root_dir(scene.dir()).unwrap());
        fs::remove_dir_all(scene.path("dirs")).unwrap();
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        fs::create_dir(scene.path("dirs")).unwrap();
        scene.assert_nothing_left();
    });
}
