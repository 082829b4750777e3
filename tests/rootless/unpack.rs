//! `cas unpack --rootless`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use testkit::archive::{Header, Tar};

use crate::common::tree::{self, differences};
use crate::common::{append, can, cas, fails, ok};
use crate::scene::{Home, Ids, USER, succeeds};

const OWNER: &str = "user.rootlesscontainers";

/// The attribute of the owner 1000:0.
const THOUSAND: &[u8] = b"\x08\xe8\x07\x10\xff\xff\xff\xff\x0f";
/// The attribute of the owner 33:34.
const OTHER: &[u8] = b"\x08\x21\x10\x22";

fn header(flag: u8, name: &str, mode: u64, owner: (u64, u64)) -> Header {
    let (uid, gid) = owner;
    Header::new(flag, name).mode(mode).owner(uid, gid)
}

/// A layer with files of every kind, and directories that keep their own owner out.
fn lower() -> Tar {
    let root = (0, 0);
    // One stored region: four bytes at offset 4096. An empty region ends the file.
    let mut map = b"2\n4096\n4\n1048576\n0\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"data");
    Tar::new()
        .member(header(b'5', "./", 0o555, root), "")
        .member(header(b'0', "plain", 0o644, root), "")
        .member(header(b'0', "owned", 0o640, (1000, 0)).size(4), "text")
        .member(header(b'0', "locked", 0o444, (33, 34)).size(4), "text")
        .member(header(b'0', "nothing", 0, (33, 34)), "")
        .member(header(b'0', "su", 0o4755, root), "")
        .member(header(b'0', "group", 0o2755, (0, 34)), "")
        .hardlink("again", "owned")
        .member(header(b'2', "link", 0o777, root).link("owned"), "")
        .member(header(b'6', "pipe", 0o622, root), "")
        .member(header(b'5', "home", 0o755, (1000, 0)), "")
        .member(header(b'5', "closed", 0o500, root), "")
        .file("closed/kept", "kept")
        .file("closed/gone", "gone")
        .member(header(b'5', "closed/deep", 0, root), "")
        .file("closed/deep/file", "deep")
        .member(header(b'5', "opaque", 0o555, root), "")
        .file("opaque/gone", "gone")
        .member(header(b'5', "sticky", 0o1777, root), "")
        .member(header(b'5', "set", 0o2550, root), "")
        .file("set/file", "")
        .pax(&[("SCHILY.xattr.user.kept", b"value")])
        .member(header(b'0', "attributes", 0o400, (1000, 0)), "")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"1048576"),
        ])
        .file("x", map)
}

/// A layer that changes what is in those directories.
fn upper() -> Tar {
    Tar::new()
        .file("closed/.wh.gone", "")
        .file("closed/new", "new")
        .file("closed/deep/more", "more")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .file("set/another", "")
}

fn unpack(home: &Home, layers: Vec<Tar>, to: &str) -> String {
    home.import(&home.image(layers));
    succeeds(&mut home.cas(Ids::One, &["unpack", "--rootless", "app", to])).1
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let of = tree::xattrs(path).into_iter();
    of.map(|(name, value)| (name.into_string().unwrap(), value))
        .collect()
}

#[test]
fn files_belong_to_the_user_and_keep_the_rest() {
    // The home is not on a mount with `nosuid`, where nobody could misuse the programs.
    let Some(home) = Home::new_in("/var/tmp", &[]) else {
        return;
    };
    let said = unpack(&home, vec![lower(), upper()], "tree");
    // The user's own programs are the only ones that others could misuse.
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("device nodes or privileged programs"),
        "{said}"
    );
    assert!(said.contains("(2 in total)"), "{said}");
    for (name, mode, owner) in [
        ("", 0o40555, None),
        ("plain", 0o100_644, None),
        ("owned", 0o100_640, Some(THOUSAND)),
        ("again", 0o100_640, Some(THOUSAND)),
        ("locked", 0o100_444, Some(OTHER)),
        ("nothing", 0o100_000, Some(OTHER)),
        ("su", 0o104_755, None),
        (
            "group",
            0o102_755,
            Some(b"\x08\xff\xff\xff\xff\x0f\x10\x22"),
        ),
        ("link", 0o120_777, None),
        ("pipe", 0o010_622, None),
        ("home", 0o40755, Some(THOUSAND)),
        ("closed", 0o40500, None),
        ("closed/kept", 0o100_644, None),
        ("closed/deep", 0o40000, None),
        ("opaque", 0o40555, None),
        ("sticky", 0o41777, None),
        ("set", 0o42550, None),
        ("attributes", 0o100_400, Some(THOUSAND)),
    ] {
        let path = home.path("tree").join(name);
        let found = fs::symlink_metadata(&path).unwrap();
        assert_eq!(found.mode(), mode, "{name}: {:o}", found.mode());
        assert_eq!((found.uid(), found.gid()), (USER, USER), "{name}");
        assert_eq!(found.mtime(), 1_000_000_000, "{name}");
        let mut found = attributes(&path);
        assert_eq!(found.remove(OWNER).as_deref(), owner, "{name}");
        let kept = found.remove("user.kept").is_some();
        assert_eq!(kept, name == "attributes", "{name}");
        assert!(found.is_empty(), "{name}: {found:?}");
    }
    let sparse = fs::metadata(home.path("tree/sparse")).unwrap();
    assert_eq!((sparse.len(), sparse.mode()), (1 << 20, 0o100_644));
    assert!(sparse.blocks() * 512 < sparse.len());
    let names = |directory: &str| {
        let found = fs::read_dir(home.path("tree").join(directory)).unwrap();
        let mut names: Vec<_> = found.map(|one| one.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("closed"), ["deep", "kept", "new"]);
    assert_eq!(names("closed/deep"), ["file", "more"]);
    assert_eq!(names("opaque"), ["new"]);
    assert_eq!(names("set"), ["another", "file"]);
    // The tree is complete, so another unpack into it is refused.
    let again = &mut home.cas(Ids::One, &["unpack", "--rootless", "app", "tree"]);
    assert!(fails(again, 2).contains("not empty"));
    assert_eq!(names("closed"), ["deep", "kept", "new"]);
}

