//! Numbers, sizes and ends of archives, at their bounds and beyond.

use cas::{ErrorKind, limit};

use super::{CORRUPT, Case, Layer, Make, harmless, pax, refused};
use testkit::archive::{Header, Tar, record};

/// The offsets of fields with numbers in a header.
const MODE: usize = 100;
const UID: usize = 108;
const SIZE: usize = 124;
const MTIME: usize = 136;

/// Returns a header whose field has a number in base 256. A negative one is in two's complement.
fn binary(field: usize, width: usize, number: i64) -> Header {
    let mut header = Header::new(b'0', "f");
    let mut bytes = vec![if number < 0 { 0xff } else { 0 }; width - 8];
    bytes.extend(number.to_be_bytes());
    bytes[0] = if number < 0 { 0xff } else { 0x80 };
    header.put(field, &bytes);
    header
}

/// Returns a header whose field has this text.
fn text(field: usize, digits: &[u8]) -> Header {
    let mut header = Header::new(b'0', "f");
    header.put(field, digits);
    header
}

fn file(header: Header) -> Vec<Tar> {
    vec![Tar::new().file("before", "x").member(header, "")]
}

/// Returns a case whose layer ends after `left` bytes of its last member.
fn cut(name: &'static str, left: usize) -> Case {
    let mut cut = refused(name, CORRUPT, Vec::new());
    let whole = Tar::new().dir("./").file("a", "1");
    let end = whole.0.len() + left;
    let whole = whole.file("b", [b'x'; 700]).0;
    cut.layers = vec![Layer::of(whole[..end].to_vec())];
    cut
}

/// Returns a layer with a sparse file of `size` bytes, of which only the last byte is stored.
fn sparse(size: u64) -> Vec<Tar> {
    let map = format!("{},1", size - 1);
    let size = size.to_string();
    let records = [
        ("GNU.sparse.size", size.as_bytes()),
        ("GNU.sparse.numblocks", b"1"),
        ("GNU.sparse.map", map.as_bytes()),
    ];
    vec![Tar::new().pax(&records).file("sparse", "x")]
}

pub(super) const ALL: &[Make] = &[
    |_| {
        let below = Tar::new().file("x", "below");
        let inner = Tar::new().file("../../../../canary/file", "dead").end();
        let size = inner.len().to_string();
        let header = Header::new(b'0', "x").size(1).sealed(false);
        let tar = Tar::new().pax(&[("size", size.as_bytes())]);
        let tar = tar.raw(header).raw(inner);
        harmless(
            "a size in a pax record and another in the header",
            vec![below, tar],
        )
    },
    |_| refused("a negative size", CORRUPT, file(binary(SIZE, 12, -512))),
    |_| {
        refused(
            "a size of 2^62",
            ErrorKind::OutOfRange,
            file(binary(SIZE, 12, 1 << 62)),
        )
    },
    |_| refused("a size in letters", CORRUPT, file(text(SIZE, b"00000z"))),
    |_| {
        refused(
            "a negative owner",
            ErrorKind::OutOfRange,
            file(binary(UID, 8, -1)),
        )
    },
    |_| harmless("the last owner", vec![pax("uid", b"4294967294")]),
    |_| harmless("the owner 2^31", vec![pax("uid", b"2147483648")]),
    |_| {
        refused(
            "an owner of 2^32",
            ErrorKind::OutOfRange,
            vec![pax("gid", b"4294967296")],
        )
    },
    |_| harmless("a time before 1970", vec![pax("mtime", b"-1.5")]),
    |_| harmless("a negative time in base 256", file(binary(MTIME, 12, -1))),
    |_| refused("an empty time", CORRUPT, vec![pax("mtime", b".5")]),
    |_| harmless("all bits of a mode", file(text(MODE, b"7777777\0"))),
    |_| {
        let header = Header::new(b'0', b"signed-\xff\xfe").sealed(true);
        harmless("a sum of signed bytes", vec![Tar::new().raw(header)])
    },
    |_| cut("an archive that ends inside a header", 100),
    |_| cut("an archive that ends after a header", 512),
    |_| {
        let tar = Tar::new().extension(b'L', "long\0");
        refused("a long name without a member", CORRUPT, vec![tar])
    },
    |_| {
        let tar = Tar::new().pax(&[("path", b"one")]).pax(&[("path", b"two")]);
        refused("two names for one member", CORRUPT, vec![tar.file("x", "")])
    },
    |_| {
        let tar = Tar::new()
            .pax(&[("path", b"mine")])
            .extension(b'L', "theirs\0");
        refused(
            "a pax header and a GNU header with two names",
            CORRUPT,
            vec![tar.file("x", "")],
        )
    },
    |_| {
        let tar = Tar::new().extension(b'g', record("path", "everywhere"));
        refused("a global path", CORRUPT, vec![tar.file("x", "")])
    },
    |_| {
        let long = [&[b'd'; 155][..], b"/", &[b'f'; 100]].concat();
        harmless(
            "the longest path of a ustar header",
            vec![pax("path", &long)],
        )
    },
    |_| {
        harmless(
            "the longest name",
            vec![pax("path", &[b'x'; limit::COMPONENT])],
        )
    },
    |_| {
        let mut path = "abcdefg/".repeat(480).into_bytes();
        // With the path of the tree, this is almost the longest path of the kernel.
        path.resize(limit::PATH - 200, b'x');
        harmless("a long path", vec![pax("path", &path)])
    },
    |_| {
        let path = "a/".repeat(limit::PATH_DEPTH);
        harmless(
            "the deepest path",
            vec![pax("path", path.trim_end_matches('/').as_bytes())],
        )
    },
    |_| {
        let target = vec![b't'; limit::PATH - 1];
        let tar = Tar::new().pax(&[("linkpath", &target)]).symlink("l", "x");
        harmless("the longest target", vec![tar])
    },
    |_| {
        let target = vec![b't'; limit::PATH];
        let tar = Tar::new().pax(&[("linkpath", &target)]).symlink("l", "x");
        refused("a target that is too long", CORRUPT, vec![tar])
    },
    |_| harmless("a large sparse file", sparse(1 << 24)),
    |_| {
        refused(
            "a sparse file over the bound",
            ErrorKind::OutOfRange,
            sparse(limit::LAYER + 1),
        )
    },
    |_| {
        let socket = Tar::new().member(Header::new(b's', "socket"), "");
        refused("a socket", CORRUPT, vec![socket])
    },
    |_| {
        let below = Tar::new().dir("d").file("d/old", "1");
        let next = Tar::new().file("d/new", "2").file("d/.wh.new", "");
        let next = next.file("d/.wh.other", "").file("d/other", "3");
        harmless(
            "whiteouts after and before their own files",
            vec![below, next],
        )
    },
    |_| {
        let below = Tar::new().file("x", "f");
        let layers = [
            Tar::new().dir("x"),
            Tar::new().symlink("x", ".."),
            Tar::new().file("x", "g"),
        ];
        let all = [vec![below], layers.into()].concat();
        harmless("one name as every type, over layers", all)
    },
];
