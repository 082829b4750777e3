//! Temporary faults: a pull repeats its requests, but not after a 404.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cas::ErrorKind;
use cas::distribution::Timeouts;
use futures_util::future::join_all;

use super::fake::{Answer, Fake, Request};
use super::sample::Sample;
use super::{cas, impatient, pulled, quick};
use crate::common::fails;

/// Size in bytes of the layer.
const SIZE: usize = 300_000;

/// How the registry fails.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Status(u16),
    /// 429 with a `Retry-After` of no seconds, or of a date that is past.
    Wait(&'static str),
    /// The connection is closed without an answer.
    Nothing,
    /// The body ends too early.
    Cut,
    /// The same, but no length was announced.
    CutWithoutLength,
    /// The body stops, and the connection stays.
    Stalled,
}

use Fault::{Cut, CutWithoutLength, Nothing, Stalled, Status, Wait};

impl Fault {
    fn answer(self, good: Answer) -> Answer {
        match self {
            Status(status) => Answer::error(status, "BUSY", "not now"),
            Wait(time) => Answer::new(429).with("Retry-After", time),
            Nothing => Answer::nothing(),
            Cut => good.cut(100),
            CutWithoutLength => good.with("X-No-Length", "1").cut(100),
            Stalled => good.cut(100).stall(),
        }
    }
}

/// Returns a registry that fails twice for each request of the method to a path with the part.
fn failing(sample: &Sample, fault: Fault, method: &'static str, part: &str) -> Fake {
    let (good, part, left) = (sample.clone(), part.to_owned(), Mutex::new(2));
    Fake::start(move |request| {
        let answer = good.answer(request);
        let mut left = left.lock().unwrap();
        if request.is(method, &part) && *left > 0 {
            *left -= 1;
            return fault.answer(answer);
        }
        answer
    })
}

#[tokio::test]
async fn what_passes_is_repeated_wherever_it_happens() {
    let sample = Sample::new(&[SIZE]);
    let layer = sample.layers[0].digest.to_string();
    let places = [
        ("HEAD", "/manifests/1".to_owned()),
        ("GET", format!("/manifests/{}", sample.root.digest)),
        ("GET", format!("/blobs/{layer}")),
    ];
    let faults = [408, 425, 429, 500, 502, 503, 504].map(Status);
    let faults = faults.into_iter().chain([
        Wait("0"),
        Wait("Sun, 06 Nov 1994 08:49:37 GMT"),
        Wait("nonsense"),
        Nothing,
        Cut,
        CutWithoutLength,
        Stalled,
    ]);
    for fault in faults {
        for (method, part) in &places {
            let has_body = !matches!(fault, Status(_) | Wait(_) | Nothing);
            if *method == "HEAD" && has_body {
                continue;
            }
            let registry = failing(&sample, fault, method, part);
            let timeouts = match fault {
                Stalled => impatient(),
                _ => quick(),
            };
            let outcome = pulled(&registry, &sample, timeouts).await;
            outcome.unwrap_or_else(|error| panic!("{fault:?} {method} {part}: {error}"));
            // A HEAD that a server does not know is not repeated: GET decides.
            let expected = match (fault, *method) {
                (Status(500), "HEAD") => 1,
                _ => 3,
            };
            assert_eq!(registry.count(method, part), expected, "{fault:?} {method}");
        }
    }
}

