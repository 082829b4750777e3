//! A database of records without a store, as a root uses it for its snapshots.

use std::path::Path;

use cas_core::records::{Batch, Expect, Table};
use cas_core::{ErrorKind, Records, pool::wait};
use cas_records_sqlite::SqliteRecords;

#[test]
fn a_revision_is_never_given_twice_even_after_a_deletion_and_a_reopening() {
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
fn a_file_that_is_not_a_database_and_a_newer_format_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("records.db");
    std::fs::write(&path, "not a database ".repeat(1000)).unwrap();
    let error = SqliteRecords::open(&path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    std::fs::remove_file(&path).unwrap();
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 3).unwrap();
    drop(newer);
    let error = SqliteRecords::open(&path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
}

#[test]
fn an_older_format_is_upgraded_unless_it_is_opened_read_only() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("records.db");
    let mut batch = Batch::new();
    batch.put(Table::Leases, "kept", Expect::Absent, "value".into());
    wait(SqliteRecords::open(&path).unwrap().commit(&batch)).unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let version = || -> i64 {
        let row = connection.query_row("PRAGMA user_version", (), |row| row.get(0));
        row.unwrap()
    };
    assert_eq!(version(), 2);
    connection.pragma_update(None, "user_version", 1).unwrap();
    for (open, upgraded) in [
        (SqliteRecords::open_read_only as fn(&Path) -> _, 1),
        (SqliteRecords::open, 2),
    ] {
        let records = open(&path).unwrap();
        assert_eq!(version(), upgraded);
        assert!(wait(records.load(Table::Leases, "kept")).unwrap().is_some());
        assert_eq!(wait(records.load(Table::Notes, "room/key")).unwrap(), None);
    }
}

#[test]
fn an_unfinished_database_reads_as_empty_if_it_is_read_only() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("records.db");
    // The first opening was interrupted before it wrote the schema.
    std::fs::write(&path, "").unwrap();
    let records = SqliteRecords::open_read_only(&path).unwrap();
    assert_eq!(wait(records.load(Table::Blobs, "key")).unwrap(), None);
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 3).unwrap();
    drop(newer);
    let error = SqliteRecords::open_read_only(&path).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
}

/// All batches but the first share a transaction, and only one of the batches with the same key
/// succeeds.
#[test]
fn a_refused_batch_writes_nothing_and_does_not_affect_the_others() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("records.db");
    let records = SqliteRecords::open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let outcomes = { runtime }.build().unwrap().block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for number in 0..40 {
            let records = records.clone();
            all.spawn(async move {
                let mut batch = Batch::new();
                let key = number.to_string();
                batch.put(Table::Blobs, &key, Expect::Absent, "own".into());
                if number % 2 == 0 {
                    batch.put(Table::Blobs, "one", Expect::Absent, key.clone().into());
                }
                (key, records.commit(&batch).await)
            });
        }
        tokio::task::yield_now().await;
        other.execute_batch("COMMIT").unwrap();
        all.join_all().await
    });
    let mut winners = 0;
    for (key, outcome) in outcomes {
        let own = wait(records.load(Table::Blobs, &key)).unwrap();
        assert_eq!(own.is_some(), outcome.is_ok(), "{key}");
        if key.parse::<u32>().unwrap() % 2 == 1 {
            outcome.unwrap();
            continue;
        }
        match outcome {
            Ok(()) => winners += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
        }
    }
    assert_eq!(winners, 1);
}
