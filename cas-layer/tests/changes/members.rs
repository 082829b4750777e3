//! Which members a layer gets.

use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use cas_core::{ErrorKind, limit};
use cas_layer::tar::{Device, EntryKind, Time};
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat};

use super::{is_root, is_whiteout, path, place, written};

fn node(path: &Path, kind: FileType, device: (u32, u32)) {
    let device = makedev(device.0, device.1);
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

fn whiteout(path: &Path) {
    node(path, FileType::CharacterDevice, (0, 0));
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn every_kind_of_change_becomes_a_member() {
    if !is_root() {
        return;
    }
    let (_temp, upper) = place();
    for dir in ["b", "b/empty", "c"] {
        fs::create_dir(upper.join(dir)).unwrap();
    }
    fs::write(upper.join("b/file"), "text").unwrap();
    fs::hard_link(upper.join("b/file"), upper.join("c/again")).unwrap();
    symlink("b/file", upper.join("z")).unwrap();
    fs::hard_link(upper.join("z"), upper.join("c/link")).unwrap();
    node(&upper.join("block"), FileType::BlockDevice, (259, 70_000));
    node(&upper.join("char"), FileType::CharacterDevice, (4095, 255));
    node(&upper.join("fifo"), FileType::Fifo, (0, 0));
    let _socket = UnixListener::bind(upper.join("socket")).unwrap();
    whiteout(&upper.join("b/gone"));
    // The kernel makes one whiteout and links to it.
    fs::hard_link(upper.join("b/gone"), upper.join("c/gone")).unwrap();
    fs::write(upper.join("c/marked"), "").unwrap();
    set(&upper.join("c/marked"), "trusted.overlay.whiteout", b"y");
    set(&upper.join("c"), "trusted.overlay.opaque", b"y");
    set(&upper.join("b"), "trusted.overlay.opaque", b"x");
    set(&upper, "trusted.overlay.opaque", b"y");

    let (members, written) = written(&upper).unwrap();
    let found: Vec<_> = members
        .iter()
        .map(|(entry, body)| (path(entry), entry.kind.clone(), &body[..]))
        .collect();
    let device = |major, minor| Device { major, minor };
    let none = &b""[..];
    let expected = [
        ("./", EntryKind::Directory, none),
        ("block", EntryKind::Block(device(259, 70_000)), none),
        ("char", EntryKind::Char(device(4095, 255)), none),
        ("fifo", EntryKind::Fifo, none),
        (".wh.socket", EntryKind::File, none),
        ("z", EntryKind::Symlink(b"b/file".to_vec()), none),
        ("b/", EntryKind::Directory, none),
        ("b/file", EntryKind::File, b"text"),
        ("b/.wh.gone", EntryKind::File, none),
        ("b/empty/", EntryKind::Directory, none),
        ("c/", EntryKind::Directory, none),
        ("c/.wh..wh..opq", EntryKind::File, none),
        ("c/again", EntryKind::Hardlink(b"b/file".to_vec()), none),
        ("c/.wh.gone", EntryKind::File, none),
        ("c/link", EntryKind::Hardlink(b"z".to_vec()), none),
        ("c/.wh.marked", EntryKind::File, none),
    ];
    let expected = expected.map(|(path, kind, body)| (path.to_owned(), kind, body));
    assert_eq!(found, expected);
    assert!(members.iter().all(|(entry, _)| {
        !is_whiteout(entry) || (entry.mode, entry.uid, entry.mtime.seconds) == (0, 0, 0)
    }));
    assert_eq!(written.warnings.len(), 1);
    assert!(written.warnings[0].contains("the socket socket is left out"));
}

#[test]
fn a_warning_shows_only_the_ends_of_a_long_path() {
    if !is_root() {
        return;
    }
    let (_temp, upper) = place();
    let directory = upper.join(vec!["n".repeat(200); 4].join("/"));
    fs::create_dir_all(&directory).unwrap();
    node(&directory.join("socket"), FileType::Socket, (0, 0));
    let (_, written) = written(&upper).unwrap();
    assert_eq!(written.warnings.len(), 1);
    let warning = &written.warnings[0];
    assert!(
        warning.contains("n/socket (810 bytes) is left out") && warning.len() < 500,
        "{warning}"
    );
}

#[test]
fn metadata_is_written_in_full() {
    if !is_root() {
        return;
    }
    let (_temp, upper) = place();
    let (deep, name) = ("d".repeat(200), "f".repeat(255));
    fs::create_dir(upper.join(&deep)).unwrap();
    let file = upper.join(&deep).join(&name);
    fs::write(&file, "x").unwrap();
    symlink("t/".repeat(1000), upper.join("far")).unwrap();
    fs::write(upper.join("\u{e9}\n="), "").unwrap();
    let (uid, gid) = (3_000_000_000, 4_294_967_294);
    chown(&file, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o6751)).unwrap();
    set(&file, "trusted.any", b"a\0=\n");
    set(&file, "user.empty", b"");
    set(&file, "trusted.overlay.origin", b"own");
    set(&file, "trusted.overlay.overlay.opaque", b"y");
    set(&file, "user.overlay.opaque", b"y");
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(0, 0),
        last_modification: time(-3, 123_456_789),
    };
    rustix::fs::utimensat(CWD, &file, &times, rustix::fs::AtFlags::empty()).unwrap();

    let (members, written) = written(&upper).unwrap();
    let member = |wanted: &str| {
        let found = members.iter().find(|(entry, _)| path(entry) == wanted);
        found.unwrap().0.clone()
    };
    let file = member(&format!("{deep}/{name}"));
    assert_eq!((file.mode, file.uid, file.gid), (0o6751, uid, gid));
    let (seconds, nanoseconds) = (-3, 123_456_789);
    assert_eq!(
        file.mtime,
        Time {
            seconds,
            nanoseconds
        }
    );
    let expected: [(&[u8], &[u8]); 2] = [(b"trusted.any", b"a\0=\n"), (b"user.empty", b"")];
    let xattrs = file
        .xattrs
        .iter()
        .map(|(name, value)| (&name[..], &value[..]));
    assert_eq!(xattrs.collect::<Vec<_>>(), expected);
    let target = "t/".repeat(1000).into_bytes();
    assert_eq!(member("far").kind, EntryKind::Symlink(target));
    assert_eq!(member("\u{e9}\n=").size, 0);
    assert_eq!(written.warnings.len(), 2, "{:?}", written.warnings);
    for (warning, name) in written
        .warnings
        .iter()
        .zip(["trusted.overlay.overlay", "user."])
    {
        assert!(warning.contains(name), "{warning}");
    }
}

