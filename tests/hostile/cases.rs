//! The layers. Each aims at something outside its root, at what an overlay takes for its own, or
//! at the one who unpacks it; `cas-layer` tests the rules for each of them one by one.

use std::io::Write;

use cas::{Digest, Kind, MediaType, limit};

use crate::archive::{Header, Tar, record};
use crate::cage::Cage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Unpacked, into the root and nowhere else.
    Harmless,
    Refused(Kind),
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) media_type: MediaType,
    /// Of a compressed layer.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) outcome: Outcome,
}

fn case(name: &'static str, outcome: Outcome, layers: Vec<Tar>) -> Case {
    // The root is described too, for its time is that of the unpacking otherwise.
    let whole = |layer: Tar| Tar::new().dir("./").raw(layer.0).end();
    Case {
        name,
        layers: layers.into_iter().map(whole).collect(),
        media_type: MediaType::OCI_LAYER,
        diff_id: None,
        outcome,
    }
}

fn harmless(name: &'static str, layers: Vec<Tar>) -> Case {
    case(name, Outcome::Harmless, layers)
}

/// Refused at the last of its layers.
fn refused(name: &'static str, kind: Kind, layers: Vec<Tar>) -> Case {
    case(name, Outcome::Refused(kind), layers)
}

const CORRUPT: Kind = Kind::Corrupt;

/// Up to the cage, from each of its roots.
const UP: &str = "../../../..";

type Make = fn(&Cage) -> Case;

