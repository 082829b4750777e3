//! `cas disk`: an image as one disk that can be mounted.

use std::ffi::OsString;
use std::fs;
use std::io::{BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::slice::from_ref;
use std::time::{Duration, SystemTime};

use cas::Digest;
use cas::blocking::Cas;
use cas::gc::GcOptions;
use cas::layer::tar::{Entry, Reader};
use testkit::archive::{Header, Tar};

use super::Shelf;
use crate::common::layout::{layout, layout_typed};
use crate::common::tree::differences;
use crate::common::{can, cas, mounting_snapshotters, ok};

#[test]
fn a_disk_mounts_as_the_tree_that_is_unpacked() {
    let shelf = Shelf::new();
    let lower = Tar::new()
        .file("etc/a", "1")
        .dir("gone")
        .symlink("link", "etc");
    let upper = Tar::new()
        .file(".wh.gone", "")
        .member(
            Header::new(b'0', "etc/b").mode(0o4751).owner(1, 2).size(3),
            "two",
        )
        .hardlink("link/c", "etc/b");
    layout(&shelf.path("layout"), vec![lower, upper]);
    shelf.ok(&["import", "layout", "--name", "two:1"]);
    for image in ["app:1", "two:1"] {
        let made = shelf.json(&["disk", image, "-o", "image"]);
        let length = fs::metadata(shelf.path("image")).unwrap().len();
        assert_eq!(made[0]["size"], length);
        assert!(made[0]["metadata"].as_u64().unwrap() < length);
        assert_eq!(
            shelf.ok(&["disk", image, "-o", "again"]),
            format!("{image} -> again\n")
        );
        assert_eq!(
            fs::read(shelf.path("image")).unwrap(),
            fs::read(shelf.path("again")).unwrap()
        );
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: mounting a disk needs the superuser");
            continue;
        }
        let mount = shelf.path("mount");
        fs::create_dir_all(&mount).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success());
        run(Command::new("mount")
            .args(["-o", "ro,loop"])
            .arg(shelf.path("image"))
            .arg(&mount));
        let tree = shelf.text("tree");
        shelf.ok(&["unpack", image, &tree]);
        let found = differences(&mount, &shelf.path("tree"));
        run(Command::new("umount").arg(&mount));
        // No member of these layers sets the time of the root.
        let found: Vec<_> = found.iter().filter(|one| !one.starts_with(':')).collect();
        assert!(found.is_empty(), "{found:?}");
        fs::remove_dir_all(shelf.path("tree")).unwrap();
    }
}

/// The snapshotter `erofs` has the tars of an image, and its metadata.
#[test]
fn a_disk_of_stored_tars_has_the_bytes_of_one_of_the_layers() {
    if !mounting_snapshotters().contains(&"erofs") {
        return;
    }
    let (shelf, disk) = (Shelf::new(), tempfile::tempdir().unwrap());
    let sparse = Tar::new()
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.size", b"8192"),
            ("GNU.sparse.map", b"4096,5"),
            ("GNU.sparse.numblocks", b"1"),
        ])
        .file("GNUSparseFile.0/sparse", "bytes");
    let upper = Tar::new().file("etc/b", "2");
    layout(&shelf.path("layout"), vec![sparse, upper]);
    shelf.ok(&["import", "layout", "--name", "two:1"]);
    let root = disk.path().join("root");
    let stored =
        |arguments: &[&str]| ok(cas(&root).args(arguments).current_dir(shelf.scratch.path()));
    stored(&["--snapshotter", "erofs", "init"]);
    stored(&["import", "layout", "--name", "two:1", "--unpack"]);
    stored(&["import", "demo.tar", "--name", "app:1", "--unpack"]);
    // Without the layers in the store, only the tars can be used.
    for blob in fs::read_dir(root.join("store/blobs/sha256")).unwrap() {
        let blob = blob.unwrap().path();
        if !fs::read(&blob).unwrap().starts_with(b"{") {
            fs::remove_file(blob).unwrap();
        }
    }
    for image in ["app:1", "two:1"] {
        shelf.ok(&["disk", image, "-o", "of-layers"]);
        stored(&["disk", image, "-o", "of-tars"]);
        let read = |name: &str| fs::read(shelf.path(name)).unwrap();
        assert!(read("of-layers") == read("of-tars"), "{image}");
    }
    let left = || stored(&["--json", "snapshot", "ls"]);
    assert!(!left().contains("disk-"), "{}", left());
    // A kill may leave a snapshot, which a later collection removes.
    for milliseconds in [5, 10, 15, 20, 25, 30, 40] {
        let mut killed = cas(&root);
        killed
            .args(["disk", "app:1", "-o"])
            .arg(shelf.path("killed"));
        let mut killed = killed.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    let later = SystemTime::now() + Duration::from_secs(10 * 24 * 60 * 60);
    let open = Cas::open(&root).unwrap();
    open.gc_with(GcOptions::default().with_now(later)).unwrap();
    assert!(!left().contains("disk-"), "{}", left());
}

