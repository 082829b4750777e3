//! Overlays of a user who is superuser only in a user namespace.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{can, copy_tool, demo_archive, ok, real_image, text};

/// The first of the ids that no user of this system has.
const USER: u32 = 100_000;
/// A number of ids that is larger than any id in the images of the tests.
const USERS: u32 = 5_000_000;

/// Returns a directory of [`USER`] with the tool in it. If user namespaces are not available,
/// prints that and returns `None`.
fn scratch() -> Option<tempfile::TempDir> {
    if !can(&["unshare", "setpriv"]) {
        return None;
    }
    let allowed = namespace(Map::Own, "true", Path::new("/"));
    if !allowed.status.success() {
        let said = text(&allowed.stderr);
        eprintln!("SKIPPED: user namespaces are not allowed here: {said}");
        return None;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    copy_tool(&dir.path().join("cas"));
    give(dir.path());
    Some(dir)
}

fn give(path: &Path) {
    chown(path, Some(USER), Some(USER)).unwrap();
}

/// The ids that a namespace has.
#[derive(Clone, Copy, PartialEq)]
enum Map {
    /// Only its creator, as the superuser.
    Own,
    /// All ids of images.
    Many,
}

/// Runs a script as superuser in a user and a mount namespace of [`USER`]. In the script, `$cas` is
/// the tool with a root in `dir`.
fn namespace(map: Map, script: &str, dir: &Path) -> Output {
    let script = format!("set -e; cas='./cas --no-progress --root root'; {script}");
    let mut unshare = Command::new("setpriv");
    let user = USER.to_string();
    unshare.args([
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "unshare",
        "-m",
        "--propagation",
        "slave",
    ]);
    match map {
        Map::Own => unshare.args(["-Ur", "sh", "-c", &script]),
        // The superuser writes the maps before anything else happens in the namespace.
        Map::Many => {
            let root = "read ready; exec setpriv --reuid 0 --regid 0 --clear-groups sh -c \"$0\"";
            unshare.args(["-U", "sh", "-c", root, &script])
        }
    };
    unshare
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = unshare.spawn().unwrap();
    let mut ready = child.stdin.take().unwrap();
    if map == Map::Many {
        let own = format!("/proc/{}/ns/user", child.id());
        let ours = fs::read_link("/proc/self/ns/user").unwrap();
        while fs::read_link(&own).unwrap() == ours {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        for file in ["uid_map", "gid_map"] {
            let file = format!("/proc/{}/{file}", child.id());
            fs::write(file, format!("0 {USER} {USERS}")).unwrap();
        }
    }
    // A script that ended early does not read its input.
    let _ = ready.write_all(b"\n");
    drop(ready);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", text(&output.stdout));
    text(&output.stdout) + &said
}

/// Creates a root with overlays, unpacks `image` in both namespaces and compares the trees.
const EVERYTHING: &str = "$cas init; $cas -q import --unpack --name app image; mkdir mnt; \
    name=$($cas --json images | sed -n '1s/.*\"name\":\"\\([^\"]*\\)\".*/\\1/p'); \
    $cas unpack $name plain; $cas mount $name mnt; \
    list() { (cd $1; find . -mindepth 1 -printf '%p %y %m %U:%G %T@ %l\\n' | sort); }; \
    list plain > expected; list mnt > found; diff expected found; diff -rq --no-dereference \
    --exclude null --exclude fifo plain mnt; $cas umount mnt; $cas mount --rw $name mnt; \
    rm -r mnt/*; ls -A mnt; $cas umount mnt; $cas rmi $name; $cas gc; wc -l < expected";

/// The superuser owns all files in the image of the demo.
#[test]
fn overlays_are_unpacked_and_mounted_by_a_user() {
    let Some(dir) = scratch() else { return };
    let archive = demo_archive(dir.path());
    fs::rename(archive, dir.path().join("image")).unwrap();
    let said = succeeds(&namespace(Map::Own, EVERYTHING, dir.path()));
    assert!(said.contains("snapshotter overlay"), "{said}");
}

/// A real image, with many owners, devices and whiteouts.
#[test]
fn an_image_of_many_owners_is_unpacked_if_they_are_mapped() {
    let Some(layout) = real_image("small") else {
        return;
    };
    let Some(dir) = scratch() else { return };
    copy(&layout, &dir.path().join("image"));
    let said = succeeds(&namespace(Map::Many, EVERYTHING, dir.path()));
    assert!(said.contains("snapshotter overlay"), "{said}");
    assert!(said.contains("devices of the layer are left out"), "{said}");
}

#[test]
fn an_owner_that_is_not_mapped_is_named() {
    let Some(layout) = real_image("small") else {
        return;
    };
    let Some(dir) = scratch() else { return };
    copy(&layout, &dir.path().join("image"));
    let refused = namespace(Map::Own, "$cas -q import --unpack image", dir.path());
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    // Layers are unpacked in parallel, so the error may be of either.
    let owners = ["owner 0:50 of the", "owner 3000000:4000000 of the"];
    assert!(owners.iter().any(|owner| said.contains(owner)), "{said}");
    assert!(said.contains("/etc/subuid"), "{said}");
    let left = namespace(Map::Own, "$cas snapshot ls --json", dir.path());
    assert_eq!(succeeds(&left), "");
}

/// Copies a layout so that everybody may read it, because the user is neither owner nor superuser.
fn copy(layout: &Path, to: &PathBuf) {
    ok(Command::new("cp").arg("-r").arg(layout).arg(to));
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    ok(Command::new("chmod").args(["-R", "a+rX"]).arg(to));
}