#[test]
fn umoci_and_the_superuser_make_the_same_tree() {
    let Some(home) = Home::new(&["umoci"]) else {
        return;
    };
    let layers = || vec![lower(), upper()];
    unpack(&home, layers(), "ours");
    let source = format!("{}:app", home.outside("image").display());
    let mut umoci = home.user(Ids::One, "umoci");
    umoci.args(["raw", "unpack", "--rootless", "--image", &source, "theirs"]);
    succeeds(&mut umoci);
    // umoci sets the mode first, and then cannot write attributes of files that are read-only.
    let found = differences(&home.path("ours"), &home.path("theirs"));
    let mut names: Vec<_> = found
        .iter()
        .filter_map(|one| one.split(':').next())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["attributes", "locked", "nothing"], "{found:#?}");

    let root = home.outside("root");
    ok(cas(&root)
        .args(["import", "--name", "app"])
        .arg(home.outside("image")));
    let theirs = home.outside("theirs");
    ok(cas(&root)
        .args(["unpack", "--rootless", "app"])
        .arg(&theirs));
    give(&theirs);
    let found = differences(&home.path("ours"), &theirs);
    assert!(found.is_empty(), "{found:#?}");
}

/// Gives a tree to the user, and restores the mode bits that the change of the owner removes.
fn give(tree: &Path) {
    let user = format!("{USER}:{USER}");
    ok(Command::new("chown").args(["-hR", &user]).arg(tree));
    for (name, mode) in [("su", "4755"), ("group", "2755")] {
        ok(Command::new("chmod").arg(mode).arg(tree.join(name)));
    }
}

