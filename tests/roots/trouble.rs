//! Root directories on a full disk, in a read-only root, with a closed handle, of damaged images,
//! and by futures that are dropped.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cas::ErrorKind;
use testkit::archive::Tar;

use super::{each, names};
use crate::common::disk::Disk;
use crate::common::gate::{Gate, polled};
use crate::common::{cas, ok};

#[test]
fn on_a_full_disk_nothing_is_half_made_and_everything_can_be_removed() {
    if !crate::common::can(&["mount"]) {
        return;
    }
    for snapshotter in ["native", "overlay"] {
        let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
        let disk = Disk::mount(scratch.path().join("disk"), "size=16m");
        let (root, layout) = (disk.0.join("root"), scratch.path().join("layout"));
        let body = vec![7; 100_000];
        crate::common::layout::layout(&layout, vec![Tar::new().file("app", body)]);
        ok(cas(&root).args(["--snapshotter", snapshotter, "init"]));
        let import = ["import", "--unpack", "--name", "app"];
        ok(cas(&root).args(import).arg(&layout));
        let [kept, refused] = ["kept", "refused"].map(|name| disk.0.join(name));
        let prepare = |path: &std::path::Path| {
            let mut prepare = cas(&root);
            prepare.args(["rootfs", "prepare", "--image", "app"]);
            prepare.arg(path).output().unwrap()
        };
        assert!(prepare(&kept).status.success());
        disk.fill(0);
        let out = prepare(&refused);
        let said = crate::common::text(&out.stderr);
        assert_eq!(out.status.code(), Some(6), "{said}");
        assert!(!refused.exists(), "{said}");
        ok(cas(&root).args(["rootfs", "unmount"]).arg(&kept));
        ok(cas(&root).args(["rootfs", "remove"]).arg(&kept));
        assert!(!kept.exists());
        let left = ok(cas(&root).args(["snapshot", "ls", "--json"]));
        assert!(
            !left.contains("kept") && !left.contains("refused"),
            "{left}"
        );
    }
}

#[test]
fn a_read_only_root_unmounts_and_changes_nothing_else() {
    each(|scene| {
        scene.prepare("app:1");
        let view = scene.path("view");
        let disk = Disk::read_only(&scene.path("root"), view.clone());
        let closed = scene.open(&view);
        for refused in [
            closed.prepare_root_dir(scene.dir(), "app:1").unwrap_err(),
            closed.remove_root_dir(scene.dir()).unwrap_err(),
            closed.create_snapshot("new", "app:1").unwrap_err(),
            closed.remove_snapshot(super::KEY).unwrap_err(),
            closed.mount_snapshot(super::KEY, &view).unwrap_err(),
            closed.unmount_snapshot(super::KEY).unwrap_err(),
        ] {
            assert_eq!(refused.kind(), ErrorKind::Denied, "{refused}");
        }
        assert!(closed.snapshot_usage(super::KEY).is_ok());
        assert!(closed.unmount_root_dir(scene.dir()).unwrap());
        drop((closed, disk));
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        fs::remove_dir(view).unwrap();
        scene.assert_nothing_left();
    });
}

#[test]
fn a_closed_handle_does_nothing() {
    each(|scene| {
        scene.prepare("app:1");
        let closed = scene.cas.clone();
        scene.cas.clone().close().unwrap();
        for refused in [
            closed.prepare_root_dir(scene.dir(), "app:1").unwrap_err(),
            closed.unmount_root_dir(scene.dir()).unwrap_err(),
            closed.remove_root_dir(scene.dir()).unwrap_err(),
            closed.create_snapshot("new", "app:1").unwrap_err(),
            closed
                .mount_snapshot(super::KEY, scene.path("mnt"))
                .unwrap_err(),
            closed.unmount_snapshot(super::KEY).unwrap_err(),
            closed.snapshots().unwrap_err(),
            closed.snapshot_usage(super::KEY).unwrap_err(),
            closed.remove_snapshot(super::KEY).unwrap_err(),
        ] {
            assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused}");
            assert!(refused.to_string().contains("closed"), "{refused}");
        }
        assert_eq!(names(&scene.rootfs()), ["app", "etc"]);
    });
}

/// If an image cannot be unpacked, the earlier root directory stays.
#[test]
fn a_damaged_image_leaves_the_earlier_root_directory() {
    each(|scene| {
        scene.prepare("app:1");
        let layers = [Tar::new().file("x", "x").end()];
        let layout = scene.path("damaged");
        let wrong = [cas::Digest::sha256(b"another layer")];
        crate::common::layout::layout_of(&layout, &layers, &wrong);
        ok(&mut scene.tool(&["import", "--name", "damaged:1", layout.to_str().unwrap()]));
        for (image, kind) in [
            ("docker.io/library/damaged:1", ErrorKind::Corrupt),
            ("absent:1", ErrorKind::NotFound),
            ("not a name", ErrorKind::InvalidArgument),
        ] {
            let refused = scene.cas.prepare_root_dir(scene.dir(), image).unwrap_err();
            assert_eq!(refused.kind(), kind, "{refused}");
            scene.assert_prepared("app:1");
            let beside = scene.path("dirs").join("beside");
            assert!(scene.cas.prepare_root_dir(&beside, image).is_err());
            assert!(!beside.exists());
        }
    });
}

/// Without the right to mount, what is there stays.
#[test]
fn without_the_right_to_mount_nothing_is_removed() {
    each(|scene| {
        if !crate::common::can(&["setpriv"]) {
            return;
        }
        scene.prepare("app:1");
        let prepare = ["rootfs", "prepare", "--image", "app:1"];
        let tool = scene.tool(&prepare);
        let out = Command::new("setpriv")
            .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
            .arg(tool.get_program())
            .args(tool.get_args())
            .arg(scene.dir())
            .output()
            .unwrap();
        let said = crate::common::text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("CAP_SYS_ADMIN"), "{said}");
        scene.assert_prepared("app:1");
    });
}

#[test]
fn a_dropped_future_leaves_nothing_or_all() {
    each(|scene| {
        let cas = scene.cas.inner().clone();
        scene.cas.snapshot("app:1").unwrap();
        let mut times = 1;
        let prepare = || cas.prepare_root_dir(scene.dir(), "app:1");
        let prepared = loop {
            if let Some(prepared) = polled(times, prepare()) {
                break prepared;
            }
            // What the future has passed to the pool ends first. Then the job ends in the
            // background, and what it has made is removed there.
            drop(Gate::close());
            let begun = Instant::now();
            while !(scene.keys().is_empty() && names(&scene.path("dirs")).is_empty()) {
                assert!(begun.elapsed() < Duration::from_secs(60), "{times} polls");
                thread::sleep(Duration::from_millis(1));
            }
            scene.assert_nothing_left();
            times += 1;
        };
        prepared.unwrap();
        assert!(times > 1, "the future was complete at once");
        scene.assert_prepared("app:1");
        assert!(scene.cas.remove_root_dir(scene.dir()).unwrap());
        scene.assert_nothing_left();
    });
}
