//! Laws of keys and tables: the order of keys, prefixes of keys, the characters that a key may
//! contain, and the separation of tables.

use cas_core::records::{Expect, Record, Table};
use cas_core::{ErrorKind, Records};

use super::Subject;
use crate::material::{delete, kind, record, scan, value, write};

const T: Table = Table::Snapshots;

/// Keys in byte order. Some have a meaning in a file system, a URL, SQL or a shell. Others differ
/// from another key only in case, match another key if `_` or `%` is a wildcard, or are not ASCII.
const ODD: [&str; 14] = [
    " ",
    "%2F",
    "*",
    "..",
    "../x",
    "/",
    "/x",
    "A",
    "a",
    "a%",
    "a_b",
    "axb",
    "ä",
    "\u{10ffff}",
];

fn keys(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.key.as_str()).collect()
}

async fn fill(records: &dyn Records, table: Table) {
    for key in ODD.iter().rev() {
        write(records, table, key, Expect::Absent, key.as_bytes())
            .await
            .unwrap();
    }
}

/// Scans in pages of several sizes, and after a key that does not exist.
pub(super) async fn a_scan_is_in_key_order(subject: Subject) {
    let records = subject.open().await;
    assert_eq!(records.scan(T, "", None, 10).await.unwrap(), []);
    fill(&*records, T).await;
    for limit in [1, 3, ODD.len(), usize::MAX] {
        assert_eq!(
            keys(&scan(&*records, T, "", limit).await),
            ODD,
            "pages of {limit}"
        );
    }
    delete(&*records, T, "A", Expect::Any).await.unwrap();
    let rest = records.scan(T, "", Some("A"), 2).await.unwrap();
    assert_eq!(
        keys(&rest),
        ["a", "a%"],
        "a scan must continue after a key that was removed"
    );
}

/// Scans with several prefixes, also with prefixes that contain `%` or `_`, and with cursors before
/// and after the prefix.
pub(super) async fn a_prefix_is_taken_literally(subject: Subject) {
    let records = subject.open().await;
    fill(&*records, T).await;
    for prefix in ["a_", "a%", "a", "/", ".", "%", "\u{10ffff}", "none"] {
        let fits = ODD.iter().copied().filter(|key| key.starts_with(prefix));
        let found = scan(&*records, T, prefix, 2).await;
        assert_eq!(keys(&found), fits.collect::<Vec<_>>(), "prefix {prefix:?}");
    }
    let early = records.scan(T, "a", Some("!"), 1).await.unwrap();
    assert_eq!(keys(&early), ["a"], "scan with a cursor before the prefix");
    let late = records.scan(T, "a", Some("b"), 1).await.unwrap();
    assert_eq!(keys(&late), [""; 0], "scan with a cursor after the prefix");
}

pub(super) async fn tables_are_separate(subject: Subject) {
    let records = subject.open().await;
    for table in Table::ALL {
        let name = table.name().as_bytes();
        write(&*records, table, "k", Expect::Absent, name)
            .await
            .unwrap();
    }
    delete(&*records, Table::Images, "k", Expect::Any)
        .await
        .unwrap();
    for table in Table::ALL {
        let there = (table != Table::Images).then(|| table.name().as_bytes().to_vec());
        assert_eq!(value(&*records, table, "k").await, there);
        let listed = scan(&*records, table, "", 10).await;
        assert_eq!(
            listed.len(),
            usize::from(there.is_some()),
            "{}",
            table.name()
        );
    }
}

/// Checks prefixes, cursors, revisions and the order of keys in every table.
pub(super) async fn tables_are_alike(subject: Subject) {
    let records = subject.open().await;
    for table in Table::ALL {
        fill(&*records, table).await;
    }
    for table in Table::ALL {
        let name = table.name();
        assert_eq!(keys(&scan(&*records, table, "", 3).await), ODD, "{name}");
        for prefix in ["a", "a_", "/", "\u{10ffff}"] {
            let fits = ODD.iter().copied().filter(|key| key.starts_with(prefix));
            let found = scan(&*records, table, prefix, 2).await;
            assert_eq!(keys(&found), fits.collect::<Vec<_>>(), "{name} {prefix:?}");
        }
        let early = records.scan(table, "a", Some("!"), 1).await.unwrap();
        assert_eq!(
            keys(&early),
            ["a"],
            "scan of the table {name} with a cursor before the prefix"
        );
        let late = records.scan(table, "a", Some("b"), 1).await.unwrap();
        assert_eq!(
            keys(&late),
            [""; 0],
            "scan of the table {name} with a cursor after the prefix"
        );
        let taken = write(&*records, table, "a", Expect::Absent, b"taken").await;
        assert_eq!(kind(taken), Some(ErrorKind::Conflict), "{name}");
        let seen = Expect::Revision(record(&*records, table, "a").await.revision);
        let changed = write(&*records, table, "a", seen.clone(), b"changed").await;
        assert_eq!(kind(changed), None, "{name}");
        let stale = delete(&*records, table, "a", seen).await;
        assert_eq!(kind(stale), Some(ErrorKind::Conflict), "{name}");
        let kept = value(&*records, table, "a").await;
        assert_eq!(kept.as_deref(), Some(&b"changed"[..]), "{name}");
    }
}

/// A key is not a path or a pattern, keeps its case, and may have 1,024 bytes.
pub(super) async fn odd_keys_are_keys(subject: Subject) {
    let records = subject.open().await;
    fill(&*records, T).await;
    let long = "k".repeat(cas_core::limit::KEY);
    write(&*records, T, &long, Expect::Absent, b"long")
        .await
        .unwrap();
    for key in ODD {
        let found = value(&*records, T, key).await;
        assert_eq!(found.as_deref(), Some(key.as_bytes()), "{key:?}");
    }
    assert_eq!(
        value(&*records, T, &long).await.as_deref(),
        Some(&b"long"[..])
    );
    assert_eq!(value(&*records, T, &long[1..]).await, None);
}
