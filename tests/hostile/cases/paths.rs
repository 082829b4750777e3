//! Names and links that lead out of the directory.

use cas::{ErrorKind, limit};

use super::{CORRUPT, Make, harmless, pax, refused};
use testkit::archive::{Header, Tar};

/// The path from each target directory up to the one that contains `canary`.
const UP: &str = "../../../..";

pub(super) const ALL: &[Make] = &[
    // Names.
    |_| harmless("names with `..`", vec![climbing()]),
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
            "a symlink named `.`",
            CORRUPT,
            vec![Tar::new().symlink(".", "/")],
        )
    },
    |_| {
        refused(
            "a symlink named `./`",
            CORRUPT,
            vec![Tar::new().symlink("./", UP)],
        )
    },
    |_| {
        refused(
            "a symlink named `..`",
            CORRUPT,
            vec![Tar::new().symlink("..", "/")],
        )
    },
    |_| refused("a file named `/`", CORRUPT, vec![Tar::new().file("/", "x")]),
    |_| {
        refused(
            "a hard link named `.`",
            CORRUPT,
            vec![Tar::new().hardlink(".", "x")],
        )
    },
    |_| {
        refused(
            "a name with a NUL byte",
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
            "a name that is too long",
            ErrorKind::OutOfRange,
            vec![pax("path", &[b'x'; 256])],
        )
    },
    |_| {
        let path = format!("{}x", "abcdefg/".repeat(limit::PATH / 8));
        refused(
            "a path that is too long",
            ErrorKind::OutOfRange,
            vec![pax("path", path.as_bytes())],
        )
    },
    |_| {
        let path = "a/".repeat(limit::PATH_DEPTH + 1);
        refused(
            "a path that is too deep",
            ErrorKind::OutOfRange,
            vec![pax("path", path.as_bytes())],
        )
    },
    // Links.
    |cage| {
        let tar = Tar::new()
            .symlink("out", cage.canary())
            .file("out/file", "dead");
        harmless("a file through a symlink", vec![tar.file("out/new", "x")])
    },
    |_| {
        let tar = Tar::new().symlink("out", format!("{UP}/canary"));
        harmless(
            "a file through a relative symlink",
            vec![tar.file("out/file", "dead").dir("out/dir")],
        )
    },
    |_| {
        let chain = (1..30).fold(Tar::new().symlink("l0", UP), |tar, n| {
            tar.symlink(format!("l{n}"), format!("l{}", n - 1))
        });
        harmless(
            "a file through a chain of symlinks",
            vec![chain.file("l29/canary/file", "dead")],
        )
    },
    |_| {
        let tar = Tar::new()
            .symlink("a", "b")
            .symlink("b", "a")
            .file("a/x", "");
        refused("a file in a symlink loop", CORRUPT, vec![tar])
    },
    |cage| {
        let next = Tar::new().file("out/file", "dead").file("out/dir/new", "x");
        harmless(
            "a file through a symlink of the layer below",
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
        harmless("the owner, mode and xattrs of a symlink", vec![tar])
    },
    |cage| {
        let target = format!("{}/pipe", cage.canary());
        harmless(
            "a file that replaces a symlink to a pipe",
            vec![
                Tar::new().symlink("p", &target),
                Tar::new().file("p", "dead"),
            ],
        )
    },
    |_| {
        let tar = Tar::new().symlink("magic", "/proc/self/root");
        harmless("a file through /proc", vec![tar.file("magic/new", "x")])
    },
    // Hard links.
    |cage| {
        let target = format!("{}/file", cage.canary());
        refused(
            "a hard link to an absolute path outside the root",
            CORRUPT,
            vec![Tar::new().hardlink("h", &target)],
        )
    },
    |_| {
        let target = format!("{UP}/canary/file");
        refused(
            "a hard link whose target has `..`",
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
            "a hard link through a symlink of the layer below",
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
        harmless("a file that replaces a hard link to a symlink", vec![tar])
    },
    |_| {
        let tar = Tar::new().dir("d").hardlink("h", "d");
        refused("a hard link to a directory", CORRUPT, vec![tar])
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