pub(crate) const ALL: &[Make] = &[
    // Names.
    |_| harmless("names that climb", vec![climbing()]),
    |cage| {
        let canary = cage.canary();
        let tar = Tar::new()
            .file(format!("{canary}/file"), "dead")
            .file(format!("/{canary}/dir/deep/file"), "dead")
            .member(Header::new(b'5', format!("{canary}/dir")).mode(0o777), b"");
        harmless("absolute names", vec![tar])
    },
    |_| {
        refused(
            "the root as a link",
            CORRUPT,
            vec![Tar::new().symlink(".", "/")],
        )
    },
    |_| {
        refused(
            "the root as a link by a slash",
            CORRUPT,
            vec![Tar::new().symlink("./", UP)],
        )
    },
    |_| {
        refused(
            "the root by `..` as a link",
            CORRUPT,
            vec![Tar::new().symlink("..", "/")],
        )
    },
    |_| {
        refused(
            "the root as a file",
            CORRUPT,
            vec![Tar::new().file("/", "x")],
        )
    },
    |_| {
        refused(
            "the root as a hard link",
            CORRUPT,
            vec![Tar::new().hardlink(".", "x")],
        )
    },
    |_| {
        refused(
            "a name with a zero byte",
            CORRUPT,
            vec![pax("path", b"a\0b")],
        )
    },
    |_| {
        let tar = Tar::new().file("new\nline", "").file("back\\slash", "");
        let tar = tar.file(b"latin-\xe9", "").file("x".repeat(100), "");
        harmless("odd names", vec![tar.dir("case").file("CASE", "")])
    },
    |_| {
        refused(
            "a name too long",
            Kind::OutOfRange,
            vec![pax("path", &[b'x'; 256])],
        )
    },
    |_| {
        let path = format!("{}x", "abcdefg/".repeat(limit::PATH / 8));
        refused(
            "a path too long",
            Kind::OutOfRange,
            vec![pax("path", path.as_bytes())],
        )
    },
    |_| {
        let path = "a/".repeat(limit::PATH_DEPTH + 1);
        refused(
            "a path too deep",
            Kind::OutOfRange,
            vec![pax("path", path.as_bytes())],
        )
    },
    // Links.
    |cage| {
        let tar = Tar::new()
            .symlink("out", cage.canary())
            .file("out/file", "dead");
        harmless("through an absolute link", vec![tar.file("out/new", "x")])
    },
    |_| {
        let tar = Tar::new().symlink("out", format!("{UP}/canary"));
        harmless(
            "through a relative link",
            vec![tar.file("out/file", "dead").dir("out/dir")],
        )
    },
    |_| {
        let chain = (1..30).fold(Tar::new().symlink("l0", UP), |tar, n| {
            tar.symlink(format!("l{n}"), format!("l{}", n - 1))
        });
        harmless(
            "through a chain of links",
            vec![chain.file("l29/canary/file", "dead")],
        )
    },
    |_| {
        let tar = Tar::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", "");
        refused("through a loop of links", CORRUPT, vec![tar])
    },
    |cage| {
        let next = Tar::new().file("out/file", "dead").file("out/dir/new", "x");
        harmless(
            "through a link of the layer below",
            vec![Tar::new().symlink("out", cage.canary()), next],
        )
    },
    |cage| {
        let next = Tar::new()
            .file("out/.wh.file", "")
            .file("out/dir/.wh..wh..opq", "");
        harmless(
            "a whiteout through a link",
            vec![Tar::new().symlink("out", cage.canary()), next],
        )
    },
    |cage| {
        let canary = cage.canary();
        let tar = Tar::new()
            .dir("d")
            .file("d/x", "")
            .symlink("d", &canary)
            .file("d/file", "dead");
        harmless("a directory that becomes a link", vec![tar])
    },
    |cage| {
        let first = Tar::new().dir("d").file("d/x", "");
        let second = Tar::new()
            .symlink("d", cage.canary())
            .file("d/file", "dead");
        harmless(
            "a directory of the layer below that becomes a link",
            vec![first, second, Tar::new().file("d/dir/deep/file", "dead")],
        )
    },
    |cage| {
        let target = format!("{}/file", cage.canary());
        let tar = Tar::new().symlink("f", &target).member(
            Header::new(b'0', "f").mode(0o777).owner(7, 7).size(4),
            "dead",
        );
        harmless("a link that becomes a file", vec![tar])
    },
    |cage| {
        let target = format!("{}/dir", cage.canary());
        let tar = Tar::new()
            .symlink("d", &target)
            .member(Header::new(b'5', "d").mode(0o777).owner(7, 7), b"");
        harmless("a link that becomes a directory", vec![tar])
    },
    |cage| {
        let target = format!("{}/file", cage.canary());
        let tar = Tar::new()
            .pax(&[("SCHILY.xattr.trusted.mine", b"x")])
            .member(
                Header::new(b'2', "f").link(&target).mode(0o777).owner(7, 7),
                b"",
            );
        harmless("attributes of a link", vec![tar])
    },
    |cage| {
        let target = format!("{}/pipe", cage.canary());
        harmless(
            "a link to a pipe, written to",
            vec![
                Tar::new().symlink("p", &target),
                Tar::new().file("p", "dead"),
            ],
        )
    },
    |_| {
        let tar = Tar::new().symlink("magic", "/proc/self/root");
        harmless("through a magic link", vec![tar.file("magic/new", "x")])
    },
    // Hard links.
    |cage| {
        let target = format!("{}/file", cage.canary());
        refused(
            "a hard link out",
            CORRUPT,
            vec![Tar::new().hardlink("h", &target)],
        )
    },
    |_| {
        let target = format!("{UP}/canary/file");
        refused(
            "a hard link that climbs",
            CORRUPT,
            vec![Tar::new().hardlink("h", &target)],
        )
    },
    |cage| {
        let tar = Tar::new().symlink("out", cage.canary());
        refused(
            "a hard link through a link",
            CORRUPT,
            vec![tar.hardlink("h", "out/file")],
        )
    },
    |cage| {
        let first = Tar::new().symlink("out", cage.canary());
        let second = Tar::new().hardlink("h", "out/file");
        refused(
            "a hard link through a link below",
            CORRUPT,
            vec![first, second],
        )
    },
    |cage| {
        let target = format!("{}/file", cage.canary());
        let tar = Tar::new()
            .symlink("l", &target)
            .hardlink("h", "l")
            .file("h", "dead");
        harmless("a hard link to a link, written to", vec![tar])
    },
    |_| {
        let tar = Tar::new().dir("d").hardlink("h", "d");
        refused("a hard link to a directory", CORRUPT, vec![tar])
    },
    // Whiteouts, and what an overlay takes for its own.
    |_| {
        refused(
            "a whiteout of nothing",
            CORRUPT,
            vec![Tar::new().file(".wh.", "")],
        )
    },
    |_| {
        let below = Tar::new().dir("d").file("d/x", "");
        refused(
            "a whiteout of `.`",
            CORRUPT,
            vec![below, Tar::new().file("d/.wh..", "")],
        )
    },
    |_| {
        let below = Tar::new().dir("d").file("d/x", "");
        refused(
            "a whiteout of `..`",
            CORRUPT,
            vec![below, Tar::new().file("d/.wh...", "")],
        )
    },
    |_| {
        let below = Tar::new().file("x", "1").file("y", "2");
        let whiteouts = Tar::new().file(".wh.absent", "").file("no/where/.wh.x", "");
        let whiteouts = whiteouts.file("../.wh.x", "").file("/.wh.y", "");
        harmless("whiteouts of what is not there", vec![below, whiteouts])
    },
    |_| {
        let below = Tar::new().file("x", "1").dir("d").file("d/y", "2");
        let same = Tar::new()
            .file("x", "3")
            .file(".wh.x", "")
            .file(".wh.d", "");
        harmless(
            "whiteouts of the same layer",
            vec![below, same.file("d/z", "4")],
        )
    },
    |_| {
        let below = Tar::new().dir("d").file("d/below", "1").file("gone", "2");
        let attributes = ["opaque", "redirect", "metacopy", "origin", "whiteout"];
        let tar = attributes.iter().fold(Tar::new(), |tar, name| {
            let [trusted, user] =
                ["trusted", "user"].map(|one| format!("SCHILY.xattr.{one}.overlay.{name}"));
            let records: [(&str, &[u8]); 2] = [(&trusted, b"y"), (&user, b"/../../../canary")];
            let tar = tar.pax(&records).dir("d").pax(&records);
            tar.file(format!("file-{name}"), "")
        });
        harmless("attributes of overlays", vec![below, tar])
    },
    |_| {
        let below = Tar::new().dir("d").file("d/below", "1").file("x", "2");
        let zero = |name: &str| Header::new(b'3', name).device(0, 0);
        let tar = Tar::new()
            .member(zero("x"), b"")
            .member(zero("d/below"), b"");
        harmless("devices that overlays take for whiteouts", vec![below, tar])
    },
    |_| {
        let below = Tar::new().dir("d").file("d/below", "1");
        let name = Tar::new()
            .file("d/.wh..wh..plnk", "")
            .file(".wh..wh.aufs", "");
        harmless("control files of aufs", vec![below, name])
    },
    // Special files, and attributes.
    |_| {
        let node = |flag: u8, name: &str| Header::new(flag, name).mode(0o666).device(8, 0);
        let tar = Tar::new()
            .member(node(b'4', "disk"), b"")
            .member(node(b'6', "pipe"), b"")
            .member(node(b'3', "tty"), b"");
        let next = Tar::new()
            .file("pipe", "not waited for")
            .file("disk", "not written to");
        harmless("devices, and files in their place", vec![tar, next])
    },
    |_| {
        let tar = Tar::new()
            .member(Header::new(b'6', "p"), b"")
            .file("p/x", "");
        harmless("a pipe that becomes a parent", vec![tar])
    },
    |_| {
        let root = Header::new(b'0', "su").mode(0o6755).owner(0, 0).size(1);
        let tar = Tar::new().member(Header::new(b'5', "shared").mode(0o3777).owner(0, 50), b"");
        let tar = tar.member(root, "x").file("shared/x", "");
        harmless("set-user-id and set-group-id", vec![tar])
    },
    |_| {
        refused(
            "an owner that means nobody",
            Kind::OutOfRange,
            vec![pax("uid", b"4294967295")],
        )
    },
    |_| refused("an owner in letters", CORRUPT, vec![pax("uid", b"root")]),
    |_| {
        refused(
            "a time that is no number",
            CORRUPT,
            vec![pax("mtime", b"NaN")],
        )
    },
    |_| {
        refused(
            "a time out of the world",
            CORRUPT,
            vec![pax("mtime", b"1e30")],
        )
    },
    |_| {
        let value = vec![b'v'; limit::XATTR + 1];
        let tar = pax("SCHILY.xattr.user.x", &value);
        refused("an attribute too large", Kind::OutOfRange, vec![tar])
    },
    |_| {
        let many = (0..40_000).flat_map(|n| record(&format!("SCHILY.xattr.user.{n:05}"), "v"));
        let tar = Tar::new()
            .extension(b'x', many.collect::<Vec<u8>>())
            .file("f", "");
        refused("too many attributes", Kind::OutOfRange, vec![tar])
    },
    // What the reader must see through.
    |_| {
        let inner = Tar::new().file("../../../../canary/file", "dead").end();
        let size = inner.len().to_string();
        let tar = Tar::new()
            .pax(&[("size", size.as_bytes())])
            .raw(Header::new(b'0', "inner.tar").size(0).sealed(false))
            .raw(inner);
        harmless("an archive in a file without a size", vec![tar])
    },
    |_| {
        refused(
            "a record of no length",
            CORRUPT,
            vec![Tar::new().extension(b'x', b"0 a=b\n")],
        )
    },
    |_| {
        let tar = Tar::new().raw(Header::new(b'x', "x").size(1 << 30).sealed(false));
        refused("a record of a gigabyte", Kind::OutOfRange, vec![tar])
    },
    |_| {
        let tar = Tar::new().raw(Header::new(b'L', "x").size(100 << 20).sealed(false));
        refused("a name of 100 megabytes", Kind::OutOfRange, vec![tar])
    },
    |_| {
        refused(
            "an unknown kind",
            CORRUPT,
            vec![Tar::new().member(Header::new(b'M', "x"), b"")],
        )
    },
    |_| {
        let mut header = Header::new(b'0', "x").sealed(false);
        header[0] ^= 1;
        refused(
            "a wrong checksum",
            CORRUPT,
            vec![Tar::new().file("a", "").raw(header)],
        )
    },
    |_| {
        let mut cut = refused("cut off in a body", CORRUPT, Vec::new());
        let below = Tar::new().file("below", "1").end();
        let whole = Tar::new().file("a", "1").file("b", vec![b'x'; 5000]).0;
        cut.layers = vec![below, whole[..whole.len() - 2000].to_vec()];
        cut
    },
    // What costs more than it should.
    |_| {
        let records = [
            ("GNU.sparse.major", &b"1"[..]),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"9223372036854775807"),
        ];
        let map = [b"0\n".to_vec(), vec![0; 510]].concat();
        refused(
            "a sparse file of 8 EiB",
            Kind::OutOfRange,
            vec![Tar::new().pax(&records).file("x", map)],
        )
    },
    |_| bomb(),
    |_| {
        let mut lie = refused("a layer that is not its diff id", CORRUPT, vec![Tar::new()]);
        lie.diff_id = Some(Digest::sha256(b"another"));
        lie
    },
];

fn climbing() -> Tar {
    Tar::new()
        .file(format!("{UP}/canary/file"), "dead")
        .file("../canary", "x")
        .file("x/../../../../../../canary/new", "x")
        .dir("../..")
        .symlink(format!("{UP}/canary/link"), "dead")
        .member(
            Header::new(b'5', format!("{UP}/canary/dir")).mode(0o777),
            b"",
        )
}

/// A file with one record before it.
fn pax(key: &str, value: &[u8]) -> Tar {
    Tar::new()
        .file("before", "x")
        .pax(&[(key, value)])
        .file("f", "")
}

/// Zeros that take a thousandth of their size, many times over.
fn bomb() -> Case {
    let mut bomb = refused("a bomb of gzip", CORRUPT, Vec::new());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let header = Header::new(b'0', "zeros").size(64 << 20).sealed(false);
    encoder.write_all(&header).unwrap();
    for _ in 0..64 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    bomb.layers = vec![encoder.finish().unwrap()];
    bomb.media_type = MediaType::OCI_LAYER_GZIP;
    bomb.diff_id = Some(Digest::sha256(b"nobody gets as far"));
    bomb
}
