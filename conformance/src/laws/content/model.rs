//! Random sequences of operations, compared with a plain map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cas_core::content::{Durability, Expected, Writer};
use cas_core::records::Batch;
use cas_core::{Capability, ContentExt, ContentStore, Digest, ErrorKind, pool};
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use super::Subject;
use crate::material::{assert_absent, assert_has, bytes, digests, kind};
use crate::seed::runner;

const CASES: u32 = 24;
const LONGEST: usize = 24;
const KEYS: [&str; 3] = ["a", "b", "a/b"];

#[derive(Clone, Debug)]
enum Step {
    /// Begin or resume an ingest, write some bytes, drop the writer.
    Append {
        key: usize,
        seed: u64,
        length: usize,
    },
    /// Commit the written bytes, with the right or a wrong expected digest.
    Commit {
        key: usize,
        right: bool,
    },
    Rewind {
        key: usize,
    },
    Discard {
        key: usize,
    },
    /// Begin while another writer holds the key.
    Clash {
        key: usize,
    },
    /// Remove the n-th blob, or a blob that does not exist.
    Remove {
        nth: usize,
    },
    /// Query all blobs and ingests.
    Look,
    Reopen,
}

/// The oracle: the expected content of the store.
#[derive(Clone, Debug, Default)]
struct Oracle {
    ingests: BTreeMap<&'static str, Vec<u8>>,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Oracle {
    fn held(&self, key: usize) -> &[u8] {
        self.ingests.get(KEYS[key]).map_or(&[], Vec::as_slice)
    }

    fn nth(&self, nth: usize) -> Digest {
        let absent = Digest::sha256(b"never stored");
        self.blobs.keys().nth(nth).copied().unwrap_or(absent)
    }
}

impl ReferenceStateMachine for Oracle {
    type State = Oracle;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Oracle> {
        Just(Oracle::default()).boxed()
    }

    fn transitions(_: &Oracle) -> BoxedStrategy<Step> {
        let key = || 0..KEYS.len();
        let lengths = prop::sample::select(vec![1, 2, 4_096, 70_000]);
        prop_oneof![
            6 => (key(), 0..3_u64, lengths)
                .prop_map(|(key, seed, length)| Step::Append { key, seed, length }),
            4 => (key(), prop::bool::weighted(0.7))
                .prop_map(|(key, right)| Step::Commit { key, right }),
            1 => key().prop_map(|key| Step::Rewind { key }),
            1 => key().prop_map(|key| Step::Discard { key }),
            1 => key().prop_map(|key| Step::Clash { key }),
            2 => (0..4_usize).prop_map(|nth| Step::Remove { nth }),
            1 => Just(Step::Look),
            1 => Just(Step::Reopen),
        ]
        .boxed()
    }

    fn apply(mut oracle: Oracle, step: &Step) -> Oracle {
        match *step {
            Step::Append { key, seed, length } => {
                let held = oracle.ingests.entry(KEYS[key]).or_default();
                held.extend_from_slice(&bytes(seed, length));
            }
            Step::Commit { key, right: true } => {
                let data = oracle.ingests.remove(KEYS[key]).unwrap_or_default();
                oracle.blobs.insert(Digest::sha256(&data), data);
            }
            Step::Rewind { key } | Step::Discard { key } => {
                oracle.ingests.remove(KEYS[key]);
            }
            Step::Remove { nth } => {
                oracle.blobs.remove(&oracle.nth(nth));
            }
            Step::Commit { right: false, .. } | Step::Clash { .. } | Step::Look => {}
            Step::Reopen => {}
        }
        oracle
    }
}

