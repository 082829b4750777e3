//! Archives that readers of tar understand in different ways. They are refused, or read as
//! container engines read them, with a warning. An archive that is accepted without a warning is
//! read alike by all readers.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;
#[path = "readers/odd.rs"]
mod odd;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use cas_core::ErrorKind;
use common::{Header, Tar, read_all, record};

const BODY: &[u8] = b"body";

/// The outcome for an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// It is read, and its first member has this path.
    As(&'static str),
    /// It is read with a warning, and its first member has this path.
    Warned(&'static str),
    Refused,
}
use Read::{As, Refused, Warned};

fn file() -> Header {
    Header::new(b'0', "x").size(BODY.len() as u64)
}

/// Returns a header with this magic and version, and a prefix.
fn prefixed(magic: &[u8; 8], prefix: &str) -> Header {
    let mut header = file();
    header.put(257, magic).put(345, prefix.as_bytes());
    header
}

fn star(prefix: &str, times: bool) -> Tar {
    let mut header = prefixed(b"ustar\x0000", prefix);
    header.put(508, b"tar\0");
    if times {
        header.put(476, b"07346545000 07346545000 ");
    }
    Tar::new().member(header, BODY)
}

/// Returns a file after a header with these records.
fn pax(records: &[(&str, &str)]) -> Tar {
    extended(b'x', records).member(file(), BODY)
}

fn global(records: &[(&str, &str)]) -> Tar {
    extended(b'g', records).member(file(), BODY)
}

fn extended(flag: u8, records: &[(&str, &str)]) -> Tar {
    let records = records.iter().map(|(key, value)| record(key, value));
    Tar::new().extension(flag, records.collect::<Vec<_>>().concat())
}

fn typed(flag: u8, name: &str) -> Tar {
    Tar::new().member(Header::new(flag, name).link("l"), b"")
}

const NAME: (&str, &str) = ("GNU.sparse.name", "s");
const SIZE: (&str, &str) = ("GNU.sparse.size", "8");
const MAP: (&str, &str) = ("GNU.sparse.map", "4,4");
const COUNT: (&str, &str) = ("GNU.sparse.numblocks", "1");
const MAJOR: (&str, &str) = ("GNU.sparse.major", "1");

/// Headers of different formats with a prefix.
fn prefixes() -> Vec<(&'static str, Tar, Read)> {
    let with = |magic, prefix| Tar::new().member(prefixed(magic, prefix), BODY);
    let mut gnu_times = prefixed(b"ustar  \0", "07346545000");
    gnu_times.put(357, b"07346545000\0");
    vec![
        ("ustar", with(b"ustar\x0000", "pre"), As("pre/x")),
        (
            "ustar, no version",
            with(b"ustar\0\0\0", "pre"),
            As("pre/x"),
        ),
        ("GNU", with(b"ustar  \0", "pre"), Warned("pre/x")),
        (
            "GNU, two names",
            with(b"ustar  \0", "one/two"),
            Warned("one/two/x"),
        ),
        (
            "GNU, long",
            with(b"ustar  \0", &"p/".repeat(70)),
            Warned(LONG),
        ),
        (
            "GNU, not ASCII",
            with(b"ustar  \0", "pr\u{e9}"),
            Warned("x"),
        ),
        ("GNU, times", Tar::new().member(gnu_times, BODY), As("x")),
        ("old", with(b"\0\0\0\0\0\0\0\0", "pre"), Warned("x")),
        (
            "unknown version of GNU",
            with(b"ustar 00", "pre"),
            Warned("x"),
        ),
        ("unknown", with(b"tarball\0", "pre"), Warned("x")),
        ("star", star("pre", false), As("pre/x")),
        ("star with times", star("pre", true), As("pre/x")),
        ("star, too long", star(&"p".repeat(140), false), Refused),
        (
            "star, too long before times",
            star(&"p".repeat(131), true),
            Refused,
        ),
    ]
}

const LONG: &str = "p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/\
                    p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p/p//x";

/// Records of sparse files, in combinations most of which are invalid.
fn sparse() -> Vec<(&'static str, Tar, Read)> {
    let path = ("path", "p");
    let minor = |minor| ("GNU.sparse.minor", minor);
    let whole = [NAME, SIZE, COUNT, MAP];
    vec![
        ("a name alone", pax(&[NAME]), Refused),
        ("a name before a path", pax(&[NAME, path]), Refused),
        ("a name after a path", pax(&[path, NAME]), Refused),
        ("a global name", global(&[NAME]), Refused),
        ("a global file", global(&whole), Refused),
        ("a global version", global(&[MAJOR, minor("0")]), Refused),
        ("a size alone", pax(&[SIZE]), Refused),
        (
            "a count alone",
            pax(&[("GNU.sparse.numblocks", "0")]),
            Refused,
        ),
        ("a minor version alone", pax(&[minor("1")]), Refused),
        ("a map alone", pax(&[MAP]), Refused),
        ("no count", pax(&[NAME, SIZE, MAP]), Warned("s")),
        ("no size", pax(&[NAME, COUNT, MAP]), Refused),
        ("whole", pax(&whole), As("s")),
        (
            "version 0.1",
            pax(&[
                ("GNU.sparse.major", "0"),
                minor("1"),
                NAME,
                SIZE,
                COUNT,
                MAP,
            ]),
            As("s"),
        ),
        (
            "version 1.1",
            pax(&[MAJOR, minor("1"), NAME, SIZE]),
            Refused,
        ),
        ("version 1", pax(&[MAJOR, NAME, SIZE]), Refused),
        (
            "version 2.0",
            pax(&[("GNU.sparse.major", "2"), minor("0"), NAME, SIZE]),
            Refused,
        ),
        (
            "versions 0 and 1",
            pax(&[MAJOR, minor("0"), NAME, SIZE, COUNT, MAP]),
            Refused,
        ),
        (
            "a name of a directory",
            extended(b'x', &[NAME]).raw(typed(b'5', "x").0),
            Refused,
        ),
    ]
}

/// Names, sizes and types.
fn others() -> Vec<(&'static str, Tar, Read)> {
    let long = |name: &str| Tar::new().extension(b'L', format!("{name}\0"));
    let member = |tar: Tar| tar.member(file(), BODY);
    let sized = |flag, name| Tar::new().member(Header::new(flag, name).link("l").size(4), b"");
    let mut negative = Header::new(b'6', "x");
    negative.put(124, &[0xff; 12]);
    let negative = Tar::new().member(negative, b"");
    let number = |size: &[u8; 12]| {
        let mut header = file();
        header.put(124, size);
        Tar::new().member(header, BODY)
    };
    let mut cases = vec![
        ("a size with spaces", number(b"          4 "), As("x")),
        ("a size of 12 digits", number(b"000000000004"), As("x")),
        (
            "a size in base 256",
            number(b"\x80\0\0\0\0\0\0\0\0\0\0\x04"),
            As("x"),
        ),
        (
            "a size after NULs",
            number(b"\0\0\0\0\0\0\0\0\0\x004\0"),
            Refused,
        ),
        ("a size before bytes", number(b"4\0xxxxxxxxxx"), Warned("x")),
        ("two sizes", number(b"4 5        \0"), Refused),
        (
            "a size with a sign",
            number(b"+4\0\0\0\0\0\0\0\0\0\0"),
            Refused,
        ),
        ("a size of old GNU", number(b"+AAAE\0\0\0\0\0\0\0"), Refused),
        ("an empty path", pax(&[("path", "")]), Warned("x")),
        ("an empty target", pax(&[("linkpath", "")]), Warned("x")),
        ("an empty size", pax(&[("size", "")]), Warned("x")),
        ("a size with a space", pax(&[("size", " 4")]), Refused),
        (
            "a sparse file of star",
            pax(&[("SCHILY.realsize", "9")]),
            Warned("x"),
        ),
        (
            "a type of star",
            pax(&[("SCHILY.filetype", "sparse")]),
            Warned("x"),
        ),
        (
            "two names of a sparse file",
            pax(&[NAME, SIZE, COUNT, MAP, ("path", "p")]),
            Warned("s"),
        ),
        (
            "the name of GNU tar for a sparse file",
            pax(&[("path", "GNUSparseFile.7/s"), NAME, SIZE, COUNT, MAP]),
            As("s"),
        ),
        ("a file with a slash", typed(b'0', "x/"), Warned("x/")),
        ("an old directory", typed(0, "x/"), As("x/")),
        (
            "an old directory with a body",
            Tar::new().member(Header::new(0, "x/").size(4), BODY),
            Refused,
        ),
        (
            "two records of a path",
            pax(&[("path", "p"), ("path", "q")]),
            As("q"),
        ),
        ("a path with NUL", pax(&[("path", "a\0b")]), Refused),
        (
            "a charset",
            pax(&[("hdrcharset", "BINARY"), ("path", "p")]),
            As("p"),
        ),
        (
            "two long names",
            member(long("one").raw(long("two").0)),
            Refused,
        ),
        (
            "a long name and a path",
            member(long("one").raw(extended(b'x', &[("path", "p")]).0)),
            Refused,
        ),
        (
            "a path and a long name",
            member(extended(b'x', &[("path", "p")]).raw(long("one").0)),
            Refused,
        ),
        ("a global path", global(&[("path", "p")]), Refused),
        ("a global target", global(&[("linkpath", "p")]), Refused),
        ("a global size", global(&[("size", "2")]), Refused),
        ("a global owner", global(&[("uid", "7")]), Warned("x")),
        ("a global comment", global(&[("comment", "c")]), As("x")),
        (
            "another size in the header",
            extended(b'x', &[("size", "4")]).member(Header::new(b'0', "x").size(2), BODY),
            Warned("x"),
        ),
        (
            "the largest size in the header",
            extended(b'x', &[("size", "4")])
                .member(Header::new(b'0', "x").size(0o777_7777_7777), BODY),
            As("x"),
        ),
        (
            "a record that cuts the body",
            pax(&[("size", "0")]),
            Refused,
        ),
        (
            "the size in a record",
            extended(b'x', &[("size", "4")]).member(Header::new(b'0', "x"), BODY),
            As("x"),
        ),
        ("a contiguous file", typed(b'7', "x"), Warned("x")),
        ("an old directory with a size", sized(0, "x/"), Warned("x/")),
        ("a directory with a size", sized(b'5', "x/"), As("x/")),
        ("a link with a size", sized(b'2', "x"), Warned("x")),
        ("a device with a size", sized(b'3', "x"), Warned("x")),
        ("a disk with a size", sized(b'4', "x"), Warned("x")),
        ("a pipe with a size", sized(b'6', "x"), Warned("x")),
        ("a hard link with a size", sized(b'1', "x"), As("x")),
        ("a pipe with a negative size", negative, Warned("x")),
    ];
    for flag in *b"123456" {
        let record = extended(b'x', &[("size", "4")]);
        let alone = record.clone().raw(typed(flag, "x").0);
        cases.push(("a record with a size of no file", alone, Warned("x")));
        let body = record.member(Header::new(flag, "x").link("l").size(4), BODY);
        cases.push(("a body of no file", body, Refused));
    }
    for flag in *b"AVMDNXZIas89" {
        cases.push(("an unknown type", typed(flag, "x"), Refused));
    }
    cases
}

/// Returns the files of a tree and their content.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                files.insert(name.to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Returns the commands that extract an archive into the current directory.
fn peers(archive: &Path) -> Vec<Command> {
    let python = "import sys, tarfile; tarfile.open(sys.argv[1]).extractall('.')";
    [
        &["tar", "-xf"][..],
        &["bsdtar", "-xf"],
        &["python3", "-c", python],
    ]
    .into_iter()
    .filter(|words| Command::new(words[0]).arg("--version").output().is_ok())
    .map(|words| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(archive);
        command
    })
    .collect()
}

