//! The laws for the copying snapshotter, with its records in SQLite as in a root.

use std::sync::Arc;

use cas_records_sqlite::SqliteRecords;
use snapshot_native::NativeSnapshotter;

conformance::snapshotter!(native, |dir| async move {
    let records = Arc::new(SqliteRecords::open(&dir.join("records.db"))?);
    Ok(Arc::new(NativeSnapshotter::open(dir, records)?) as _)
});
