//! The content of layers: whiteouts, special files, attributes, wrong headers, and bombs.

use std::io::Write;

use cas::{Digest, ErrorKind, MediaType, limit};

use super::{CORRUPT, Case, Layer, Make, harmless, pax, refused};
use testkit::archive::{Header, Tar, record};

pub(super) const ALL: &[Make] = &[
    // Whiteouts, and control data of overlayfs.
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
        harmless("whiteouts of absent files", vec![below, whiteouts])
    },
    |_| {
        let below = Tar::new().file("x", "1").dir("d").file("d/y", "2");
        let same = Tar::new()
            .file("x", "3")
            .file(".wh.x", "")
            .file(".wh.d", "");
        harmless(
            "whiteouts of files of the same layer",
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
        harmless("attributes of overlayfs", vec![below, tar])
    },
    |_| {
        let below = Tar::new().dir("d").file("d/below", "1").file("x", "2");
        let zero = |name: &str| Header::new(b'3', name).device(0, 0);
        let tar = Tar::new()
            .member(zero("x"), b"")
            .member(zero("d/below"), b"");
        harmless("devices that are whiteouts of overlayfs", vec![below, tar])
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
            "an owner id that means -1",
            ErrorKind::OutOfRange,
            vec![pax("uid", b"4294967295")],
        )
    },
    |_| refused("an owner in letters", CORRUPT, vec![pax("uid", b"root")]),
    |_| {
        refused(
            "a time that is not a number",
            CORRUPT,
            vec![pax("mtime", b"NaN")],
        )
    },
    |_| {
        refused(
            "a time that is out of range",
            CORRUPT,
            vec![pax("mtime", b"1e30")],
        )
    },
    |_| {
        let value = vec![b'v'; limit::XATTR + 1];
        let tar = pax("SCHILY.xattr.user.x", &value);
        harmless("an oversized attribute", vec![tar])
    },
    |_| {
        let many = (0..40_000).flat_map(|n| record(&format!("SCHILY.xattr.user.{n:05}"), "v"));
        let tar = Tar::new()
            .extension(b'x', many.collect::<Vec<u8>>())
            .file("f", "");
        refused("too many attributes", ErrorKind::OutOfRange, vec![tar])
    },
    // Ambiguous and malformed archives.
    |_| {
        let inner = Tar::new().file("../../../../canary/file", "dead").end();
        let size = inner.len().to_string();
        let tar = Tar::new()
            .pax(&[("size", size.as_bytes())])
            .raw(Header::new(b'0', "inner.tar").size(0).sealed(false))
            .raw(inner);
        harmless("an archive in a file of two sizes", vec![tar])
    },
    |_| {
        refused(
            "a record of length 0",
            CORRUPT,
            vec![Tar::new().extension(b'x', b"0 a=b\n")],
        )
    },
    |_| {
        let tar = Tar::new().raw(Header::new(b'x', "x").size(1 << 30).sealed(false));
        refused(
            "a pax header of a gigabyte",
            ErrorKind::OutOfRange,
            vec![tar],
        )
    },
    |_| {
        let tar = Tar::new().raw(Header::new(b'L', "x").size(100 << 20).sealed(false));
        refused("a name of 100 megabytes", ErrorKind::OutOfRange, vec![tar])
    },
    |_| {
        refused(
            "an unknown type flag",
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
        let mut cut = refused("an archive that ends inside a body", CORRUPT, Vec::new());
        let below = Tar::new().file("below", "1").end();
        let whole = Tar::new().file("a", "1").file("b", vec![b'x'; 5000]).0;
        let end = whole[..whole.len() - 2000].to_vec();
        cut.layers = [below, end].map(Layer::of).into();
        cut
    },
    // Bombs, and a wrong diff ID.
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
            ErrorKind::OutOfRange,
            vec![Tar::new().pax(&records).file("x", map)],
        )
    },
    |_| bomb(),
    |_| {
        let mut lie = refused("a layer with a wrong diff ID", CORRUPT, vec![Tar::new()]);
        lie.layers[0].diff_id = Digest::sha256(b"another");
        lie
    },
];

/// Returns a case with a file of zeros, compressed to a thousandth of its size. Gzip cannot exceed
/// the allowed ratio, so the layer is refused only because of its wrong diff ID.
fn bomb() -> Case {
    let mut bomb = refused("zeros in gzip, with a wrong diff ID", CORRUPT, Vec::new());
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let header = Header::new(b'0', "zeros").size(16 << 20).sealed(false);
    encoder.write_all(&header).unwrap();
    for _ in 0..16 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    bomb.layers = vec![Layer {
        blob: encoder.finish().unwrap(),
        diff_id: Digest::sha256(b"another"),
    }];
    bomb.media_type = MediaType::OCI_LAYER_GZIP;
    bomb
}