fn all() -> impl Iterator<Item = (&'static str, Tar, Read)> {
    let all = [prefixes(), sparse(), others(), odd::all()];
    all.into_iter().flatten()
}

#[test]
fn what_readers_understand_differently_is_refused_or_warned_about() {
    for (what, tar, expected) in all() {
        let read = match read_all(&tar.file("after", "").end()) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                Err(())
            }
            Ok((members, warnings)) => {
                assert_eq!(members.len(), 2, "{what}");
                let path = String::from_utf8(members[0].0.path.clone()).unwrap();
                Ok((path, !warnings.is_empty()))
            }
        };
        let wanted = match expected {
            As(path) => Ok((path.to_owned(), false)),
            Warned(path) => Ok((path.to_owned(), true)),
            Refused => Err(()),
        };
        assert_eq!(read, wanted, "{what}");
    }
}

#[test]
fn what_is_read_without_a_warning_is_read_alike_by_others() {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = scratch.path().join("archive.tar");
    for (what, tar, expected) in all() {
        let As(path) = expected else { continue };
        // Python reads the times of GNU's header as a prefix, and the link's target does not exist.
        let other = ["GNU, times", "a hard link with a size"].contains(&what);
        if path.ends_with('/') || other {
            continue;
        }
        fs::write(&archive, tar.file("after", "").end()).unwrap();
        for (n, mut peer) in peers(&archive).into_iter().enumerate() {
            let place = scratch.path().join(n.to_string());
            fs::create_dir(&place).unwrap();
            let done = peer.current_dir(&place).output().unwrap();
            // One reader calls version 0.1 unknown, and reads it all the same.
            assert!(
                done.status.success() || what == "version 0.1",
                "{what}: {done:?}"
            );
            let body = match path {
                "s" => [&[0; 4], BODY].concat(),
                _ => BODY.to_vec(),
            };
            let wanted = [("after".to_owned(), Vec::new()), (path.to_owned(), body)];
            assert_eq!(files(&place), BTreeMap::from(wanted), "{what}: {peer:?}");
            fs::remove_dir_all(&place).unwrap();
        }
    }
}

