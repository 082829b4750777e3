//! Layers side by side, as an unpacker makes them of overlays, killed at every change.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

#[path = "../../snapshot-native/tests/support/kills.rs"]
mod kills;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use cas_core::snapshot::Commit;
use cas_core::{Labels, Result, Snapshotter};
use cas_host::{overlay, syncfs};
use cas_records_sqlite::SqliteRecords;
use kills::{LAYERS, Scene, fill, say, tree};
use snapshot_overlay::OverlaySnapshotter;

struct Overlay;

impl Scene for Overlay {
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

    fn open(root: &Path, records: Arc<SqliteRecords>) -> Result<Arc<dyn Snapshotter>> {
        Ok(Arc::new(OverlaySnapshotter::open(root, records)?))
    }

    /// All trees first, then one sync, then the commits from the lowest on.
    async fn make_layers(store: &dyn Snapshotter) -> Result<()> {
        let mut there = 0;
        while there < LAYERS.len() && store.stat(LAYERS[there]).await?.is_some() {
            say(LAYERS[there]);
            there += 1;
        }
        let mut synced = None;
        for (place, name) in LAYERS.iter().enumerate().skip(there) {
            let key = format!("unpacking {name}");
            if store.stat(&key).await?.is_some() {
                store.remove(&key).await?;
            }
            let tree = tree(&store.prepare(&key, None, Labels::new()).await?);
            fill(&tree, name)?;
            change(&tree, place)?;
            synced = Some(File::open(&tree)?);
        }
        if let Some(tree) = synced {
            syncfs(&tree)?;
        }
        for (place, name) in LAYERS.iter().enumerate().skip(there) {
            let options = Commit {
                parent: place.checked_sub(1).map(|below| LAYERS[below].to_owned()),
                synced: true,
                ..Commit::default()
            };
            let key = format!("unpacking {name}");
            store.commit(name, &key, options).await?;
            say(name);
        }
        Ok(())
    }

    fn check_tree(tree: &Path, place: usize) {
        assert_eq!(tree.join("gone").exists(), place == 0, "{place}");
        assert_eq!(tree.join("dir/old").exists(), place == 0, "{place}");
        assert_eq!(tree.join("dir/new").exists(), place > 0, "{place}");
    }
}

/// The second layer hides a file of the first, and all that a directory of it has.
fn change(tree: &Path, place: usize) -> Result<()> {
    let dir = tree.join("dir");
    match place {
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
fn a_kill_at_any_call_leaves_nothing_in_the_way() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: overlays are mounted by root only");
        return;
    }
    kills::kill_everywhere::<Overlay>();
}
