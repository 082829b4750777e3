//! Pushes to a registry that fails, forgets uploads, refuses requests or sends wrong answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cas::distribution::{Client, Options, Timeouts};
use cas::transfer::{PushOptions, push};
use cas::{Algorithm, Descriptor, Digest, ErrorKind, Result, Store};
use cas_core::content::Durability;
use cas_core::testing::memory::MemoryStore;

use super::fake::{Answer, Fake, Request};
use super::receiver::Receiver;
use super::sample::Sample;
use super::{cas, client, quick};
use crate::common::ok;

/// Size in bytes of a layer.
const SIZE: usize = 300_000;

/// Returns a store with the sample.
async fn stored(sample: &Sample) -> Store {
    let store = MemoryStore::new().with_images();
    let manifest: cas::Manifest = serde_json::from_slice(sample.data(&sample.root)).unwrap();
    let parts = manifest
        .layers
        .iter()
        .chain([&manifest.config, &sample.root]);
    for part in parts {
        let data = sample.data(part).to_vec().into();
        store.put(part, data, Durability::Full).await.unwrap();
    }
    store
}

/// Pushes a sample to a fake registry.
pub(super) async fn pushed(
    registry: &Fake,
    sample: &Sample,
    timeouts: Timeouts,
) -> Result<Descriptor> {
    let client = client(registry, timeouts).await;
    pushed_by(&client, sample).await
}

async fn pushed_by(client: &Client, sample: &Sample) -> Result<Descriptor> {
    let store = stored(sample).await;
    push(&store, client, &sample.root, &PushOptions::default()).await
}

/// Returns whether a request sends the bytes of the layer.
fn is_layer(sample: &Sample, request: &Request) -> bool {
    request.is("PUT", &sample.layers[0].digest.hex().to_string())
}

#[tokio::test]
async fn what_passes_is_repeated_in_a_push() {
    let sample = Sample::new(&[SIZE]);
    let faults: [fn() -> Answer; 6] = [
        || Answer::new(429).with("Retry-After", "0"),
        || Answer::new(500),
        || Answer::new(502),
        || Answer::new(503),
        || Answer::new(504),
        Answer::nothing,
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        for (method, part) in [
            ("HEAD", "/blobs/"),
            ("POST", "/uploads/"),
            ("PUT", "/uploads/"),
            ("PUT", "/manifests/"),
        ] {
            let receiver = Receiver::new();
            let mut left = 2;
            receiver.spoil(move |request, _| {
                let fails = request.is(method, part) && left > 0;
                left -= i32::from(fails);
                fails.then(fault)
            });
            let registry = receiver.start();
            let outcome = pushed(&registry, &sample, quick()).await;
            outcome.unwrap_or_else(|error| panic!("{number} {method} {part}: {error}"));
            receiver.has_all(&sample);
        }
    }
}

#[tokio::test]
async fn a_push_that_always_fails_ends_in_time() {
    let sample = Sample::new(&[SIZE]);
    let timeouts = quick().with_repeat(Duration::from_secs(3));
    for (method, part) in [("POST", "/uploads/"), ("PUT", "/uploads/")] {
        let receiver = Receiver::new();
        receiver.spoil(move |request, _| request.is(method, part).then(|| Answer::new(503)));
        let registry = receiver.start();
        let began = Instant::now();
        let error = pushed(&registry, &sample, timeouts.clone())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(60));
        assert!(registry.count(method, part) > 2);
    }
}

/// The blob is stored, but the answer is lost.
#[tokio::test]
async fn a_blob_whose_answer_was_lost_is_not_sent_again() {
    let sample = Sample::new(&[SIZE]);
    let receiver = Receiver::new();
    receiver.spoil(|request, state| {
        if !request.is("PUT", "/uploads/") {
            return None;
        }
        state.put_blob(request);
        Some(Answer::nothing())
    });
    let registry = receiver.start();
    pushed(&registry, &sample, quick()).await.unwrap();
    receiver.has_all(&sample);
    assert_eq!(registry.count("PUT", "/uploads/"), 2);
}

/// If the answer to a HEAD is unclear, the blob is sent.
#[tokio::test]
async fn an_unclear_head_does_not_stop_a_push() {
    let sample = Sample::new(&[1000]);
    for status in [400, 403, 405, 500, 501] {
        let receiver = Receiver::new();
        receiver.spoil(move |request, _| (request.method == "HEAD").then(|| Answer::new(status)));
        let registry = receiver.start();
        let outcome = pushed(&registry, &sample, quick()).await;
        outcome.unwrap_or_else(|error| panic!("{status}: {error}"));
        receiver.has_all(&sample);
    }
}

