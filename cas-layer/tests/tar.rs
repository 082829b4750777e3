//! Reads archives that are valid in every dialect, and archives that are invalid in every way.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use cas_core::{ErrorKind, limit};
use cas_layer::tar::{EntryKind, Reader, Region};
use common::{Header, Tar, read_all, record};

#[track_caller]
fn refused(archive: &[u8]) -> ErrorKind {
    read_all(archive)
        .expect_err("the archive must be refused")
        .kind()
}

fn sparse_pax(records: &[(&str, &[u8])], body: &[u8]) -> Vec<u8> {
    Tar::new()
        .pax(records)
        .file("GNUSparseFile.0/x", body)
        .file("next", "n")
        .end()
}

#[test]
fn extensions_apply_to_the_next_member_only() {
    let long = "d/".repeat(90) + "name";
    let archive = Tar::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("uid", b"3000000"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.b", b"a=\n\0"),
            ("SCHILY.xattr.user.a", b""),
        ])
        .file("short", "body")
        .file("plain", "")
        .extension(b'L', "gnu/long\0")
        .extension(b'K', "target\0")
        .symlink("y", "z")
        .extension(b'g', record("comment", "hello"))
        .hardlink("h", "plain")
        .end();
    let (members, warnings) = read_all(&archive).unwrap();
    let paths: Vec<_> = members.iter().map(|(entry, _)| &entry.path[..]).collect();
    assert_eq!(paths, [long.as_bytes(), b"plain", b"gnu/long", b"h"]);
    let (first, body) = &members[0];
    assert_eq!((&body[..], first.uid), (&b"body"[..], 3_000_000));
    assert_eq!(
        (first.mtime.seconds, first.mtime.nanoseconds),
        (-2, 500_000_000)
    );
    let xattrs = [
        (b"user.a".to_vec(), vec![]),
        (b"user.b".to_vec(), b"a=\n\0".to_vec()),
    ];
    assert_eq!(first.xattrs, xattrs);
    assert_eq!(members[1].0.uid, 0);
    assert_eq!(members[2].0.kind, EntryKind::Symlink(b"target".to_vec()));
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn one_size_for_body_and_next_header() {
    // The header has no size, pax has the whole size: the nested archive stays a body.
    let nested = Tar::new().file("smuggled", "evil").0;
    let size = nested.len().to_string();
    let archive = Tar::new()
        .pax(&[("size", size.as_bytes())])
        .raw(Header::new(b'0', "outer").sealed(false))
        .raw(&nested)
        .file("after", "x")
        .end();
    let (members, _) = read_all(&archive).unwrap();
    assert_eq!(members.len(), 2);
    assert_eq!(
        (&members[0].1, &members[1].0.path[..]),
        (&nested, &b"after"[..])
    );
    // The record of the size says where the next header is.
    let archive = Tar::new()
        .pax(&[("size", b"512")])
        .file("f", [7; 1024])
        .end();
    assert_eq!(refused(&archive), ErrorKind::Corrupt);
    // A body is refused where none is allowed. A size without a body is ignored.
    for flag in *b"123456" {
        let header = Header::new(flag, "x").link("y").size(512).device(1, 3);
        let body = Tar::new().member(header.clone(), [7; 512]).end();
        assert_eq!(refused(&body), ErrorKind::Corrupt);
        let (members, _) = read_all(&Tar::new().member(header, b"").file("z", "").end()).unwrap();
        assert_eq!((members.len(), members[0].0.size), (2, 0));
    }
    let link = Header::new(b'1', "x").link("y").size(5000);
    let (members, _) = read_all(&Tar::new().member(link, b"").file("z", "").end()).unwrap();
    assert_eq!((members.len(), members[0].0.size), (2, 0));
}

#[test]
fn malformed_extensions_are_never_skipped() {
    let bad: [&[u8]; 6] = [
        b"0 a=b\n",
        b"-1 a=b\n",
        b"99 a=b\n",
        b"5 a=b\n",
        b"7 a=b\nx",
        b"x",
    ];
    for flag in *b"xg" {
        for body in bad {
            let archive = Tar::new().extension(flag, body).file("f", "").end();
            assert_eq!(
                refused(&archive),
                ErrorKind::Corrupt,
                "{}",
                body.escape_ascii()
            );
        }
    }
    for (key, value) in [
        ("path", &b"a\0b"[..]),
        ("size", b"-1"),
        ("uid", b"root"),
        ("mtime", b"1e30"),
        ("mtime", b"99999999999999999999"),
        ("SCHILY.xattr.", b"x"),
        ("GNU.sparse.major", b"2"),
    ] {
        let archive = Tar::new().pax(&[(key, value)]).file("f", "").end();
        assert_eq!(refused(&archive), ErrorKind::Corrupt, "{key}");
    }
    let global = |key| {
        Tar::new()
            .extension(b'g', record(key, "1"))
            .file("f", "")
            .end()
    };
    assert_eq!(refused(&global("size")), ErrorKind::Corrupt);
    assert_eq!(refused(&global("path")), ErrorKind::Corrupt);
    assert_eq!(read_all(&global("uid")).unwrap().1.len(), 1);
    let twice = Tar::new()
        .pax(&[("uid", b"1")])
        .pax(&[("uid", b"2")])
        .file("f", "")
        .end();
    assert_eq!(refused(&twice), ErrorKind::Corrupt);
    let two_names = Tar::new()
        .extension(b'L', "a\0")
        .pax(&[("path", b"b")])
        .file("f", "")
        .end();
    assert_eq!(refused(&two_names), ErrorKind::Corrupt);
    for end in [vec![], vec![0; 1024]] {
        let alone = Tar::new().extension(b'L', "a\0").raw(end).0;
        assert_eq!(refused(&alone), ErrorKind::Corrupt);
    }
}

