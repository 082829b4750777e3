//! Laws of batches.

use bytes::Bytes;
use cas_core::records::{Batch, Expect, Table};
use cas_core::{Capability, ErrorKind, Records};

use super::Subject;
use crate::material::{kind, record, scan, value, write};

const T: Table = Table::Blobs;

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// The last change of a key in a table counts. A change of the same key in another table is
/// independent of it.
pub(super) async fn a_batch_is_applied_in_order(subject: Subject) {
    let records = subject.open().await;
    records
        .commit(&Batch::new())
        .await
        .expect("an empty batch must succeed");
    let mut batch = Batch::new();
    batch.put(T, "k", Expect::Any, text("one"));
    batch.put(Table::Images, "k", Expect::Any, text("image"));
    batch.put(T, "k", Expect::Any, text("two"));
    batch.delete(T, "gone", Expect::Any);
    batch.put(T, "kept", Expect::Absent, text("kept"));
    batch.put(T, "gone", Expect::Any, text("x"));
    batch.delete(T, "gone", Expect::Any);
    records.commit(&batch).await.unwrap();
    assert_eq!(value(&*records, T, "k").await.as_deref(), Some(&b"two"[..]));
    assert_eq!(
        value(&*records, Table::Images, "k").await.as_deref(),
        Some(&b"image"[..])
    );
    assert_eq!(
        value(&*records, T, "kept").await.as_deref(),
        Some(&b"kept"[..])
    );
    assert_eq!(value(&*records, T, "gone").await, None);
}

/// An expectation is compared with the state after the earlier changes of the batch.
pub(super) async fn a_batch_sees_its_own_changes(subject: Subject) {
    let records = subject.open().await;
    write(&*records, T, "old", Expect::Absent, b"one")
        .await
        .unwrap();
    let mut batch = Batch::new();
    batch.delete(T, "old", Expect::Any);
    batch.put(T, "old", Expect::Absent, text("two"));
    records
        .commit(&batch)
        .await
        .expect("a batch that deletes a key must be able to create it again");
    assert_eq!(
        value(&*records, T, "old").await.as_deref(),
        Some(&b"two"[..])
    );
    let mut twice = Batch::new();
    twice.put(T, "new", Expect::Absent, text("one"));
    twice.put(T, "new", Expect::Absent, text("two"));
    assert_eq!(
        kind(records.commit(&twice).await),
        Some(ErrorKind::Conflict)
    );
}

/// Commits three batches of four changes. The conflict is at the first change, then at the second,
/// then at the third.
pub(super) async fn a_conflict_applies_nothing(subject: Subject) {
    let records = subject.open().await;
    write(&*records, T, "taken", Expect::Absent, b"mine")
        .await
        .unwrap();
    for place in 0..3 {
        let mut batch = Batch::new();
        for at in 0..3 {
            if at == place {
                batch.put(T, "taken", Expect::Absent, text("yours"));
            } else {
                batch.put(T, format!("new {at}"), Expect::Any, text("new"));
            }
        }
        batch.delete(T, "taken", Expect::Any);
        assert_eq!(
            kind(records.commit(&batch).await),
            Some(ErrorKind::Conflict)
        );
        for at in 0..3 {
            assert_eq!(value(&*records, T, &format!("new {at}")).await, None);
        }
        assert_eq!(
            value(&*records, T, "taken").await.as_deref(),
            Some(&b"mine"[..])
        );
    }
}

/// If a change conflicts, an atomic store applies no change of the batch. Any other store applies
/// the changes before the one that conflicts.
pub(super) async fn a_conflict_leaves_a_prefix_at_most(subject: Subject) {
    let records = subject.open().await;
    write(&*records, T, "taken", Expect::Absent, b"mine")
        .await
        .unwrap();
    let mut batch = Batch::new();
    for key in ["1", "2"] {
        batch.put(T, key, Expect::Absent, text("new"));
    }
    batch.put(T, "taken", Expect::Absent, text("yours"));
    batch.put(T, "3", Expect::Absent, text("new"));
    assert_eq!(
        kind(records.commit(&batch).await),
        Some(ErrorKind::Conflict)
    );
    let mut there = Vec::new();
    for key in ["1", "2", "3"] {
        there.push(value(&*records, T, key).await.is_some());
    }
    let atomic = records.capabilities().has(Capability::Atomic);
    assert_eq!(there, [!atomic, !atomic, false]);
    assert_eq!(
        value(&*records, T, "taken").await.as_deref(),
        Some(&b"mine"[..])
    );
}

/// Commits batches of forty keys, in three orders.
pub(super) async fn a_batch_of_many_keys_is_one_step(subject: Subject) {
    let records = subject.open().await;
    let key = |number: usize| format!("key {number:02}");
    let forwards: Vec<usize> = (0..40).collect();
    let backwards: Vec<usize> = (0..40).rev().collect();
    let mixed: Vec<usize> = (0..40).map(|number| number * 7 % 40).collect();
    for order in [forwards, backwards, mixed] {
        let mut created = Batch::new();
        for number in &order {
            created.put(T, key(*number), Expect::Absent, text("old"));
        }
        for taken in [0, 13, 39] {
            write(&*records, T, &key(taken), Expect::Any, b"taken")
                .await
                .unwrap();
            let outcome = records.commit(&created).await;
            assert_eq!(
                kind(outcome),
                Some(ErrorKind::Conflict),
                "a batch that creates the existing key {taken} must be refused"
            );
            assert_eq!(keys(&*records).await, [key(taken)]);
            let seen = record(&*records, T, &key(taken)).await;
            let expect = Expect::Revision(seen.revision);
            let mut deleted = Batch::new();
            deleted.delete(T, key(taken), expect);
            records.commit(&deleted).await.unwrap();
        }
        records
            .commit(&created)
            .await
            .expect("a batch that creates absent keys must succeed");

        let (mut some, mut rest) = (Batch::new(), Batch::new());
        for number in &order {
            let seen = record(&*records, T, &key(*number)).await;
            let batch = if number % 5 == 3 {
                &mut rest
            } else {
                &mut some
            };
            batch.delete(T, key(*number), Expect::Revision(seen.revision));
        }
        let mut stale = some.clone();
        stale.delete(T, key(40), some.changes()[0].expect.clone());
        assert_eq!(
            kind(records.commit(&stale).await),
            Some(ErrorKind::Conflict)
        );
        assert_eq!(
            keys(&*records).await.len(),
            40,
            "a refused batch must delete nothing"
        );
        records
            .commit(&some)
            .await
            .expect("a batch with current revisions must succeed");
        let left: Vec<String> = (0..40).filter(|number| number % 5 == 3).map(key).collect();
        assert_eq!(keys(&*records).await, left);
        assert_eq!(kind(records.commit(&some).await), Some(ErrorKind::Conflict));
        records
            .commit(&rest)
            .await
            .expect("a batch with current revisions must succeed");
        assert!(keys(&*records).await.is_empty());
    }
}

async fn keys(records: &dyn Records) -> Vec<String> {
    let all = scan(records, T, "", 100).await;
    all.into_iter().map(|record| record.key).collect()
}
