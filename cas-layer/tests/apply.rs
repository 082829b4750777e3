//! Applying layers, friendly and hostile, with a canary beside the tree.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use cas_core::Kind;
use cas_layer::apply::Applied;
use common::{Cage, Header, Tar};

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn xattr(path: impl AsRef<Path>, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 16];
    let length = rustix::fs::lgetxattr(path.as_ref(), name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn hostile_paths_stay_inside() {
    let cage = Cage::new();
    let canary = cage.canary();
    // M01 to M04: names, links, chains of links.
    Tar::new()
        .file("../canary/file", "dead")
        .file("/abs", "1")
        .file("//abs2", "2")
        .file("x/../../../canary/y", "3")
        .symlink("a", &canary)
        .file("a/file", "dead")
        .symlink("up", "../../../../../..")
        .file(format!("up{canary}/file"), "dead")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(read(cage.root().join("canary/file")), "dead");
    assert_eq!(read(cage.root().join(format!(".{canary}/file"))), "dead");
    // M05: the link of one layer, the write of the next; whiteouts through links too.
    Tar::new()
        .file("a/later", "in")
        .file("a/.wh.file", "")
        .file("a/.wh..wh..opq", "")
        .file("up/.wh.canary", "")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(names(cage.root().join(format!(".{canary}"))), ["later"]);
    assert!(!cage.root().join("canary").exists());
    cage.assert_untouched();
}

#[test]
fn links_cannot_be_loops_or_chains_without_end() {
    let cage = Cage::new();
    let mut chain = Tar::new().symlink("l0", "..");
    for n in 1..60 {
        chain = chain.symlink(format!("l{n}"), format!("l{}", n - 1));
    }
    chain
        .clone()
        .file("l30/f", "x")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(read(cage.root().join("f")), "x");
    for path in ["l59/f", "loop/f"] {
        let tar = chain.clone().symlink("loop", "loop").file(path, "x");
        assert_eq!(tar.apply(&cage.root()).unwrap_err().kind(), Kind::Corrupt);
    }
    // Links that double at each step.
    let mut bomb = Tar::new().symlink("b0", ".");
    for n in 1..30 {
        bomb = bomb.symlink(format!("b{n}"), format!("b{0}/b{0}", n - 1));
    }
    let error = bomb.file("b29/f", "x").apply(&cage.root()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    cage.assert_untouched();
}

#[test]
fn hard_links_stay_inside_and_need_a_target() {
    let cage = Cage::new();
    let canary = cage.canary();
    for target in [
        "/etc/passwd",
        "../canary/file",
        "nowhere",
        "later",
        "d",
        "self",
    ] {
        let tar = Tar::new()
            .dir("d")
            .hardlink("self", target)
            .file("later", "");
        let error = tar.apply(&cage.root()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{target}: {error}");
    }
    Tar::new()
        .symlink("out", &canary)
        .hardlink("same", "out")
        .file("d/one", "1")
        .hardlink("two", "../d/one")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(
        fs::read_link(cage.root().join("same")).unwrap(),
        Path::new(&canary)
    );
    let inode = |name: &str| fs::metadata(cage.root().join(name)).unwrap().ino();
    assert_eq!(inode("two"), inode("d/one"));
    let through = Tar::new().symlink("out", &canary).hardlink("h", "out/file");
    assert_eq!(
        through.apply(&cage.root()).unwrap_err().kind(),
        Kind::Corrupt
    );
    // A new file in place of one name leaves the other name alone.
    Tar::new().file("two", "new").apply(&cage.root()).unwrap();
    assert_eq!(
        (
            read(cage.root().join("d/one")),
            read(cage.root().join("two"))
        ),
        ("1".into(), "new".into())
    );
    cage.assert_untouched();
}

#[test]
fn the_root_stays_a_directory() {
    let cage = Cage::new();
    for name in [".", "./", "/", "", "a/.."] {
        for flag in *b"0126" {
            let member = Header::new(flag, name).link(cage.canary());
            let error = Tar::new()
                .member(member, b"")
                .apply(&cage.root())
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{name} {flag}");
        }
    }
    let root = Header::new(b'5', "./").mode(0o711).owner(7, 8);
    Tar::new().member(root, b"").apply(&cage.root()).unwrap();
    let meta = fs::metadata(cage.root()).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o711, 7, 8)
    );
    assert_eq!(meta.mtime(), 1_000_000_000);
    cage.assert_untouched();
}

#[test]
fn types_replace_each_other() {
    let cage = Cage::new();
    let root = cage.root();
    // M08, M12: a directory becomes a link, then gets a child, in one layer and over two.
    Tar::new()
        .file("d/old", "")
        .dir("real")
        .symlink("d", "real")
        .file("d/new", "n")
        .apply(&root)
        .unwrap();
    assert_eq!(names(root.join("real")), ["new"]);
    Tar::new()
        .symlink("real", cage.canary())
        .file("d/x", "")
        .apply(&root)
        .unwrap();
    assert!(root.join(format!(".{}/x", cage.canary())).exists());
    Tar::new()
        .file("n", "1")
        .dir("n")
        .file("n/a", "")
        .symlink("n", "z")
        .file("N", "")
        .apply(&root)
        .unwrap();
    assert_eq!(fs::read_link(root.join("n")).unwrap(), Path::new("z"));
    // A directory over a link replaces it; a parent that is a file becomes a directory.
    Tar::new()
        .dir("n")
        .file("N/deep/er", "e")
        .apply(&root)
        .unwrap();
    assert!(fs::symlink_metadata(root.join("n")).unwrap().is_dir());
    assert_eq!(read(root.join("N/deep/er")), "e");
    let parent = fs::metadata(root.join("N/deep")).unwrap();
    assert_eq!(
        (parent.mode() & 0o7777, parent.uid(), parent.mtime()),
        (0o755, 0, 0)
    );
    // A link that leads nowhere is a promise of a directory.
    Tar::new()
        .symlink("lib", "usr/lib")
        .file("lib/so", "s")
        .apply(&root)
        .unwrap();
    assert_eq!(read(root.join("usr/lib/so")), "s");
    cage.assert_untouched();
}

#[test]
fn odd_names_are_bytes() {
    let cage = Cage::new();
    let long = "n".repeat(255);
    let odd: [&[u8]; 4] = [
        b"new\nline",
        b"\xff\xfe latin",
        b"back\\slash",
        long.as_bytes(),
    ];
    let mut tar = Tar::new();
    for name in odd {
        tar = tar.pax(&[("path", name)]).file("x", "odd");
    }
    let deep = format!("{}{}", "0123456789/".repeat(363), "end");
    assert!(deep.len() > 3990 && deep.len() < 4096);
    tar.pax(&[("path", deep.as_bytes())])
        .file("x", "deep")
        .apply(&cage.root())
        .unwrap();
    for name in odd {
        assert_eq!(read(cage.root().join(OsStr::from_bytes(name))), "odd");
    }
    assert_eq!(read(cage.root().join(deep)), "deep");
}

#[test]
fn whiteouts_spare_their_own_layer() {
    let lower = || {
        Tar::new()
            .file("gone", "")
            .file("d/a", "")
            .file("d/sub/low", "")
            .file("d/sub/deep/low", "")
            .hardlink("d/hard", "d/a")
            .file("o/a", "")
            .file("o/sub/low", "")
            .file("file", "")
            .symlink("link", "o")
    };
    let whiteouts = [
        ".wh.gone",
        ".wh.absent",
        "no/where/.wh.x",
        "file/.wh.inner",
        ".wh.d",
    ];
    for first in [true, false] {
        let cage = Cage::new();
        lower().apply(&cage.root()).unwrap();
        let mut tar = Tar::new();
        let hide = |mut tar: Tar| {
            for whiteout in whiteouts {
                tar = tar.file(whiteout, "");
            }
            // The opaque marker goes through a link, the members do not.
            tar.file("link/.wh..wh..opq", "")
                .file("o/sub/.wh..wh..opq", "")
        };
        if first {
            tar = hide(tar);
        }
        tar = tar
            .hardlink("o/kept", "file")
            .file("o/sub/up", "")
            .file("o/a", "new");
        tar = tar.file("d/sub/up", "").file("gone2", "");
        if !first {
            tar = hide(tar);
        }
        tar.apply(&cage.root()).unwrap();
        let root = cage.root();
        assert_eq!(names(&root), ["d", "file", "gone2", "link", "o"]);
        assert_eq!(names(root.join("d")), ["sub"]);
        assert_eq!(names(root.join("d/sub")), ["up"]);
        assert_eq!(names(root.join("o")), ["a", "kept", "sub"]);
        assert_eq!(names(root.join("o/sub")), ["up"]);
        assert_eq!(read(root.join("o/a")), "new");
    }
    for bad in [".wh.", ".wh..", ".wh...", "d/.wh."] {
        let error = Tar::new()
            .file(bad, "")
            .apply(&Cage::new().root())
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{bad}");
    }
}

#[test]
fn an_opaque_root_spares_parents_of_members() {
    let cage = Cage::new();
    Tar::new()
        .file("a/b/low", "")
        .file("a/low", "")
        .file("c/low", "")
        .apply(&cage.root())
        .unwrap();
    let tar = Tar::new()
        .file("a/b/up", "")
        .file("c/.wh.low", "")
        .file(".wh..wh..opq", "");
    tar.apply(&cage.root()).unwrap();
    assert_eq!(names(cage.root()), ["a"]);
    assert_eq!(
        (names(cage.root().join("a")), names(cage.root().join("a/b"))),
        (vec!["b".into()], vec!["up".into()])
    );
}

#[test]
fn times_of_directories_come_back() {
    let cage = Cage::new();
    let root = cage.root();
    Tar::new()
        .dir("d")
        .dir("d/e")
        .file("d/e/f", "")
        .symlink("l", "d/e")
        .apply(&root)
        .unwrap();
    let mtime = |path: &str| fs::metadata(root.join(path)).unwrap().mtime();
    assert_eq!((mtime("d"), mtime("d/e")), (1_000_000_000, 1_000_000_000));
    // Through a link, by whiteouts, and by more directories than are held open.
    let mut tar = Tar::new().file("l/g", "").file("d/e/.wh.f", "");
    for n in 0..300 {
        tar = tar.file(format!("many/{n}/f"), "");
    }
    tar.file("d/e/h", "").apply(&root).unwrap();
    assert_eq!(
        (mtime("d"), mtime("d/e"), mtime("many/299")),
        (1_000_000_000, 1_000_000_000, 0)
    );
    assert_eq!(names(root.join("d/e")), ["g", "h"]);
}

#[test]
fn metadata_is_exact() {
    let cage = Cage::new();
    let root = cage.root();
    // A version 2 capability set: cap_net_raw, effective.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    Tar::new()
        .member(Header::new(b'5', "setgid").mode(0o2777).owner(5, 6), b"")
        .file("setgid/inherits", "")
        .pax(&[("SCHILY.xattr.security.capability", capability)])
        .member(
            Header::new(b'0', "su").mode(0o6755).owner(1, 2).size(3),
            b"abc",
        )
        .member(Header::new(b'2', "link").link("nowhere").owner(9, 9), b"")
        .member(Header::new(b'6', "fifo").mode(0o666).owner(0, 3), b"")
        .member(Header::new(b'4', "block").mode(0o660).device(8, 0), b"")
        .member(Header::new(b'3', "null").mode(0o1666).device(1, 3), b"")
        .member(Header::new(b'5', "closed").mode(0), b"")
        .file("closed/in", "x")
        .pax(&[("mtime", b"-142182000.25"), ("uid", b"4294967294")])
        .file("old", "")
        .apply(&root)
        .unwrap();
    let stat = |name: &str| {
        let meta = fs::symlink_metadata(root.join(name)).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    assert_eq!(stat("setgid"), (0o2777, 5, 6));
    assert_eq!(stat("setgid/inherits"), (0o644, 0, 0));
    assert_eq!(stat("su"), (0o6755, 1, 2));
    assert_eq!(
        xattr(root.join("su"), "security.capability").unwrap(),
        capability
    );
    assert_eq!(stat("link"), (0o777, 9, 9));
    assert_eq!(
        fs::symlink_metadata(root.join("link")).unwrap().mtime(),
        1_000_000_000
    );
    assert_eq!(stat("fifo"), (0o666, 0, 3));
    assert!(
        fs::metadata(root.join("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert_eq!(
        (stat("block"), stat("null")),
        ((0o660, 0, 0), (0o1666, 0, 0))
    );
    let null = fs::metadata(root.join("null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!((stat("closed"), stat("old").1), ((0, 0, 0), 4_294_967_294));
    let old = fs::metadata(root.join("old")).unwrap();
    assert_eq!((old.mtime(), old.mtime_nsec()), (-142_182_001, 750_000_000));
}

#[test]
fn control_data_of_others_is_never_set() {
    let cage = Cage::new();
    let root = cage.root();
    let forbidden = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.metacopy",
        "security.selinux",
        "system.nfs4_acl",
    ];
    for kind in *b"05" {
        let mut tar = Tar::new();
        for name in forbidden {
            let key = format!("SCHILY.xattr.{name}");
            tar = tar.pax(&[(&key, b"y")]).member(Header::new(kind, "x"), b"");
        }
        let applied = tar.apply(&root).unwrap();
        assert_eq!(applied.warnings.len(), forbidden.len());
        for name in forbidden {
            assert_eq!(
                xattr(root.join("x"), name).filter(|_| name != "security.selinux"),
                None
            );
        }
    }
    let zero = Tar::new()
        .file("keep", "k")
        .member(Header::new(b'3', "keep").device(0, 0), b"");
    let Applied { warnings, .. } = zero.apply(&root).unwrap();
    assert_eq!(
        (warnings.len(), read(root.join("keep"))),
        (1, "k".to_owned())
    );
}

#[test]
fn xattrs_are_those_of_the_last_member() {
    let cage = Cage::new();
    let path = cage.root().join("d");
    let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.a", b"1"),
            ("SCHILY.xattr.user.b", b""),
            ("SCHILY.xattr.system.posix_acl_default", acl),
        ])
        .dir("d")
        .file("d/plain", "")
        .member(Header::new(b'6', "d/fifo").mode(0o666), b"")
        .pax(&[("SCHILY.xattr.trusted.l", b"t")])
        .symlink("link", "d")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(
        (xattr(&path, "user.a"), xattr(&path, "user.b")),
        (Some(b"1".to_vec()), Some(vec![]))
    );
    assert_eq!(
        xattr(cage.root().join("link"), "trusted.l"),
        Some(b"t".to_vec())
    );
    assert_eq!(xattr(&path, "system.posix_acl_default").unwrap(), acl);
    for child in ["plain", "fifo"] {
        assert_eq!(
            xattr(path.join(child), "system.posix_acl_access"),
            None,
            "{child}"
        );
    }
    assert_eq!(
        fs::metadata(path.join("plain")).unwrap().mode() & 0o7777,
        0o644
    );
    Tar::new()
        .pax(&[("SCHILY.xattr.user.b", b"2")])
        .dir("d")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(
        (xattr(&path, "user.a"), xattr(&path, "user.b")),
        (None, Some(b"2".to_vec()))
    );
    assert_eq!(xattr(&path, "system.posix_acl_default"), None);
    let broken = Tar::new()
        .pax(&[("SCHILY.xattr.system.posix_acl_access", b"zz")])
        .file("f", "");
    assert!(broken.apply(&cage.root()).is_err());
}

#[test]
fn holes_stay_holes() {
    let cage = Cage::new();
    let size = (32u64 << 30).to_string();
    Tar::new()
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", b"1073741824,5"),
        ])
        .file("sparse", "abcde")
        .apply(&cage.root())
        .unwrap();
    let meta = fs::metadata(cage.root().join("sparse")).unwrap();
    assert_eq!(meta.len(), 32 << 30);
    assert!(meta.blocks() * 512 < 1 << 20);
    let mut bytes = [0; 7];
    let file = fs::File::open(cage.root().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, (1 << 30) - 1).unwrap();
    assert_eq!(&bytes, b"\0abcde\0");
}

#[test]
fn a_full_file_system_is_said_before_it_is_full() {
    let cage = Cage::new();
    let root = cage.root();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "none"])
        .arg(&root)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a tmpfs cannot be mounted here");
        return;
    }
    let big = Tar::new().file("big", vec![1; 1 << 20]).apply(&root);
    let mut many = Tar::new();
    for n in 0..30 {
        many = many.file(n.to_string(), "");
    }
    let many = many.apply(&root);
    let unmounted = Command::new("umount")
        .arg("-l")
        .arg(&root)
        .status()
        .unwrap();
    assert!(unmounted.success());
    assert_eq!(big.unwrap_err().kind(), Kind::Full);
    assert_eq!(many.unwrap_err().kind(), Kind::Full);
}

