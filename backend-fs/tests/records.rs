//! The database of records on its own, as a root uses it for its snapshots.

use backend_fs::SqliteRecords;
use cas_core::records::{Batch, Expect, Table};
use cas_core::{Kind, Records, pool::wait};

#[test]
fn a_revision_never_comes_twice_even_after_a_deletion_and_a_reopening() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("snapshots.db");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let records = SqliteRecords::open(&path).unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Snapshots, "key", Expect::Absent, "value".into());
        wait(records.commit(&batch)).unwrap();
        let record = wait(records.load(Table::Snapshots, "key"))
            .unwrap()
            .unwrap();
        let mut batch = Batch::new();
        batch.delete(
            Table::Snapshots,
            "key",
            Expect::Revision(record.revision.clone()),
        );
        wait(records.commit(&batch)).unwrap();
        assert!(!seen.contains(&record.revision));
        seen.push(record.revision);
    }
}

#[test]
fn what_is_no_database_and_a_newer_schema_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("records.db");
    std::fs::write(&path, "no database ".repeat(1000)).unwrap();
    let error = SqliteRecords::open(&path).err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    std::fs::remove_file(&path).unwrap();
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 2).unwrap();
    drop(newer);
    let error = SqliteRecords::open(&path).err().unwrap();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error:?}");
}

#[test]
fn a_database_that_cannot_be_written_is_read_as_far_as_it_was_made() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("records.db");
    // The first opening was cut off before it made the schema.
    std::fs::write(&path, "").unwrap();
    let records = SqliteRecords::open_read_only(&path).unwrap();
    assert_eq!(wait(records.load(Table::Blobs, "key")).unwrap(), None);
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 2).unwrap();
    drop(newer);
    let error = SqliteRecords::open_read_only(&path).err().unwrap();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error:?}");
}
