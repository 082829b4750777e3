//! `cas disk`: one file that mounts.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::archive::{Header, Tar};

use super::Shelf;
use crate::common::layout::layout;
use crate::common::tree::differences;

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
            eprintln!("skipped: mounting a disk needs the superuser");
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
    assert_eq!(fs::read(shelf.path("image")).unwrap(), b"before");
    shelf.ok(&["disk", "app:1", "-o", "image"]);
    assert_ne!(fs::read(shelf.path("image")).unwrap(), b"before");
}

#[test]
fn what_a_kill_leaves_is_removed_by_the_next_disk() {
    let shelf = Shelf::new();
    let files = shelf.path("files");
    fs::create_dir(&files).unwrap();
    for milliseconds in [0, 5, 10, 20, 40, 80] {
        let mut disk = shelf.cas(&["disk", "app:1", "-o", "files/image"]);
        let mut disk = disk.stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        disk.kill().unwrap();
        disk.wait().unwrap();
    }
    shelf.ok(&["disk", "app:1", "-o", "files/image"]);
    let names: Vec<_> = fs::read_dir(&files)
        .unwrap()
        .map(|one| one.unwrap().file_name())
        .collect();
    assert_eq!(names, ["image"]);
}
