//! Mount tables, and what is found in them.

use cas_core::snapshot::Backing;

use super::*;

#[test]
fn mounts_are_found_by_their_place_and_their_source() {
    let table = "36 35 98:0 / /mnt/a\\040b rw - ext4 /dev/root rw\n\
        37 35 0:40 / /merged rw - overlay overlay rw,lowerdir+=/r/snapshots/7/fs,x\n\
        38 35 0:41 /snapshots/8/fs /bound rw - xfs /dev/sda rw\n\
        39 35 0:42 / /m rw - overlay overlay rw,lowerdir+=/a\\040b/snapshots/7/fs\n\
        40 35 0:43 / /n rw - overlay o rw,lowerdir=/c\\134,d\\134\\134/snapshots/7/fs\n\
        41 35 0:41 /e\\040f/9/fs /bound rw - xfs /dev/sda rw\n";
    let mounted = MountedDirs(vec![table.to_owned()]);
    assert!(mounted.has(Path::new("/mnt/a b")));
    assert!(!mounted.has(Path::new("/mnt/a")));
    assert!(mounted.may_use(Path::new("/r/snapshots/7")));
    assert!(mounted.may_use(Path::new("/r/x/snapshots/8")));
    assert!(!mounted.may_use(Path::new("/r/snapshots/70")));
    assert!(!mounted.may_use(Path::new("/r/snapshots/9")));
    assert!(!mounted.may_use(Path::new("/other/snapshots/7")));
    for directory in ["/a b/snapshots/7", "/c,d\\/snapshots/7", "/x/e f/9"] {
        assert!(mounted.may_use(Path::new(directory)), "{directory}");
    }
    assert_eq!(unescape("a\\134\\012b"), b"a\\\nb");
}

#[test]
fn the_table_of_the_root_of_a_namespace_is_enough() {
    let table = |root: &str| (PathBuf::from(root), format!("table of {root}"));
    let tables = |roots: &[&str]| whole(roots.iter().map(|root| table(root)).collect());
    assert_eq!(tables(&["/a", "/", "/b"]), ["table of /"]);
    assert_eq!(tables(&["/a", "/b"]), ["table of /a", "table of /b"]);
}

#[test]
fn a_bind_mount_is_found_below_a_subvolume_and_a_bind_mount() {
    let table = "36 35 0:40 /@home /home rw - btrfs /dev/sda rw\n\
        37 35 0:40 /@home/r/snapshots/7/fs /mnt rw - btrfs /dev/sda rw\n\
        38 35 98:0 / / rw - ext4 /dev/sdb rw\n\
        39 35 98:0 /deep/a /b rw - ext4 /dev/sdb rw\n\
        41 35 0:50 / /b/r/snapshots/8/fs rw - tmpfs other rw\n\
        40 35 98:0 /deep/a/r/snapshots/8/fs /other rw - ext4 /dev/sdb rw\n";
    let mounted = MountedDirs(vec![table.to_owned()]);
    for (root, id, place) in [("/home/r", 7, "/mnt"), ("/b/r", 8, "/other")] {
        let mount = |root: &str, id: u32| {
            let source = Path::new(root).join(format!("snapshots/{id}/fs"));
            [Mount::Bind {
                source,
                read_only: true,
            }]
        };
        let place = Path::new(place);
        assert!(mounted.shows(place, &mount(root, id)), "{root}");
        assert!(!mounted.is_foreign(place, &mount(root, id)), "{root}");
        assert!(mounted.is_foreign(place, &mount(root, 9)), "{root}");
        assert!(mounted.may_use(&Path::new(root).join(format!("snapshots/{id}"))));
        assert!(!mounted.may_use(&Path::new(root).join("snapshots/9")));
    }
}

/// The mount table shows the path inside the file system only. Another root may have the same
/// path in another file system.
#[test]
fn a_bind_mount_of_another_file_system_is_not_of_this_directory() {
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path().join("root/snapshots/7");
    fs::create_dir_all(&directory).unwrap();
    let device = temp.path().metadata().unwrap().dev();
    let device = format!("{}:{}", major(device), minor(device));
    let uses = |bound: &str| {
        let table = format!(
            "36 35 {device} / /elsewhere rw - ext4 /dev/root rw\n\
             37 35 {bound} /root/snapshots/7/fs /m rw - ext4 /dev/sda rw\n"
        );
        MountedDirs(vec![table]).may_use(&directory)
    };
    assert!(uses(&device));
    assert!(!uses("0:0"));
}