#[test]
fn limits_are_checked_before_anything_is_read() {
    // The declared size is refused although none of the bytes are there.
    for (flag, size) in [
        (b'x', 1 << 30),
        (b'g', 1 << 30),
        (b'L', 100 << 20),
        (b'K', 65 << 10),
    ] {
        let archive = Tar::new()
            .raw(Header::new(flag, "e").size(size).sealed(false))
            .0;
        assert_eq!(refused(&archive), ErrorKind::OutOfRange);
    }
    let path = |path: String| refused(&Tar::new().pax(&[("path", path.as_bytes())]).dir("x").end());
    assert_eq!(path("a/".repeat(10_000)), ErrorKind::OutOfRange);
    assert_eq!(
        path("a/".repeat(limit::PATH_DEPTH + 1)),
        ErrorKind::OutOfRange
    );
    assert_eq!(path("a".repeat(256)), ErrorKind::OutOfRange);
    assert_eq!(
        path(format!("{}x", "abcdefg/".repeat(512))),
        ErrorKind::OutOfRange
    );
    let many: Vec<u8> = (0..40_000)
        .flat_map(|n| record(&format!("SCHILY.xattr.user.{n:05}"), "v"))
        .collect();
    let many = Tar::new().extension(b'x', many).file("f", "").end();
    assert_eq!(refused(&many), ErrorKind::OutOfRange);
    let huge = Header::new(b'0', "f").size(0o77_777_777_777);
    assert!(read_all(&Tar::new().raw(huge.sealed(false)).0).is_err());
}