#[tokio::test]
async fn another_size_or_digest_in_a_head_means_that_it_is_not_there() {
    let sample = Sample::new(&[1000]);
    let other = sample.root.digest.to_string();
    let lies = [
        ("Content-Length", "999".to_owned()),
        ("Docker-Content-Digest", other),
    ];
    for (header, value) in lies {
        let receiver = Receiver::new();
        receiver.spoil(move |request, _| {
            let is_asked = request.is("HEAD", "/blobs/");
            is_asked.then(|| Answer::new(200).with(header, &value))
        });
        let registry = receiver.start();
        pushed(&registry, &sample, quick()).await.unwrap();
        receiver.has_all(&sample);
    }
}

#[tokio::test]
async fn a_201_without_bytes_is_believed_only_for_the_right_digest() {
    let sample = Sample::new(&[SIZE]);
    let right = sample.layers[0].digest.to_string();
    let wrong = sample.root.digest.to_string();
    for (header, value, stored, believed) in [
        ("Docker-Content-Digest", right.clone(), false, true),
        (
            "Location",
            format!("/v2/team/app/blobs/{right}"),
            false,
            true,
        ),
        ("Docker-Content-Digest", wrong.clone(), false, false),
        (
            "Location",
            format!("/v2/team/app/blobs/{wrong}"),
            false,
            false,
        ),
        ("X-Nothing", "x".to_owned(), false, false),
        // The answer does not name the digest, but a HEAD shows that the blob is there.
        ("X-Nothing", "x".to_owned(), true, true),
    ] {
        let receiver = Receiver::new();
        let layer = sample.data(&sample.layers[0]).to_vec();
        let named = value.clone();
        let manifest: cas::Manifest = serde_json::from_slice(sample.data(&sample.root)).unwrap();
        receiver.store(sample.data(&manifest.config));
        receiver.spoil(move |request, state| {
            if !request.is("POST", "/uploads/") {
                return None;
            }
            if stored {
                state.store(&layer);
            }
            Some(Answer::new(201).with(header, &named))
        });
        let registry = receiver.start();
        let outcome = pushed(&registry, &sample, quick()).await;
        assert_eq!(outcome.is_ok(), believed, "{header} {value}");
        assert_eq!(registry.count("PUT", "/uploads/"), 0);
    }
}

async fn mounting(registry: &Fake) -> Client {
    let options = Options {
        mount_from: Some("team/other".to_owned()),
        timeouts: quick(),
        ..Options::default()
    };
    let reference = registry.image().parse().unwrap();
    Client::connect(&reference, options).await.unwrap()
}

#[tokio::test]
async fn blobs_are_mounted_from_another_repository_or_sent() {
    let sample = Sample::new(&[SIZE]);
    for status in [201, 202, 400, 403, 404, 405] {
        let receiver = Receiver::new();
        let content = sample.content.clone();
        receiver.spoil(move |request, state| {
            let digest = request.path.split("mount=").nth(1)?.split('&').next()?;
            assert!(
                request.path.ends_with("&from=team%2Fother"),
                "{}",
                request.path
            );
            let digest = digest.replace("%3A", ":");
            match status {
                201 => {
                    state.store(&content[&digest]);
                    Some(Answer::new(201).with("Docker-Content-Digest", &digest))
                }
                202 => None,
                _ => Some(Answer::new(status)),
            }
        });
        let registry = receiver.start();
        pushed_by(&mounting(&registry).await, &sample)
            .await
            .unwrap();
        receiver.has_all(&sample);
        let sent = registry.count("PUT", "/uploads/");
        assert_eq!(sent, if status == 201 { 0 } else { 2 }, "{status}");
    }
}

