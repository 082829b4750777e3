//! Laws of records after a restart, and in a store that is open twice at the same time.

use bytes::Bytes;
use cas_core::records::{Batch, Expect, Table};
use cas_core::{Capability, ErrorKind, Records};

use super::Subject;
use crate::material::{delete, kind, record, scan, value, write};

const T: Table = Table::Notes;

/// After reopening, a current revision is still accepted, and an old one is still refused.
pub(super) async fn a_reopened_store_has_its_records(subject: Subject) {
    let records = subject.open().await;
    write(&*records, T, "kept", Expect::Absent, b"one")
        .await
        .unwrap();
    write(&*records, T, "gone", Expect::Absent, b"two")
        .await
        .unwrap();
    let old = record(&*records, T, "gone").await.revision;
    delete(&*records, T, "gone", Expect::Any).await.unwrap();
    let kept = record(&*records, T, "kept").await;
    drop(records);
    let records = subject.open().await;
    assert_eq!(
        scan(&*records, T, "", 10).await,
        std::slice::from_ref(&kept)
    );
    write(&*records, T, "gone", Expect::Absent, b"three")
        .await
        .unwrap();
    let late = write(&*records, T, "gone", Expect::Revision(old), b"late").await;
    assert_eq!(
        kind(late),
        Some(ErrorKind::Conflict),
        "an old revision was accepted after the store was reopened"
    );
    let expect = Expect::Revision(kept.revision);
    write(&*records, T, "kept", expect, b"four")
        .await
        .expect("a revision must stay current when the store is reopened");
}

/// Acknowledged batches must exist as a whole. The batch that was being committed at the kill may
/// exist or not. If batches are not atomic, its first change may exist without its second change.
pub(super) async fn a_killed_process_keeps_its_records(subject: Subject) {
    if subject.is_victim() {
        let records = subject.open().await;
        for number in 0_u64.. {
            let mut batch = Batch::new();
            for key in ["first", "second"] {
                let text = Bytes::from(number.to_string());
                batch.put(T, format!("{key} {}", number % 8), Expect::Any, text);
            }
            records.commit(&batch).await.unwrap();
            subject.acknowledge(number);
        }
    }
    for kills in [1, 50] {
        let last: u64 = subject.kill_after(kills).last().unwrap().parse().unwrap();
        let records = subject.open().await;
        for slot in 0..8 {
            let (first, second) = (
                number(&*records, &format!("first {slot}")).await,
                number(&*records, &format!("second {slot}")).await,
            );
            let acknowledged = (0..=last).rev().take(8).find(|one| one % 8 == slot);
            assert!(
                second >= acknowledged,
                "an acknowledged change is lost: expected the number {acknowledged:?} or a higher \
                 number, found {second:?}"
            );
            assert!(
                first >= second,
                "the second change of a batch was kept, but not the first"
            );
            if records.capabilities().has(Capability::Atomic) {
                assert_eq!(first, second, "only half of an atomic batch was kept");
            }
        }
    }
}

async fn number(records: &dyn Records, key: &str) -> Option<u64> {
    let text = value(records, T, key).await?;
    Some(String::from_utf8(text).unwrap().parse().unwrap())
}

pub(super) async fn openings_see_the_same_records(subject: Subject) {
    let (left, right) = (subject.open().await, subject.open().await);
    write(&*left, T, "k", Expect::Absent, b"one").await.unwrap();
    let seen = record(&*right, T, "k").await;
    assert_eq!(seen, record(&*left, T, "k").await);
    write(
        &*right,
        T,
        "k",
        Expect::Revision(seen.revision.clone()),
        b"two",
    )
    .await
    .unwrap();
    let late = write(&*left, T, "k", Expect::Revision(seen.revision), b"three").await;
    assert_eq!(kind(late), Some(ErrorKind::Conflict));
    assert_eq!(value(&*left, T, "k").await.as_deref(), Some(&b"two"[..]));
    assert_eq!(
        scan(&*left, T, "", 10).await,
        scan(&*right, T, "", 10).await
    );
}
