//! Does the steps of a sequence, and says to the oracle what came of them.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cas_core::content::{ContentExt, Durability, Expected, Writer};
use cas_core::gc::{GcOptions, collect};
use cas_core::testing::fault::{Fault, Plan, faulty};
use cas_core::{Capability, Descriptor, Digest, ErrorKind, Labels, MediaType, Result, Store};

use super::super::DAY;
use super::super::Subject;
use super::oracle::{Oracle, State, blobs};
use super::step::{Failing, KEYS, LEASES, NAMES, Step};

/// A sequence under way.
pub(super) struct Play<'a> {
    subject: &'a Subject,
    place: &'a str,
    pub(super) store: Arc<Store>,
    /// The same store, whose calls fail by the plan.
    pub(super) faulty: Store,
    plan: Arc<Plan>,
    pub(super) oracle: Oracle,
}

impl<'a> Play<'a> {
    /// Plays all of it on a store of its own.
    pub(super) async fn sequence(subject: &'a Subject, place: &'a str, steps: &[(Step, Failing)]) {
        let (store, plan) = (subject.open_other(place).await, Plan::new());
        let mut play = Play {
            subject,
            place,
            faulty: faulty(&store, &plan),
            store,
            plan,
            oracle: Oracle::default(),
        };
        for (step, failing) in steps {
            if let Some((nth, side)) = *failing {
                let kind = ErrorKind::Unavailable;
                play.plan.fail_nth(nth, Fault { kind, side });
            }
            play = play.step(step).await;
            play.plan.end();
        }
        play.look().await;
    }

    async fn step(mut self, step: &Step) -> Self {
        match *step {
            Step::Write { key, blob } => self.write(KEYS[key], blob).await,
            Step::Publish {
                key,
                blob,
                durability,
            } => self.publish(KEYS[key], blob, durability).await,
            Step::Lie { key } => self.lie(KEYS[key]).await,
            Step::Discard { key } => self.discard(KEYS[key]).await,
            Step::Remove { blob } => self.remove(blob).await,
            Step::Label { blob, label, value } => self.label(blob, label, value).await,
            Step::Import { name, image } => self.import(NAMES[name], image).await,
            Step::Name { name, blob } => self.name(NAMES[name], blob).await,
            Step::Relabel { name, value } => self.relabel(NAMES[name], value).await,
            Step::Unname { name } => self.unname(NAMES[name]).await,
            Step::Hold { lease, blob } => self.hold(LEASES[lease], blob).await,
            Step::Release { lease } => self.release(LEASES[lease]).await,
            Step::Flush => drop(self.ended(self.faulty.content.flush().await)),
            Step::Compact => self.store.content.compact().await.unwrap(),
            Step::Collect => self.collect().await,
            Step::Reopen => return self.reopen().await,
        }
        self
    }

    /// What came of a step; none may fail where no call of it did.
    pub(super) fn ended<T>(&self, outcome: Result<T>) -> Option<T> {
        let failed = self.plan.end();
        let error = match outcome {
            Ok(out) => return Some(out),
            Err(error) => error,
        };
        assert!(!failed.is_empty(), "it fails without a reason: {error:?}");
        None
    }

    /// The writer of a key that holds a beginning of `data`, and the rest.
    async fn begin(&self, key: &str, data: &Bytes) -> Result<(Writer, Bytes)> {
        let mut writer = Writer::begin(&*self.faulty.content, key, Expected::ANY).await?;
        let held = self.oracle.held(key);
        assert_eq!(writer.offset(), held.len() as u64, "offset of {key}");
        if data.starts_with(&held) {
            return Ok((writer, data.slice(held.len()..)));
        }
        writer.rewind().await?;
        Ok((writer, data.clone()))
    }

    async fn write(&mut self, key: &'static str, blob: usize) {
        let (_, data, _) = &blobs()[blob];
        let outcome = async {
            let (mut writer, rest) = self.begin(key, data).await?;
            writer.write(rest.slice(..rest.len().div_ceil(2))).await?;
            Ok(usize::try_from(writer.offset()).unwrap())
        };
        match self.ended(outcome.await) {
            Some(length) => self.oracle.hold(key, data.slice(..length)),
            None => self.adopt_ingest(key, data).await,
        }
    }