#[tokio::test]
async fn a_registry_that_stored_other_bytes_is_found_out() {
    let sample = Sample::new(&[SIZE]);
    let wrong = cas::Digest::sha256(b"other bytes").to_string();
    for part in ["/uploads/", "/manifests/"] {
        let (receiver, wrong) = (Receiver::new(), wrong.clone());
        receiver.spoil(move |request, _| {
            let is_put = request.is("PUT", part);
            is_put.then(|| Answer::new(201).with("Docker-Content-Digest", &wrong))
        });
        let registry = receiver.start();
        let error = pushed(&registry, &sample, quick()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{part}: {error}");
    }
}

/// Docker's registry takes a blob under its sha512 digest, but keeps it under its sha256 digest.
#[tokio::test]
async fn a_registry_that_keeps_digests_of_another_algorithm_is_named() {
    let sample = Sample::new(&[SIZE]);
    let other = Digest::of(Algorithm::Sha512, b"any bytes").to_string();
    for part in ["/uploads/", "/manifests/"] {
        let (receiver, other) = (Receiver::new(), other.clone());
        receiver.spoil(move |request, _| {
            let is_put = request.is("PUT", part);
            is_put.then(|| Answer::new(201).with("Docker-Content-Digest", &other))
        });
        let registry = receiver.start();
        let error = pushed(&registry, &sample, quick()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{part}: {error}");
        let said = error.to_string();
        assert!(said.contains("does not keep sha256 digests"), "{said}");
        assert!(said.contains("with sha512 digests"), "{said}");
    }
}

/// The registry answers before it has read the body, and closes the connection.
#[tokio::test]
async fn an_early_refusal_is_heard_while_the_body_is_sent() {
    let sample = Sample::new(&[6 << 20]);
    for (status, kind) in [
        (413, ErrorKind::OutOfRange),
        (403, ErrorKind::Denied),
        (507, ErrorKind::Unavailable),
    ] {
        let receiver = Receiver::new();
        let layer = sample.clone();
        let registry = receiver.start_early(move |request| {
            let is_sent = is_layer(&layer, request) || request.method == "PATCH";
            is_sent.then(|| Answer::error(status, "NO", "not this one"))
        });
        let began = Instant::now();
        let error = pushed(&registry, &sample, quick()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.to_string().contains("not this one"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}

/// Each token is good for one upload.
#[tokio::test]
async fn a_token_that_has_expired_is_replaced_while_the_body_is_sent() {
    let sample = Sample::new(&[2 << 20, SIZE]);
    let given = Arc::new(AtomicUsize::new(0));
    let (number, last) = (Arc::clone(&given), Arc::clone(&given));
    let tokens = Fake::start(move |_| {
        let token = format!(
            r#"{{"token":"t{}"}}"#,
            number.fetch_add(1, Ordering::SeqCst) + 1
        );
        Answer::new(200).body(token.as_bytes())
    });
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"x\"",
        tokens.host
    );
    let (receiver, used) = (Receiver::new(), Mutex::new(0));
    let registry = receiver.start_early(move |request| {
        if !request.is("PUT", "/uploads/") {
            return None;
        }
        let mut used = used.lock().unwrap();
        let newest = last.load(Ordering::SeqCst);
        let is_new = newest > *used;
        if is_new && request.header("authorization") == Some(&format!("Bearer t{newest}")) {
            *used = newest;
            return None;
        }
        Some(Answer::new(401).with("WWW-Authenticate", &realm))
    });
    // Uploads at the same time would use each other's tokens.
    let (store, client) = (stored(&sample).await, client(&registry, quick()).await);
    let one_by_one = PushOptions::default().with_blobs(1);
    push(&store, &client, &sample.root, &one_by_one)
        .await
        .unwrap();
    receiver.has_all(&sample);
    assert_eq!(given.load(Ordering::SeqCst), 3);
}

/// The tool mounts from the repository of the image's own name.
#[test]
fn a_push_to_another_repository_of_the_registry_asks_to_mount() {
    let sample = Sample::new(&[SIZE]);
    let good = sample.clone();
    let registry = Fake::start(move |request| match request.method.as_str() {
        "POST" => {
            let digest = request.path.split("mount=").nth(1).unwrap_or_default();
            let digest = digest.split('&').next().unwrap().replace("%3A", ":");
            Answer::new(201).with("Docker-Content-Digest", &digest)
        }
        "PUT" => Answer::new(201),
        _ if request.path.contains("/team/two/") => Answer::new(404),
        _ => good.answer(request),
    });
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let image = registry.image();
    let other = image.replace("team/app", "team/two");
    ok(cas(&root, scratch.path()).args(["pull", &image]));
    ok(cas(&root, scratch.path()).args(["push", &image, &other]));
    assert_eq!(registry.count("POST", "&from=team%2Fapp"), 2);
    assert_eq!(registry.count("PUT", "/v2/team/two/manifests/1"), 1);
}

#[tokio::test]
async fn an_upload_location_is_not_at_a_metadata_service() {
    let sample = Sample::new(&[10]);
    for address in ["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"] {
        let receiver = Receiver::new();
        receiver.spoil(move |request, _| {
            let place = format!("http://{address}/upload");
            let is_begun = request.is("POST", "/uploads/");
            is_begun.then(|| Answer::new(202).with("Location", &place))
        });
        let registry = receiver.start();
        let error = pushed(&registry, &sample, quick()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{address}: {error}");
    }
}
