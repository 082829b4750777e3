//! Layers on each other, as an unpacker makes them of copies, killed at every change.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

#[path = "support/kills.rs"]
mod kills;

use std::path::Path;
use std::sync::Arc;

use cas_core::snapshot::Commit;
use cas_core::{Labels, Result, Snapshotter};
use cas_records_sqlite::SqliteRecords;
use kills::{LAYERS, Scene, fill, say, tree};
use snapshot_native::NativeSnapshotter;

struct Native;

impl Scene for Native {
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

    fn open(root: &Path, records: Arc<SqliteRecords>) -> Result<Arc<dyn Snapshotter>> {
        Ok(Arc::new(NativeSnapshotter::open(root, records)?))
    }

    async fn make_layers(store: &dyn Snapshotter) -> Result<()> {
        for (place, name) in LAYERS.into_iter().enumerate() {
            if store.stat(name).await?.is_none() {
                if store.stat("unpacking").await?.is_some() {
                    store.remove("unpacking").await?;
                }
                let parent = place.checked_sub(1).map(|below| LAYERS[below]);
                let mounts = store.prepare("unpacking", parent, Labels::new()).await?;
                fill(&tree(&mounts), name)?;
                store.commit(name, "unpacking", Commit::default()).await?;
            }
            say(name);
        }
        Ok(())
    }
}

#[test]
fn task() {
    kills::task::<Native>();
}

#[test]
fn a_kill_at_any_call_leaves_nothing_in_the_way() {
    kills::kill_everywhere::<Native>();
}
