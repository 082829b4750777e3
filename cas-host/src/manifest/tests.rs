use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;

fn make(dir: &Path) {
    fs::create_dir_all(dir.join("etc/a b")).unwrap();
    fs::write(dir.join("etc/passwd"), "root").unwrap();
    // Changes within one tick of the kernel's clock can leave the same time.
    let passwd = File::open(dir.join("etc/passwd")).unwrap();
    passwd.set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::write(dir.join("etc/a b/new\nline\\"), "x").unwrap();
    symlink("passwd", dir.join("etc/link")).unwrap();
}

/// Returns the differences after `change`.
fn after(change: impl FnOnce(&Path)) -> Option<String> {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    make(&tree);
    let dir = File::open(&tree).unwrap();
    write(&dir, File::create(temp.path().join("manifest")).unwrap()).unwrap();
    change(&tree);
    let manifest = File::open(temp.path().join("manifest")).unwrap();
    let found = compare(&dir, &manifest, None).unwrap();
    let read = compare(&dir, &manifest, Some(Sums::new(None))).unwrap();
    assert!(found.is_none() || found == read, "{found:?}, but {read:?}");
    read
}

#[test]
fn an_unchanged_tree_has_no_differences() {
    assert_eq!(after(|_| {}), None);
    // Another order of the entries does not count.
    let moved = |tree: &Path| {
        let before = fs::metadata(tree.join("etc")).unwrap().modified().unwrap();
        fs::rename(tree.join("etc/passwd"), tree.join("etc/moved")).unwrap();
        fs::rename(tree.join("etc/moved"), tree.join("etc/passwd")).unwrap();
        File::open(tree.join("etc"))
            .unwrap()
            .set_modified(before)
            .unwrap();
    };
    assert_eq!(after(moved), None);
}

#[test]
fn every_change_is_named() {
    let passwd = |tree: &Path| tree.join("etc/passwd");
    let emptied = after(|tree| fs::write(passwd(tree), "").unwrap()).unwrap();
    assert_eq!(emptied, "/etc/passwd was changed");
    let flipped = after(|tree| fs::write(passwd(tree), "toor").unwrap()).unwrap();
    assert_eq!(flipped, "/etc/passwd was changed");
    let opened = |tree: &Path| {
        fs::set_permissions(passwd(tree), fs::Permissions::from_mode(0o606)).unwrap();
    };
    assert_eq!(after(opened).unwrap(), "/etc/passwd was changed");
    let removed = after(|tree| fs::remove_file(passwd(tree)).unwrap()).unwrap();
    assert!(removed.contains("/etc/passwd is missing"), "{removed}");
    let added = after(|tree| fs::write(tree.join("etc/x"), "").unwrap()).unwrap();
    assert!(added.contains("/etc/x was not committed"), "{added}");
    let retargeted = |tree: &Path| {
        fs::remove_file(tree.join("etc/link")).unwrap();
        symlink("shadow", tree.join("etc/link")).unwrap();
    };
    assert!(after(retargeted).unwrap().contains("/etc/link was changed"));
    let strange = after(|tree| fs::write(tree.join("etc/a b/new\nline\\"), "yy").unwrap());
    assert_eq!(strange.unwrap(), r"/etc/a\x20b/new\x0aline\x5c was changed");
    let many = after(|tree| {
        for name in 0..9 {
            fs::write(tree.join(name.to_string()), "").unwrap();
        }
    });
    assert!(many.as_ref().unwrap().ends_with("and 4 more"), "{many:?}");
}

/// Only a comparison of the bytes finds such a change. It reports each name of the file.
#[test]
fn other_bytes_with_the_old_time_and_size_are_found() {
    let temp = tempfile::tempdir().unwrap();
    make(temp.path());
    let passwd = temp.path().join("etc/passwd");
    fs::hard_link(&passwd, temp.path().join("etc/other")).unwrap();
    let manifest = tempfile::tempfile().unwrap();
    let dir = File::open(temp.path()).unwrap();
    write(&dir, manifest.try_clone().unwrap()).unwrap();
    let before = fs::metadata(&passwd).unwrap().modified().unwrap();
    fs::write(&passwd, "rood").unwrap();
    File::open(&passwd).unwrap().set_modified(before).unwrap();
    assert_eq!(compare(&dir, &manifest, None).unwrap(), None);
    let found = compare(&dir, &manifest, Some(Sums::new(None))).unwrap();
    let found = found.unwrap();
    for name in ["/etc/passwd", "/etc/other"] {
        assert!(
            found.contains(&format!("{name} has other bytes")),
            "{found}"
        );
    }
}

#[test]
fn the_checksums_of_an_earlier_release_are_of_all_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(300_003).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let (uid, gid) = (rustix::process::geteuid(), file.metadata().unwrap().gid());
    let pace = &mut crate::Pace::new(None);
    let sum = crate::sum_of_range(&File::open(&path).unwrap(), 0..300_003, pace).unwrap();
    let dir = File::open(temp.path()).unwrap();
    for (sum, is_right) in [(sum, true), (sum ^ 1, false)] {
        let manifest = tempfile::tempfile().unwrap();
        let line = format!("f 644 {} {gid} 300003 0.0 0 {sum:x} /sparse", uid.as_raw());
        writeln!(&manifest, "{line}\nend 1").unwrap();
        let found = compare(&dir, &manifest, Some(Sums::new(None))).unwrap();
        assert_eq!(found.is_none(), is_right, "{found:?}");
    }
}

fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    calls::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty())
}

#[test]
fn changed_extended_attributes_and_a_changed_root_are_found() {
    let root = |tree: &Path| {
        fs::set_permissions(tree, fs::Permissions::from_mode(0o700)).unwrap();
    };
    assert_eq!(after(root).unwrap(), "/ was changed");
    let temp = tempfile::tempdir_in("/var/tmp").unwrap();
    make(temp.path());
    let at = |name: &str| temp.path().join(name);
    if set(&at("etc/passwd"), "user.kept", b"old") == Err(Errno::OPNOTSUPP) {
        return;
    }
    let path = tempfile::NamedTempFile::new().unwrap();
    let dir = File::open(temp.path()).unwrap();
    write(&dir, File::create(&path).unwrap()).unwrap();
    let found = || compare(&dir, &File::open(&path).unwrap(), None).unwrap();
    assert_eq!(found(), None);
    let set = |name: &str, attribute: &str, value: &[u8]| {
        set(&at(name), attribute, value).unwrap();
    };
    let remove = |name: &str, attribute: &str| {
        calls::lremovexattr(&at(name), attribute).unwrap();
    };
    for (name, shown) in [("", "/"), ("etc", "/etc"), ("etc/passwd", "/etc/passwd")] {
        set(name, "user.added", b"");
        assert_eq!(found().unwrap(), format!("{shown} was changed"));
        remove(name, "user.added");
        assert_eq!(found(), None, "{shown}");
    }
    set("etc/passwd", "user.kept", b"new");
    assert_eq!(found().unwrap(), "/etc/passwd was changed");
    remove("etc/passwd", "user.kept");
    assert_eq!(found().unwrap(), "/etc/passwd was changed");
    set("etc/passwd", "user.kept", b"old");
    assert_eq!(found(), None);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for (name, attribute) in [
        ("etc", "trusted.overlay.opaque"),
        ("etc", "trusted.overlay.redirect"),
        ("etc/passwd", "trusted.overlay.metacopy"),
        ("etc/link", "trusted.of.a.link"),
    ] {
        set(name, attribute, b"y");
        assert_eq!(found().unwrap(), format!("/{name} was changed"));
        remove(name, attribute);
    }
    // The host and overlayfs set these.
    set("etc", "security.label", b"x");
    set("etc", "trusted.overlay.impure", b"y");
    assert_eq!(found(), None);
}

#[test]
fn manifests_of_earlier_releases_are_still_compared() {
    let temp = tempfile::tempdir_in("/var/tmp").unwrap();
    let tree = temp.path().join("tree");
    let passwd = tree.join("passwd");
    fs::create_dir(&tree).unwrap();
    fs::create_dir(tree.join("plain")).unwrap();
    fs::create_dir(tree.join("marked")).unwrap();
    fs::write(&passwd, "root").unwrap();
    if set(&tree.join("marked"), "user.mark", b"x") == Err(Errno::OPNOTSUPP) {
        return;
    }
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(5_000_000_007);
    for (name, mode) in [("passwd", 0o644), ("plain", 0o755), ("marked", 0o750)] {
        let path = tree.join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        File::open(path).unwrap().set_modified(time).unwrap();
    }
    let stat = calls::fstat(&File::open(&passwd).unwrap()).unwrap();
    let owner = format!("{} {}", stat.st_uid, stat.st_gid);
    let text = format!(
        "f 644 {owner} 4 5.7 0 a5cf7b99ae76577 /passwd\n\
         d 755 {owner} - 5.7 0 0 /plain\n\
         d 750 {owner} - 5.7 0 {:x} /marked\n\
         end 3\n",
        hash(b"user.mark\0x\0"),
    );
    let path = temp.path().join("manifest");
    fs::write(&path, text).unwrap();
    let dir = File::open(&tree).unwrap();
    let found = || {
        let manifest = File::open(&path).unwrap();
        compare(&dir, &manifest, Some(Sums::new(None))).unwrap()
    };
    assert_eq!(found(), None);
    // Such a manifest has neither these attributes nor the root directory.
    set(&passwd, "user.added", b"x").unwrap();
    set(&tree.join("plain"), "user.added", b"x").unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(found(), None);
    set(&tree.join("marked"), "user.mark", b"y").unwrap();
    assert_eq!(found().unwrap(), "/marked was changed");
    // The format of a later release is not compared.
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("version 3\n{whole}")).unwrap();
    assert_eq!(found(), None);
}

#[test]
fn a_manifest_without_an_end_says_nothing() {
    let temp = tempfile::tempdir().unwrap();
    make(temp.path());
    let path = temp.path().join("manifest");
    let dir = File::open(temp.path().join("etc")).unwrap();
    write(&dir, File::create(&path).unwrap()).unwrap();
    let whole = fs::read(&path).unwrap();
    fs::write(temp.path().join("etc/passwd"), "").unwrap();
    assert!(
        compare(&dir, &File::open(&path).unwrap(), None)
            .unwrap()
            .is_some()
    );
    for end in 0..whole.len() - 1 {
        fs::write(&path, &whole[..end]).unwrap();
        assert_eq!(
            compare(&dir, &File::open(&path).unwrap(), None).unwrap(),
            None,
            "{end}"
        );
    }
    fs::write(&path, vec![0; whole.len()]).unwrap();
    assert_eq!(
        compare(&dir, &File::open(&path).unwrap(), None).unwrap(),
        None
    );
}
