//! Does the steps of a sequence, and updates the oracle.

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

/// A running sequence of steps.
pub(super) struct Run<'a> {
    subject: &'a Subject,
    name: &'a str,
    pub(super) store: Arc<Store>,
    /// The same store, with calls that fail as planned.
    pub(super) faulty: Store,
    plan: Arc<Plan>,
    pub(super) oracle: Oracle,
}

impl<'a> Run<'a> {
    /// Runs a whole sequence on a new store.
    pub(super) async fn sequence(subject: &'a Subject, name: &'a str, steps: &[(Step, Failing)]) {
        let (store, plan) = (subject.open_other(name).await, Plan::new());
        let mut run = Run {
            subject,
            name,
            faulty: faulty(&store, &plan),
            store,
            plan,
            oracle: Oracle::default(),
        };
        for (step, failing) in steps {
            if let Some((nth, side)) = *failing {
                let kind = ErrorKind::Unavailable;
                run.plan.fail_nth(nth, Fault { kind, side });
            }
            run = run.step(step).await;
            run.plan.end();
        }
        run.check().await;
    }

    async fn step(mut self, step: &Step) -> Self {
        match *step {
            Step::Write { key, blob } => self.write(KEYS[key], blob).await,
            Step::Publish {
                key,
                blob,
                durability,
            } => self.publish(KEYS[key], blob, durability).await,
            Step::PublishWrongDigest { key } => self.publish_wrong_digest(KEYS[key]).await,
            Step::Discard { key } => self.discard(KEYS[key]).await,
            Step::Remove { blob } => self.remove(blob).await,
            Step::Label { blob, label, value } => self.label(blob, label, value).await,
            Step::Import { name, image } => self.import(NAMES[name], image).await,
            Step::SetName { name, blob } => self.set_name(NAMES[name], blob).await,
            Step::Relabel { name, value } => self.relabel(NAMES[name], value).await,
            Step::DeleteName { name } => self.delete_name(NAMES[name]).await,
            Step::AddToLease { lease, blob } => self.add_to_lease(LEASES[lease], blob).await,
            Step::EndLease { lease } => self.end_lease(LEASES[lease]).await,
            Step::Flush => drop(self.result_of(self.faulty.content.flush().await)),
            Step::Compact => drop(self.result_of(self.faulty.content.compact().await)),
            Step::Collect => self.collect().await,
            Step::Reopen => return self.reopen().await,
        }
        self
    }

    /// Returns the result of a step, or `None` if it failed. A step may fail only if one of its
    /// calls was made to fail.
    pub(super) fn result_of<T>(&self, outcome: Result<T>) -> Option<T> {
        let failed = self.plan.end();
        let error = match outcome {
            Ok(out) => return Some(out),
            Err(error) => error,
        };
        assert!(
            !failed.is_empty(),
            "a step failed, although none of its calls was made to fail: {error:?}"
        );
        None
    }

    /// Opens the ingest `key`, and rewinds it unless it holds a prefix of `data`. Returns its
    /// writer and the rest of `data`.
    async fn begin(&self, key: &str, data: &Bytes) -> Result<(Writer, Bytes)> {
        let mut writer = Writer::begin(&*self.faulty.content, key, Expected::ANY).await?;
        let held = self.oracle.ingest(key);
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
        match self.result_of(outcome.await) {
            Some(length) => self.oracle.set_ingest(key, data.slice(..length)),
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
        match self.result_of(outcome.await) {
            Some(committed) => {
                assert_eq!(committed.digest, descriptor.digest);
                self.oracle.set_ingest(key, Bytes::new());
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

    /// Sets the state of a blob to live, after the blob was stored. A blob that was live already
    /// keeps its labels.
    pub(super) async fn stored(&mut self, digest: Digest) {
        match self.oracle.state(&digest) {
            State::Live(_) => {}
            State::Gone => self.oracle.set(digest, State::Live(Labels::new())),
            State::Unknown => {
                self.adopt(digest).await;
                let live = self.oracle.live(&digest);
                assert!(
                    live.is_some(),
                    "{digest} was stored, but its bytes or its record are missing"
                );
            }
        }
    }

    async fn publish_wrong_digest(&mut self, key: &'static str) {
        let held = self.oracle.ingest(key);
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
        let error = outcome
            .await
            .expect_err("bytes were published under a digest that is not theirs");
        if self.plan.end().is_empty() {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        } else {
            self.adopt_ingest(key, &held).await;
        }
        let found = self.store.content.stat(&other.digest).await.unwrap();
        assert_eq!(found, None, "a refused publish must not store a blob");
    }

    async fn discard(&mut self, key: &'static str) {
        let held = self.oracle.ingest(key);
        match self.result_of(self.faulty.content.discard(key).await) {
            Some(there) => {
                assert!(
                    there || held.is_empty(),
                    "a discard found no ingest {key}, but {} bytes were written to it",
                    held.len()
                );
                self.oracle.set_ingest(key, Bytes::new());
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
        let Some(there) = self.result_of(outcome.await) else {
            return self.adopt(digest).await;
        };
        let state = self.oracle.state(&digest);
        let known = *state != State::Unknown;
        assert!(
            !known || there == (*state != State::Gone),
            "the removal returned {there}, but the state of {digest} was {state:?}"
        );
        self.oracle.set(digest, State::Gone);
    }

    /// Collects. A reachable blob must stay even if the collection fails. If the collection
    /// succeeds, all other blobs must be removed. Two kinds of blobs may be left: blobs in an
    /// unknown state, and blobs that only such blobs reach.
    async fn collect(&mut self) {
        let (kept, perhaps) = (self.oracle.reached(false), self.oracle.reached(true));
        let options = GcOptions::default().with_now(SystemTime::now() + DAY);
        let outcome = collect(&self.faulty, &[], &options).await;
        let is_whole = self.result_of(outcome).is_some();
        for (Descriptor { digest, .. }, ..) in blobs() {
            let known = *self.oracle.state(digest) != State::Unknown;
            if is_whole && known && !perhaps.contains(digest) {
                self.oracle.set(*digest, State::Gone);
            } else if !kept.contains(digest) {
                self.adopt(*digest).await;
            }
        }
        for key in KEYS {
            let held = self.oracle.ingest(key);
            if is_whole {
                self.oracle.set_ingest(key, Bytes::new());
            } else {
                self.adopt_ingest(key, &held).await;
            }
        }
        self.check().await;
    }

    /// Reopens the store if it promises to be durable. If it does not promise that ingests survive,
    /// then discards the ingests.
    async fn reopen(mut self) -> Self {
        let promises = self.store.content.capabilities();
        if !promises.has(Capability::Durable) {
            return self;
        }
        let Run {
            subject,
            name,
            store,
            faulty: broken,
            plan,
            oracle,
        } = self;
        drop((store, broken));
        let store = subject.open_other(name).await;
        self = Run {
            subject,
            name,
            faulty: faulty(&store, &plan),
            store,
            plan,
            oracle,
        };
        if !promises.has(Capability::Resume) {
            for key in KEYS {
                self.store.content.discard(key).await.unwrap();
                self.oracle.set_ingest(key, Bytes::new());
            }
        }
        self.check().await;
        self
    }
}
