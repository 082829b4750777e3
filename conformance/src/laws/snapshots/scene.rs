//! What the laws of snapshots share: making them, and going into their trees.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cas_core::snapshot::{Commit, Info, Mount};
use cas_core::{Labels, Result, Snapshotter};

pub(super) type Shared = Arc<dyn Snapshotter>;

/// Prepares without labels.
pub(super) async fn prepare(
    store: &dyn Snapshotter,
    key: &str,
    parent: Option<&str>,
) -> Result<Vec<Mount>> {
    store.prepare(key, parent, Labels::new()).await
}

/// Views without labels.
pub(super) async fn view(
    store: &dyn Snapshotter,
    key: &str,
    parent: Option<&str>,
) -> Result<Vec<Mount>> {
    store.view(key, parent, Labels::new()).await
}

/// Commits without labels.
pub(super) async fn commit(store: &dyn Snapshotter, name: &str, key: &str) -> Result<()> {
    store.commit(name, key, Commit::default()).await
}

/// Makes a committed snapshot of no content of its own.
pub(super) async fn bare_layer(store: &dyn Snapshotter, name: &str, parent: Option<&str>) {
    let key = format!("making {name}");
    prepare(store, &key, parent).await.expect("it is prepared");
    commit(store, name, &key).await.expect("it is committed");
}

/// Makes a committed snapshot; its content is what `fill` does with the tree.
pub(super) async fn layer(
    store: &dyn Snapshotter,
    name: &str,
    parent: Option<&str>,
    fill: impl FnOnce(&Path),
) {
    let key = format!("making {name}");
    let mounts = prepare(store, &key, parent).await;
    fill(&Tree::mount(&mounts.expect("it is prepared")).path);
    commit(store, name, &key).await.expect("it is committed");
}

pub(super) async fn stat(store: &dyn Snapshotter, key: &str) -> Option<Info> {
    store.stat(key).await.expect("stat answers")
}

/// Every snapshot, in pages of three.
pub(super) async fn keys(store: &dyn Snapshotter) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = store.walk(all.last().map(String::as_str), 3).await;
        let page = page.expect("walk answers");
        let short = page.len() < 3;
        all.extend(page.into_iter().map(|info| info.key));
        if short {
            return all;
        }
    }
}

/// Whether the trees can be gone into here; says aloud when they cannot.
pub(super) async fn can_mount(store: &dyn Snapshotter) -> bool {
    let mounts = prepare(store, "probe", None).await;
    bare_layer(store, "probe-base", None).await;
    let above = prepare(store, "probe-above", Some("probe-base")).await;
    let all = [mounts.expect("prepared"), above.expect("prepared")].concat();
    for key in ["probe", "probe-above", "probe-base"] {
        store.remove(key).await.expect("it is removed");
    }
    let plain = all.iter().all(|mount| matches!(mount, Mount::Bind { .. }));
    plain || is_root()
}

/// Whether this is root; says aloud what is left out where it is not.
pub(super) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    let root = id.is_ok_and(|id| id.stdout == b"0\n");
    if !root {
        crate::skip("only root mounts and gives away; contents were not looked at");
    }
    root
}

/// The tree of a snapshot, as its mounts show it; unmounted at the end.
pub(super) struct Tree {
    pub(super) path: PathBuf,
    mounted: Option<tempfile::TempDir>,
}

impl Tree {
    /// Shows what one mount says; a bind is looked at where it is.
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
                // Names from where all are: the options have a page for all their paths.
                let from = lower[0].ancestors().nth(2).expect("it is below a root");
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

    /// The text of a file; nothing when it is not there.
    pub(super) fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path.join(name)).ok()
    }

    /// The names in its root, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.names_in("")
    }

    /// The names in a directory of it, in order.
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
        if let Some(dir) = &self.mounted {
            let unmounted = Command::new("umount").arg(dir.path()).status();
            if !unmounted.is_ok_and(|status| status.success()) {
                eprintln!("{} stays mounted", dir.path().display());
            }
        }
    }
}