#[test]
fn an_overlay_without_paths_is_found_by_its_source() {
    let long = format!("/{}/r\\é", "l/".repeat(150));
    for root in ["/r", "/a b\\", &long] {
        let directory = Path::new(root).join("snapshots/7");
        let shared = Path::new(root).join("mounts/5f3a");
        let source = overlay_source(std::slice::from_ref(&shared), Some(&directory.join("fs")));
        assert!(source.len() < 256, "{source:?}");
        let escaped = source.to_str().map(|text| {
            let escaped = text.replace('\\', "\\134");
            escaped.replace(' ', "\\040")
        });
        let place = shared.to_str().unwrap().replace('\\', "\\134");
        let place = place.replace(' ', "\\040");
        let mounted = MountedDirs(vec![format!(
            "36 35 0:50 / {place} ro - erofs /proc/self/fd/4 ro\n\
             37 35 0:51 / /m rw - overlay {} rw,lowerdir+=/proc/self/fd/5\n",
            escaped.unwrap()
        )]);
        assert!(mounted.may_use(&directory), "{root}");
        assert!(!mounted.may_use(&directory.with_file_name("8")), "{root}");
        assert!(!mounted.may_use(Path::new("/other/snapshots/7")), "{root}");
        assert!(mounted.is_shared_by_others(&shared), "{root}");
        let other = shared.with_file_name("5f3");
        assert!(!mounted.is_shared_by_others(&other), "{root}");
    }
    assert!(overlay_source(&["/".repeat(999).into()], None).len() < 256);
}

#[test]
fn an_overlay_and_a_bind_mount_share_a_mount_and_other_lines_do_not() {
    let line = "36 35 0:50 / /r/mounts/ab ro - erofs /r/snapshots/7/image.erofs ro\n";
    let shared = Path::new("/r/mounts/ab");
    let other = "38 35 0:51 / /r/mounts/cd ro - erofs /r/snapshots/8/image.erofs ro\n";
    for (more, expected) in [
        ("", false),
        (
            "40 35 0:50 / /mnt ro - erofs /r/snapshots/7/image.erofs ro\n",
            true,
        ),
        (
            "41 35 0:52 / /m rw - overlay overlay rw,lowerdir+=/r/mounts/ab,upperdir=/u\n",
            true,
        ),
        (
            "42 35 0:53 / /m rw - overlay overlay rw,lowerdir=/r/mounts/cd\n",
            false,
        ),
    ] {
        let mounted = MountedDirs(vec![format!("{line}{other}{more}")]);
        assert_eq!(mounted.is_shared_by_others(shared), expected, "{more}");
    }
    assert!(!MountedDirs(Vec::new()).is_shared_by_others(shared));
}

#[test]
fn the_topmost_mount_is_compared_with_a_snapshot() {
    let bind = |source: &str| Mount::Bind {
        source: source.into(),
        read_only: true,
    };
    let overlay = |upper: &str| Mount::Overlay {
        lower: vec!["/r/snapshots/overlay/snapshots/1/fs".into()],
        upper: Some(upper.into()),
        work: None,
        options: Vec::new(),
    };
    let table = "36 35 98:0 /r/snapshots/native/snapshots/8/fs /a rw - ext4 /dev/root rw\n\
        39 41 0:40 / /b rw - tmpfs x rw\n\
        41 35 0:41 / /b rw - overlay o rw,upperdir=/r/snapshots/overlay/snapshots/7/fs\n\
        43 35 0:43 / /t rw - tmpfs x rw\n\
        42 35 0:42 / /c rw - overlay o rw,lowerdir+=/proc/self/fd/5\n\
        44 35 0:44 / /e ro - erofs /x/snapshots/erofs/snapshots/7/image.erofs ro\n\
        45 35 0:45 / /f ro - erofs /proc/self/fd/5 ro\n\
        46 35 0:46 / /g ro - erofs /srv/snapshots/erofs/snapshots/7/other ro\n\
        47 35 0:47 / /h ro - erofs /dev/loop0 ro\n";
    let erofs = |root: &str, id: u64| {
        let directory = Path::new(root).join(format!("snapshots/erofs/snapshots/{id}"));
        Mount::Erofs {
            image: directory.join("image.erofs"),
            devices: Vec::new(),
            backing: Backing::File,
            shared: Path::new(root).join("mounts/5f3a"),
        }
    };
    let mounted = MountedDirs(vec![table.to_owned()]);
    for (place, mount, shown, foreign) in [
        ("/e", erofs("/r", 7), true, false),
        // A repair has replaced the topmost layer.
        ("/e", erofs("/r", 9), true, false),
        ("/f", erofs("/r", 7), true, false),
        ("/g", erofs("/r", 7), false, true),
        ("/h", erofs("/r", 7), false, true),
        ("/t", erofs("/r", 7), false, true),
        (
            "/t",
            bind("/r/snapshots/native/snapshots/8/fs"),
            false,
            true,
        ),
        (
            "/a",
            bind("/x/r/snapshots/native/snapshots/8/fs"),
            true,
            false,
        ),
        (
            "/a",
            bind("/x/r/snapshots/native/snapshots/9/fs"),
            false,
            true,
        ),
        (
            "/b",
            overlay("/link/snapshots/overlay/snapshots/7/fs"),
            true,
            true,
        ),
        (
            "/b",
            overlay("/r/snapshots/overlay/snapshots/70/fs"),
            false,
            true,
        ),
        (
            "/c",
            overlay("/r/snapshots/overlay/snapshots/7/fs"),
            true,
            false,
        ),
        (
            "/d",
            overlay("/r/snapshots/overlay/snapshots/7/fs"),
            false,
            false,
        ),
    ] {
        let (place, mounts) = (Path::new(place), [mount]);
        assert_eq!(mounted.shows(place, &mounts), shown, "{place:?} {mounts:?}");
        assert_eq!(
            mounted.is_foreign(place, &mounts),
            foreign,
            "{place:?} {mounts:?}"
        );
    }
}
