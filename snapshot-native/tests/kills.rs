//! Kills an unpacker that makes one layer after the other, at every change of the disk.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::Path;
use std::sync::Arc;

use cas_core::snapshot::Commit;
use cas_core::{Labels, Result, Snapshotter};
use cas_records_sqlite::SqliteRecords;
use snapshot_native::NativeSnapshotter;
use testkit::kills::{self, LAYERS, Opened, Scenario, acknowledge, fill, tree};

struct Native;

impl Scenario for Native {
    const CALLS: &'static [&'static str] = &[
        "mkdirat",
        "flock",
        "linkat",
        "symlinkat",
        "fchown",
        "utimensat",
        "fsync",
        "syncfs",
        "unlinkat",
    ];

    fn open(root: &Path) -> Result<Opened> {
        let records = Arc::new(SqliteRecords::open(&root.join("records.db"))?);
        let store = NativeSnapshotter::open(root, records.clone())?;
        Ok((Arc::new(store), records))
    }

    async fn make_layers(store: &dyn Snapshotter) -> Result<()> {
        for (index, name) in LAYERS.into_iter().enumerate() {
            if store.stat(name).await?.is_none() {
                if store.stat("unpacking").await?.is_some() {
                    store.remove("unpacking").await?;
                }
                let parent = index.checked_sub(1).map(|below| LAYERS[below]);
                let mounts = store.prepare("unpacking", parent, Labels::new()).await?;
                fill(&tree(&mounts), name)?;
                store.commit(name, "unpacking", Commit::default()).await?;
            }
            acknowledge(name);
        }
        Ok(())
    }
}

#[test]
fn task() {
    kills::task::<Native>();
}

#[test]
fn after_a_kill_at_any_call_the_work_succeeds() {
    kills::kill_everywhere::<Native>();
}

#[test]
fn after_a_killed_collection_the_next_one_leaves_nothing() {
    kills::kill_collections::<Native>();
}
