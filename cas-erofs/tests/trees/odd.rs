//! Unusual layers: large directories, long links, many attributes, sparse files, incomplete blocks.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use cas_core::{ErrorKind, limit};
use testkit::archive::{Header, Tar};
use testkit::tree::scan;

use crate::compare::{Mounted, apply, can_mount, compare, make};

#[test]
fn large_directories_and_long_names_are_found() {
    if !can_mount() {
        return;
    }
    let mut tar = Tar::new();
    for n in 0..2000 {
        tar = tar.file(format!("many/{n}"), n.to_string());
    }
    for length in [1, 100, 101, 200, 255] {
        for first in [1u8, b'!', b'-', 0xff] {
            let mut name = b"long/".to_vec();
            name.resize(name.len() + length, first);
            let end = [&name[..], b"x"].concat();
            if length < 100 {
                tar = tar.file(&end, "");
            }
            let record = ("path", &name[..]);
            tar = tar.pax(&[record]).file("n", "");
        }
    }
    let layers = [tar.end()];
    assert!(compare(&layers));
    let mounted = Mounted::new(&layers).unwrap();
    assert!(!mounted.path().join("many/2000").exists());
    assert!(!mounted.path().join("many/").join("n".repeat(255)).exists());
}

#[test]
fn links_of_any_length_are_read() {
    if !can_mount() {
        return;
    }
    let mut tar = Tar::new();
    for length in [1, 60, 447, 448, 449, 480, 511, 512, 513, 1024, 4095] {
        let target = "t".repeat(length);
        let record = ("linkpath", target.as_bytes());
        tar = tar.pax(&[record]).symlink(length.to_string(), "t");
    }
    assert!(compare(&[tar.end()]));
}

#[test]
fn attributes_are_shared_and_many() {
    if !can_mount() {
        return;
    }
    let names: Vec<String> = (0..300)
        .map(|n| format!("SCHILY.xattr.user.n{n}"))
        .collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b"v"[..])).collect();
    let one = ("SCHILY.xattr.user.n1", &b"v"[..]);
    let own = ("SCHILY.xattr.security.other", &b"only here"[..]);
    let tar = Tar::new()
        .pax(&[one, own])
        .file("a", "a")
        .pax(&[one])
        .dir("d")
        .pax(&records[..250])
        .file("many", "")
        .pax(&records[..250])
        .file("again", "");
    // The file system of the directory has no room for so many attributes, so only the image is
    // read.
    let mounted = Mounted::new(&[tar.end()]).unwrap();
    let found = scan(&mounted.path());
    let count = |path: &str| found[std::path::Path::new(path)].5.len();
    assert_eq!(["a", "d", "many", "again"].map(count), [2, 1, 250, 250]);
    let more = Tar::new()
        .pax(&records)
        .file("x", "")
        .pax(&records)
        .file("y", "");
    let mounted = Mounted::new(&[more.end()]).unwrap();
    assert_eq!(
        scan(&mounted.path())[std::path::Path::new("x")].5.len(),
        300
    );
}

