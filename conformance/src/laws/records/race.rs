//! Laws of races between concurrent calls.

use std::sync::Arc;

use bytes::Bytes;
use cas_core::records::{Batch, Expect, Table};
use cas_core::{ErrorKind, Records};

use super::Subject;
use crate::material::{delete, record, scan, value, write};

const T: Table = Table::Images;
const ROUNDS: usize = 25;

/// Increments a counter, with a retry after each conflict.
async fn increment(records: &dyn Records) {
    loop {
        let seen = record(records, T, "counter").await;
        let count: usize = String::from_utf8_lossy(&seen.value).parse().unwrap();
        let next = (count + 1).to_string();
        let expect = Expect::Revision(seen.revision);
        match write(records, T, "counter", expect, next.as_bytes()).await {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
            Err(error) => panic!("expected success or a conflict, found {error}"),
        }
    }
}

async fn count_with(openings: Vec<Arc<dyn Records>>) {
    let records = Arc::clone(&openings[0]);
    write(&*records, T, "counter", Expect::Absent, b"0")
        .await
        .unwrap();
    let racers: Vec<_> = (0..8)
        .map(|number| {
            let records = Arc::clone(&openings[number % openings.len()]);
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    increment(&*records).await;
                }
            })
        })
        .collect();
    for racer in racers {
        racer.await.unwrap();
    }
    let total = value(&*records, T, "counter").await.unwrap();
    assert_eq!(String::from_utf8(total).unwrap(), (8 * ROUNDS).to_string());
}

pub(super) async fn eight_incrementers_lose_nothing(subject: Subject) {
    count_with(vec![subject.open().await]).await;
}

/// Two openings act like two processes.
pub(super) async fn incrementers_of_two_openings_lose_nothing(subject: Subject) {
    count_with(vec![subject.open().await, subject.open().await]).await;
}

/// Exactly one of many creators must win, and its value must stay.
pub(super) async fn one_creator_of_a_key_wins(subject: Subject) {
    let records = subject.open().await;
    for round in 0..5 {
        one_creator_wins(&records, &[format!("k{round}")]).await;
    }
}

/// Several creators try to create the same keys. Each puts all keys into one batch. Exactly one of
/// the creators must win, and it must create all keys.
pub(super) async fn one_creator_of_many_keys_wins(subject: Subject) {
    let records = subject.open().await;
    for round in 0..5 {
        let keys: Vec<String> = (0..16).map(|key| format!("{round} {key}")).collect();
        one_creator_wins(&records, &keys).await;
    }
}

/// Eight creators try to create all keys. Each writes its own number as the value. Exactly one of
/// them must win.
async fn one_creator_wins(records: &Arc<dyn Records>, keys: &[String]) {
    let racers: Vec<_> = (0..8)
        .map(|number: u8| {
            let mut batch = Batch::new();
            for key in keys {
                batch.put(T, key, Expect::Absent, Bytes::from(vec![number]));
            }
            let records = Arc::clone(records);
            tokio::spawn(async move { records.commit(&batch).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (number, racer) in (0..).zip(racers) {
        match racer.await.unwrap() {
            Ok(()) => winners.push(number),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(winners.len(), 1, "expected one winner, found {winners:?}");
    for key in keys {
        let found = value(&**records, T, key).await;
        assert_eq!(
            found,
            Some(winners.clone()),
            "each key must have the value of the winner"
        );
    }
}

/// Pages need not be consistent with each other, but a record that exists all the time is returned
/// once and in order.
pub(super) async fn a_scan_shows_what_stays(subject: Subject) {
    let records = subject.open().await;
    let stay: Vec<String> = (0..20).map(|number| format!("{number:02} stays")).collect();
    for key in &stay {
        write(&*records, T, key, Expect::Absent, b"x")
            .await
            .unwrap();
    }
    let busy = tokio::spawn({
        let records = Arc::clone(&records);
        async move {
            for round in 0..60 {
                let key = format!("{:02} goes", round % 20);
                write(&*records, T, &key, Expect::Any, b"x").await.unwrap();
                delete(&*records, T, &key, Expect::Any).await.unwrap();
            }
        }
    });
    while !busy.is_finished() {
        let found = scan(&*records, T, "", 3).await;
        let keys: Vec<String> = found.into_iter().map(|record| record.key).collect();
        assert!(
            keys.is_sorted_by(|one, next| one < next),
            "keys must be returned in order, each once"
        );
        let kept: Vec<_> = keys
            .into_iter()
            .filter(|key| key.ends_with("stays"))
            .collect();
        assert_eq!(kept, stay);
        tokio::task::yield_now().await;
    }
    busy.await.unwrap();
}