#[test]
fn a_layer_that_is_an_erofs_image_is_stored_as_it_is_and_not_read_as_a_tar() {
    const TYPE: &str = "application/vnd.erofs.layer.v1";
    let shelf = Shelf::new();
    shelf.ok(&["disk", "app:1", "-o", "image"]);
    let image = fs::read(shelf.path("image")).unwrap();
    let digest = Digest::sha256(&image);
    layout_typed(&shelf.path("layout"), from_ref(&image), &[digest], TYPE);
    shelf.ok(&["import", "layout", "--name", "native:1"]);
    assert!(shelf.ok(&["images"]).contains("native:1"));
    shelf.ok(&["export", "native:1", "-o", "native.tar"]);
    let exported = fs::File::open(shelf.path("native.tar")).unwrap();
    let mut reader = Reader::new(BufReader::new(exported));
    let is_layer = |entry: &Entry| entry.path.ends_with(digest.hex().as_bytes());
    while !is_layer(&reader.next_entry().unwrap().unwrap()) {}
    let mut found = Vec::new();
    reader.read_to_end(&mut found).unwrap();
    assert!(found == image);
    for command in [
        &["disk", "native:1", "-o", "no"][..],
        &["unpack", "native:1", "no"],
    ] {
        let said = shelf.fails(command, 2);
        assert!(said.contains("found an EROFS image of type"), "{said}");
        assert!(said.contains(TYPE), "{said}");
        assert!(!shelf.path("no").exists());
    }
}

#[test]
fn wrong_arguments_leave_everything_as_it_is() {
    let shelf = Shelf::new();
    fs::write(shelf.path("image"), "before").unwrap();
    fs::create_dir(shelf.path("directory")).unwrap();
    shelf.fails(&["disk", "absent:1", "-o", "image"], 3);
    shelf.fails(&["disk", "app:1", "-o", "absent/image"], 3);
    shelf.fails(
        &["disk", "app:1", "--platform", "linux/s390x", "-o", "image"],
        3,
    );
    let said = shelf.fails(&["disk", "app:1", "-o", "directory"], 2);
    assert!(said.contains("is a directory; name a file in it"), "{said}");
    shelf.fails(&["disk", "app:1"], 2);
    let (slash, file) = ("ends in a slash", "is not a directory");
    for (output, expected) in [
        (&["image/"][..], slash),
        (&["new/"], slash),
        (&["image", "--format", "vmdk"], file),
        (&["image/", "--format", "vmdk"], file),
        (&["image", "--format", "layers"], file),
        (&["image/", "--format", "layers"], file),
    ] {
        let said = shelf.fails(&[&["disk", "app:1", "-o"], output].concat(), 2);
        assert!(said.contains(expected), "{output:?}: {said}");
    }
    symlink(".", shelf.path("here")).unwrap();
    let (same, piped) = ("need different files", "write ./-");
    for (writable, expected) in [
        ("new", same),
        ("./new", same),
        ("here/new", same),
        (&*shelf.text("new"), same),
        ("new/", slash),
        ("-", piped),
    ] {
        let disk = ["disk", "app:1", "-o", "new", "--writable-size", "16MiB"];
        let said = shelf.fails(&[&disk[..], &["--writable", writable]].concat(), 2);
        assert!(said.contains(expected), "{writable}: {said}");
    }
    assert!(!shelf.path("new").exists());
    assert_eq!(fs::read(shelf.path("image")).unwrap(), b"before");
    shelf.ok(&["disk", "app:1", "-o", "image"]);
    assert_ne!(fs::read(shelf.path("image")).unwrap(), b"before");
}

#[test]
fn what_a_kill_leaves_is_removed_by_the_next_disk() {
    let shelf = Shelf::new();
    let files = shelf.path("files");
    fs::create_dir(&files).unwrap();
    for format in ["erofs", "vmdk"] {
        let output = format!("files/{format}");
        let disk = ["disk", "app:1", "-o", &output, "--format", format];
        for milliseconds in [0, 5, 10, 20, 40, 80] {
            let mut disk = shelf.cas(&disk);
            let mut disk = disk.stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(milliseconds));
            disk.kill().unwrap();
            disk.wait().unwrap();
            // If the disk was complete before the kill, the next `cas disk` would refuse the
            // directory, because it is not empty.
            if shelf.path(&output).join("disk.vmdk").exists() {
                fs::remove_dir_all(shelf.path(&output)).unwrap();
            }
        }
        shelf.ok(&disk);
    }
    assert_eq!(names(&files), ["erofs", "vmdk"]);
    let expected = [
        "data-001",
        "data-002",
        "data-003",
        "disk.vmdk",
        "metadata.erofs",
        "zeros",
    ];
    assert_eq!(names(&files.join("vmdk")), expected);
}