#[test]
fn access_lists_are_those_that_the_kernel_sets() {
    if !can_mount() {
        return;
    }
    let list = |entries: &[(u16, u16)]| {
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, permissions) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(permissions.to_le_bytes());
            list.extend(
                if matches!(tag, 2 | 8) {
                    1000u32
                } else {
                    u32::MAX
                }
                .to_le_bytes(),
            );
        }
        list
    };
    let plain = list(&[(1, 7), (4, 5), (0x20, 0)]);
    let named = list(&[(1, 6), (2, 7), (4, 4), (0x10, 5), (0x20, 4)]);
    let (access, default) = (
        "SCHILY.xattr.system.posix_acl_access",
        "SCHILY.xattr.system.posix_acl_default",
    );
    let tar = Tar::new()
        .pax(&[(access, &plain)])
        .member(Header::new(b'0', "plain").mode(0o600), "")
        .pax(&[(access, &named)])
        .member(Header::new(b'0', "named").mode(0o4711), "")
        .pax(&[(access, &named), (default, &plain)])
        .dir("d");
    assert!(compare(&[tar.end()]));
    // A value of no bytes, another version, and lists that other types of files cannot have.
    let other = [&[1, 0, 0, 0], &named[4..]].concat();
    for (access_list, default_list) in [(&[][..], &[][..]), (&other, &other), (&named, &plain)] {
        let lists = [(access, access_list), (default, default_list)];
        let tar = Tar::new().pax(&lists).dir("d");
        let tar = tar.pax(&lists).file("f", "").pax(&lists);
        assert!(compare(&[tar.symlink("l", "f").end()]));
    }
    let tar = Tar::new().pax(&[(default, &list(&[(1, 7)]))]).file("f", "");
    assert!(compare(&[tar.end()]));
    for bad in [&named[..named.len() - 1], &list(&[(0x40, 7)])] {
        for (key, flag) in [
            (access, b'0'),
            (access, b'2'),
            (default, b'5'),
            (default, b'0'),
        ] {
            let member = Header::new(flag, "x").link("y");
            let tar = Tar::new().pax(&[(key, bad)]).member(member, "");
            assert!(!compare(&[tar.end()]), "{key} {flag}");
        }
    }
}

#[test]
fn capabilities_are_those_that_the_kernel_sets() {
    if !can_mount() {
        return;
    }
    let key = "SCHILY.xattr.security.capability";
    let value = |version: u32, length| {
        let mut value = version.to_le_bytes().to_vec();
        value.resize(length, 1);
        value
    };
    let member = |value: &[u8], flag| {
        let tar = Tar::new().pax(&[(key, value)]);
        tar.member(Header::new(flag, "x").link("y"), "").end()
    };
    for flag in *b"0256" {
        assert!(compare(&[member(&value(0x0200_0001, 20), flag)]));
        assert!(compare(&[member(&value(0x0300_0000, 24), flag)]));
        for bad in [value(0x0200_0000, 24), value(0x0100_0000, 12), Vec::new()] {
            assert!(!compare(&[member(&bad, flag)]), "{flag} {bad:?}");
        }
    }
}

/// The kernel refuses these names whatever the file system.
#[test]
fn names_of_attributes_without_an_end_are_left_out() {
    if !can_mount() {
        return;
    }
    for name in ["user.", "trusted.", "security."] {
        let key = format!("SCHILY.xattr.{name}");
        assert!(compare(&[Tar::new()
            .pax(&[(&key, b"x")])
            .file("x", "")
            .end()]));
    }
}

/// Returns layers with sparse files.
pub(crate) fn sparse_layers() -> [Vec<u8>; 3] {
    let map = b"2\n700\n10\n1048576\n5\n";
    let mut body = map.to_vec();
    body.resize(512, 0);
    body.extend(b"0123456789abcde");
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"9000001"),
    ];
    let sparse = || {
        Tar::new()
            .pax(&records)
            .file("GNUSparseFile.1/sparse", &body)
    };
    [
        sparse().file("a", "b").end(),
        Tar::new().file("c", "d").end(),
        sparse().end(),
    ]
}

#[test]
fn sparse_files_have_their_content_and_take_no_more_space() {
    if !can_mount() {
        return;
    }
    let layers = sparse_layers();
    assert!(compare(&layers));
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("image");
    make(&layers, &file).unwrap();
    let taken = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&file).unwrap()) * 512;
    assert!(taken < 1 << 20, "{taken}");
}

/// Returns a layer of files with attributes of many lengths, whose last blocks in the tar cannot be
/// shown, because foreign bytes follow.
pub(crate) fn attributes_before_ends() -> Vec<u8> {
    let mut tar = Tar::new();
    for length in 1..40 {
        for size in [480, 481, 492, 493, 508, 511] {
            let value = format!("{size:length$}");
            tar = tar
                .pax(&[("SCHILY.xattr.user.a", value.as_bytes())])
                .raw(
                    Header::new(b'0', format!("{length}-{size}"))
                        .size(size)
                        .sealed(false),
                )
                .raw(vec![b'a'; size as usize])
                .raw(vec![b'z'; 512 - size as usize]);
        }
    }
    tar.end()
}

