//! Owners, modes, attributes and times.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use cas_core::ErrorKind;
use cas_layer::apply::Applied;

use super::{read, xattr};
use crate::common::{Apply, Cage, Header, Tar};

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
fn xattrs_that_control_the_host_are_never_set() {
    let cage = Cage::new();
    let root = cage.root();
    let forbidden = [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.metacopy",
        "security.selinux",
        "system.nfs4_acl",
        "user.cas.unfinished",
        "user.cas.other",
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

/// A member for the root directory replaces all its attributes except the mark. Without the mark,
/// what a killed unpack leaves would be taken for files of the user.
#[test]
fn the_mark_of_an_unfinished_directory_stays() {
    for name in [".", "./", "/", "", "a/.."] {
        let cage = Cage::new();
        let root = cage.root();
        for attribute in ["user.cas.unfinished", "user.old"] {
            rustix::fs::setxattr(&root, attribute, b"1", rustix::fs::XattrFlags::empty()).unwrap();
        }
        let tar = Tar::new().pax(&[("SCHILY.xattr.user.new", b"n")]);
        let applied = tar
            .member(Header::new(b'5', name), b"")
            .file("f", "x")
            .apply(&root);
        if applied.is_ok() {
            let old = xattr(root.clone(), "user.old");
            assert_eq!(old, None, "{name:?} describes the root");
        }
        assert!(applied.is_ok() || !name.starts_with('.'), "{name:?}");
        assert_eq!(
            xattr(root.clone(), "user.cas.unfinished"),
            Some(b"1".to_vec()),
            "{name:?}"
        );
    }
}

#[test]
fn xattrs_are_those_of_the_last_member() {
    let cage = Cage::new();
    let path = cage.root().join("d");
    let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\
                \x04\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
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
}

#[test]
fn a_malformed_attribute_is_damage_and_its_member_is_named() {
    let entry = |tag: u8| [tag, 0, 7, 0, 255, 255, 255, 255];
    let acl = |tags: &[u8]| {
        let entries = tags.iter().flat_map(|&tag| entry(tag));
        [2, 0, 0, 0].into_iter().chain(entries).collect()
    };
    let (capability, access) = ("security.capability", "system.posix_acl_access");
    let malformed: [(&str, Vec<u8>); 8] = [
        (capability, Vec::new()),
        (capability, b"xx".to_vec()),
        (
            capability,
            vec![0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (capability, vec![0, 0, 0, 2, 0, 0, 0, 0]),
        (access, b"zz".to_vec()),
        (access, acl(&[1, 1])),
        (access, acl(&[1, 99])),
        ("system.posix_acl_default", acl(&[32])),
    ];
    for (name, value) in malformed {
        let key = format!("SCHILY.xattr.{name}");
        for flag in *b"056" {
            if flag != b'5' && name.ends_with("default") {
                continue;
            }
            let cage = Cage::new();
            let tar = Tar::new().file("before", "").pax(&[(&key, &value)]);
            let tar = tar.member(Header::new(flag, "usr/member"), b"");
            let error = tar.apply(&cage.root()).unwrap_err();
            let said = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} {value:?}: {said}");
            assert!(said.contains("usr/member") && said.contains(name), "{said}");
        }
    }
    // This attribute is not malformed, but is refused for this type of file.
    let tar = Tar::new().pax(&[("SCHILY.xattr.user.x", b"x")]);
    let applied = tar
        .symlink("link", "to")
        .apply(&Cage::new().root())
        .unwrap();
    let expected = "the xattr user.x of link is left out: only files and directories can have it";
    assert_eq!(applied.warnings, [expected]);
}
