//! Registries that do not support HEAD or ranges, or that encode content.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cas::ErrorKind;

use super::fake::{Answer, Fake, Request};
use super::sample::Sample;
use super::{cas, pulled, quick};
use crate::common::{fails, ok};

/// Size in bytes of the layer, and where its first answer breaks off.
const SIZE: usize = 60_000;
const CUT: usize = 20_000;

#[tokio::test]
async fn if_a_server_refuses_head_its_answer_to_get_decides() {
    let sample = Sample::new(&[10]);
    for status in [400, 401, 403, 404, 405, 406, 500, 501] {
        let good = sample.clone();
        let registry = Fake::start(move |request| match request.method.as_str() {
            "HEAD" => Answer::new(status),
            _ => good.answer(request),
        });
        let outcome = pulled(&registry, &sample, quick()).await;
        match status {
            // A 401 must name a known way to authenticate. This one names none.
            401 => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Denied),
            _ => outcome.unwrap_or_else(|error| panic!("{status}: {error}")),
        }
    }
}

#[tokio::test]
async fn what_both_head_and_get_refuse_is_an_error() {
    let sample = Sample::new(&[10]);
    for (status, kind) in [(404, ErrorKind::NotFound), (403, ErrorKind::Denied)] {
        let registry = Fake::start(move |_| Answer::new(status));
        let error = pulled(&registry, &sample, quick()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(registry.count("GET", "/manifests/"), 1);
    }
}

/// Returns a registry whose first answer for the layer breaks off, and that answers a request for
/// the rest with `refuse`.
fn refusing(
    sample: &Sample,
    refuse: impl Fn(&[u8], usize) -> Answer + Send + Sync + 'static,
) -> Fake {
    let (good, breaks) = (sample.clone(), AtomicBool::new(true));
    let layer = sample.layers[0].clone();
    let part = format!("/blobs/{}", layer.digest);
    Fake::start(move |request| {
        if !request.path.ends_with(&part) {
            return good.answer(request);
        }
        match request.range() {
            Some((start, _)) => refuse(good.data(&layer), start),
            None if breaks.swap(false, Ordering::SeqCst) => good.answer(request).cut(CUT),
            None => good.answer(request),
        }
    })
}

/// Returns which of the requests for the layer were for a range.
fn ranged(registry: &Fake, sample: &Sample) -> Vec<bool> {
    let layer = sample.layers[0].digest.to_string();
    let seen = registry.seen();
    let asked = seen.iter().filter(|request| request.path.ends_with(&layer));
    asked.map(|request| request.range().is_some()).collect()
}

fn partial(range: &str, body: &[u8]) -> Answer {
    Answer::new(206).with("Content-Range", range).body(body)
}

#[tokio::test]
async fn who_is_refused_the_rest_takes_the_whole() {
    let sample = Sample::new(&[SIZE]);
    type Refusal = fn(&[u8], usize) -> Answer;
    let refusals: &[(&str, Refusal)] = &[
        ("200", |whole, _| Answer::new(200).body(whole)),
        ("400", |_, _| Answer::new(400)),
        ("403", |_, _| Answer::new(403)),
        ("405", |_, _| Answer::new(405)),
        ("416", |_, _| {
            Answer::new(416).with("Content-Range", "bytes */60000")
        }),
        ("500", |_, _| Answer::new(500)),
        ("501", |_, _| Answer::new(501)),
        ("another start", |whole, _| {
            partial("bytes 0-9/60000", &whole[..10])
        }),
        ("another size", |whole, start| {
            partial(&format!("bytes {start}-59999/70000"), &whole[start..])
        }),
        ("an impossible range", |whole, start| {
            partial(&format!("bytes {start}-70000/60000"), &whole[start..])
        }),
        ("a range that ends before it starts", |_, start| {
            partial(&format!("bytes {start}-5/60000"), b"x")
        }),
        ("no range", |whole, start| {
            Answer::new(206).body(&whole[start..])
        }),
        ("not a range", |whole, start| {
            partial("bytes=all", &whole[start..])
        }),
        // These failures may pass. If they do not, the whole is requested before the time is over.
        ("408", |_, _| Answer::new(408)),
        ("429", |_, _| Answer::new(429)),
        ("429 for an hour", |_, _| {
            Answer::new(429).with("Retry-After", "3600")
        }),
        ("502", |_, _| Answer::new(502)),
        ("503", |_, _| Answer::new(503)),
        ("504", |_, _| Answer::new(504)),
        ("an empty range", |_, start| {
            partial(&format!("bytes {start}-59999/60000"), b"")
        }),
        ("a range that breaks off", |whole, start| {
            partial(&format!("bytes {start}-59999/60000"), &whole[start..]).cut(0)
        }),
    ];
    for (what, refuse) in refusals {
        let registry = refusing(&sample, refuse);
        let outcome = pulled(&registry, &sample, quick()).await;
        outcome.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[tokio::test]
async fn the_whole_is_requested_in_time_if_ranges_are_never_answered_or_never_sent() {
    let sample = Sample::new(&[SIZE]);
    type Refusal = fn(&[u8], usize) -> Answer;
    let refusals: &[Refusal] = &[
        |_, _| Answer::new(206).late(Duration::from_secs(60)),
        |whole, start| {
            let range = format!("bytes {start}-59999/60000");
            partial(&range, &whole[start..]).cut(0).stall()
        },
    ];
    // The time is over before ranges have failed often.
    let timeouts = quick()
        .with_answer(Duration::from_secs(3))
        .with_idle(Duration::from_secs(3))
        .with_repeat(Duration::from_secs(5));
    for refuse in refusals {
        let registry = refusing(&sample, refuse);
        pulled(&registry, &sample, timeouts.clone()).await.unwrap();
        assert_eq!(ranged(&registry, &sample), [false, true, false]);
    }
}

/// A server may send less than it was asked for. Only the digest tells whether its bytes are right.
#[tokio::test]
async fn a_shorter_range_is_taken_and_after_wrong_bytes_the_whole_is_requested() {
    let sample = Sample::new(&[SIZE]);
    let registry = refusing(&sample, |whole, start| {
        let end = SIZE.min(start + 9000);
        let range = format!("bytes {start}-{}/60000", end - 1);
        partial(&range, &whole[start..end])
    });
    pulled(&registry, &sample, quick()).await.unwrap();
    let ranges: Vec<_> = registry.seen().iter().filter_map(Request::range).collect();
    let starts = [20_000, 29_000, 38_000, 47_000, 56_000];
    assert_eq!(ranges, starts.map(|start| (start, SIZE - 1)));

    let registry = refusing(&sample, |whole, start| {
        partial(
            &format!("bytes {start}-59999/60000"),
            &whole[..SIZE - start],
        )
    });
    // Wrong ranges are followed by one request for the whole.
    pulled(&registry, &sample, quick()).await.unwrap();
    assert_eq!(ranged(&registry, &sample), [false, true, false]);
}

/// The first pull leaves a part of the layer. The next pull requests the rest. This request is
/// refused, so the pull must fetch the whole layer.
#[test]
fn a_refused_range_is_not_a_trap_for_later_pulls() {
    let sample = Sample::new(&[6 << 20]);
    let (good, breaks) = (sample.clone(), AtomicBool::new(true));
    let registry = Fake::start(move |request| {
        if request.range().is_some() {
            return Answer::new(400);
        }
        let answer = good.answer(request);
        let may_break = request.path.contains("/blobs/") && breaks.load(Ordering::SeqCst);
        if may_break && request.path.ends_with(&good.layers[0].digest.to_string()) {
            breaks.store(false, Ordering::SeqCst);
            return answer.cut(3 << 20);
        }
        answer
    });
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let pull = ["pull", &registry.image(), "--retry-for", "0s"];
    fails(cas(&root, scratch.path()).args(pull), 7);
    ok(cas(&root, scratch.path()).args(pull));
}

/// Some servers call a compressed layer encoded, but send its own bytes.
#[tokio::test]
async fn encoded_content_is_refused_unless_only_the_header_says_so() {
    let sample = Sample::new(&[SIZE]);
    let part = format!("/blobs/{}", sample.layers[0].digest);
    for (encoding, length, expected) in [
        ("gzip", SIZE, None),
        ("identity", SIZE, None),
        ("gzip", 500, Some(ErrorKind::Unsupported)),
        ("br", 500, Some(ErrorKind::Unsupported)),
        ("zstd, gzip", SIZE + 1, Some(ErrorKind::Unsupported)),
    ] {
        let (good, path) = (sample.clone(), part.clone());
        let registry = Fake::start(move |request| {
            assert_eq!(request.header("accept-encoding"), Some("identity"));
            let answer = good.answer(request);
            if !request.path.ends_with(&path) {
                return answer;
            }
            let answer = answer.with("Content-Encoding", encoding);
            match length {
                SIZE => answer,
                _ => answer.body(&vec![7; length]),
            }
        });
        let outcome = pulled(&registry, &sample, quick()).await;
        let found = outcome.err().map(|error| error.kind());
        assert_eq!(found, expected, "{encoding} {length}");
        assert_eq!(registry.count("GET", &part), 1);
    }
}