#[test]
fn a_sparse_file_is_written_with_its_zeros() {
    let (_temp, upper) = place();
    let mut file = File::create(upper.join("holes")).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    file.write_all(b"end").unwrap();
    assert!(file.metadata().unwrap().blocks() < 100);
    let (members, _) = written(&upper).unwrap();
    let expected = [&vec![0; 1 << 20][..], b"end"].concat();
    assert!(members[1].1 == expected);
}

#[test]
fn what_no_layer_can_express_is_refused() {
    if !is_root() {
        return;
    }
    let refused = |make: &dyn Fn(&Path)| {
        let (_temp, upper) = place();
        make(&upper);
        written(&upper).unwrap_err()
    };
    let mark = |name: &'static str| {
        refused(&move |upper| {
            fs::write(upper.join("f"), "").unwrap();
            set(&upper.join("f"), name, b"/from");
        })
    };
    let unsupported = [
        (
            refused(&|upper| fs::write(upper.join(".wh.f"), "").unwrap()),
            "begins with .wh.",
        ),
        (
            refused(&|upper| fs::create_dir(upper.join(".wh.f")).unwrap()),
            "begins with .wh.",
        ),
        (
            refused(&|upper| whiteout(&upper.join(".wh..opq"))),
            "begins with .wh.",
        ),
        (mark("trusted.overlay.metacopy"), "metacopy=off"),
        (mark("trusted.overlay.redirect"), "redirect_dir=off"),
        (mark("user.a=b"), "has a `=`"),
    ];
    for (error, message) in unsupported {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains("write"), "{error}");
    }
    let long = "n".repeat(limit::COMPONENT - 3);
    let large = |upper: &Path| {
        let file = File::create(upper.join("f")).unwrap();
        file.set_len(limit::LAYER).unwrap();
    };
    for error in [
        refused(&|upper| whiteout(&upper.join(&long))),
        refused(&large),
    ] {
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    }
}
