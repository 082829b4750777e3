//! Paths of outputs: in the root, in the store, and symbolic links that lead to nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::Shelf;
use crate::common::fails;

/// The commands that write something. The path of their output comes last.
const FILES: &[&[&str]] = &[
    &["export", "app:1", "-o"],
    &["export", "app:1", "--format", "docker", "-o"],
    #[cfg(feature = "erofs")]
    &["disk", "app:1", "-o"],
    #[cfg(feature = "erofs")]
    &[
        "disk",
        "app:1",
        "-o",
        "disk",
        "--writable-size",
        "16MiB",
        "--writable",
    ],
];
const DIRECTORIES: &[&[&str]] = &[
    &["unpack", "app:1"],
    &["unpack", "--rootless", "app:1"],
    &["bundle", "app:1"],
    #[cfg(feature = "erofs")]
    &["disk", "app:1", "--format", "vmdk", "-o"],
    #[cfg(feature = "erofs")]
    &["disk", "app:1", "--format", "layers", "-o"],
    &["man"],
    &["demo", "--keep"],
    &["bench", "--rows", "put", "--on"],
    &["bench", "--rows", "put", "--plots"],
];

/// Returns the names in the root and in its store, and the list of images.
fn state(shelf: &Shelf) -> (Vec<String>, Vec<u8>) {
    let mut names = Vec::new();
    for directory in ["root", "root/store"] {
        for entry in fs::read_dir(shelf.path(directory)).unwrap() {
            names.push(entry.unwrap().path().display().to_string());
        }
    }
    names.sort();
    (
        names,
        fs::read(shelf.path("root/store/index.json")).unwrap(),
    )
}

#[test]
fn nothing_is_written_into_the_root() {
    let shelf = Shelf::new();
    symlink("root", shelf.path("to-root")).unwrap();
    symlink("root/store/index.json", shelf.path("to-index")).unwrap();
    let before = state(&shelf);
    let absolute = shelf.text("root/store/index.json");
    for command in [FILES, DIRECTORIES].concat() {
        let refused = |directory: &Path, path: &str| {
            let mut command = shelf.cas(command);
            let said = fails(command.arg(path).current_dir(directory), 2);
            let words = ["is in the root", "name a path outside of it"];
            let is_clear = words.iter().all(|words| said.contains(words));
            assert!(is_clear, "{command:?}: {said}");
            assert!(state(&shelf) == before, "{command:?}");
        };
        for path in [
            "root",
            "root/new",
            "root/store/index.json",
            "./to-root/../root/store/new",
            "to-root/store/index.json",
            "to-index",
            &*absolute,
        ] {
            refused(shelf.scratch.path(), path);
        }
        refused(&shelf.path("root/store"), "index.json");
        refused(&shelf.path("root/store"), "../new");
    }
    assert!(!shelf.path("disk").exists());
    // Paths beside the root are not in the root.
    shelf.ok(&["export", "app:1", "-o", "root-2"]);
    shelf.ok(&["export", "app:1", "-o", "root/../to-root/../archive"]);
    shelf.ok(&["fsck"]);
}

#[test]
fn a_root_directory_of_a_container_is_not_made_in_the_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: preparing a root directory needs the superuser");
        return;
    }
    let shelf = Shelf::new();
    symlink("root", shelf.path("to-root")).unwrap();
    let before = state(&shelf);
    let absolute = shelf.text("root/new");
    for path in [
        "root",
        "root/new",
        "root/snapshots",
        "to-root/new",
        &*absolute,
    ] {
        let said = shelf.fails(&["rootfs", "prepare", path, "--image", "app:1"], 2);
        assert!(said.contains("is in the root"), "{path}: {said}");
        assert!(state(&shelf) == before, "{path}");
    }
}

#[test]
fn nothing_is_written_into_a_store_outside_of_the_root() {
    let shelf = Shelf::new();
    let store = format!("fs://{}", shelf.text("store"));
    shelf.ok(&["copy", "app:1", &store]);
    let index = fs::read(shelf.path("store/index.json")).unwrap();
    for path in ["store/index.json", "store/new", "store"] {
        let mut export = shelf.cas(&["--store", &store, "export", "app:1", "-o", path]);
        let said = fails(&mut export, 2);
        assert!(said.contains("is in the store"), "{path}: {said}");
    }
    assert!(fs::read(shelf.path("store/index.json")).unwrap() == index);
    assert!(!shelf.path("store/new").exists());
    shelf.ok(&["--store", &store, "export", "app:1", "-o", "archive"]);
}

#[test]
fn a_link_that_leads_to_nothing_is_refused_and_stays() {
    let shelf = Shelf::new();
    for (link, target) in [
        ("dangling", "absent"),
        ("deeper", "absent/file"),
        ("loop", "loop"),
        ("of-a-link", "dangling"),
        ("into-the-root", "root/store/new"),
    ] {
        symlink(target, shelf.path(link)).unwrap();
        // A measurement takes long, and its plots are written at its end.
        let quick = DIRECTORIES.iter().filter(|command| command[0] != "bench");
        for command in FILES.iter().chain(quick) {
            let said = shelf.fails(&[*command, &[link]].concat(), 2);
            let words = match FILES.contains(command) {
                true => "is a symbolic link that leads to nothing",
                false => "is not a directory",
            };
            assert!(said.contains(words), "{command:?} {link}: {said}");
            let found = fs::read_link(shelf.path(link)).unwrap();
            assert_eq!(found, Path::new(target), "{command:?}");
        }
    }
    for name in ["absent", "disk", "root/store/new"] {
        assert!(!shelf.path(name).exists(), "{name}");
    }
}