#[test]
fn numbers_and_checksums() {
    let negative = |at: usize, length: usize| {
        let mut header = Header::new(b'0', "f");
        header.put(at, &vec![0xff; length]);
        read_all(&Tar::new().member(header, b"").end())
    };
    assert_eq!(negative(124, 12).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(negative(108, 8).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(negative(136, 12).unwrap().0[0].0.mtime.seconds, -1);
    // 2^32-1 means "unchanged" to the kernel, so it is not a valid owner.
    for (value, fine) in [
        ("2147483648", true),
        ("4294967294", true),
        ("4294967295", false),
    ] {
        let archive = Tar::new()
            .pax(&[("uid", value.as_bytes())])
            .file("f", "")
            .end();
        assert_eq!(read_all(&archive).is_ok(), fine, "{value}");
    }
    let header = Header::new(b'0', b"n\xe9");
    assert!(read_all(&Tar::new().raw(header.clone().sealed(true)).end()).is_ok());
    let mut broken = header.sealed(false);
    broken[0] ^= 1;
    assert_eq!(refused(&Tar::new().raw(broken).end()), ErrorKind::Corrupt);
    for flag in *b"8DMNVXZ\xff" {
        assert_eq!(
            refused(&Tar::new().member(Header::new(flag, "f"), b"").end()),
            ErrorKind::Corrupt
        );
    }
    let device = Header::new(b'3', "d").device(0o10000, 0);
    assert_eq!(
        refused(&Tar::new().member(device, b"").end()),
        ErrorKind::OutOfRange
    );
}

#[test]
fn every_way_to_end_an_archive() {
    let whole = Tar::new().file("a", "x").file("b", "yy").0;
    let complete = [&whole[..], &[0; 1024]].concat();
    assert_eq!(read_all(&complete).unwrap().1, [""; 0]);
    for (archive, warned) in [
        (&whole[..], true),
        (&whole[..whole.len() - 500], true),
        (&whole[..whole.len() - 510], true),
        (&complete[..complete.len() - 512], true),
        (&[&complete[..], &[0; 9216]].concat(), false),
        (&[&complete[..], b"junk"].concat(), true),
        (&[], true),
    ] {
        let (members, warnings) = read_all(archive).unwrap();
        assert_eq!(members.len(), if archive.is_empty() { 0 } else { 2 });
        assert_eq!(!warnings.is_empty(), warned, "{warnings:?}");
    }
    // Inside a header, inside data, inside an end block, and a header after one end block.
    for cut in [100, 512, 1024 + 511, 1024 + 512 + 1] {
        assert_eq!(refused(&complete[..cut]), ErrorKind::Corrupt, "{cut}");
    }
    assert_eq!(refused(&complete[..complete.len() - 3]), ErrorKind::Corrupt);
    let lone = [&whole[..], &[0; 512], &complete].concat();
    assert_eq!(refused(&lone), ErrorKind::Corrupt);
}

#[test]
fn every_format_of_sparse_files() {
    let regions = vec![
        Region {
            offset: 4096,
            length: 3,
        },
        Region {
            offset: 8192,
            length: 2,
        },
    ];
    let body = b"abcde";
    let mut in_body = b"2\n4096\n3\n8192\n2\n".to_vec();
    in_body.resize(512, 0);
    in_body.extend(body);
    let map = b"4096,3,8192,2";
    let mut old = Header::new(b'S', "x").gnu().size(5);
    old.octal(386..398, 4096).octal(398..410, 3);
    old.octal(410..422, 8192)
        .octal(422..434, 2)
        .octal(483..495, 10_000);
    let forms = [
        sparse_pax(
            &[
                ("GNU.sparse.size", b"10000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"4096"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"8192"),
                ("GNU.sparse.numbytes", b"2"),
                ("GNU.sparse.name", b"x"),
            ],
            body,
        ),
        sparse_pax(
            &[
                ("GNU.sparse.size", b"10000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.map", map),
                ("GNU.sparse.name", b"x"),
            ],
            body,
        ),
        sparse_pax(
            &[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"10000"),
                ("GNU.sparse.name", b"x"),
            ],
            &in_body,
        ),
        Tar::new().member(old, body).file("next", "n").end(),
    ];
    for archive in forms {
        let (members, _) = read_all(&archive).unwrap();
        let (entry, stored) = &members[0];
        assert_eq!((&entry.path[..], &stored[..]), (&b"x"[..], &body[..]));
        assert_eq!(
            (entry.size, entry.regions.as_ref()),
            (10_000, Some(&regions))
        );
        assert_eq!(
            (&members[1].0.path[..], &members[1].1[..]),
            (&b"next"[..], &b"n"[..])
        );
    }
}

#[test]
fn invalid_sparse_maps_are_refused() {
    let pax = |size: &[u8], map: &[u8]| {
        let count = (map.split(|&byte| byte == b',').count() / 2).to_string();
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", size),
            ("GNU.sparse.numblocks", count.as_bytes()),
            ("GNU.sparse.map", map),
        ];
        refused(&sparse_pax(records, b"abcde"))
    };
    for map in [
        "0,4",
        "0,6",
        "3,3,2,2",
        "0,5,1",
        "98,5",
        "18446744073709551615,5",
        "a,5",
        ",",
    ] {
        assert_eq!(pax(b"100", map.as_bytes()), ErrorKind::Corrupt, "{map}");
    }
    assert_eq!(pax(b"9223372036854775807", b"0,5"), ErrorKind::OutOfRange);
    let many = "0,0,".repeat(limit::SPARSE_REGIONS + 1);
    assert_eq!(
        pax(b"100", many.trim_end_matches(',').as_bytes()),
        ErrorKind::OutOfRange
    );
    for map in [
        "99999999999\n",
        "2\n0\n",
        "1\n0\n6\n",
        &"1".repeat(512),
        &"0".repeat(512),
    ] {
        let mut body = map.as_bytes().to_vec();
        body.resize(512, if map.ends_with('\n') { 0 } else { b'1' });
        body.extend(b"abcde");
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"100"),
        ];
        assert_eq!(
            refused(&sparse_pax(records, &body)),
            ErrorKind::Corrupt,
            "{map}"
        );
    }
}

#[test]
fn what_else_the_headers_of_a_member_state() {
    let mut owned = Header::new(b'0', "owned").mode(0o100_644);
    owned.put(265, b"user").put(297, b"group");
    let mut old = Header::new(b'0', "old");
    old.put(257, &[0; 8]).put(265, b"no name");
    let archive = Tar::new()
        .pax(&[
            ("uname", b"\xc3\xa9"),
            ("a", b"1"),
            ("a", b"2"),
            ("gname", b""),
        ])
        .member(owned.clone(), "")
        .extension(b'g', record("comment", "x"))
        .member(owned, "")
        .member(old, "")
        .end();
    let mut reader = Reader::new(&archive[..]);
    let (entry, stated) = reader.next_stated().unwrap().unwrap();
    assert_eq!((entry.mode, stated.mode), (0o644, 0o100_644));
    assert_eq!(
        (&stated.user[..], &stated.group[..]),
        ("é".as_bytes(), &b"group"[..])
    );
    let records: Vec<_> = stated
        .records
        .iter()
        .map(|(key, value)| (&key[..], &value[..]))
        .collect();
    let uname = (&b"uname"[..], "é".as_bytes());
    assert_eq!(records, [(&b"a"[..], &b"2"[..]), (b"gname", b""), uname]);
    assert!(!stated.follows_global);
    let (_, stated) = reader.next_stated().unwrap().unwrap();
    assert!(stated.follows_global && stated.records.is_empty() && stated.user == b"user");
    let (_, stated) = reader.next_stated().unwrap().unwrap();
    assert!(!stated.follows_global && stated.user.is_empty());
    assert_eq!(reader.next_stated().unwrap(), None);
}
