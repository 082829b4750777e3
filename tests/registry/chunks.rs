//! Uploads in chunks: when they are sent, how long they are, and how they continue.

use std::time::{Duration, Instant};

use cas::ErrorKind;
use tokio::time::timeout;

use super::fake::{Answer, Fake};
use super::quick;
use super::receiver::Receiver;
use super::sample::Sample;
use super::uploads::pushed;

/// Size in bytes of the layer.
const SIZE: usize = 300_000;

/// Returns the lengths of the chunks that were sent.
fn chunks(registry: &Fake) -> Vec<usize> {
    let seen = registry.seen();
    let patches = seen.iter().filter(|one| one.method == "PATCH");
    patches.map(|one| one.body.len()).collect()
}

#[tokio::test]
async fn chunks_are_sent_where_the_whole_is_too_large() {
    let sample = Sample::new(&[SIZE]);
    for most in [200_000, 100_000, 70_000] {
        let receiver = Receiver::new();
        receiver.spoil(move |request, _| {
            let is_large = request.path.contains("/uploads/") && request.body.len() > most;
            is_large.then(|| Answer::new(413))
        });
        let registry = receiver.start();
        let pushed = pushed(&registry, &sample, quick()).await;
        if most < 75_000 {
            // The chunks would be shorter than a registry has to accept.
            assert_eq!(pushed.unwrap_err().kind(), ErrorKind::OutOfRange);
            continue;
        }
        pushed.unwrap();
        receiver.has_all(&sample);
        let accepted: Vec<_> = chunks(&registry)
            .into_iter()
            .filter(|one| *one <= most)
            .collect();
        let length = if most == 200_000 { 150_000 } else { 75_000 };
        assert_eq!(accepted, vec![length; SIZE / length]);
    }
}

#[tokio::test]
async fn chunks_have_the_length_that_the_registry_states() {
    let sample = Sample::new(&[SIZE]);
    for (stated, expected) in [
        ("100000", vec![100_000; 3]),
        ("140000", vec![140_000, 140_000, 20_000]),
        // Shorter chunks would cost more requests than they are worth.
        ("1", vec![65_536, 65_536, 65_536, 65_536, 37_856]),
        // The whole is not longer than a chunk.
        ("300000", vec![]),
        ("18446744073709551615", vec![]),
        ("many", vec![]),
    ] {
        let receiver = Receiver::new();
        receiver.states_chunks(stated);
        let registry = receiver.start();
        pushed(&registry, &sample, quick()).await.unwrap();
        receiver.has_all(&sample);
        assert_eq!(chunks(&registry), expected, "{stated}");
    }
}

/// The registry demands chunks that it refuses, so shorter ones are not tried.
#[tokio::test]
async fn a_push_fails_if_the_shortest_chunks_are_too_large() {
    let sample = Sample::new(&[SIZE]);
    for stated in ["131072", "300000"] {
        let receiver = Receiver::new();
        receiver.states_chunks(stated);
        receiver.spoil(|request, _| {
            let is_large = request.path.contains("/uploads/") && request.body.len() > 100_000;
            is_large.then(|| Answer::new(413))
        });
        let registry = receiver.start();
        let pushed = pushed(&registry, &sample, quick());
        let pushed = timeout(Duration::from_secs(120), pushed).await;
        let error = pushed.expect("the push ends").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{stated}: {error}");
    }
}

/// The second chunk arrives by half, as a whole, or not at all, and its answer is lost.
#[tokio::test]
async fn an_upload_continues_after_the_last_byte_that_arrived() {
    let sample = Sample::new(&[SIZE]);
    for (arrived, sent) in [
        (50_000, vec![100_000, 100_000, 100_000, 50_000]),
        (100_000, vec![100_000; 3]),
        (0, vec![100_000; 4]),
    ] {
        let receiver = Receiver::new();
        receiver.states_chunks("100000");
        let mut number = 0;
        receiver.spoil(move |request, state| {
            number += i32::from(request.method == "PATCH");
            if request.method != "PATCH" || number != 2 {
                return None;
            }
            let mut part = request.clone();
            part.body.truncate(arrived);
            state.patch(&part);
            Some(Answer::nothing())
        });
        let registry = receiver.start();
        pushed(&registry, &sample, quick()).await.unwrap();
        receiver.has_all(&sample);
        assert_eq!(chunks(&registry), sent, "{arrived}");
    }
}

#[tokio::test]
async fn a_forgotten_upload_begins_again() {
    let sample = Sample::new(&[SIZE]);
    for status in [404, 416] {
        let receiver = Receiver::new();
        receiver.states_chunks("100000");
        let mut number = 0;
        receiver.spoil(move |request, state| {
            number += i32::from(request.method == "PATCH");
            if request.method == "PATCH" && number == 3 {
                state.forget();
                return Some(Answer::new(status));
            }
            None
        });
        let registry = receiver.start();
        pushed(&registry, &sample, quick()).await.unwrap();
        receiver.has_all(&sample);
        assert_eq!(chunks(&registry).len(), 6);
    }
}

/// The registry accepts the first chunk of every upload, and forgets it.
#[tokio::test]
async fn uploads_that_are_always_forgotten_end() {
    let sample = Sample::new(&[SIZE]);
    let receiver = Receiver::new();
    receiver.states_chunks("100000");
    receiver.spoil(move |request, state| {
        let second = request.header("content-range")?.starts_with("100000-");
        second.then(|| {
            state.forget();
            Answer::new(503)
        })
    });
    let registry = receiver.start();
    let timeouts = quick().with_repeat(Duration::from_secs(1));
    let began = Instant::now();
    let error = pushed(&registry, &sample, timeouts).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(60), "{error}");
}
