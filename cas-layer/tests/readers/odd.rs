//! Unusual numbers in headers and records, unusual sparse files, and names that two headers give.

use super::Read::{self, As, Refused, Warned};
use super::{BODY, COUNT, Header, MAJOR, MAP, NAME, SIZE, Tar, extended, file, global, pax};

const REAL: &str = "GNU.sparse.realsize";
const AT: (&str, &str) = ("GNU.sparse.offset", "4");
const OF: (&str, &str) = ("GNU.sparse.numbytes", "2");

/// Returns archives with the first member that [`Read`] describes.
pub(super) fn all() -> Vec<(&'static str, Tar, Read)> {
    let member = |header: &mut Header| Tar::new().member(header.clone(), BODY);
    // Changes the digits of a checksum.
    let sum = |change: fn(&str) -> Vec<u8>| {
        let mut header = file().sealed(false);
        let digits = String::from_utf8(header[148..154].to_vec()).unwrap();
        header[148..156].copy_from_slice(&change(&digits));
        let body = [BODY, &[0; 508]].concat();
        Tar::new().raw(header).raw(body)
    };
    let base_256 = |digits: &str| {
        let sum = u64::from_str_radix(digits, 8).unwrap() | 1 << 63;
        sum.to_be_bytes().to_vec()
    };
    let old = |size, bytes: &[(usize, &[u8])]| {
        let mut header = Header::new(b'S', "s").gnu().size(4);
        header.octal(386..398, 4).octal(398..410, 4);
        header.octal(483..495, size);
        for (at, bytes) in bytes {
            header.put(*at, bytes);
        }
        member(&mut header)
    };
    let in_body = |size, more: &[(&str, &str)]| {
        let records = [MAJOR, ("GNU.sparse.minor", "0"), NAME, (REAL, size)];
        let mut body = b"1\n4\n4\n".to_vec();
        body.resize(512, 0);
        body.extend(BODY);
        let header = Header::new(b'0', "x").size(516);
        extended(b'x', &[&records[..], more].concat()).member(header, body)
    };
    let (count, map) = (
        |n| ("GNU.sparse.numblocks", n),
        |map| ("GNU.sparse.map", map),
    );
    let offset: &[u8] = b"\0\0\0\0\0\0\0\0\0\x004";
    let no_length: &[u8] = b"00000000010";
    let full_size: &[u8] = b"\0\0\0\0\0\0\0\0\x0010";
    let mut cases = vec![
        (
            "spaces as a mode",
            member(file().put(100, b"        ")),
            Warned("x"),
        ),
        (
            "junk as a device",
            member(file().put(329, b"junk")),
            Warned("x"),
        ),
        (
            "a NUL before the sum",
            sum(|n| format!("\0{n}\0").into()),
            Warned("x"),
        ),
        (
            "bytes after the sum",
            sum(|n| format!("{n}\x009").into()),
            Warned("x"),
        ),
        ("a sum in base 256", sum(base_256), Refused),
        ("an empty global size", global(&[("size", "")]), Refused),
        ("an empty global path", global(&[("path", "")]), Refused),
        ("an empty global owner", global(&[("uid", "")]), Warned("x")),
        (
            "two maps",
            pax(&[NAME, SIZE, COUNT, MAP, map("0,4")]),
            Refused,
        ),
        (
            "two sizes",
            pax(&[NAME, SIZE, (REAL, "9"), COUNT, MAP]),
            Refused,
        ),
        (
            "two counts",
            pax(&[NAME, SIZE, count("2"), COUNT, MAP]),
            Refused,
        ),
        (
            "a map and a region",
            pax(&[NAME, SIZE, count("2"), map("0,2"), AT, OF]),
            Refused,
        ),
        (
            "no regions",
            extended(b'x', &[NAME, SIZE, count("0"), map("")]).member(Header::new(b'0', "x"), b""),
            Warned("s"),
        ),
        (
            "a short map",
            pax(&[NAME, ("GNU.sparse.size", "9"), COUNT, MAP]),
            Warned("s"),
        ),
        ("version 1.0", in_body("8", &[]), As("s")),
        ("a short map in the body", in_body("9", &[]), Warned("s")),
        (
            "the size with the map",
            in_body("8", &[("size", "516")]),
            Warned("s"),
        ),
        (
            "an old size of version 1.0",
            in_body("8", &[SIZE]),
            Warned("s"),
        ),
        (
            "a new size of version 0.1",
            pax(&[NAME, (REAL, "8"), COUNT, MAP]),
            Warned("s"),
        ),
        ("an old sparse file", old(8, &[]), As("s")),
        ("an old short map", old(9, &[]), Warned("s")),
        (
            "a region without a length",
            old(8, &[(410, no_length)]),
            Refused,
        ),
        ("a NUL before an offset", old(8, &[(386, offset)]), Refused),
        (
            "a NUL before a full size",
            old(9, &[(483, full_size)]),
            Refused,
        ),
        (
            "a NUL as the type flag of a sparse file",
            extended(b'x', &[NAME, SIZE, COUNT, MAP]).member(Header::new(0, "x").size(4), BODY),
            Warned("s"),
        ),
        (
            "the slash of a long name",
            Tar::new()
                .extension(b'L', "p/\0")
                .member(Header::new(0, "x"), b""),
            Warned("p/"),
        ),
        (
            "the slash of a replaced name",
            extended(b'x', &[("path", "p")]).member(Header::new(0, "x/"), b""),
            Warned("p"),
        ),
    ];
    for at in [100, 108, 116, 136, 329, 337] {
        cases.push((
            "a NUL before a number",
            member(file().put(at, b"\x0000017\0")),
            Warned("x"),
        ));
        cases.push((
            "bytes after a number",
            member(file().put(at, b"17\x0017\0")),
            Warned("x"),
        ));
    }
    for key in ["uid", "gid", "mtime"] {
        cases.push(("an empty record", pax(&[(key, "")]), Warned("x")));
    }
    cases
}
