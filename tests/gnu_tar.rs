//! GNU tar and `cas` extract the same tree from archives in every format that GNU tar writes, and
//! from layers that `cas` writes. Python reads these layers, too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail anywhere"
)]

mod common;

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::Digest;
use cas::layer::apply::Tree;
use cas::layer::changes;
use cas::layer::tar::Reader;
use common::{can, ok, tree};
use rustix::fs::{Gid, Mode, Uid, XattrFlags};

/// Makes files that all formats support, and below `new/` files that ustar does not support.
fn source(at: &Path) {
    fs::create_dir_all(at.join("new")).unwrap();
    fs::write(at.join("plain"), "plain").unwrap();
    fs::write(at.join("block"), [7; 512]).unwrap();
    fs::hard_link(at.join("plain"), at.join("second")).unwrap();
    symlink("nowhere/at/all", at.join("link")).unwrap();
    fs::write(at.join("set"), "").unwrap();
    rustix::fs::chown(
        at.join("set"),
        Some(Uid::from_raw(3)),
        Some(Gid::from_raw(4)),
    )
    .unwrap();
    fs::set_permissions(at.join("set"), fs::Permissions::from_mode(0o6750)).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = Mode::from_raw_mode(0o622);
    rustix::fs::mknodat(rustix::fs::CWD, at.join("fifo"), fifo, mode, 0).unwrap();
    let device = rustix::fs::FileType::CharacterDevice;
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, at.join("null"), device, mode, null).unwrap();
    let prefixed = at.join(format!("{}{}", "prefix/".repeat(17), "n".repeat(90)));
    fs::create_dir_all(prefixed.parent().unwrap()).unwrap();
    fs::write(prefixed, "in the prefix").unwrap();

    let new = at.join("new");
    let long = new.join("l".repeat(250)).join("m".repeat(250));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("file"), "long").unwrap();
    fs::hard_link(long.join("file"), long.join("o".repeat(200))).unwrap();
    symlink("t/".repeat(400), new.join("far")).unwrap();
    fs::write(new.join("large id"), "").unwrap();
    let large = Uid::from_raw(3_000_000_000);
    rustix::fs::chown(new.join("large id"), Some(large), None).unwrap();
    fs::write(new.join("\u{e9}\nline"), "odd").unwrap();
    sparse(&new.join("holes"), 3, 1 << 20);
    sparse(&new.join("many holes"), 60, 5 << 20);
    sparse(&long.join("only a hole"), 0, 3 << 20);
}

/// Makes a file of `size` bytes with some data at the start of each of `runs` equal parts.
fn sparse(path: &Path, runs: u64, size: u64) {
    let file = File::create(path).unwrap();
    for run in 0..runs {
        let data = vec![run as u8 + 1; 1000];
        let at = run * (size / runs);
        file.write_all_at(&data, at - at % 65_536).unwrap();
    }
    file.set_len(size).unwrap();
}

/// Sets extended attributes of a file and a directory. Returns false if the file system does not
/// support them.
fn attributes(at: &Path) -> bool {
    let set = |name: &str| {
        let path = at.join(name);
        rustix::fs::setxattr(path, "user.colour", b"r\0\n=d", XattrFlags::empty()).is_ok()
    };
    set("plain") && set("new")
}

#[test]
fn every_format_of_gnu_tar_gives_the_tree_that_it_makes() {
    if !can(&["tar"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let from = scratch.path().join("from");
    source(&from);
    if !attributes(&from) {
        eprintln!("SKIPPED: the file system does not support extended attributes");
    }
    let formats: [&[&str]; 7] = [
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=oldgnu", "--sparse"],
        &["--format=ustar", "--exclude=./new"],
        &[
            "--format=pax",
            "--sparse",
            "--sparse-version=0.0",
            "--xattrs",
        ],
        &[
            "--format=pax",
            "--sparse",
            "--sparse-version=0.1",
            "--xattrs",
        ],
        &[
            "--format=pax",
            "--sparse",
            "--sparse-version=1.0",
            "--xattrs",
        ],
    ];
    for (number, format) in formats.into_iter().enumerate() {
        let place = scratch.path().join(number.to_string());
        let (archive, ours, theirs) = (place.join("tar"), place.join("ours"), place.join("theirs"));
        fs::create_dir_all(&ours).unwrap();
        fs::create_dir_all(&theirs).unwrap();
        ok(tar()
            .args(format)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&from)
            .arg("."));
        ok(tar()
            .args(["--xattrs", "--xattrs-include=*", "--same-owner", "-xpf"])
            .arg(&archive)
            .arg("-C")
            .arg(&theirs));
        let mut reader = Reader::new(BufReader::new(File::open(&archive).unwrap()));
        let applied = Tree::open(&ours).unwrap().apply(&mut reader).unwrap();
        assert_eq!(applied.warnings, [""; 0], "{format:?}");
        let found = tree::differences(&ours, &theirs);
        assert!(found.is_empty(), "{format:?}:\n{}", found.join("\n"));
    }
}

/// Makes files, and writes them as a layer. Returns the path of the layer.
fn written(from: &Path) -> PathBuf {
    source(from);
    attributes(from);
    let layer = from.with_extension("layer");
    changes::write(File::open(from).unwrap(), File::create(&layer).unwrap()).unwrap();
    layer
}

#[test]
fn gnu_tar_makes_the_tree_of_a_layer_that_we_write() {
    if !can(&["tar"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let [from, theirs] = ["from", "theirs"].map(|name| scratch.path().join(name));
    let layer = written(&from);
    fs::create_dir(&theirs).unwrap();
    ok(tar()
        .args(["--xattrs", "--xattrs-include=*", "--same-owner", "-xpf"])
        .arg(&layer)
        .arg("-C")
        .arg(&theirs));
    let found = tree::differences(&from, &theirs);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Prints each member as [`python_reads_the_members_of_a_layer_that_we_write`] expects it.
const LIST: &str = "
import hashlib, sys, tarfile
for m in (archive := tarfile.open(sys.argv[1])):
    body = archive.extractfile(m).read() if m.isreg() else b''
    path = m.name.encode('utf-8', 'surrogateescape').hex()
    print(path, oct(m.mode), m.uid, m.gid, int(m.mtime), hashlib.sha256(body).hexdigest())
";

#[test]
fn python_reads_the_members_of_a_layer_that_we_write() {
    if !can(&["python3"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let layer = written(&scratch.path().join("from"));
    let mut reader = Reader::new(BufReader::new(File::open(&layer).unwrap()));
    let mut expected = String::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut body = Vec::new();
        reader.read_to_end(&mut body).unwrap();
        let path = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
        let path: String = path.iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = Digest::sha256(&body);
        writeln!(
            expected,
            "{path} 0o{:o} {} {} {} {}",
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime.seconds,
            digest.hex()
        )
        .unwrap();
    }
    let listed = ok(Command::new("python3").arg("-c").arg(LIST).arg(&layer));
    assert_eq!(listed, expected);
}

fn tar() -> Command {
    let mut command = Command::new("tar");
    command.args(["--numeric-owner", "--warning=no-timestamp"]);
    command
}
