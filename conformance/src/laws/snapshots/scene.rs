//! Helpers of the laws of snapshots.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

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

/// Creates a committed snapshot without content.
pub(super) async fn bare_layer(store: &dyn Snapshotter, name: &str, parent: Option<&str>) {
    let key = format!("making {name}");
    prepare(store, &key, parent)
        .await
        .expect("the snapshot is prepared");
    commit(store, name, &key)
        .await
        .expect("the snapshot is committed");
}

/// Creates a committed snapshot with the content that `fill` writes into its tree.
pub(super) async fn layer(
    store: &dyn Snapshotter,
    name: &str,
    parent: Option<&str>,
    fill: impl FnOnce(&Path),
) {
    let key = format!("making {name}");
    let mounts = prepare(store, &key, parent).await;
    fill(&Tree::mount(&mounts.expect("the snapshot is prepared")).path);
    commit(store, name, &key)
        .await
        .expect("the snapshot is committed");
}

pub(super) async fn stat(store: &dyn Snapshotter, key: &str) -> Option<Info> {
    store.stat(key).await.expect("stat succeeds")
}

/// Returns the keys of all snapshots, listed in pages of three.
pub(super) async fn keys(store: &dyn Snapshotter) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = store.walk(all.last().map(String::as_str), 3).await;
        let page = page.expect("walk succeeds");
        let short = page.len() < 3;
        all.extend(page.into_iter().map(|info| info.key));
        if short {
            return all;
        }
    }
}

/// Returns whether the test can enter the mounts of the snapshotter. Skips the law if not.
pub(super) async fn can_mount(store: &dyn Snapshotter) -> bool {
    let mounts = prepare(store, "probe", None).await;
    bare_layer(store, "probe-base", None).await;
    let above = prepare(store, "probe-above", Some("probe-base")).await;
    let all = [mounts.expect("prepared"), above.expect("prepared")].concat();
    for key in ["probe", "probe-above", "probe-base"] {
        store.remove(key).await.expect("the snapshot is removed");
    }
    let plain = all.iter().all(|mount| matches!(mount, Mount::Bind { .. }));
    plain || is_root()
}

/// Returns whether the process runs as the superuser. Skips the law if not.
pub(super) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|id| id.stdout == b"0\n");
    if !root {
        crate::skip("only the superuser can mount and change owners, so contents were not checked");
    }
    root
}

/// The tree of a snapshot, as its mounts show it. It is unmounted on drop.
pub(super) struct Tree {
    pub(super) path: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl Tree {
    /// Mounts a snapshot. Returns its tree. The source of a bind mount is used as it is.
    pub(super) fn mount(mounts: &[Mount]) -> Tree {
        match mounts {
            [Mount::Bind { source, .. }] => Tree {
                path: source.clone(),
                mounted: None,
            },
            [
                Mount::Overlay {
                    lower,
                    upper,
                    work,
                    options,
                },
            ] => {
                // Relative paths, because all options together must fit into one page of memory.
                let from = lower[0]
                    .ancestors()
                    .nth(2)
                    .expect("the snapshot is below a root");
                let name = |path: &PathBuf| {
                    let path = path.strip_prefix(from).unwrap_or(path);
                    path.display().to_string()
                };
                let lower = lower.iter().map(name).collect::<Vec<_>>().join(":");
                let mut all = vec![format!("lowerdir={lower}")];
                all.extend(upper.iter().map(|path| format!("upperdir={}", name(path))));
                all.extend(work.iter().map(|path| format!("workdir={}", name(path))));
                all.extend(options.iter().cloned());
                Tree::overlay(from, &all.join(","))
            }
            other => panic!("one mount is expected, found {other:?}"),
        }
    }

    fn overlay(from: &Path, options: &str) -> Tree {
        let dir = tempfile::tempdir().expect("a directory to mount on");
        let status = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", options])
            .arg(dir.path())
            .current_dir(from)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{options} does not mount"
        );
        Tree {
            path: dir.path().to_owned(),
            mounted: Some(dir),
        }
    }

    pub(super) fn write(&self, name: &str, data: &str) {
        std::fs::write(self.path.join(name), data).expect("the tree can be written");
    }

    /// Returns the text of a file, or `None` if it does not exist.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        match std::fs::read_to_string(self.path.join(name)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            text => Some(text.expect("the file can be read")),
        }
    }

    /// Returns the names in the top directory, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.names_in("")
    }

    /// Returns the names in a directory, sorted.
    pub(super) fn names_in(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path.join(dir)).expect("the tree can be listed");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.expect("an entry");
            entry.file_name().to_string_lossy().into_owned()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let Some(dir) = &self.mounted else {
            return;
        };
        // A child of another test may have a copy of a file descriptor between fork and exec.
        for _ in 0..200 {
            let unmounted = Command::new("umount").arg(dir.path()).output();
            if unmounted.is_ok_and(|output| output.status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("{} stays mounted", dir.path().display());
    }
}