/// Each connection brings a little, so that the whole arrives in the end.
#[tokio::test]
async fn what_came_meanwhile_counts_as_progress() {
    let sample = Sample::new(&[SIZE]);
    let layer = sample.layers[0].digest.to_string();
    let (good, part) = (sample.clone(), layer.clone());
    let registry = Fake::start(move |request| {
        let answer = good.answer(request);
        if request.path.ends_with(&part) {
            answer.cut(10_000)
        } else {
            answer
        }
    });
    // The pauses alone are longer than a request is repeated without progress.
    let timeouts = quick()
        .with_pause(Duration::from_millis(40))
        .with_repeat(Duration::from_millis(600));
    let began = Instant::now();
    pulled(&registry, &sample, timeouts.clone()).await.unwrap();
    assert!(began.elapsed() > timeouts.repeat);
    let seen = registry.seen();
    let asked = seen.iter().filter(|one| one.path.ends_with(&layer));
    let starts: Vec<_> = asked
        .map(|one| one.range().map_or(0, |range| range.0))
        .collect();
    assert_eq!(starts, (0..30).map(|n| n * 10_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_registry_says_how_long_to_wait() {
    let sample = Sample::new(&[1000]);
    let part = format!("/blobs/{}", sample.layers[0].digest);
    let registry = failing(&sample, Wait("1"), "GET", &part);
    let began = Instant::now();
    pulled(&registry, &sample, quick()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(2));
    // The registry asks for a longer wait than this client accepts.
    for wait in [
        "3600",
        "18446744073709551615",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ] {
        let registry = failing(&sample, Wait(wait), "GET", &part);
        let error = pulled(&registry, &sample, quick()).await.unwrap_err();
        assert!(
            error.to_string().contains(&format!("Retry-After: {wait}")),
            "{error}"
        );
        assert_eq!(registry.count("GET", &part), 1);
    }
}

/// Returns how many requests for the layer a pull makes of a registry that always fails there, and
/// the kind of its error.
async fn forever(fault: Fault, timeouts: Timeouts) -> (usize, ErrorKind) {
    let sample = Sample::new(&[SIZE]);
    let part = format!("/blobs/{}", sample.layers[0].digest);
    let (good, path) = (sample.clone(), part.clone());
    let registry = Fake::start(move |request: &Request| {
        let answer = good.answer(request);
        if request.path.ends_with(&path) {
            return fault.answer(answer);
        }
        answer
    });
    let error = pulled(&registry, &sample, timeouts).await.unwrap_err();
    (registry.count("GET", &part), error.kind())
}

#[tokio::test]
async fn a_fault_that_does_not_pass_ends_in_time() {
    let timeouts = impatient().with_repeat(Duration::from_secs(6));
    let faults = [
        Status(503),
        Status(429),
        Status(500),
        Nothing,
        CutWithoutLength,
        Stalled,
    ];
    let began = Instant::now();
    let ended = join_all(faults.map(|fault| forever(fault, timeouts.clone()))).await;
    for (fault, (requests, kind)) in faults.iter().zip(ended) {
        assert_eq!(kind, ErrorKind::Unavailable, "{fault:?}");
        assert!(requests > 1, "{fault:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(60));
    // The defaults keep the promise of two minutes.
    let defaults = Timeouts::default();
    let longest = defaults.repeat + defaults.connect + defaults.answer + defaults.idle;
    assert!(longest <= Duration::from_secs(120));
}

#[tokio::test]
async fn a_verdict_is_not_repeated() {
    for (status, kind) in [
        (404, ErrorKind::NotFound),
        (403, ErrorKind::Denied),
        (410, ErrorKind::Denied),
        (451, ErrorKind::Denied),
        (501, ErrorKind::Unavailable),
    ] {
        assert_eq!(
            forever(Status(status), quick()).await,
            (1, kind),
            "{status}"
        );
    }
    let never = quick().with_repeat(Duration::ZERO);
    assert_eq!(
        forever(Status(503), never).await,
        (1, ErrorKind::Unavailable)
    );
}

/// A header with a byte that no header may have, and more headers than are read.
#[tokio::test]
async fn an_answer_that_is_not_http_is_not_repeated() {
    for count in [1, 200] {
        let sample = Sample::new(&[SIZE]);
        let good = sample.clone();
        let registry = Fake::start(move |request| {
            let answer = good.answer(request);
            if !request.path.contains("/blobs/") {
                return answer;
            }
            let value = if count == 1 { "\u{1}" } else { "1" };
            (0..count).fold(answer, |answer, _| answer.with("X-Test", value))
        });
        let error = pulled(&registry, &sample, quick()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("not valid HTTP"), "{error}");
        let mut asked: Vec<_> = registry.seen().into_iter().map(|seen| seen.path).collect();
        let all = asked.len();
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), all, "{asked:?}");
    }
}

#[test]
fn the_tool_repeats_as_long_as_it_is_told() {
    let sample = Sample::new(&[1000]);
    let good = sample.clone();
    let registry = Fake::start(move |request| match request.path.contains("/blobs/") {
        true => Answer::new(503),
        false => good.answer(request),
    });
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let pull = ["pull", &registry.image(), "--retry-for"];
    for (time, most) in [("0s", 2), ("5s", 20)] {
        let before = registry.count("GET", "/blobs/");
        let said = fails(cas(&root, scratch.path()).args(pull).arg(time), 7);
        assert!(said.contains("503"), "{said}");
        let found = registry.count("GET", "/blobs/") - before;
        assert!((1..=most).contains(&found), "{time}: {found}");
    }
    assert!(registry.count("GET", "/blobs/") > 4);
}

#[tokio::test]
async fn a_host_where_nothing_listens_is_reported_soon() {
    let sample = Sample::new(&[10]);
    let mut registry = Fake::start(|_| Answer::new(500));
    // Nothing listens on port 1.
    registry.host = "127.0.0.1:1".to_owned();
    let began = Instant::now();
    let timeouts = Timeouts::default().with_pause(Duration::from_millis(10));
    let error = pulled(&registry, &sample, timeouts.clone())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() < timeouts.repeat);
}
