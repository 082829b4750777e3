//! Mounts that a mount table shows without the paths of their layers, and mounts that cannot be
//! released.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cas_core::snapshot::{Commit, Usage};
use cas_core::{Labels, Snapshotter};
use cas_host::IdMap;
use cas_host::mount::{self, Rights};

use crate::usable::is_usable;
use crate::{attach, images_below, open, parts, prepare, two_layers, unmount};

/// A user namespace in which the ID 0 is itself. It ends when this value is dropped.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            "echo ready; read end",
        ]);
        let spawned = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        Namespace(child)
    }

    fn open(&self) -> fs::File {
        fs::File::open(format!("/proc/{}/ns/user", self.0.id())).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The kernel gets the layers of an overlay as file descriptors if their owners are mapped or their
/// paths are long.
#[tokio::test]
async fn a_mounted_overlay_without_paths_keeps_its_files_and_its_image() {
    if !is_usable() {
        return;
    }
    let namespace = Namespace::new();
    let namespace = namespace.open();
    let idmap = || IdMap::of(namespace.as_fd());
    let long = format!("{}/{}", "l".repeat(200), "o".repeat(200));
    for (root, idmap) in [
        ("root", Some(idmap())),
        (&long, None),
        (&long, Some(idmap())),
    ] {
        let case = format!("{} bytes, mapped: {}", root.len(), idmap.is_some());
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join(root);
        fs::create_dir_all(&root).unwrap();
        let store = open(&root);
        two_layers(&store).await;
        let mounts = prepare(&store, "active", "top").await;
        let (_, _, shared) = parts(&mounts);
        let at = temp.path().join("at");
        fs::create_dir(&at).unwrap();
        mount::attach(&mounts, &at, idmap, Rights::default()).unwrap();
        fs::write(at.join("early"), "early").unwrap();
        store
            .commit("layer", "active", Commit::default())
            .await
            .unwrap();
        fs::write(at.join("late"), "late").unwrap();
        assert_eq!(store.leftovers().await.unwrap(), [], "{case}");
        assert_eq!(store.cleanup().await.unwrap(), Usage::default(), "{case}");
        assert_eq!(fs::read(at.join("early")).unwrap(), b"early", "{case}");
        assert_eq!(fs::read(at.join("late")).unwrap(), b"late", "{case}");

        // The next user of the image gets the same mount, with the same cached pages.
        let device = fs::metadata(&shared).unwrap().dev();
        assert_eq!(images_below(temp.path()), 1, "{case}");
        let other = prepare(&store, "other", "top").await;
        let second = temp.path().join("second");
        attach(&other, &second);
        assert_eq!(fs::metadata(&shared).unwrap().dev(), device, "{case}");
        unmount(&second);
        unmount(&at);
        store.remove("other").await.unwrap();
        assert_eq!(images_below(temp.path()), 0, "{case}");
        assert!(store.cleanup().await.unwrap().inodes > 0, "{case}");
    }
}

/// A stray file stands for a mount that cannot be unmounted, such as a locked one.
#[tokio::test]
async fn a_mount_that_cannot_be_released_prevents_no_collection() {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path());
    let mounts = temp.path().join("mounts");
    fs::create_dir(&mounts).unwrap();
    for name in ["1", "2", "3"] {
        fs::write(mounts.join(format!("stray{name}")), "").unwrap();
        fs::create_dir(mounts.join(name)).unwrap();
    }
    let left = temp.path().join("snapshots/4000000000");
    fs::create_dir(&left).unwrap();
    store.prepare("key", None, Labels::new()).await.unwrap();
    store.remove("key").await.unwrap();
    let names = |directory: &Path| fs::read_dir(directory).unwrap().count();
    assert_eq!(names(&mounts), 3, "the stray files");
    assert_eq!(names(&temp.path().join("snapshots")), 1, "the leftover");
    assert_eq!(store.cleanup().await.unwrap().inodes, 1);
    assert_eq!(names(&temp.path().join("snapshots")), 0);
}
