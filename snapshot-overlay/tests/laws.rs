//! The laws for the overlay snapshotter, with its records in SQLite as in a root.

use std::sync::Arc;

use cas_records_sqlite::SqliteRecords;
use snapshot_overlay::OverlaySnapshotter;

conformance::snapshotter!(overlay, |dir| async move {
    let records = Arc::new(SqliteRecords::open(&dir.join("records.db"))?);
    Ok(Arc::new(OverlaySnapshotter::open(dir, records)?) as _)
});