#[test]
fn a_global_header_at_the_end_gives_a_warning() {
    let tar = Tar::new().file("x", "");
    let tar = tar.extension(b'g', record("comment", "c"));
    let (members, warnings) = read_all(&tar.end()).unwrap();
    assert_eq!(members.len(), 1);
    assert!(warnings[0].contains("the last member"), "{warnings:?}");
}

#[test]
fn what_is_wrong_with_a_member_names_it() {
    let name = "dir/member";
    let member = |header: Header| Tar::new().member(header, b"");
    let own = || Header::new(b'0', name);
    let after = |records: Tar| records.member(own(), b"");
    let mut cases = Vec::new();
    for (key, value) in [
        ("mtime", "noon"),
        ("mtime", "99999999999999999999"),
        ("atime", "-"),
        ("size", "-1"),
        ("size", "0x10"),
        ("uid", "root"),
        ("uid", "4294967295"),
        ("gid", "1.5"),
        ("GNU.sparse.map", "1,2,3"),
        ("GNU.sparse.major", "x"),
        ("path", "a\0b"),
    ] {
        // What does not parse is ignored if nothing depends on it.
        if let Err(error) = read_all(&after(extended(b'x', &[(key, value)])).end()) {
            cases.push((format!("{key}={value}"), error));
        } else {
            assert_eq!(key, "atime");
        }
    }
    for (at, bytes) in [
        (100, "7777x77"),
        (108, "-1"),
        (116, "ten"),
        (124, "9"),
        (136, "noon"),
    ] {
        let tar = member(own().put(at, bytes.as_bytes()).clone());
        cases.push((format!("{at}: {bytes}"), read_all(&tar.end()).unwrap_err()));
    }
    let device = |major| Header::new(b'3', name).device(major, 0);
    for (what, tar) in [
        ("a device", member(device(0o777_7777))),
        ("no number", member(device(0).put(329, b"x").clone())),
        ("a type", member(Header::new(b'?', name))),
        (
            "two names",
            after(
                Tar::new()
                    .extension(b'L', "a\0")
                    .extension(b'x', record("path", "b")),
            ),
        ),
        ("two targets", {
            let targets = Tar::new().extension(b'K', "a\0");
            let targets = targets.extension(b'x', record("linkpath", "b"));
            targets.member(Header::new(b'2', name), b"")
        }),
    ] {
        cases.push((what.to_owned(), read_all(&tar.end()).unwrap_err()));
    }
    for (what, error) in cases {
        let said = error.to_string();
        let named = said.contains(name) || what == "path=a\0b" && said.contains("a\\x00b");
        assert!(named, "{what}: {said}");
        assert!(said.contains("; "), "{what} without advice: {said}");
    }
}

#[test]
fn messages_are_short_and_plain() {
    let long = "n".repeat(1 << 19);
    for archive in [
        Tar::new().extension(b'x', format!("7 {long}")).end(),
        pax(&[("size", &long)]).end(),
        pax(&[(&format!("GNU.sparse.{long}"), "x")]).end(),
        pax(&[("mtime", "\u{1b}]0;title\u{7}\"")]).end(),
        pax(&[(&format!("SCHILY.xattr.{}", &long[..300]), "x")]).end(),
        pax(&[("SCHILY.xattr.user.x", &long)]).end(),
        typed(b'?', "x").end(),
        typed(b'0', &"\u{7f}".repeat(100)).file(".wh.", "").end(),
        Tar::new()
            .member(file().put(124, b"\x1b[31m").clone(), b"")
            .end(),
    ] {
        if let Err(error) = read_all(&archive) {
            let said = error.to_string();
            assert!(said.len() < 400, "{said}");
            assert!(!said.contains(char::is_control), "{said:?}");
            for form in ["EscapeAscii", "\\\\", "Some(", "[1"] {
                assert!(!said.contains(form), "{said}");
            }
        }
    }
}
