//! Mounts of which another mount namespace has copies. A namespace, for example that of a
//! container, copies all mounts when it begins, and may keep the copies when the mounts end here.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use cas::{ErrorKind, UnmountOptions};

use super::{Scene, each};
use crate::common::{can, ok};

/// Binds the directory `$0` on itself. The mounts in it stay when they end outside. The mounts of
/// other tests do not, because copies of those could disturb the other tests.
const SCRIPT: &str =
    "mount --rbind \"$0\" \"$0\" && mount --make-rprivate \"$0\" && echo && read end";

/// A mount namespace that keeps copies of all mounts of a scene until this value is dropped.
struct Copies(Child);

impl Copies {
    fn make(scene: &Scene) -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "slave"]);
        unshare.args(["sh", "-c", SCRIPT]).arg(scene.scratch.path());
        let unshare = unshare.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = unshare.spawn().unwrap();
        let mut line = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        Copies(child)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs a test on each snapshotter, if this is the superuser and can create mount namespaces.
fn each_with_copies(test: impl Fn(&Scene)) {
    if can(&["unshare"]) {
        each(test);
    }
}

#[test]
fn a_root_directory_that_was_unmounted_here_is_not_mounted() {
    each_with_copies(|scene| {
        let cas = &scene.cas;
        scene.prepare("app:1");
        let _copies = Copies::make(scene);
        assert!(cas.unmount_root_dir(scene.dir()).unwrap());
        for lazy in [false, true] {
            let options = UnmountOptions::default().with_lazy(lazy);
            assert!(!cas.unmount_root_dir_with(scene.dir(), options).unwrap());
        }
        scene.prepare("other:1");
        scene.assert_prepared("other:1");
        let _copies = Copies::make(scene);
        assert!(cas.remove_root_dir(scene.dir()).unwrap());
        scene.assert_nothing_left();
    });
}

/// A lazy unmount here does not end a mount in another namespace, so it is not advised.
#[test]
fn a_root_directory_that_is_mounted_elsewhere_is_busy() {
    each_with_copies(|scene| {
        let cas = &scene.cas;
        scene.prepare("app:1");
        let _copies = Copies::make(scene);
        ok(Command::new("umount").arg(scene.rootfs()));
        for lazy in [false, true] {
            let options = UnmountOptions::default().with_lazy(lazy);
            let refused = cas.unmount_root_dir_with(scene.dir(), options).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
            let said = refused.to_string();
            assert!(said.contains("another mount namespace"), "{said}");
            assert!(!said.contains("--lazy"), "{said}");
        }
    });
}

#[test]
fn a_snapshot_that_was_unmounted_here_is_mounted_again_and_removed() {
    each_with_copies(|scene| {
        let (cas, place) = (&scene.cas, scene.path("mnt"));
        cas.create_snapshot("one", "app:1").unwrap();
        for _ in 0..2 {
            cas.mount_snapshot("one", &place).unwrap();
            let _copies = Copies::make(scene);
            assert!(cas.unmount_snapshot("one").unwrap());
            assert!(!cas.unmount_snapshot("one").unwrap());
        }
        cas.mount_snapshot("one", &place).unwrap();
        let _copies = Copies::make(scene);
        assert!(cas.unmount_snapshot("one").unwrap());
        assert!(cas.remove_snapshot("one").unwrap());
    });
}
