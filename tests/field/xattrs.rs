//! Extended attributes that a file cannot have. They are left out with a warning that names the
//! file, and the rest of the layer is unpacked.

use std::path::Path;
use std::process::Command;

use testkit::archive::{Header, Tar};

use crate::common::disk::Disk;
use crate::common::{can, fails, ok};
use crate::scene::{Files, Place, host};

/// Returns a layer of one member with an attribute, between two files.
fn layer(header: Header, attribute: &str, value: &[u8]) -> Vec<u8> {
    let key = format!("SCHILY.xattr.{attribute}");
    Tar::new()
        .file("before", "")
        .pax(&[(&key, value)])
        .member(header, "")
        .file("last", "")
        .end()
}

fn import(place: &Place, layer: &[u8]) {
    let mut files = Files::layout();
    let image = files.image(&host(), layer);
    files.lists(&image);
    let scratch = tempfile::tempdir_in(place.scratch.path()).unwrap();
    place.import(&files.write(&scratch.path().join("source")), "app:1");
}

fn attributes(path: &Path) -> Vec<u8> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names.truncate(length);
    names
}

#[test]
fn attributes_of_what_cannot_have_them_are_left_out() {
    if !can(&[]) {
        return;
    }
    let place = Place::new();
    let node = |flag, name: &str| Header::new(flag, name).link("before").device(1, 3);
    for (name, flag, attribute) in [
        ("d/link", b'2', "user.a"),
        ("d/pipe", b'6', "user.a"),
        ("d/null", b'3', "user.mime_type"),
        ("d/disk", b'4', "user.a"),
        ("d/acl", b'2', "system.posix_acl_access"),
        ("d/file", b'0', "system.posix_acl_default"),
        ("d/strange", b'0', "strange.name"),
        ("d/directory", b'5', "strange.name"),
    ] {
        let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
        let value: &[u8] = if attribute.starts_with("system") {
            acl
        } else {
            b"value"
        };
        import(&place, &layer(node(flag, name), attribute, value));
        let scratch = tempfile::tempdir_in(place.scratch.path()).unwrap();
        let tree = scratch.path().join("tree");
        let unpacked = place
            .cas()
            .args(["unpack", "app:1"])
            .arg(&tree)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&unpacked.stderr).into_owned();
        assert!(unpacked.status.success(), "{name}: {said}");
        let expected = format!("the xattr {attribute} of {name} is left out");
        assert_eq!(said.matches(&expected).count(), 1, "{said}");
        assert!(tree.join(name).symlink_metadata().is_ok() && tree.join("last").exists());
        assert_eq!(attributes(&tree.join(name)), b"", "{name}");
        let snapshots = Place::new();
        let archive = place.path("app.tar");
        ok(place.cas().args(["export", "app:1", "-o"]).arg(&archive));
        ok(snapshots.cas().args(["import", "--unpack"]).arg(&archive));
    }
}

#[test]
fn each_file_is_named() {
    let place = Place::new();
    let linked = |tar: Tar, name: &str| {
        let tar = tar.pax(&[("SCHILY.xattr.user.a", b"1")]);
        tar.symlink(name, "target")
    };
    let tar = ["one", "two", "dir/three"]
        .into_iter()
        .fold(Tar::new(), linked);
    import(&place, &tar.end());
    let (_, said) = place.unpack("app:1");
    for name in ["one", "two", "dir/three"] {
        assert!(
            said.contains(&format!("user.a of {name} is left out")),
            "{said}"
        );
    }
    // The number of warnings is bounded.
    let many = (0..200).map(|n| format!("link{n}"));
    let tar = many.fold(Tar::new(), |tar, name| linked(tar, &name));
    import(&place, &tar.end());
    let (names, said) = place.unpack("app:1");
    assert_eq!(
        (names.len(), said.matches("is left out").count()),
        (200, 32),
        "{said}"
    );
}

#[test]
fn attributes_beyond_what_the_kernel_takes_are_left_out() {
    let place = Place::new();
    let long = format!("user.{}", "n".repeat(300));
    for (attribute, size) in [("user.a", 65_537), ("user.a", 70_000), (&*long, 1)] {
        import(
            &place,
            &layer(Header::new(b'0', "d/file"), attribute, &vec![b'v'; size]),
        );
        let (names, said) = place.unpack("app:1");
        assert_eq!(names, ["before", "d", "last"]);
        assert!(said.contains("of d/file is left out"), "{said}");
    }
}

/// Attributes for which the file system has no room, although it has room for files.
#[test]
fn attributes_without_room_are_left_out() {
    if !can(&["mkfs.ext4"]) {
        return;
    }
    let place = Place::new();
    let disk = place.file("disk", "");
    std::fs::File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    ok(Command::new("mkfs.ext4")
        .args(["-q", "-O", "^ea_inode"])
        .arg(&disk));
    let mounted = place.path("mounted");
    std::fs::create_dir(&mounted).unwrap();
    ok(Command::new("mount")
        .args(["-o", "loop"])
        .arg(&disk)
        .arg(&mounted));
    let mounted = Disk(mounted);
    for (number, (flag, name)) in [(b'0', "d/file"), (b'5', "d/dir")].into_iter().enumerate() {
        for size in [5000, 20_000, 65_536] {
            import(
                &place,
                &layer(Header::new(flag, name), "user.big", &vec![b'v'; size]),
            );
            let tree = mounted.0.join(format!("{number}-{size}"));
            let out = place
                .cas()
                .args(["unpack", "app:1"])
                .arg(&tree)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success(), "{size}: {said}");
            assert!(
                said.contains(&format!("user.big of {name} is left out")),
                "{said}"
            );
            assert!(tree.join("last").exists());
        }
    }
    // If the device is full, the unpack fails instead.
    import(
        &place,
        &layer(Header::new(b'0', "f"), "user.big", &vec![b'v'; 4000]),
    );
    let tree = mounted.0.join("full");
    std::fs::create_dir(&tree).unwrap();
    mounted.fill(0);
    let said = fails(place.cas().args(["unpack", "app:1"]).arg(&tree), 6);
    assert!(!said.contains("left out"), "{said}");
}
