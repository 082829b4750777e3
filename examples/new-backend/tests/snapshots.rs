//! Runs the conformance laws on the snapshotter, with its records in a store of this crate.

use std::sync::Arc;

use backend_sqlite::{Copies, SqliteStore};
use cas_host::snapshotter::DirSnapshotter;

conformance::snapshotter!(copies, |dir| async move {
    let records = SqliteStore::open(dir.join("store"))?.records();
    let snapshotter = DirSnapshotter::<Copies>::open(dir.join("snapshots"), records)?;
    Ok(Arc::new(snapshotter) as _)
});
