//! Paths and links, mostly hostile: nothing outside the tree is touched.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cas_core::ErrorKind;

use super::{names, read};
use crate::common::{Apply, Cage, Header, Tar};

#[test]
fn hostile_paths_stay_inside() {
    let cage = Cage::new();
    let canary = cage.canary();
    // Names, links, and chains of links.
    Tar::new()
        .file("../canary/file", "dead")
        .file("/abs", "1")
        .file("//abs2", "2")
        .file("x/../../../canary/y", "3")
        .symlink("a", &canary)
        .file("a/file", "dead")
        .symlink("up", "../../../../../..")
        .file(format!("up{canary}/file"), "dead")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(read(cage.root().join("canary/file")), "dead");
    assert_eq!(read(cage.root().join(format!(".{canary}/file"))), "dead");
    // One layer has a link, and the next one writes through it. Whiteouts lead through links, too.
    Tar::new()
        .file("a/later", "in")
        .file("a/.wh.file", "")
        .file("a/.wh..wh..opq", "")
        .file("up/.wh.canary", "")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(names(cage.root().join(format!(".{canary}"))), ["later"]);
    assert!(!cage.root().join("canary").exists());
    cage.assert_untouched();
}

#[test]
fn link_loops_and_endless_chains_are_refused() {
    let cage = Cage::new();
    let mut chain = Tar::new().symlink("l0", "..");
    for n in 1..60 {
        chain = chain.symlink(format!("l{n}"), format!("l{}", n - 1));
    }
    chain
        .clone()
        .file("l30/f", "x")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(read(cage.root().join("f")), "x");
    for path in ["l59/f", "loop/f"] {
        let tar = chain.clone().symlink("loop", "loop").file(path, "x");
        assert_eq!(
            tar.apply(&cage.root()).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }
    // Links whose path doubles at each step.
    let mut bomb = Tar::new().symlink("b0", ".");
    for n in 1..30 {
        bomb = bomb.symlink(format!("b{n}"), format!("b{0}/b{0}", n - 1));
    }
    let error = bomb.file("b29/f", "x").apply(&cage.root()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    cage.assert_untouched();
}

#[test]
fn hard_links_stay_inside_and_need_a_target() {
    let cage = Cage::new();
    let canary = cage.canary();
    for target in [
        "/etc/passwd",
        "../canary/file",
        "nowhere",
        "later",
        "d",
        "self",
    ] {
        let tar = Tar::new()
            .dir("d")
            .hardlink("self", target)
            .file("later", "");
        let error = tar.apply(&cage.root()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{target}: {error}");
    }
    Tar::new()
        .symlink("out", &canary)
        .hardlink("same", "out")
        .file("d/one", "1")
        .hardlink("two", "../d/one")
        .apply(&cage.root())
        .unwrap();
    assert_eq!(
        fs::read_link(cage.root().join("same")).unwrap(),
        Path::new(&canary)
    );
    let inode = |name: &str| fs::metadata(cage.root().join(name)).unwrap().ino();
    assert_eq!(inode("two"), inode("d/one"));
    let through = Tar::new().symlink("out", &canary).hardlink("h", "out/file");
    assert_eq!(
        through.apply(&cage.root()).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
    // A new file at one name of a hard link leaves the other name unchanged.
    Tar::new().file("two", "new").apply(&cage.root()).unwrap();
    assert_eq!(
        (
            read(cage.root().join("d/one")),
            read(cage.root().join("two"))
        ),
        ("1".into(), "new".into())
    );
    cage.assert_untouched();
}

#[test]
fn the_root_stays_a_directory() {
    let cage = Cage::new();
    for name in [".", "./", "/", "", "a/.."] {
        for flag in *b"0126" {
            let member = Header::new(flag, name).link(cage.canary());
            let error = Tar::new()
                .member(member, b"")
                .apply(&cage.root())
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} {flag}");
        }
    }
    let root = Header::new(b'5', "./").mode(0o711).owner(7, 8);
    Tar::new().member(root, b"").apply(&cage.root()).unwrap();
    let meta = fs::metadata(cage.root()).unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o711, 7, 8)
    );
    assert_eq!(meta.mtime(), 1_000_000_000);
    cage.assert_untouched();
}

#[test]
fn odd_names_are_bytes() {
    let cage = Cage::new();
    let long = "n".repeat(255);
    let odd: [&[u8]; 4] = [
        b"new\nline",
        b"\xff\xfe latin",
        b"back\\slash",
        long.as_bytes(),
    ];
    let mut tar = Tar::new();
    for name in odd {
        tar = tar.pax(&[("path", name)]).file("x", "odd");
    }
    let deep = format!("{}{}", "0123456789/".repeat(363), "end");
    assert!(deep.len() > 3990 && deep.len() < 4096);
    tar.pax(&[("path", deep.as_bytes())])
        .file("x", "deep")
        .apply(&cage.root())
        .unwrap();
    for name in odd {
        assert_eq!(read(cage.root().join(OsStr::from_bytes(name))), "odd");
    }
    assert_eq!(read(cage.root().join(deep)), "deep");
}

#[test]
fn links_lead_no_deeper_than_a_tree_can_be_removed() {
    let deep = ["d"; 400].join("/");
    for end in ["dir", "implied/file"] {
        let cage = Cage::new();
        let path = format!("link/{deep}/{end}");
        let tar = Tar::new()
            .pax(&[("path", deep.as_bytes())])
            .dir("x")
            .pax(&[("linkpath", deep.as_bytes())])
            .symlink("link", "x")
            .file("link/fits", "")
            .pax(&[("path", path.as_bytes())])
            .file("x", "");
        let error = tar.apply(&cage.root()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        assert!(cage.root().join(&deep).join("fits").exists());
    }
}

#[test]
fn links_that_go_up_are_followed_while_others_rename() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let cage = Cage::new();
    let done = AtomicBool::new(false);
    let storm = || {
        let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
        let [one, other] = ["one", "other"].map(|name| elsewhere.path().join(name));
        fs::create_dir(&one).unwrap();
        while !done.load(Ordering::Relaxed) {
            fs::rename(&one, &other).unwrap();
            fs::rename(&other, &one).unwrap();
        }
    };
    Tar::new()
        .dir("run")
        .symlink("var/run", "../run")
        .symlink("up", "../var/../..")
        .apply(&cage.root())
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(storm);
        let applied: Vec<_> = (0..300)
            .map(|n| {
                Tar::new()
                    .file(format!("var/run/{n}"), "")
                    .file(format!("up/var/run/new{n}/x"), "")
                    .hardlink(format!("var/run/hard{n}"), format!("var/run/{n}"))
                    .file(format!("var/run/.wh.{}", n + 1), "")
                    .apply(&cage.root())
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        for applied in applied {
            applied.unwrap();
        }
    });
    assert_eq!(names(cage.root().join("run")).len(), 900);
    cage.assert_untouched();
}
