//! Laws of imports, copies and removals in which one call of the store fails. No acknowledged step
//! may be lost, and the repeated job must succeed.

use std::time::{Duration, Instant};

use cas_core::gc::{GcOptions, collect};
use cas_core::testing::fault::{Fault, Plan, Side, faulty};
use cas_core::testing::memory::MemoryStore;
use cas_core::transfer::{CopyOptions, copy};
use cas_core::{ErrorKind, Result, Store};

use super::Subject;
use super::fault::{agrees, nothing_dead, nothing_without};
use super::sorted;
use crate::sample::{Sample, tag};

/// The failing call has no effect.
pub(super) async fn a_job_can_be_repeated_after_any_failed_call(subject: Subject) {
    fail_each(&subject, Side::Before).await;
}

/// The failing call does its work, but its response is lost.
pub(super) async fn a_job_can_be_repeated_after_any_lost_response(subject: Subject) {
    fail_each(&subject, Side::After).await;
}

/// Approximate time that the law takes on a slow store.
const BUDGET: Duration = Duration::from_secs(10);
/// Maximum number of calls of the job that change something.
const CALLS: f64 = 80.0;

/// Repeats the job. In the first round, the first call that changes something fails, in the second
/// round the second such call, and so on. On a slow store, only every n-th of these calls fails;
/// n is chosen so that the law takes about [`BUDGET`].
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
        let context = format!(
            "planned fault at call {nth}; failed calls: {failed:?}; finished steps: {done:?}"
        );
        if let Err(error) = &outcome {
            assert_eq!(error.kind(), kind, "{context}: {error:?}");
        }
        acknowledged(&store, &done, &context).await;
        let again = job(&store, &from, &mut Vec::new()).await;
        again.unwrap_or_else(|error| panic!("{context}: the repeated job failed: {error:?}"));
        agrees(&store).await;
        nothing_dead(&store, sorted(both.clone())).await;
        nothing_without(&store, ["copied", "tagged"]).await;
        if failed.is_empty() {
            outcome.expect("a job without a failing call must succeed");
            assert!(
                nth > 20,
                "expected more than 20 calls that change something, found fewer than {nth}"
            );
            return;
        }
        nth += *stride.get_or_insert_with(|| {
            let all = begun.elapsed().mul_f64(CALLS);
            1 + all.div_duration_f64(BUDGET) as usize
        });
    }
}

/// Imports, copies, tags, removes a name and collects. Adds each step to `done` when it has
/// finished, except the collection.
async fn job(store: &Store, from: &Store, done: &mut Vec<&'static str>) -> Result<()> {
    Sample::of(1).import(store, "imported").await?;
    done.push("imported");
    let image = from.images.get(&"copied".parse()?).await?;
    let image = image.expect("the image must exist");
    copy(from, store, &image, &CopyOptions::default()).await?;
    done.push("copied");
    tag(store, "imported", "tagged").await?;
    done.push("tagged");
    store.images.delete(&"imported".parse()?, None).await?;
    done.push("removed");
    collect(store, &[], &GcOptions::default()).await.map(|_| ())
}

/// Checks that acknowledged names exist, that a removed name does not exist, and that every image
/// is whole.
async fn acknowledged(store: &Store, done: &[&str], context: &str) {
    let images = store.images.list(&[]).await.unwrap();
    let there = |name: &str| images.iter().any(|image| image.name.as_str() == name);
    for name in ["copied", "tagged"] {
        assert!(
            there(name) || !done.contains(&name),
            "{context}: the name `{name}` is lost"
        );
    }
    // If the removal of the name failed, the name may exist or not.
    let is_kept = done.contains(&"imported") && !done.contains(&"tagged");
    assert!(
        there("imported") || !is_kept,
        "{context}: the name `imported` is lost"
    );
    assert!(
        !there("imported") || !done.contains(&"removed"),
        "{context}: the name `imported` was removed, but exists"
    );
    agrees(store).await;
}