#[test]
fn ends_of_files_with_attributes_fit_into_blocks() {
    if can_mount() {
        assert!(compare(&[attributes_before_ends()]));
    }
}

#[test]
fn nothing_foreign_is_seen_after_the_end_of_a_file() {
    if !can_mount() {
        return;
    }
    let odd = |name: &str| {
        let header = Header::new(b'0', name).size(700);
        Tar::new()
            .raw(header.sealed(false))
            .raw([b'a'; 700])
            .raw([b'z'; 324])
    };
    let cut = {
        let mut tar = Tar::new().file("cut", [b'c'; 1000]).0;
        tar.truncate(512 + 1000);
        tar
    };
    let layers = [odd("odd").end(), cut];
    assert!(compare(&layers));
    let mounted = Mounted::new(&layers).unwrap();
    for (name, size) in [("odd", 700), ("cut", 1000)] {
        // A mapping shows the whole page.
        let program = format!(
            "import ctypes, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
fd = os.open('{}', os.O_RDONLY)
at = libc.mmap(None, 4096, 1, 2, fd, 0)
print(len(ctypes.string_at(at, 4096).rstrip(b'\\0')))",
            mounted.path().join(name).display()
        );
        let found = Command::new("python3").args(["-c", &program]).output();
        let found = found.unwrap();
        let found = String::from_utf8_lossy(&found.stdout);
        assert_eq!(found.trim(), size.to_string());
    }
}

#[test]
fn files_beyond_4_gib_are_found() {
    if !can_mount() {
        return;
    }
    let (offset, size) = (5u64 << 30, (5u64 << 30) + 3);
    let map = format!("{offset},3");
    let size = size.to_string();
    let records: [(&str, &[u8]); 3] = [
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", b"1"),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    let large = || Tar::new().pax(&records);
    let layers = [
        large().file("one", "end").end(),
        large().file("two", "END").file("small", "after").end(),
    ];
    let mounted = Mounted::new(&layers).unwrap();
    for (name, expected) in [("one", b"end"), ("two", b"END")] {
        let file = fs::File::open(mounted.path().join(name)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), offset + 3);
        let mut end = [1; 5];
        file.read_exact_at(&mut end, offset - 2).unwrap();
        assert_eq!(end, [&[0, 0], &expected[..]].concat()[..], "{name}");
    }
    assert_eq!(fs::read(mounted.path().join("small")).unwrap(), b"after");
}

#[test]
fn as_many_layers_as_an_image_may_have_are_found() {
    if !can_mount() {
        return;
    }
    let layer = |n: usize| Tar::new().file(format!("f{n}"), n.to_string()).end();
    let layers: Vec<_> = (0..limit::LAYERS).map(layer).collect();
    let mounted = Mounted::new(&layers).unwrap();
    for n in 0..limit::LAYERS {
        let found = fs::read_to_string(mounted.path().join(format!("f{n}")));
        assert_eq!(found.unwrap(), n.to_string());
    }
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let layers = [
        Tar::new().file("a", "1").dir("d").symlink("s", "a").end(),
        Tar::new().file("d/x", [7; 5000]).hardlink("h", "d/x").end(),
    ];
    let temp = tempfile::tempdir().unwrap();
    let files = ["one", "two"].map(|name| temp.path().join(name));
    for file in &files {
        make(&layers, file).unwrap();
    }
    assert_eq!(fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 2);
}

#[test]
fn bad_layers_make_no_image() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("image");
    fs::write(&file, "before").unwrap();
    let cut = Tar::new().file("a", [0; 100]).0[..600].to_vec();
    for (layer, kind) in [
        (vec![1; 512], ErrorKind::Corrupt),
        (cut, ErrorKind::Corrupt),
        (Tar::new().hardlink("a", "absent").end(), ErrorKind::Corrupt),
        (Tar::new().symlink("a", "").end(), ErrorKind::Corrupt),
    ] {
        let error = make(&[layer], &file).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"before");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }
    assert!(apply(&[Tar::new().end()]).is_ok());
}
