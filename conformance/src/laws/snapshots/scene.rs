//! Helpers of the laws of snapshots.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cas_core::snapshot::{Commit, Info, Mount};
use cas_core::{Labels, Result, Snapshotter};

pub(super) type Shared = Arc<dyn Snapshotter>;

/// Prepares a snapshot without labels.
pub(super) async fn prepare(
    store: &dyn Snapshotter,
    key: &str,
    parent: Option<&str>,
) -> Result<Vec<Mount>> {
    store.prepare(key, parent, Labels::new()).await
}

/// Creates a view without labels.
pub(super) async fn view(
    store: &dyn Snapshotter,
    key: &str,
    parent: Option<&str>,
) -> Result<Vec<Mount>> {
    store.view(key, parent, Labels::new()).await
}

/// Commits a snapshot without labels.
pub(super) async fn commit(store: &dyn Snapshotter, name: &str, key: &str) -> Result<()> {
    store.commit(name, key, Commit::default()).await
}

/// Creates a committed snapshot without changes to its parent. Without a parent, it is empty.
pub(super) async fn bare_layer(store: &dyn Snapshotter, name: &str, parent: Option<&str>) {
    let key = format!("making {name}");
    prepare(store, &key, parent)
        .await
        .expect("prepare must succeed");
    commit(store, name, &key)
        .await
        .expect("commit must succeed");
}

/// Creates a committed snapshot with the changes that `fill` makes to the tree of the parent.
/// Without a parent, the tree is empty at first.
pub(super) async fn layer(
    store: &dyn Snapshotter,
    name: &str,
    parent: Option<&str>,
    fill: impl FnOnce(&Path),
) {
    let key = format!("making {name}");
    let mounts = prepare(store, &key, parent).await;
    fill(&Tree::mount(&mounts.expect("prepare must succeed")).path);
    commit(store, name, &key)
        .await
        .expect("commit must succeed");
}

pub(super) async fn stat(store: &dyn Snapshotter, key: &str) -> Option<Info> {
    store.stat(key).await.expect("stat must succeed")
}

/// Returns the keys of all snapshots, listed in pages of three.
pub(super) async fn keys(store: &dyn Snapshotter) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = store.walk(all.last().map(String::as_str), 3).await;
        let page = page.expect("walk must succeed");
        let short = page.len() < 3;
        all.extend(page.into_iter().map(|info| info.key));
        if short {
            return all;
        }
    }
}

/// Returns whether this process can open the trees of snapshots: all mounts are bind mounts, or the
/// process runs as the superuser. If not, marks the law as skipped.
pub(super) async fn can_mount(store: &dyn Snapshotter) -> bool {
    let mounts = prepare(store, "probe", None).await;
    bare_layer(store, "probe-base", None).await;
    let above = prepare(store, "probe-above", Some("probe-base")).await;
    let all = [
        mounts.expect("prepare must succeed"),
        above.expect("prepare must succeed"),
    ]
    .concat();
    for key in ["probe", "probe-above", "probe-base"] {
        store.remove(key).await.expect("remove must succeed");
    }
    let plain = all.iter().all(|mount| matches!(mount, Mount::Bind { .. }));
    plain || is_root()
}

/// Returns whether the process runs as the superuser. If not, marks the law as skipped.
pub(super) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|id| id.stdout == b"0\n");
    if !root {
        crate::skip(
            "only the superuser can mount and change owners, so the files of snapshots were not \
             checked",
        );
    }
    root
}

/// The tree of a snapshot, as its mounts show it.
pub(super) struct Tree {
    pub(super) path: PathBuf,
    /// The root directory of a mount that is not attached to a path. The mount ends when the
    /// directory is closed. `None` if nothing was mounted.
    _root: Option<OwnedFd>,
}

impl Tree {
    /// Mounts a snapshot. Returns its tree. If the snapshot has only a bind mount, nothing is
    /// mounted, and the tree is the source of the bind mount.
    pub(super) fn mount(mounts: &[Mount]) -> Tree {
        if let [Mount::Bind { source, .. }] = mounts {
            return Tree {
                path: source.clone(),
                _root: None,
            };
        }
        let root = cas_host::mount::open(mounts).expect("the mount must succeed");
        Tree {
            path: format!("/proc/self/fd/{}", root.as_raw_fd()).into(),
            _root: Some(root),
        }
    }

    pub(super) fn write(&self, name: &str, data: &str) {
        std::fs::write(self.path.join(name), data).expect("the write must succeed");
    }

    /// Returns the text of a file, or `None` if it does not exist.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        match std::fs::read_to_string(self.path.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            text => Some(text.expect("the read must succeed")),
        }
    }

    /// Returns the names in the top directory, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.names_in("")
    }

    /// Returns the names in a directory, sorted.
    pub(super) fn names_in(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path.join(dir)).expect("the listing must succeed");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.expect("an entry");
            entry.file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}
