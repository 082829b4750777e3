//! The laws for the EROFS snapshotter, with its records in SQLite as in a root.

mod usable;

use std::sync::Arc;

use cas_records_sqlite::SqliteRecords;
use snapshot_erofs::ErofsSnapshotter;

conformance::snapshotter!(erofs, |dir| async move {
    if !usable::is_usable() {
        // Nearly all laws prepare snapshots on others, which mounts an image.
        std::process::exit(0);
    }
    let records = Arc::new(SqliteRecords::open(&dir.join("records.db"))?);
    Ok(Arc::new(ErofsSnapshotter::open(dir, records)?) as _)
});
