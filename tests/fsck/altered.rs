//! Files of unpacked images that something else has changed. A mount only looks at the directories
//! of snapshots, so it shows such changes. A check finds them.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::archive::Tar;

use crate::common::layout::layout;
use crate::common::tree::differences;
use crate::common::{can, cas, ok};

/// A way to change the files of a layer, which are in this directory.
type Change = fn(&Path);

/// Changes, the command that finds them, and what it reports.
const ROUNDS: [(&[Change], &[&str], &[&str]); 3] = [
    (
        &[
            |layer| fs::write(layer.join("emptied"), "").unwrap(),
            |layer| fs::write(layer.join("grown"), "grown and more").unwrap(),
            |layer| {
                let opened = Permissions::from_mode(0o4777);
                fs::set_permissions(layer.join("opened"), opened).unwrap();
            },
        ],
        &["fsck"],
        &[
            "emptied was changed",
            "grown was changed",
            "opened was changed",
        ],
    ),
    (
        &[
            |layer| fs::remove_file(layer.join("removed")).unwrap(),
            |layer| fs::write(layer.join("added"), "added").unwrap(),
            |layer| {
                fs::remove_file(layer.join("link")).unwrap();
                symlink("/etc/shadow", layer.join("link")).unwrap();
            },
        ],
        &["fsck"],
        &[
            "removed is missing",
            "added was not committed",
            "link was changed",
        ],
    ),
    (
        &[|layer| {
            let file = layer.join("flipped");
            let before = fs::metadata(&file).unwrap().modified().unwrap();
            fs::write(&file, "glipped").unwrap();
            let file = File::options().write(true).open(&file).unwrap();
            file.set_modified(before).unwrap();
        }],
        &["fsck", "--read-data"],
        &["flipped has other bytes than at the commit"],
    ),
];

fn layer(name: &str) -> Tar {
    let files = ["emptied", "grown", "opened", "removed", "flipped"];
    let add = |layer: Tar, file| layer.file(format!("{name}/{file}"), file);
    let layer = Tar::new().dir("./").dir(format!("{name}/"));
    let layer = files.into_iter().fold(layer, add);
    layer.symlink(format!("{name}/link"), "emptied")
}

#[test]
fn a_mount_shows_changed_files_until_a_check_has_found_and_healed_them() {
    if !can(&["umount"]) {
        return;
    }
    for snapshotter in ["native", "overlay"] {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let [root, image, plain, target] =
            ["root", "image", "plain", "target"].map(|name| scratch.path().join(name));
        fs::create_dir(&target).unwrap();
        layout(&image, vec![layer("low"), layer("top")]);
        ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
        ok(cas(&root)
            .args(["import", "--unpack", "--name", "app:1"])
            .arg(&image));
        ok(cas(&root).args(["unpack", "app:1"]).arg(&plain));
        let shown = |options: &[&str]| {
            ok(cas(&root)
                .arg("mount")
                .args(options)
                .arg("app:1")
                .arg(&target));
            let found = differences(&plain, &target);
            ok(cas(&root).arg("umount").arg(&target));
            found
        };
        for (changes, check, expected) in ROUNDS {
            let snapshots = root.join("snapshots").join(snapshotter).join("snapshots");
            let trees = fs::read_dir(snapshots).unwrap();
            let trees: Vec<_> = trees.map(|tree| tree.unwrap().path().join("fs")).collect();
            let is_top = |tree: &&PathBuf| tree.join("top").exists();
            let low = trees.iter().find(|tree| !is_top(tree)).unwrap();
            let altered = [(trees.iter().find(is_top).unwrap(), "top"), (low, "low")];
            for (tree, name) in &altered {
                changes.iter().for_each(|change| change(&tree.join(name)));
            }
            for options in [&[][..], &["--rw"]] {
                let found = shown(options);
                assert!(found.len() >= changes.len(), "{options:?} {found:?}");
            }
            if check.len() > 1 {
                ok(cas(&root).arg("fsck"));
            }
            let found = cas(&root).args(check).arg("--json").output().unwrap();
            assert_eq!(found.status.code(), Some(4), "{found:?}");
            let found = String::from_utf8(found.stdout).unwrap();
            let found = found
                .lines()
                .map(|line| serde_json::from_str(line).unwrap());
            let found: Vec<Value> = found.collect();
            for (_, name) in &altered {
                for expected in expected {
                    let expected = format!("/{name}/{expected}");
                    let is_it = |one: &Value| one["detail"].as_str().unwrap().contains(&expected);
                    assert!(found.iter().any(is_it), "{expected}: {found:#?}");
                }
            }
            ok(cas(&root).args(check).arg("--repair"));
            ok(cas(&root).args(check));
            assert_eq!(shown(&[]), [""; 0], "{snapshotter}");
            assert_eq!(shown(&["--rw"]), [""; 0], "{snapshotter}");
        }
    }
}

