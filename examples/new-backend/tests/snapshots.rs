//! Runs the conformance tests (laws) on the snapshotter. Its records are in SQLite, as in a root.

use std::sync::Arc;

use backend_sqlite::Copies;
use cas_host::snapshotter::DirSnapshotter;
use cas_records_sqlite::SqliteRecords;

conformance::snapshotter!(copies, |dir| async move {
    let records = Arc::new(SqliteRecords::open(&dir.join("records.db"))?);
    let snapshotter = DirSnapshotter::<Copies>::open(dir.join("snapshots"), records)?;
    Ok(Arc::new(snapshotter) as _)
});