    async fn publish(&mut self, key: &'static str, blob: usize, durability: Durability) {
        let (descriptor, data, children) = &blobs()[blob];
        let outcome = async {
            let (mut writer, rest) = self.begin(key, data).await?;
            writer.write(rest).await?;
            let children = children.clone();
            let published = self
                .faulty
                .publish(writer, descriptor, children, durability);
            published.await
        };
        match self.ended(outcome.await) {
            Some(committed) => {
                assert_eq!(committed.digest, descriptor.digest);
                self.oracle.hold(key, Bytes::new());
                self.stored(descriptor.digest).await;
            }
            None => {
                self.adopt_ingest(key, data).await;
                if self.oracle.live(&descriptor.digest).is_none() {
                    self.adopt(descriptor.digest).await;
                }
            }
        }
    }

    /// A blob was stored, and keeps the labels that it had.
    pub(super) async fn stored(&mut self, digest: Digest) {
        match self.oracle.state(&digest) {
            State::Live(_) => {}
            State::Gone => self.oracle.set(digest, State::Live(Labels::new())),
            State::Unknown => {
                self.adopt(digest).await;
                let live = self.oracle.live(&digest);
                assert!(live.is_some(), "{digest} was stored and is not there");
            }
        }
    }

    async fn lie(&mut self, key: &'static str) {
        let held = self.oracle.held(key);
        let other = Descriptor {
            size: held.len() as u64,
            ..Descriptor::of(MediaType::OCI_LAYER, b"other bytes")
        };
        let outcome = async {
            let (writer, _) = self.begin(key, &held).await?;
            let published = self
                .faulty
                .publish(writer, &other, Vec::new(), Durability::Full);
            published.await
        };
        let error = outcome.await.expect_err("a lie is published");
        if self.plan.end().is_empty() {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        } else {
            self.adopt_ingest(key, &held).await;
        }
        let found = self.store.content.stat(&other.digest).await.unwrap();
        assert_eq!(found, None, "a lie is there");
    }

    async fn discard(&mut self, key: &'static str) {
        let held = self.oracle.held(key);
        match self.ended(self.faulty.content.discard(key).await) {
            Some(there) => {
                assert!(there || held.is_empty(), "nothing to discard");
                self.oracle.hold(key, Bytes::new());
            }
            None => self.adopt_ingest(key, &held).await,
        }
    }

    async fn remove(&mut self, blob: usize) {
        let digest = blobs()[blob].0.digest;
        let outcome = async {
            let there = self.faulty.content.remove(&digest).await?;
            self.faulty.blobs().remove(&digest).await?;
            Ok(there)
        };
        let Some(there) = self.ended(outcome.await) else {
            return self.adopt(digest).await;
        };
        let state = self.oracle.state(&digest);
        let known = *state != State::Unknown;
        assert!(!known || there == (*state != State::Gone), "{state:?}");
        self.oracle.set(digest, State::Gone);
    }

    /// What is held stays, whatever fails; what is not goes where nothing does.
    async fn collect(&mut self) {
        let (kept, perhaps) = (self.oracle.reached(false), self.oracle.reached(true));
        let options = GcOptions {
            now: SystemTime::now() + DAY,
            ..GcOptions::default()
        };
        let outcome = collect(&self.faulty, &[], &options).await;
        let is_whole = self.ended(outcome).is_some();
        for (Descriptor { digest, .. }, ..) in blobs() {
            let known = *self.oracle.state(digest) != State::Unknown;
            if is_whole && known && !perhaps.contains(digest) {
                self.oracle.set(*digest, State::Gone);
            } else if !kept.contains(digest) {
                self.adopt(*digest).await;
            }
        }
        for key in KEYS {
            let held = self.oracle.held(key);
            if is_whole {
                self.oracle.hold(key, Bytes::new());
            } else {
                self.adopt_ingest(key, &held).await;
            }
        }
        self.look().await;
    }

    /// Opens the store anew where it promises to keep what it has.
    async fn reopen(mut self) -> Self {
        let promises = self.store.content.capabilities();
        if !promises.has(Capability::Durable) {
            return self;
        }
        let Play {
            subject,
            place,
            store,
            faulty: broken,
            plan,
            oracle,
        } = self;
        drop((store, broken));
        let store = subject.open_other(place).await;
        self = Play {
            subject,
            place,
            faulty: faulty(&store, &plan),
            store,
            plan,
            oracle,
        };
        if !promises.has(Capability::Resume) {
            for key in KEYS {
                self.store.content.discard(key).await.unwrap();
                self.oracle.hold(key, Bytes::new());
            }
        }
        self.look().await;
        self
    }
}