pub(super) async fn any_sequence_agrees_with_a_map(subject: Subject) {
    let (mut runner, seed) = runner(CASES);
    let rounds = AtomicUsize::new(0);
    let sequences = Oracle::sequential_strategy(1..LONGEST);
    let outcome = runner.run(&sequences, |(oracle, steps, seen)| {
        let place = format!("sequence {}", rounds.fetch_add(1, Ordering::SeqCst));
        pool::wait(play(&subject, &place, oracle, &steps, seen));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("a random sequence failed; to repeat the run, set {seed}: {error}");
    }
}

async fn play(
    subject: &Subject,
    place: &str,
    mut oracle: Oracle,
    steps: &[Step],
    seen: Option<Arc<AtomicUsize>>,
) {
    let mut store = subject.open_other(place).await;
    for step in steps {
        if let Some(seen) = &seen {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        if matches!(step, Step::Reopen) {
            store = reopen(subject, place, store, &mut oracle).await;
        }
        check_step(&*store, &oracle, step).await;
        oracle = Oracle::apply(oracle, step);
    }
    look(&*store, &oracle).await;
}

/// Does one step. Compares the result with the oracle, which has the state before the step.
async fn check_step(store: &dyn ContentStore, oracle: &Oracle, step: &Step) {
    match *step {
        Step::Append { key, seed, length } => {
            let mut writer = begin(store, oracle, key, Expected::ANY).await;
            writer.write(bytes(seed, length)).await.unwrap();
        }
        Step::Commit { key, right } => commit(store, oracle, key, right).await,
        Step::Rewind { key } => {
            let mut writer = begin(store, oracle, key, Expected::ANY).await;
            writer.rewind().await.unwrap();
        }
        Step::Discard { key } => {
            let there = store.discard(KEYS[key]).await.unwrap();
            assert!(
                there || oracle.held(key).is_empty(),
                "`discard` returned false for an ingest that has bytes"
            );
            assert_eq!(store.begin(KEYS[key]).await.unwrap().offset(), 0);
        }
        Step::Clash { key } => {
            let _held = begin(store, oracle, key, Expected::ANY).await;
            assert_eq!(
                kind(store.begin(KEYS[key]).await.map(drop)),
                Some(ErrorKind::Busy)
            );
        }
        Step::Remove { nth } => {
            let digest = oracle.nth(nth);
            let there = store.remove(&digest).await.unwrap();
            assert_eq!(there, oracle.blobs.contains_key(&digest));
            assert_absent(store, &digest).await;
        }
        Step::Look | Step::Reopen => look(store, oracle).await,
    }
}

async fn begin(
    store: &dyn ContentStore,
    oracle: &Oracle,
    key: usize,
    expected: Expected,
) -> Writer {
    let writer = Writer::begin(store, KEYS[key], expected).await.unwrap();
    assert_eq!(
        writer.offset(),
        oracle.held(key).len() as u64,
        "the offset of the ingest"
    );
    writer
}

async fn commit(store: &dyn ContentStore, oracle: &Oracle, key: usize, right: bool) {
    let held = oracle.held(key);
    let digest = if right {
        Digest::sha256(held)
    } else {
        Digest::sha256(b"other bytes")
    };
    let writer = begin(store, oracle, key, Expected::digest(digest)).await;
    let outcome = writer.commit(&Batch::new(), Durability::Full).await;
    if right {
        assert_has(store, &outcome.unwrap().digest, held).await;
    } else {
        assert_eq!(kind(outcome), Some(ErrorKind::Corrupt));
    }
}

/// Compares the whole store with the oracle. Ingests without bytes may or may not be listed.
async fn look(store: &dyn ContentStore, oracle: &Oracle) {
    let listed = digests(store).await;
    assert!(
        listed.iter().eq(oracle.blobs.keys()),
        "the list must have exactly the blobs that were stored and not removed"
    );
    for (digest, data) in &oracle.blobs {
        assert_has(store, digest, data).await;
    }
    let ingests = store.ingests().await.unwrap();
    let found = ingests.iter().filter(|one| one.offset > 0);
    let found: Vec<_> = found.map(|one| (one.key.as_str(), one.offset)).collect();
    let held = oracle.ingests.iter();
    let held: Vec<_> = held.map(|(key, data)| (*key, data.len() as u64)).collect();
    assert_eq!(found, held, "the unfinished ingests");
}

/// Reopens the store if it promises to be durable. If it does not promise to resume ingests, then
/// discards them, in the oracle as well. Returns the open store.
async fn reopen(
    subject: &Subject,
    place: &str,
    store: Arc<dyn ContentStore>,
    oracle: &mut Oracle,
) -> Arc<dyn ContentStore> {
    let promises = store.capabilities();
    if !promises.has(Capability::Durable) {
        return store;
    }
    drop(store);
    let store = subject.open_other(place).await;
    if !promises.has(Capability::Resume) {
        for key in KEYS {
            store.discard(key).await.unwrap();
        }
        oracle.ingests.clear();
    }
    store
}