/// Returns the names in a directory, in order.
fn names(directory: &Path) -> Vec<OsString> {
    let names = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = names.map(|one| one.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Returns the bytes of the disk that the descriptor in a directory describes.
fn described(directory: &Path) -> Vec<u8> {
    let descriptor = fs::read_to_string(directory.join("disk.vmdk")).unwrap();
    let mut disk = Vec::new();
    for line in descriptor.lines().filter(|line| line.starts_with("RW ")) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, sectors, "FLAT", name, "0"] = fields[..] else {
            panic!("{line}");
        };
        let file = fs::read(directory.join(name.trim_matches('"'))).unwrap();
        disk.extend(&file[..sectors.parse::<usize>().unwrap() * 512]);
    }
    disk
}

#[test]
fn a_disk_of_several_files_has_the_bytes_of_one_file() {
    let shelf = Shelf::new();
    let vmdk = |directory| ["disk", "app:1", "-o", directory, "--format", "vmdk"];
    shelf.ok(&["disk", "app:1", "-o", "image", "--format", "raw"]);
    let expected = fs::read(shelf.path("image")).unwrap();
    for directory in ["vm", "again"] {
        let made = shelf.json(&vmdk(directory));
        assert_eq!(made[0]["size"], expected.len());
        assert!(described(&shelf.path(directory)) == expected);
    }
    for name in names(&shelf.path("vm")) {
        let file = |directory| fs::read(shelf.path(directory).join(&name)).unwrap();
        assert!(file("vm") == file("again"), "{name:?}");
    }
    let said = shelf.fails(&vmdk("vm"), 2);
    assert!(said.contains("the directory is not empty"), "{said}");
    shelf.fails(&vmdk("image"), 2);
    shelf.fails(&["disk", "absent:1", "-o", "no", "--format", "vmdk"], 3);
    assert!(!shelf.path("no").exists());
    if can(&["qemu-img"]) {
        let (disk, image) = (shelf.path("vm/disk.vmdk"), shelf.path("image"));
        let mut compare = Command::new("qemu-img");
        let compare = compare.args(["compare", "-f", "vmdk", "-F", "raw"]);
        ok(compare.arg(disk).arg(image));
    }
}

#[test]
fn a_writable_disk_is_made_beside_the_disk() {
    if !can(&["mkfs.ext4"]) {
        return;
    }
    let shelf = Shelf::new();
    let disk = |image, writable, size| {
        let outputs = ["disk", image, "-o", "image", "--writable", writable];
        [&outputs[..], &["--writable-size", size]].concat()
    };
    // After a failure, a file of this name stays, and nothing else is left.
    fs::write(shelf.path("writable"), "old").unwrap();
    let before = names(shelf.scratch.path());
    shelf.fails(&disk("absent:1", "writable", "64MiB"), 3);
    shelf.fails(&disk("app:1", "image", "64MiB"), 2);
    shelf.fails(&disk("app:1", "writable", "1000000001"), 2);
    shelf.fails(&disk("app:1", "writable", "1MiB"), 6);
    shelf.fails(&disk("app:1", "writable", "17TiB"), 6);
    assert_eq!(names(shelf.scratch.path()), before);
    assert_eq!(fs::read(shelf.path("writable")).unwrap(), b"old");

    let made = shelf.json(&disk("app:1", "writable", "64MiB"));
    assert_eq!(made[0]["writable"], "writable");
    shelf.ok(&disk("app:1", "again", "64MiB"));
    let bytes = fs::read(shelf.path("writable")).unwrap();
    assert_eq!(bytes.len(), 64 << 20);
    assert!(bytes == fs::read(shelf.path("again")).unwrap());
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: mounting a disk needs the superuser");
        return;
    }
    let mount = shelf.path("mount");
    fs::create_dir(&mount).unwrap();
    let looped = ["-o", "loop"];
    ok(Command::new("mount")
        .args(looped)
        .arg(shelf.path("again"))
        .arg(&mount));
    let written = fs::write(mount.join("file"), "written");
    ok(Command::new("umount").arg(&mount));
    written.unwrap();
}
