//! Jobs of which one call fails: whichever it is, what was acknowledged stays, and the same job
//! then succeeds.

use std::time::{Duration, Instant};

use cas_core::gc::{GcOptions, collect};
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::testing::memory::MemoryStore;
use cas_core::transfer::copy;
use cas_core::{ErrorKind, Result, Store};

use super::Subject;
use super::fault::{agrees, nothing_dead};
use super::sorted;
use crate::sample::{Sample, tag};

/// Nothing was done by the call that failed.
pub(super) async fn a_job_can_be_repeated_after_any_failed_call(subject: Subject) {
    fail_each(&subject, Side::Before).await;
}

/// All was done by the call that failed, and nobody heard of it.
pub(super) async fn a_job_can_be_repeated_after_any_lost_answer(subject: Subject) {
    fail_each(&subject, Side::After).await;
}

/// Time that a law may take on a store whose calls take long.
const BUDGET: Duration = Duration::from_secs(30);
/// Calls of the job that change something, or more.
const CALLS: f64 = 80.0;

/// Fails the first changing call of the job, then the second, until it makes fewer; of a slow store
/// some of them, evenly.
async fn fail_each(subject: &Subject, side: Side) {
    let (store, plan) = (subject.open().await, Plan::new());
    let from = MemoryStore::new().with_images();
    Sample::of(2).import(&from, "copied").await.unwrap();
    let both = [1, 2].map(|number| Sample::of(number).digests()).concat();
    let (mut nth, mut stride) = (1, None);
    for kind in [ErrorKind::Unavailable, ErrorKind::Full]
        .into_iter()
        .cycle()
    {
        let begun = Instant::now();
        plan.fail_nth(nth, Fault { kind, side });
        let mut done = Vec::new();
        let outcome = job(&faulty(&store, &plan), &from, &mut done).await;
        let failed = plan.end();
        let context = format!("call {nth}, {failed:?}, after {done:?}");
        if let Err(error) = &outcome {
            assert_eq!(error.kind(), kind, "{context}: {error:?}");
        }
        acknowledged(&store, &done, &context).await;
        let again = job(&store, &from, &mut Vec::new()).await;
        again.unwrap_or_else(|error| panic!("{context}: again: {error:?}"));
        agrees(&store).await;
        nothing_dead(&store, sorted(both.clone())).await;
        for name in ["copied", "tagged"] {
            let deleted = store.images.delete(&name.parse().unwrap(), None).await;
            deleted.expect("the names of the job are there");
        }
        nothing_dead(&store, Vec::new()).await;
        if failed.is_empty() {
            outcome.expect("a job of which no call fails");
            assert!(nth > 20, "only {nth} calls change anything");
            return;
        }
        nth += *stride.get_or_insert_with(|| {
            let all = begun.elapsed().mul_f64(CALLS);
            1 + all.div_duration_f64(BUDGET) as usize
        });
    }
}

/// Imports, copies, tags, removes a name and collects; what it has `done`.
async fn job(store: &Store, from: &Store, done: &mut Vec<&'static str>) -> Result<()> {
    Sample::of(1).import(store, "imported").await?;
    done.push("imported");
    let image = from.images.get(&"copied".parse()?).await?;
    copy(from, store, &image.expect("it is there")).await?;
    done.push("copied");
    tag(store, "imported", "tagged").await?;
    done.push("tagged");
    store.images.delete(&"imported".parse()?, None).await?;
    done.push("removed");
    collect(store, &[], &GcOptions::default()).await.map(|_| ())
}

/// The names that were acknowledged are there, each of a whole image.
async fn acknowledged(store: &Store, done: &[&str], context: &str) {
    let images = store.images.list(&[]).await.unwrap();
    let there = |name: &str| images.iter().any(|image| image.name.as_str() == name);
    for name in ["copied", "tagged"] {
        assert!(
            there(name) || !done.contains(&name),
            "{context}: {name} is lost"
        );
    }
    // While its removal is tried, it may be there or not.
    let is_kept = done.contains(&"imported") && !done.contains(&"tagged");
    assert!(there("imported") || !is_kept, "{context}: imported is lost");
    assert!(
        !there("imported") || !done.contains(&"removed"),
        "{context}"
    );
    agrees(store).await;
}
