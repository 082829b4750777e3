//! Connections that are too slow are replaced.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cas::ErrorKind;
use cas::distribution::{ListOptions, Timeouts};
use futures_util::future::join_all;

use super::fake::{Answer, Fake};
use super::sample::Sample;
use super::{client, impatient, pulled, quick};

const SIZE: usize = 10_000;

/// Returns a registry whose first `slow` answers for the layer are changed by `spoil`.
fn slow(sample: &Sample, slow: usize, spoil: fn(Answer) -> Answer) -> Fake {
    let (good, asked) = (sample.clone(), AtomicUsize::new(0));
    let part = format!("/blobs/{}", sample.layers[0].digest);
    Fake::start(move |request| {
        let answer = good.answer(request);
        if request.path.ends_with(&part) && asked.fetch_add(1, Ordering::SeqCst) < slow {
            return spoil(answer);
        }
        answer
    })
}

fn drips(answer: Answer) -> Answer {
    answer.drip(100, Duration::from_millis(250))
}

/// Returns where the requests for the layer begin.
fn starts(registry: &Fake, sample: &Sample) -> Vec<usize> {
    let part = format!("/blobs/{}", sample.layers[0].digest);
    let seen = registry.seen();
    let asked = seen.iter().filter(|one| one.path.ends_with(&part));
    asked
        .map(|one| one.range().map_or(0, |range| range.0))
        .collect()
}

#[tokio::test]
async fn a_slow_connection_is_replaced_and_the_next_one_continues() {
    let sample = &Sample::new(&[SIZE]);
    type Case = (fn(Answer) -> Answer, RangeInclusive<usize>);
    // On a busy machine, more may arrive before the client looks at the time.
    let cases: [Case; 5] = [
        (drips, 100..=SIZE / 2),
        (
            |answer| answer.drip(1, Duration::from_millis(100)),
            1..=SIZE / 2,
        ),
        (|answer| answer.cut(0).stall(), 0..=0),
        (|answer| answer.cut(9999).stall(), 9999..=9999),
        (|answer| answer.cut(1000).stall(), 1000..=1000),
    ];
    let replaced = |(spoil, expected): Case| async move {
        let registry = slow(sample, 1, spoil);
        let began = Instant::now();
        pulled(&registry, sample, impatient()).await.unwrap();
        // The slow answers end after 25 seconds or more.
        assert!(began.elapsed() < Duration::from_secs(20), "{expected:?}");
        let starts = starts(&registry, sample);
        assert_eq!(starts.len(), 2, "{starts:?}");
        assert!(
            expected.contains(&starts[1]),
            "{starts:?}, not {expected:?}"
        );
    };
    join_all(cases.map(replaced)).await;
}

#[tokio::test]
async fn a_registry_that_is_always_slow_ends_in_time() {
    let sample = Sample::new(&[SIZE]);
    let registry = slow(&sample, usize::MAX, |answer| {
        answer.drip(1, Duration::from_millis(100))
    });
    let began = Instant::now();
    let timeouts = impatient()
        .with_idle(Duration::from_millis(500))
        .with_repeat(Duration::from_secs(2));
    let error = pulled(&registry, &sample, timeouts).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("too slow"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn the_minimum_speed_is_the_users() {
    let sample = Sample::new(&[1200]);
    let registry = slow(&sample, usize::MAX, drips);
    pulled(&registry, &sample, impatient().with_min_speed(1))
        .await
        .unwrap();
    assert_eq!(starts(&registry, &sample), [0]);
    // By default, a slow connection is noticed within ten seconds.
    let defaults = Timeouts::default();
    assert_eq!(defaults.idle, Duration::from_secs(10));
    assert_eq!(defaults.min_speed, 1024);
}

#[tokio::test]
async fn a_registry_that_never_answers_ends_in_time() {
    let sample = Sample::new(&[10]);
    let good = sample.clone();
    let registry = Fake::start(move |request| {
        if request.path.contains("/blobs/") {
            std::thread::sleep(Duration::from_secs(30));
        }
        good.answer(request)
    });
    let timeouts = quick()
        .with_answer(Duration::from_millis(300))
        .with_repeat(Duration::from_secs(1));
    let began = Instant::now();
    let error = pulled(&registry, &sample, timeouts).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no response"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(25));
}

#[tokio::test]
async fn a_list_that_arrives_byte_by_byte_ends_in_time() {
    let registry = Fake::start(|_| {
        let names = br#"{"tags":["1"],"repositories":["team/app"]}"#;
        Answer::new(200)
            .body(names)
            .drip(1, Duration::from_millis(100))
    });
    let timeouts = impatient()
        .with_idle(Duration::from_millis(500))
        .with_repeat(Duration::from_secs(1));
    let client = client(&registry, timeouts).await;
    let options = ListOptions::default();
    for list in [client.tags(&options), client.catalogue(&options)] {
        let began = Instant::now();
        let error = list.unwrap().next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("too slow"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