/// Changes of extended attributes and of the root directory, and what a check reports of them in a
/// tree whose files are in this directory.
const HIDDEN: [(&str, Change, &str); 8] = [
    (
        "capability",
        |tree| {
            set(
                &tree.join("top/emptied"),
                "security.capability",
                &capability(),
            )
        },
        "/top/emptied was changed",
    ),
    (
        "new attribute",
        |tree| set(&tree.join("top/grown"), "trusted.new", b"x"),
        "/top/grown was changed",
    ),
    (
        "other value",
        |tree| set(&tree.join("top/kept"), "trusted.kept", b"other"),
        "/top/kept was changed",
    ),
    (
        "lost attribute",
        |tree| rustix::fs::lremovexattr(tree.join("top/kept"), "trusted.kept").unwrap(),
        "/top/kept was changed",
    ),
    (
        "opaque",
        |tree| set(&tree.join("top"), "trusted.overlay.opaque", b"y"),
        "/top was changed",
    ),
    (
        "redirect",
        |tree| set(&tree.join("top"), "trusted.overlay.redirect", b"/low"),
        "/top was changed",
    ),
    (
        "attribute of the root",
        |tree| set(tree, "trusted.new", b"x"),
        "/ was changed",
    ),
    (
        "mode of the root",
        |tree| fs::set_permissions(tree, Permissions::from_mode(0o700)).unwrap(),
        "/ was changed",
    ),
];

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Version 2, effective: CAP_SETUID.
fn capability() -> Vec<u8> {
    [&[1, 0, 0, 2, 0x80][..], &[0; 15]].concat()
}

#[test]
fn changed_attributes_and_a_changed_root_directory_are_found_and_healed() {
    if !can(&["umount"]) {
        return;
    }
    for snapshotter in ["native", "overlay"] {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let [root, image, plain, target] =
            ["root", "image", "plain", "target"].map(|name| scratch.path().join(name));
        fs::create_dir(&target).unwrap();
        let kept = Tar::new()
            .pax(&[("SCHILY.xattr.trusted.kept", &b"value"[..])])
            .file("top/kept", "kept");
        // Overlayfs marks the directory of the topmost layer as opaque.
        let opaque = Tar::new().file("top/.wh..wh..opq", "").file("top/last", "");
        layout(&image, vec![layer("low"), layer("top"), kept, opaque]);
        ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
        ok(cas(&root)
            .args(["import", "--unpack", "--name", "app:1"])
            .arg(&image));
        ok(cas(&root).args(["fsck", "--read-data"]));
        ok(cas(&root).args(["unpack", "app:1"]).arg(&plain));
        for (name, change, expected) in HIDDEN {
            let trees = root.join("snapshots").join(snapshotter).join("snapshots");
            let trees = fs::read_dir(trees).unwrap();
            let mut trees = trees.map(|tree| tree.unwrap().path().join("fs"));
            let is_changed = |tree: &PathBuf| {
                let [emptied, kept] = ["emptied", "kept"].map(|file| tree.join("top").join(file));
                match expected.contains("kept") {
                    true => kept.exists(),
                    false => emptied.exists() && !kept.exists(),
                }
            };
            change(&trees.find(is_changed).unwrap());
            let found = cas(&root).args(["fsck", "--json"]).output().unwrap();
            assert_eq!(
                found.status.code(),
                Some(4),
                "{snapshotter}, {name}: {found:?}"
            );
            let found = String::from_utf8(found.stdout).unwrap();
            assert!(found.contains(expected), "{snapshotter}, {name}: {found}");
            ok(cas(&root).args(["fsck", "--repair"]));
            ok(cas(&root).args(["fsck", "--read-data"]));
            ok(cas(&root).arg("gc"));
        }
        ok(cas(&root).args(["mount", "app:1"]).arg(&target));
        let found = differences(&plain, &target);
        ok(cas(&root).arg("umount").arg(&target));
        assert_eq!(found, [""; 0], "{snapshotter}");
    }
}
