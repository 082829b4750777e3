//! Device nodes and set-id programs of an image, where other users of the machine could use them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::layout::layout;
use common::{can, cas, fails, ok, text};
use testkit::archive::{Header, Tar};

/// Returns a root with the image `app`, whose root directory has this mode.
fn imported(scratch: &Path, mode: u64, files: Tar) -> std::path::PathBuf {
    let (root, source) = (scratch.join("root"), scratch.join("layout"));
    let top = Tar::new().member(Header::new(b'5', "./").mode(mode), "");
    layout(&source, vec![top, files]);
    ok(cas(&root).args(["import", "--name", "app"]).arg(&source));
    fs::remove_dir_all(source).unwrap();
    root
}

fn dangerous() -> Tar {
    Tar::new()
        .file("bin", "")
        .member(Header::new(b'0', "su").mode(0o4755), "")
        .member(Header::new(b'0', "wall").mode(0o2755), "")
        .member(Header::new(b'4', "disk").mode(0o660).device(8, 0), "")
        .member(Header::new(b'3', "null").mode(0o666).device(1, 3), "")
        // Version 2, effective: CAP_SETUID.
        .pax(&[(
            "SCHILY.xattr.security.capability",
            &[&[1, 0, 0, 2, 0x80][..], &[0; 15]].concat(),
        )])
        .member(Header::new(b'0', "capable").mode(0o755), "")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Returns what an unpack prints on standard error.
fn unpack(root: &Path, target: &Path, options: &[&str]) -> String {
    let mut unpack = cas(root);
    let out = unpack
        .args(["unpack", "app"])
        .arg(target)
        .args(options)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stderr)
}

/// Returns a directory that others can reach, and that is not on a restricted mount.
fn open_scratch() -> tempfile::TempDir {
    let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
    scratch
}

/// Returns whether the user 65534 can reach a file.
fn reached(path: &Path) -> bool {
    let mut other = Command::new("setpriv");
    other
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg("stat")
        .arg(path);
    other.output().unwrap().status.success()
}

#[test]
fn an_unpack_says_once_what_others_can_reach_and_private_closes_it() {
    if !can(&["setpriv"]) {
        return;
    }
    let scratch = open_scratch();
    let root = imported(scratch.path(), 0o755, dangerous());
    let [open, private, made] = ["open", "private", "made"].map(|name| scratch.path().join(name));
    let said = unpack(&root, &open, &[]);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("device nodes or privileged programs"),
        "{said}"
    );
    assert!(said.contains("(5 in total)"), "{said}");
    assert!(said.contains(open.to_str().unwrap()), "{said}");
    assert!(said.contains("--private"), "{said}");
    assert_eq!(mode(&open), 0o755);
    assert!(reached(&open.join("su")));

    fs::create_dir(&made).unwrap();
    fs::set_permissions(&made, Permissions::from_mode(0o777)).unwrap();
    for target in [&private, &made] {
        assert_eq!(unpack(&root, target, &["--private"]), "");
        assert_eq!(mode(target), 0o700);
        assert_eq!(mode(&target.join("su")), 0o4755);
        assert!(!reached(&target.join("su")));
    }
}

