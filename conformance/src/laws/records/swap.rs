//! Laws of single compare-and-swaps. Collections and images depend on them.

use cas_core::ErrorKind;
use cas_core::records::{Expect, Revision, Table};

use super::Subject;
use crate::material::{bytes, delete, kind, record, value, write};

const T: Table = Table::Blobs;

/// The second of two creators is refused.
pub(super) async fn absent_is_expected_once(subject: Subject) {
    let records = subject.open().await;
    assert_eq!(records.load(T, "k").await.unwrap(), None);
    write(&*records, T, "k", Expect::Absent, b"one")
        .await
        .unwrap();
    let second = write(&*records, T, "k", Expect::Absent, b"two").await;
    assert_eq!(kind(second), Some(ErrorKind::Conflict));
    assert_eq!(value(&*records, T, "k").await.as_deref(), Some(&b"one"[..]));
    delete(&*records, T, "k", Expect::Any).await.unwrap();
    write(&*records, T, "k", Expect::Absent, b"three")
        .await
        .unwrap();
    assert_eq!(
        value(&*records, T, "k").await.as_deref(),
        Some(&b"three"[..])
    );
}

/// The first change with a revision succeeds. The second change is refused with `Conflict`.
pub(super) async fn a_revision_is_good_for_one_change(subject: Subject) {
    let records = subject.open().await;
    write(&*records, T, "k", Expect::Absent, b"one")
        .await
        .unwrap();
    let seen = record(&*records, T, "k").await.revision;
    assert_eq!(
        record(&*records, T, "k").await.revision,
        seen,
        "a read must not change the revision"
    );
    write(&*records, T, "k", Expect::Revision(seen.clone()), b"two")
        .await
        .unwrap();
    for late in [
        write(&*records, T, "k", Expect::Revision(seen.clone()), b"three").await,
        delete(&*records, T, "k", Expect::Revision(seen.clone())).await,
        write(&*records, T, "absent", Expect::Revision(seen), b"four").await,
    ] {
        assert_eq!(kind(late), Some(ErrorKind::Conflict));
    }
    assert_eq!(value(&*records, T, "k").await.as_deref(), Some(&b"two"[..]));
    assert_eq!(value(&*records, T, "absent").await, None);
    let now = record(&*records, T, "k").await.revision;
    delete(&*records, T, "k", Expect::Revision(now))
        .await
        .unwrap();
    assert_eq!(value(&*records, T, "k").await, None);
}

/// `Any` overwrites everything, and deleting an absent key with it succeeds.
pub(super) async fn any_overwrites_and_deletes(subject: Subject) {
    let records = subject.open().await;
    for text in [&b"one"[..], b"", b"three"] {
        write(&*records, T, "k", Expect::Any, text).await.unwrap();
        assert_eq!(value(&*records, T, "k").await.as_deref(), Some(text));
    }
    for _ in 0..2 {
        delete(&*records, T, "k", Expect::Any).await.unwrap();
        assert_eq!(value(&*records, T, "k").await, None);
    }
    let absent = delete(&*records, T, "k", Expect::Absent).await;
    assert_eq!(kind(absent), None, "deleting an absent key must succeed");
}

/// Recreates a record with the same bytes.
pub(super) async fn a_revision_never_comes_back(subject: Subject) {
    let records = subject.open().await;
    let mut seen: Vec<Revision> = Vec::new();
    for _ in 0..8 {
        for _ in 0..2 {
            write(&*records, T, "k", Expect::Any, b"same bytes")
                .await
                .unwrap();
            let revision = record(&*records, T, "k").await.revision;
            assert!(
                !seen.contains(&revision),
                "each write must get a new revision, but {revision:?} was used before"
            );
            seen.push(revision);
        }
        delete(&*records, T, "k", Expect::Any).await.unwrap();
    }
    for old in seen {
        let late = write(&*records, T, "k", Expect::Revision(old), b"late").await;
        assert_eq!(kind(late), Some(ErrorKind::Conflict));
    }
}

/// Writes an empty value, and values of up to 1 MiB of pseudorandom bytes.
pub(super) async fn values_of_any_length_come_back(subject: Subject) {
    let records = subject.open().await;
    for length in [0, 1, 4_095, 70_000, 1 << 20] {
        let data = bytes(length as u64, length);
        let key = format!("{length} bytes");
        write(&*records, T, &key, Expect::Absent, &data)
            .await
            .unwrap();
        let found = record(&*records, T, &key).await;
        assert!(
            found.value == data && found.key == key,
            "a record of {length} bytes must be read back unchanged"
        );
        let page = records.scan(T, &key, None, 1).await.unwrap();
        assert!(
            page == [found],
            "a scan must return a record of {length} bytes unchanged"
        );
    }
}