#[test]
fn devices_are_left_out_and_named_once() {
    let Some(home) = Home::new(&[]) else { return };
    let device = |flag, name: &str| Header::new(flag, name).mode(0o666).device(1, 3);
    let lower = Tar::new()
        .file("replaced", "by a device")
        .dir("gone")
        .file("gone/file", "");
    let upper = Tar::new()
        .member(device(b'3', "dev/null"), "")
        .member(device(b'4', "dev/disk"), "")
        .hardlink("dev/linked", "dev/null")
        .hardlink("replaced", "dev/linked")
        .member(device(b'3', "gone"), "")
        .member(device(b'3', "back"), "")
        .file("back", "a file again")
        .hardlink("back2", "back")
        .member(Header::new(b'6', "pipe"), "");
    let said = unpack(&home, vec![lower, upper], "tree");
    assert_eq!(said.matches("left out").count(), 1, "{said}");
    assert!(
        said.contains("left out (number: 6, first: dev/null)"),
        "{said}"
    );
    for name in ["dev/null", "dev/disk", "dev/linked", "replaced", "gone"] {
        assert!(!home.path("tree").join(name).exists(), "{name}");
    }
    for name in ["back", "back2"] {
        let text = fs::read_to_string(home.path("tree").join(name)).unwrap();
        assert_eq!(text, "a file again");
    }
    let pipe = fs::symlink_metadata(home.path("tree/pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    // An unpack by the superuser leaves these files out as well.
    let (root, target) = (home.outside("root"), home.outside("tree"));
    ok(cas(&root)
        .args(["import", "--name", "app"])
        .arg(home.outside("image")));
    let mut unpack = cas(&root);
    let (_, said) = succeeds(unpack.args(["unpack", "--rootless", "app"]).arg(&target));
    assert!(
        said.contains("left out (number: 6, first: dev/null)"),
        "{said}"
    );
    assert!(!target.join("dev/null").exists());
}

#[test]
fn attributes_and_owners_that_cannot_be_set_are_left_out() {
    let Some(home) = Home::new(&[]) else { return };
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let set = |tar: Tar, name: &str, value: &[u8], header: Header| {
        tar.pax(&[(&format!("SCHILY.xattr.{name}"), value)])
            .member(header, "")
    };
    let tar = Tar::new();
    let file = |name: &str| Header::new(b'0', name);
    let tar = set(tar, "security.capability", capability, file("ping"));
    let tar = set(tar, "security.other", b"x", file("other"));
    let tar = set(tar, "trusted.x", b"x", Header::new(b'5', "dir"));
    let tar = set(tar, OWNER, THOUSAND, file("false"));
    let tar = set(tar, "user.a", b"x", Header::new(b'2', "odd").link("x"));
    let tar = tar
        .member(header(b'2', "link", 0o777, (1000, 0)).link("x"), "")
        .member(header(b'6', "pipe", 0o600, (33, 34)), "");
    // The directory is described again without the attribute, and with another owner.
    let again = Tar::new().member(header(b'5', "dir", 0o755, (33, 34)), "");
    let said = unpack(&home, vec![tar, again], "tree");
    for (expected, count) in [
        ("security.capability of ping is left out", 1),
        ("security.other of other is left out", 1),
        ("trusted.x of dir is left out", 1),
        ("only the superuser can set it", 3),
        ("user.rootlesscontainers is left out, because", 1),
        ("user.a of odd is left out", 1),
        (
            "owners of the layer are not kept (number: 2, first: link)",
            1,
        ),
    ] {
        assert_eq!(said.matches(expected).count(), count, "{expected}: {said}");
    }
    let expected = |name: &str, owner: Option<&[u8]>| {
        let found = attributes(&home.path("tree").join(name));
        let expected = owner.map(|owner| (OWNER.to_owned(), owner.to_vec()));
        assert_eq!(found, expected.into_iter().collect(), "{name}");
    };
    for name in ["ping", "other", "false", "odd", "link", "pipe"] {
        expected(name, None);
    }
    expected("dir", Some(OTHER));
}

/// A file system without extended attributes.
#[test]
fn owners_are_counted_where_there_are_no_attributes() {
    if !can(&["mount"]) {
        return;
    }
    let Some(home) = Home::new(&[]) else { return };
    home.import(&home.image(vec![lower(), upper()]));
    let script = "mount -t ramfs none home/ram && chown \"$0:$0\" home/ram && exec \"$@\"";
    fs::create_dir(home.path("ram")).unwrap();
    let mut unpack = Command::new("unshare");
    unpack.args(["-m", "--propagation", "slave"]);
    unpack.args(["sh", "-c", script, &USER.to_string()]);
    let inner = home.user(Ids::One, home.outside("cas"));
    append(&mut unpack, &inner);
    unpack.current_dir(home.outside(""));
    unpack.args(["unpack", "--rootless", "app", "ram/tree"]);
    let said = succeeds(&mut unpack).1;
    assert!(
        said.contains("not kept (number: 6, first: owned)"),
        "{said}"
    );
}

/// The set-group-id bit of the parent gives new files another group.
#[test]
fn the_group_is_the_users_own() {
    let Some(home) = Home::new(&[]) else { return };
    let parent = home.path("parent");
    fs::create_dir(&parent).unwrap();
    chown(&parent, Some(USER), Some(7)).unwrap();
    ok(Command::new("chmod").arg("2777").arg(&parent));
    unpack(&home, vec![lower(), upper()], "parent/tree");
    for name in [
        "plain",
        "su",
        "group",
        "closed/new",
        "set/file",
        "link",
        "pipe",
    ] {
        let found = fs::symlink_metadata(parent.join("tree").join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (USER, USER), "{name}");
    }
    let mode = fs::metadata(parent.join("tree/group")).unwrap().mode();
    assert_eq!(mode, 0o102_755);
}

#[test]
fn a_private_directory_stays_closed() {
    let Some(home) = Home::new(&[]) else { return };
    home.import(&home.image(vec![lower(), upper()]));
    let arguments = ["unpack", "--rootless", "--private", "app", "tree"];
    let (_, said) = succeeds(&mut home.cas(Ids::One, &arguments));
    assert_eq!(said, "");
    for (name, mode) in [("", 0o40700), ("closed", 0o40500), ("su", 0o104_755)] {
        let found = fs::metadata(home.path("tree").join(name)).unwrap().mode();
        assert_eq!(found, mode, "{name}: {found:o}");
    }
}

#[test]
fn what_fails_is_removed_and_without_the_option_the_option_is_named() {
    let Some(home) = Home::new(&[]) else { return };
    let bad = upper().hardlink("x", "no such file");
    home.import(&home.image(vec![lower(), bad]));
    let mut unpack = home.cas(Ids::One, &["unpack", "--rootless", "app", "tree"]);
    let said = fails(&mut unpack, 4);
    assert!(said.contains("hard link"), "{said}");
    assert!(!home.path("tree").exists());
    let said = fails(&mut home.cas(Ids::One, &["unpack", "app", "tree"]), 1);
    assert!(
        said.contains("--rootless") && said.contains("cas unshare"),
        "{said}"
    );
    assert!(!home.path("tree").exists());
}
