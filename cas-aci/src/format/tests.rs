//! Migrations from a format 0, which exists only here: its values are in lower case.

use cas_core::ErrorKind;
use cas_core::pool::wait;
use cas_core::records::{Batch, Lease, Table};
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::testing::memory::MemoryStore;

use super::*;

/// Converts a note of format 0. Returns it with its value in upper case.
///
/// # Errors
/// `Corrupt` if the value has an upper-case letter already, or is empty.
fn step(note: Record) -> Result<Record> {
    if note.value.is_empty() || note.value.iter().any(u8::is_ascii_uppercase) {
        return Err(Error::corrupt("not a note of format 0").subject(&note.key));
    }
    let value = note.value.to_ascii_uppercase().into();
    Ok(Record { value, ..note })
}

const TWO: Formats = Formats {
    first: 0,
    steps: &[step],
};

/// Returns a store with a catalogue of format 0.
fn old() -> Store {
    let store = MemoryStore::new().with_images();
    put(&store, "aci/format", "0");
    for number in 0..600 {
        put(&store, &format!("aci.0/image/{number:03}"), "info");
    }
    store
}

fn put(store: &Store, key: &str, value: &'static str) {
    let mut batch = Batch::new();
    batch.put(Table::Notes, key, Expect::Any, value.into());
    wait(store.records.commit(&batch)).unwrap();
}

/// Returns the values of the notes whose keys begin with `prefix`, each value once, with the number
/// of notes that have it.
fn values(store: &Store, prefix: &str) -> Vec<(usize, Bytes)> {
    let notes = wait(store.records.scan(Table::Notes, prefix, None, 10_000)).unwrap();
    let mut values: Vec<(usize, Bytes)> = Vec::new();
    for note in notes {
        match values.iter_mut().find(|(_, value)| *value == note.value) {
            Some((count, _)) => *count += 1,
            None => values.push((1, note.value)),
        }
    }
    values
}

/// Checks that the catalogue has format 1 and all notes, and that the backup is whole.
fn assert_migrated(store: &Store) {
    assert_eq!(values(store, "aci/format"), [(1, "1".into())]);
    assert_eq!(values(store, "aci/image/"), [(600, "INFO".into())]);
    assert_eq!(values(store, "aci.0/"), [(600, "info".into())]);
    assert!(wait(store.leases().list()).unwrap().is_empty());
}

#[test]
fn an_older_catalogue_is_migrated_once_and_kept_as_a_backup() {
    let store = old();
    // A note that an earlier migration left when it was killed.
    put(&store, "aci/image/left", "LEFT");
    let notes = wait(open(&store, &TWO)).unwrap();
    assert_migrated(&store);
    let (value, _) = wait(notes.load("image/007")).unwrap().unwrap();
    assert_eq!(value, "INFO");
    // A second migration would write the notes again, and so change their revisions.
    let before = wait(store.records.scan(Table::Notes, "", None, 10_000)).unwrap();
    wait(open(&store, &TWO)).unwrap();
    let after = wait(store.records.scan(Table::Notes, "", None, 10_000)).unwrap();
    assert_eq!(before, after);
    // The version that only knows format 0 is refused.
    let zero = Formats {
        first: 0,
        steps: &[],
    };
    let error = wait(open(&store, &zero)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}

#[test]
fn a_note_that_is_no_number_is_damaged_and_shown_in_part() {
    let store = old();
    put(&store, "aci/format", "one\n".repeat(10_000).leak());
    let error = wait(open(&store, &TWO)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let said = error.to_string();
    assert!(said.contains(r#"found "one\none"#), "{said}");
    assert!(said.len() < 400, "{said}");
}

#[test]
fn a_migration_that_fails_releases_its_lock_and_changes_nothing() {
    let store = old();
    put(&store, "aci.0/image/300", "");
    let error = wait(open(&store, &TWO)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(values(&store, "aci/format"), [(1, "0".into())]);
    assert!(wait(store.leases().list()).unwrap().is_empty());
    put(&store, "aci.0/image/300", "info");
    wait(open(&store, &TWO)).unwrap();
    assert_migrated(&store);
}

#[test]
fn a_fault_at_any_change_leaves_a_catalogue_that_is_migrated_later() {
    for side in [Side::Before, Side::After] {
        for nth in 1.. {
            let (store, plan) = (old(), Plan::new());
            let kind = ErrorKind::Unavailable;
            plan.fail_nth(nth, Fault { kind, side });
            let opened = wait(open(&faulty(&store, &plan), &TWO));
            let failed = plan.end();
            // A migration may leave a lease that it could not end. The deletion stands for the
            // expiry of this lease.
            for (id, lease, _) in wait(store.leases().list()).unwrap() {
                let leases = store.leases();
                wait(leases.delete(&id, &lease.owner, SystemTime::now())).unwrap();
            }
            wait(open(&store, &TWO)).unwrap();
            assert_migrated(&store);
            if failed.is_empty() {
                opened.unwrap();
                break;
            }
            assert!(nth < 50);
        }
    }
}

#[test]
fn a_migration_that_is_at_work_is_waited_for_and_one_that_was_killed_is_not() {
    let store = old();
    put(&store, "aci/format", "0 aci-migration-1");
    let lease = |expires: SystemTime| {
        let lease = Lease::new("another process", Some(expires));
        wait(store.leases().create("aci-migration-1", &lease)).unwrap();
    };
    let now = SystemTime::now();
    lease(now + CLOCK_SKEW);
    let error = wait(open(&store, &TWO)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("aci-migration-1"), "{error}");
    wait(
        store
            .leases()
            .delete("aci-migration-1", "another process", now),
    )
    .unwrap();
    lease(now - 2 * CLOCK_SKEW);
    wait(open(&store, &TWO)).unwrap();
    wait(store.leases().delete("aci-migration-1", "", now)).unwrap();
    assert_migrated(&store);
}

#[test]
fn of_many_that_open_an_older_catalogue_one_migrates_it() {
    let store = old();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match wait(open(&store, &TWO)) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
            });
        }
    });
    wait(open(&store, &TWO)).unwrap();
    assert_migrated(&store);
}

#[test]
fn a_store_that_cannot_be_written_says_what_to_do() {
    let (store, plan) = (old(), Plan::new());
    for kind in [ErrorKind::Denied, ErrorKind::Full] {
        let side = Side::Before;
        plan.fail_some(1, 1, Fault { kind, side });
        let error = wait(open(&faulty(&store, &plan), &TWO)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(error.to_string().contains("has format 0"), "{error}");
        plan.end();
    }
    wait(open(&store, &TWO)).unwrap();
    assert_migrated(&store);
}
