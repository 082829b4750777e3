//! Kills an unpacker that makes layers in parallel, at every change of the disk.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use cas_core::snapshot::Commit;
use cas_core::{Labels, Result, Snapshotter};
use cas_host::{overlay, syncfs};
use cas_records_sqlite::SqliteRecords;
use snapshot_overlay::OverlaySnapshotter;
use testkit::kills::{self, LAYERS, Opened, Scenario, acknowledge, fill, tree};

struct Overlay;

impl Scenario for Overlay {
    const CALLS: &'static [&'static str] = &[
        "mkdirat",
        "mkdir",
        "fchmodat",
        "flock",
        "linkat",
        "symlink",
        "mknodat",
        "fsetxattr",
        "fchown",
        "utimensat",
        "fsync",
        "syncfs",
        "unlinkat",
        "pwrite64",
    ];

    fn open(root: &Path) -> Result<Opened> {
        let records = Arc::new(SqliteRecords::open(&root.join("records.db"))?);
        let store = OverlaySnapshotter::open(root, records.clone())?;
        Ok((Arc::new(store), records))
    }

    /// Fills all trees, then syncs once, then commits from the lowest layer up.
    async fn make_layers(store: &dyn Snapshotter) -> Result<()> {
        let mut done = 0;
        while done < LAYERS.len() && store.stat(LAYERS[done]).await?.is_some() {
            acknowledge(LAYERS[done]);
            done += 1;
        }
        let mut synced = None;
        for (index, name) in LAYERS.iter().enumerate().skip(done) {
            let key = format!("unpacking {name}");
            if store.stat(&key).await?.is_some() {
                store.remove(&key).await?;
            }
            let tree = tree(&store.prepare(&key, None, Labels::new()).await?);
            fill(&tree, name)?;
            change(&tree, index)?;
            synced = Some(File::open(&tree)?);
        }
        if let Some(tree) = synced {
            syncfs(&tree)?;
        }
        for (index, name) in LAYERS.iter().enumerate().skip(done) {
            let options = Commit {
                parent: index.checked_sub(1).map(|below| LAYERS[below].to_owned()),
                synced: true,
                ..Commit::default()
            };
            let key = format!("unpacking {name}");
            store.commit(name, &key, options).await?;
            acknowledge(name);
        }
        Ok(())
    }

    fn check_tree(tree: &Path, index: usize) {
        assert_eq!(tree.join("gone").exists(), index == 0, "{index}");
        assert_eq!(tree.join("dir/old").exists(), index == 0, "{index}");
        assert_eq!(tree.join("dir/new").exists(), index > 0, "{index}");
    }
}

/// Makes the second layer hide one file of the first layer, and everything in one directory of the
/// first layer.
fn change(tree: &Path, index: usize) -> Result<()> {
    let dir = tree.join("dir");
    match index {
        0 => {
            fs::create_dir(&dir)?;
            fs::write(dir.join("old"), "")?;
            fs::write(tree.join("gone"), "")?;
        }
        1 => {
            overlay::hide(&File::open(tree)?.as_fd(), "gone")?;
            fs::create_dir(&dir)?;
            overlay::make_opaque(File::open(&dir)?)?;
            fs::write(dir.join("new"), "")?;
        }
        _ => {}
    }
    Ok(())
}

#[test]
fn task() {
    kills::task::<Overlay>();
}

#[test]
fn after_a_kill_at_any_call_the_work_succeeds() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: overlays are mounted by root only");
        return;
    }
    kills::kill_everywhere::<Overlay>();
}

#[test]
fn after_a_killed_collection_the_next_one_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: overlays are mounted by root only");
        return;
    }
    kills::kill_collections::<Overlay>();
}