#[test]
fn the_owner_of_a_directory_is_another_user() {
    if !can(&["setpriv"]) {
        return;
    }
    let scratch = open_scratch();
    let target = scratch.path().join("tree");
    for (directory, program) in [("./", "su"), ("d/", "d/su")] {
        let directory = Header::new(b'5', directory).mode(0o700).owner(65534, 0);
        let program_of_root = Header::new(b'0', program).mode(0o4755);
        let files = Tar::new().member(directory, "").member(program_of_root, "");
        let root = imported(scratch.path(), 0o755, files);
        let said = unpack(&root, &target, &[]);
        assert!(said.contains("(1 in total)"), "{program}: {said}");
        assert!(reached(&target.join(program)), "{program}");
        fs::remove_dir_all(&target).unwrap();
        assert_eq!(unpack(&root, &target, &["--private"]), "", "{program}");
        assert!(!reached(&target.join(program)), "{program}");
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn nothing_is_said_of_what_others_cannot_reach() {
    if !can(&[]) {
        return;
    }
    let scratch = open_scratch();
    let target = scratch.path().join("tree");
    // The mode of the directory above, the mode of the root of the image, and its files.
    let su = |mode: u64| Tar::new().member(Header::new(b'0', "su").mode(mode), "");
    let below = |mode: u64| {
        let closed = Tar::new().member(Header::new(b'5', "d/").mode(mode), "");
        closed.member(Header::new(b'0', "d/su").mode(0o4755), "")
    };
    let cases: [(u32, u64, Tar); 8] = [
        (0o700, 0o755, dangerous()),
        (0o710, 0o755, dangerous()),
        (0o755, 0o700, dangerous()),
        (0o755, 0o755, Tar::new().file("plain", "")),
        (0o755, 0o755, su(0o4750)),
        (0o755, 0o755, su(0o4644)),
        (0o755, 0o755, below(0o750)),
        // On a directory, the set-group-ID bit gives the group to new files. It makes nothing
        // executable.
        (
            0o755,
            0o755,
            Tar::new().member(Header::new(b'5', "d/").mode(0o2777), ""),
        ),
    ];
    for (above, top, files) in cases {
        fs::set_permissions(scratch.path(), Permissions::from_mode(above)).unwrap();
        let root = imported(scratch.path(), top, files);
        let said = unpack(&root, &target, &[]);
        assert_eq!(said, "", "{above:o} {top:o}");
        assert_eq!(u64::from(mode(&target)), top);
        fs::remove_dir_all(&target).unwrap();
    }
}

/// The target directory stays private, although the image states a mode, an owner and an access
/// list for it that would open it.
#[test]
fn a_private_directory_stays_with_its_owner() {
    if !can(&[]) {
        return;
    }
    let scratch = open_scratch();
    let files = dangerous()
        .pax(&[(
            "SCHILY.acl.access",
            b"user::rwx,user:65534:rwx,group::rwx,mask::rwx,other::rwx",
        )])
        .member(Header::new(b'5', "./").mode(0o777).owner(65534, 65534), "");
    let root = imported(scratch.path(), 0o755, files);
    let target = scratch.path().join("tree");
    unpack(&root, &target, &["--private"]);
    assert_eq!(mode(&target), 0o700);
    assert_eq!(fs::metadata(&target).unwrap().uid(), 0);
}

#[test]
fn a_bundle_is_closed_to_others() {
    if !can(&["setpriv"]) {
        return;
    }
    let scratch = open_scratch();
    let root = imported(scratch.path(), 0o755, dangerous());
    let [made, foreign] = ["made", "foreign"].map(|name| scratch.path().join(name));
    for options in [&[][..], &["--mount"]] {
        fs::create_dir(&made).unwrap();
        fs::set_permissions(&made, Permissions::from_mode(0o755)).unwrap();
        let mut bundle = cas(&root);
        let out = bundle
            .args(["bundle", "app"])
            .arg(&made)
            .args(options)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_eq!(text(&out.stderr), "");
        assert_eq!(mode(&made), 0o700);
        assert_eq!(mode(&made.join("rootfs")), 0o755);
        if !options.is_empty() {
            ok(cas(&root).arg("umount").arg(made.join("rootfs")));
        }
        fs::remove_dir_all(&made).unwrap();
    }
    // A directory of another user cannot be closed, and nothing is written into it.
    fs::create_dir(&foreign).unwrap();
    fs::set_permissions(&foreign, Permissions::from_mode(0o777)).unwrap();
    let mut bundle = Command::new("setpriv");
    bundle
        .args(["--bounding-set", "-fowner", "--inh-caps", "-fowner", "--"])
        .arg(env!("CARGO_BIN_EXE_cas"))
        .arg("--root")
        .arg(&root)
        .args(["bundle", "app"])
        .arg(&foreign);
    rustix::fs::chown(
        &foreign,
        Some(rustix::fs::Uid::from_raw(65534)),
        Some(rustix::fs::Gid::from_raw(65534)),
    )
    .unwrap();
    let said = fails(&mut bundle, 1);
    assert!(said.contains("only the owner"), "{said}");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 0);
    assert_eq!(mode(&foreign), 0o777);
}
