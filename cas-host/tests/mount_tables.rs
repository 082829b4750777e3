//! Mounts that only the processes of another mount namespace show.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cas_host::MountedDirs;

/// Mounts `$1` in a namespace of its own. The first process of the namespace then has the root
/// directory `$2`, so its mount table does not show the mount. That of the second process does.
const SCRIPT: &str = "mount --rbind / \"$2\" && mount -t tmpfs none \"$1\" || exit
    exec 3<&0
    sh -c 'read end' <&3 &
    exec chroot \"$2\" sh -c 'echo; read end'";

/// The processes of [`SCRIPT`], which end when this value is dropped.
struct Namespace(Child);

impl Namespace {
    fn make(mounted: &Path, root: &Path) -> Self {
        let mut unshare = Command::new("unshare");
        // What other tests unmount meanwhile is unmounted here, too.
        unshare.args(["--mount", "--propagation", "slave"]);
        unshare.args(["sh", "-c", SCRIPT, "sh"]);
        unshare.arg(mounted).arg(root);
        let unshare = unshare.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = unshare.spawn().unwrap();
        let said = child.stdout.as_mut().unwrap().read_exact(&mut [0]);
        said.unwrap();
        Namespace(child)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Both processes end at the end of their input.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_in_a_chroot_does_not_hide_the_mounts_of_its_namespace() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only the superuser can mount");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().canonicalize().unwrap();
    let [mounted, root] = ["mounted", "root"].map(|name| path.join(name));
    for directory in [&mounted, &root] {
        std::fs::create_dir(directory).unwrap();
    }
    assert!(!MountedDirs::read().has(&mounted));
    let _namespace = Namespace::make(&mounted, &root);
    assert!(!MountedDirs::read_own().has(&mounted));
    assert!(MountedDirs::read().has(&mounted));
}
