//! Files in the place of directories, directories in the place of files, and directories that are
//! not empty.

use std::fs;

use super::Shelf;

#[test]
fn a_file_is_told_from_a_full_directory() {
    let shelf = Shelf::new();
    fs::write(shelf.path("file"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", shelf.path("dangling")).unwrap();
    fs::create_dir(shelf.path("full")).unwrap();
    fs::write(shelf.path("full/mine"), "mine").unwrap();
    let not_a_directory = "is not a directory; name another path";
    for command in [
        &["unpack", "app:1"][..],
        &["bundle", "app:1"],
        &["mount", "app:1"],
        &["man"],
        &["demo", "--keep"],
        &["--store", "fs", "init", "--root"],
        &["images", "--root"],
    ] {
        let run = |path: &str, code| {
            let said = shelf.fails(&[command, &[path]].concat(), code);
            assert!(!said.contains("os error"), "{command:?} {path}: {said}");
            said
        };
        for path in ["file", "file/below", "full/mine", "full/mine/x/y"] {
            let said = run(path, 2);
            assert!(said.contains(not_a_directory), "{command:?} {path}: {said}");
            assert!(!said.contains("not empty"), "{command:?} {path}: {said}");
        }
        if ["unpack", "bundle", "mount"].contains(&command[0]) {
            let said = run("file/", 2);
            assert!(said.contains(not_a_directory), "{command:?}: {said}");
        }
        if command[0] != "man" && command[0] != "mount" {
            let said = run("full", 2);
            assert!(said.contains("not empty"), "{command:?}: {said}");
            assert!(said.contains("name one that is empty") || said.contains("choose another"));
            let said = run("dangling", 2);
            assert!(said.contains(not_a_directory), "{command:?}: {said}");
        }
    }
    let said = shelf.fails(&["mount", "app:1", "absent"], 3);
    assert!(said.contains("no such directory"), "{said}");
    let said = shelf.fails(&["unpack", "app:1", "absent/x"], 3);
    assert!(said.contains("create it first"), "{said}");
    let said = shelf.fails(&["export", "app:1", "-o", "full"], 2);
    assert!(said.contains("is a directory"), "{said}");
    for path in ["file/", "new/"] {
        let said = shelf.fails(&["export", "app:1", "-o", path], 2);
        assert!(said.contains("ends in a slash"), "{path}: {said}");
    }
    assert!(!shelf.path("new").exists());
    let said = shelf.fails(&["export", "app:1", "-o", "file/x"], 2);
    assert!(said.contains("not a directory"), "{said}");
    let said = shelf.fails(&["export", "app:1", "-o", "absent/x"], 3);
    assert!(said.contains("no such directory"), "{said}");
    let said = shelf.fails(
        &["copy", "app:1", &format!("fs://{}", shelf.text("file"))],
        2,
    );
    assert!(said.contains("not a directory"), "{said}");
    assert_eq!(fs::read_to_string(shelf.path("file")).unwrap(), "mine");
    assert_eq!(fs::read_dir(shelf.path("full")).unwrap().count(), 1);
}

#[test]
fn a_directory_cannot_be_written_to_standard_output() {
    let shelf = Shelf::new();
    for command in ["unpack", "bundle"] {
        let said = shelf.fails(&[command, "app:1", "-"], 2);
        assert!(said.contains("write ./-"), "{command}: {said}");
        assert!(!shelf.path("-").exists());
    }
    shelf.ok(&["unpack", "--rootless", "app:1", "./-"]);
    assert!(shelf.path("-").is_dir());
}
