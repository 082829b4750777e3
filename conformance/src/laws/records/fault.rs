//! Laws of faults. Each run injects a fault into one system call that changes the disk. The last
//! law checks that a record is synced before its commit is acknowledged.

use std::collections::BTreeMap;

use bytes::Bytes;
use cas_core::records::{Batch, Expect, Table};
use cas_core::{Capability, Records, Result};

use super::Subject;
use crate::material::{scan, write};
use crate::strace::{Fault, Victim};

const T: Table = Table::Snapshots;

/// The expected records.
type Content = BTreeMap<String, Bytes>;

/// No acknowledged batch may be lost, and batches must take effect in the order of their commits.
pub(super) async fn a_kill_at_any_call_keeps_the_records(subject: Subject) {
    inject(&subject, Fault::Kill).await;
}

/// An error of the device must be reported, or the call must be retried. No acknowledged batch may
/// be lost.
pub(super) async fn a_failed_call_keeps_the_records(subject: Subject) {
    inject(&subject, Fault::Error).await;
}

/// On a full disk, an error must be reported, or the call must be retried. No acknowledged batch
/// may be lost.
pub(super) async fn a_full_disk_keeps_the_records(subject: Subject) {
    inject(&subject, Fault::Full).await;
}

async fn inject(subject: &Subject, fault: Fault) {
    if subject.is_victim() {
        return subject.perform(job(subject, 0));
    }
    subject.at_every_call(fault, check).await;
}

/// Returns the batches of the job. They create, change and delete records with short and long
/// values.
fn batches() -> Vec<Batch> {
    let put = |batch: &mut Batch, key: &str, length: usize| {
        batch.put(T, key, Expect::Any, Bytes::from(vec![b'x'; length]));
    };
    (0..6)
        .map(|number| {
            let mut batch = Batch::new();
            put(&mut batch, "each", number);
            put(&mut batch, &format!("one {number}"), 100);
            put(&mut batch, &format!("long {number}"), 20_000);
            if let Some(before) = number.checked_sub(1) {
                batch.delete(T, format!("one {before}"), Expect::Any);
            }
            batch
        })
        .collect()
}

/// Commits all but the first `done` batches.
async fn job(subject: &Subject, done: usize) -> Result<()> {
    let records = subject.try_open().await?;
    for (number, batch) in batches().iter().enumerate().skip(done) {
        records.commit(batch).await?;
        subject.acknowledge(number);
    }
    Ok(())
}

/// Returns the records after `done` batches and the first `begun` changes of the next batch.
fn after(done: usize, begun: usize) -> Content {
    let batches = batches();
    let whole = batches[..done].iter().flat_map(Batch::changes);
    let next = batches.get(done).into_iter().flat_map(Batch::changes);
    let mut content = Content::new();
    for change in whole.chain(next.take(begun)) {
        match &change.value {
            Some(value) => content.insert(change.key.clone(), value.clone()),
            None => content.remove(&change.key),
        };
    }
    content
}

async fn content(records: &dyn Records) -> Content {
    let all = scan(records, T, "", 100).await;
    all.into_iter().map(|one| (one.key, one.value)).collect()
}

/// The batch after the last acknowledged batch may exist or not. If batches are not atomic, a part
/// of it may exist.
async fn check(victim: Victim<dyn Records>) {
    let mut numbers = victim
        .acknowledged
        .iter()
        .filter_map(|said| said.parse().ok());
    let done = numbers.next_back().map_or(0, |number: usize| number + 1);
    let records = victim.subject.open().await;
    let length = batches().get(done).map_or(0, |batch| batch.changes().len());
    let allowed = if records.capabilities().has(Capability::Atomic) {
        vec![0, length]
    } else {
        (0..=length).collect()
    };
    let found = content(&*records).await;
    let right = allowed.iter().any(|begun| after(done, *begun) == found);
    assert!(
        right,
        "acknowledged batches: {done}; expected the records of these batches, with or without \
         changes of the next batch, found the keys {:?}",
        found.keys()
    );
    drop(records);
    let again = job(&victim.subject, done).await;
    again.expect("the interrupted job must succeed when it is repeated");
    let records = victim.subject.open().await;
    assert_eq!(content(&*records).await, after(batches().len(), 0));
}

/// Text that occurs only in the values that this law writes.
const MARKER: &str = "conformance-record";

/// The files that contain the record, and the names of these files, must be synced before the
/// commit is acknowledged.
pub(super) async fn an_acknowledged_record_was_synced(subject: Subject) {
    if !subject.is_victim() {
        return subject.syncs_before_it_acknowledges(MARKER);
    }
    subject.perform(async {
        let records = subject.try_open().await?;
        for (key, times) in [("short", 1), ("long", 1_000), ("short", 2)] {
            let value = MARKER.repeat(times);
            write(&*records, T, key, Expect::Any, value.as_bytes()).await?;
            subject.acknowledge(key);
        }
        Ok(())
    });
}
