//! Laws of tasks that import, tag and remove images during repeated collections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cas_core::{ErrorKind, Result, Store};

use super::Subject;
use super::collect_now;
use crate::sample::{Sample, tag, verify};

/// Number of tasks that work on images.
const WORKERS: u64 = 4;
/// Minimum time that the tasks work.
const TIME: Duration = Duration::from_secs(2);
/// Number of images that the tasks share. It is small, so that tasks often use the same image.
const IMAGES: u64 = 6;

/// Imports, tags and removes shared images until `over` is set. Each worker has its own names.
/// Returns how many names it created. Names of rounds that failed do not count.
async fn work(store: Arc<Store>, worker: u64, over: Arc<AtomicBool>) -> usize {
    let (mut named, mut turn) = (0, worker);
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        // A store in memory never waits, so other tasks would not run on this thread.
        tokio::task::yield_now().await;
        let sample = Sample::of(turn % IMAGES);
        let (first, second) = (format!("w{worker}:a"), format!("w{worker}:b"));
        let outcome = async {
            sample.import(&store, &first).await?;
            verify(&store, &sample.root()).await?;
            tag(&store, &first, &second).await?;
            store.images.delete(&first.parse()?, None).await?;
            verify(&store, &sample.root()).await?;
            match turn % 3 {
                0 => store.images.delete(&second.parse()?, None).await,
                _ => Ok(()),
            }
        };
        match outcome.await {
            Ok(()) => named += 2,
            Err(error) => assert!(
                is_lost_race(error.kind()),
                "worker {worker} failed, but not with `Conflict` or `Busy`: {error}"
            ),
        }
    }
    named
}

/// Returns whether an error of this kind means that a job lost a race. Such errors are allowed.
fn is_lost_race(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Conflict | ErrorKind::Busy)
}

async fn collect_until(store: Arc<Store>, over: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    while !over.load(Ordering::Relaxed) {
        collect_now(&store).await;
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Checks that every named image is whole. Returns the number of images.
async fn all_whole(store: &Store) -> Result<usize> {
    let images = store.images.list(&[]).await?;
    for image in &images {
        let checked = verify(store, &image.target).await;
        checked.map_err(|error| error.within(&image.name))?;
    }
    Ok(images.len())
}

async fn storm(workers: Vec<Arc<Store>>, collectors: Vec<Arc<Store>>) {
    let (over, count) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let working: Vec<_> = (0..)
        .zip(&workers)
        .map(|(number, store)| tokio::spawn(work(store.clone(), number, over.clone())))
        .collect();
    let collecting: Vec<_> = collectors
        .iter()
        .map(|store| tokio::spawn(collect_until(store.clone(), over.clone(), count.clone())))
        .collect();
    let begun = Instant::now();
    // Waits for at least three collections, even if the store is slow.
    while begun.elapsed() < TIME || count.load(Ordering::Relaxed) < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut named = 0;
    for worker in working {
        named += worker.await.expect("a worker failed");
    }
    for collector in collecting {
        collector.await.expect("a collection failed");
    }
    assert!(named > 0, "no task created a name");
    let store = &workers[0];
    all_whole(store)
        .await
        .expect("every named image must be complete");
    collect_now(store).await;
    all_whole(store)
        .await
        .expect("every named image must stay complete");
}

/// All tasks and the collector use the same opening of the store.
pub(super) async fn collections_during_other_jobs_lose_nothing(subject: Subject) {
    let store = subject.open().await;
    let workers = (0..WORKERS).map(|_| Arc::clone(&store)).collect();
    storm(workers, vec![store]).await;
}

/// The store is opened twice, as by two machines. Tasks import and collect through both openings.
pub(super) async fn two_openings_collect_and_import_at_once(subject: Subject) {
    let (left, right) = (subject.open().await, subject.open().await);
    let workers = (0..WORKERS).map(|number| match number % 2 {
        0 => Arc::clone(&left),
        _ => Arc::clone(&right),
    });
    storm(workers.collect(), vec![Arc::clone(&left), right]).await;
}

/// Processes that import are killed while this process collects.
pub(super) async fn killed_importers_lose_no_name(subject: Subject) {
    if subject.is_victim() {
        let store = subject.open().await;
        for turn in 0.. {
            let name = format!("killed:{}", turn % 10);
            match Sample::of(turn % IMAGES).import(&store, &name).await {
                Ok(()) => subject.acknowledge(&name),
                Err(error) => assert!(is_lost_race(error.kind()), "an import failed: {error}"),
            }
        }
    }
    let store = subject.open().await;
    let over = Arc::new(AtomicBool::new(false));
    let collecting = tokio::spawn(collect_until(store.clone(), over.clone(), Arc::default()));
    let said = tokio::task::spawn_blocking(move || {
        [2, 9, 23].map(|count| subject.kill_after(count)).concat()
    });
    let said = said
        .await
        .expect("the task that kills the victims must not panic");
    over.store(true, Ordering::Relaxed);
    collecting.await.expect("a collection failed");
    let images = store.images.list(&[]).await.unwrap();
    for name in said {
        assert!(
            images.iter().any(|image| image.name.as_str() == name),
            "{name} is lost"
        );
    }
    all_whole(&store)
        .await
        .expect("every named image must be complete");
}