#[test]
fn cost_grows_with_the_layer_only() {
    // M31: whiteouts in one directory, an opaque marker for each of many members, nested ones.
    let time = |n: usize| {
        let cage = Cage::new();
        let mut lower = Tar::new();
        let mut upper = Tar::new();
        for n in 0..n {
            lower = lower
                .file(format!("w/{n}"), "")
                .file(format!("o/low{n}"), "");
            upper = upper
                .file(format!("w/.wh.{n}"), "")
                .file(format!("o/up{n}"), "");
            upper = upper.file("o/.wh..wh..opq", "");
        }
        for depth in (1..40).rev() {
            upper = upper.file(format!("o{}/.wh..wh..opq", "/d".repeat(depth)), "");
        }
        lower.apply(&cage.root()).unwrap();
        let start = std::time::Instant::now();
        upper.apply(&cage.root()).unwrap();
        let spent = start.elapsed();
        assert_eq!(names(cage.root().join("w")), [""; 0]);
        assert_eq!(names(cage.root().join("o")).len(), n);
        spent
    };
    time(200);
    let (small, large) = (time(1500), time(12_000));
    // Eight times the work; the square of it would be 64 times.
    assert!(large < small * 24, "{small:?} {large:?}");
}

#[test]
fn the_umask_does_not_matter() {
    let cage = Cage::new();
    symlink("x", cage.root().join("old")).unwrap();
    fs::set_permissions(cage.root(), fs::Permissions::from_mode(0o777)).unwrap();
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let applied = Tar::new()
        .member(Header::new(b'0', "old").mode(0o666), b"")
        .member(Header::new(b'5', "d").mode(0o1777), b"")
        .file("made/f", "")
        .apply(&cage.root());
    rustix::process::umask(umask);
    applied.unwrap();
    let mode = |name: &str| fs::symlink_metadata(cage.root().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("old"), mode("d"), mode("made")),
        (0o666, 0o1777, 0o755)
    );
}
