//! Kills an unpacker that stores tars, and a writer whose changes are packed, at calls that change
//! the disk.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod usable;

use std::path::Path;
use std::sync::Arc;

use cas_core::snapshot::{Commit, LAYER_TAR, LayerTarget};
use cas_core::{Error, Labels, Result, Snapshotter};
use cas_host::mount;
use cas_records_sqlite::SqliteRecords;
use snapshot_erofs::ErofsSnapshotter;
use testkit::archive::Tar;
use testkit::kills::{self, LAYERS, Opened, Scenario, acknowledge, fill};
use usable::is_usable;

struct Erofs;

impl Scenario for Erofs {
    const CALLS: &'static [&'static str] = &[
        "mkdirat",
        "renameat",
        "ftruncate",
        "syncfs",
        "unlinkat",
        "fsmount",
    ];
    const IN_MEMORY: bool = false;

    fn open(root: &Path) -> Result<Opened> {
        let records = Arc::new(SqliteRecords::open(&root.join("records.db"))?);
        let store = ErofsSnapshotter::open(root, records.clone())?;
        Ok((Arc::new(store), records))
    }

    /// Stores the tars of all layers but the last, which is written through its mounts.
    async fn make_layers(store: &dyn Snapshotter) -> Result<()> {
        let mut below: Option<&str> = None;
        for (index, name) in LAYERS.into_iter().enumerate() {
            if store.stat(name).await?.is_none() {
                let key = format!("unpacking {name}");
                if store.stat(&key).await?.is_some() {
                    store.remove(&key).await?;
                }
                let parent = match index + 1 < LAYERS.len() {
                    true => {
                        store_tar(store, &key, name).await?;
                        below.map(str::to_owned)
                    }
                    false => {
                        let mounts = store.prepare(&key, below, Labels::new()).await?;
                        let root = mount::open(&mounts)?;
                        fill(&cas_host::calls::proc_path(&root), name)?;
                        None
                    }
                };
                let options = Commit {
                    parent,
                    ..Commit::default()
                };
                store.commit(name, &key, options).await?;
            }
            acknowledge(name);
            below = Some(name);
        }
        Ok(())
    }
}

/// Stores the tar of what [`fill`] writes.
async fn store_tar(store: &dyn Snapshotter, key: &str, name: &str) -> Result<()> {
    let tar = Tar::new()
        .dir(name)
        .file(format!("{name}/file"), name)
        .hardlink(format!("{name}/link"), format!("{name}/file"))
        .symlink(format!("{name}/symlink"), "file");
    match store.prepare_layer(key, None, Labels::new()).await? {
        LayerTarget::Tar(directory) => Ok(std::fs::write(directory.join(LAYER_TAR), tar.end())?),
        _ => Err(Error::internal("the layer is not stored as a tar")),
    }
}

#[test]
fn task() {
    kills::task::<Erofs>();
}

#[test]
fn after_a_kill_at_any_call_the_work_succeeds() {
    if is_usable() {
        kills::kill_everywhere::<Erofs>();
    }
}

#[test]
fn after_a_killed_collection_the_next_one_leaves_nothing() {
    if is_usable() {
        kills::kill_collections::<Erofs>();
    }
}
