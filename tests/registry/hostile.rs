//! Registries with wrong, truncated or misleading answers: no image is named, and the exit code
//! shows why.

use std::sync::{Arc, OnceLock};

use cas::{Digest, MediaType, limit};
use serde_json::json;
use testkit::archive::Tar;

use super::cas;
use super::fake::{Answer, Fake, InFlight, Request};
use super::sample::Sample;
use crate::common::layout::layout_typed;
use crate::common::shop::names;
use crate::common::{fails, ok};

/// Pulls from a registry with spoiled answers. Returns the message of the tool, which exits with
/// `code`.
fn refused(
    sample: &Sample,
    code: i32,
    spoil: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static,
) -> String {
    let good = sample.clone();
    let registry = Fake::start(move |request| spoil(request, good.answer(request)));
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let said = fails(
        cas(&root, scratch.path()).args(["pull", &registry.image(), "--retry-for", "0s"]),
        code,
    );
    assert!(names(&root).is_empty());
    assert!(said.contains("team/app"), "{said}");
    said
}

#[test]
fn other_bytes_than_their_digest_are_refused() {
    let sample = Sample::new(&[70_000]);
    let layer = sample.layers[0].digest.to_string();
    for length in [69_999, 70_000, 70_001, 0] {
        let (lie, layer) = (vec![7; length], layer.clone());
        let said = refused(&sample, 4, move |request, good| {
            if request.path.ends_with(&layer) {
                Answer::new(200).body(&lie)
            } else {
                good
            }
        });
        assert!(said.contains("expected"), "{said}");
    }
    refused(&sample, 4, |request, good| {
        if request.is("GET", "/manifests/") {
            good.body(b"{}")
        } else {
            good
        }
    });
}

#[test]
fn a_body_that_breaks_off_is_a_lost_connection() {
    let sample = Sample::new(&[70_000]);
    let layer = sample.layers[0].digest.to_string();
    let said = refused(&sample, 7, move |request, good| {
        if request.path.ends_with(&layer) {
            good.cut(1000)
        } else {
            good
        }
    });
    assert!(said.contains("lost the connection"), "{said}");
}

#[test]
fn a_document_over_the_limit_is_not_read() {
    let sample = Sample::new(&[10]);
    let large = (cas::limit::DOCUMENT_READ + 1).to_string();
    let claimed = large.clone();
    let said = refused(&sample, 6, move |request, good| {
        match request.method.as_str() {
            "HEAD" => good.with("Content-Length", &claimed),
            _ => good,
        }
    });
    assert!(said.contains(&large), "{said}");
    // Without an announced size, reading ends at the limit.
    let body = vec![b' '; cas::limit::DOCUMENT_READ as usize + 1];
    refused(&sample, 6, move |request, good| {
        let good = good.without("Docker-Content-Digest");
        if request.is("GET", "/manifests/") {
            good.body(&body)
        } else {
            good
        }
    });
}

#[test]
fn documents_that_are_not_images_are_refused() {
    let sample = Sample::new(&[10]);
    refused(&sample, 2, |_, good| {
        good.without("Content-Type")
            .with("Content-Type", MediaType::DOCKER_SCHEMA1.as_str())
            .body(b"{\"schemaVersion\":1}")
    });
    let index = MediaType::OCI_INDEX;
    refused(&sample, 4, move |_, good| {
        good.without("Content-Type")
            .with("Content-Type", index.as_str())
    });
}

/// A registry has such a layer as a blob, and not as a document.
#[test]
fn a_layer_that_is_described_as_a_document_is_damage_as_in_an_import() {
    for kind in [
        MediaType::OCI_INDEX,
        MediaType::OCI_MANIFEST,
        MediaType::DOCKER_MANIFEST_LIST,
        MediaType::DOCKER_MANIFEST,
    ] {
        let layers = [Tar::new().file("file", "text").end()];
        let diff_ids = layers.each_ref().map(|tar| Digest::sha256(tar));
        let sample = Sample::of(layers.to_vec(), &diff_ids, |manifest| {
            manifest["layers"][0]["mediaType"] = json!(kind);
        });
        let layer = diff_ids[0].to_string();
        let absent = format!("/manifests/{layer}");
        let pulled = refused(&sample, 4, move |request, good| {
            match request.path.ends_with(&absent) {
                true => Answer::error(404, "MANIFEST_UNKNOWN", "unknown here"),
                false => good,
            }
        });
        let scratch = tempfile::tempdir().unwrap();
        let [root, layout] = ["root", "layout"].map(|name| scratch.path().join(name));
        layout_typed(&layout, &layers, &diff_ids, kind.as_str());
        let imported = fails(cas(&root, scratch.path()).arg("import").arg(&layout), 4);
        for said in [pulled, imported] {
            assert!(said.contains(&layer), "{said}");
            assert!(said.contains("not a valid document"), "{said}");
        }
    }
}

#[test]
fn statuses_become_exit_codes() {
    let sample = Sample::new(&[10]);
    for (status, code, word) in [
        (401, 7, "cas login"),
        (403, 7, "cas login"),
        (404, 3, "check the name"),
        (418, 7, "418"),
        (429, 7, "Retry-After: 30"),
        (500, 7, "Retry-After: 30"),
        (503, 7, "Retry-After: 30"),
    ] {
        let blob = sample.layers[0].digest.to_string();
        for part in ["/manifests/".to_owned(), blob] {
            let said = refused(&sample, code, move |request, good| {
                if request.path.contains(&part) {
                    Answer::error(status, "SO", "it \\u001b[31mis").with("Retry-After", "30")
                } else {
                    good
                }
            });
            let word = if status == 401 { "" } else { word };
            assert!(said.contains(word), "{said}");
            assert!(!said.contains('\u{1b}'), "{said:?}");
        }
    }
}

#[test]
fn circular_and_misleading_redirects_are_refused() {
    let sample = Sample::new(&[10]);
    let own = Arc::new(OnceLock::new());
    let host = Arc::clone(&own);
    let registry = Fake::start(move |request| {
        let host: &String = host.get().unwrap();
        Answer::new(302).with("Location", &format!("http://{host}{}", request.path))
    });
    own.set(registry.host.clone()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fails(
        cas(&root, scratch.path()).args(["pull", &registry.image()]),
        7,
    );
    assert_eq!(registry.seen().len(), 6);
    for location in [
        "ftp://x.test/",
        "http://me:secret@127.0.0.1/",
        "nowhere:",
        "http://",
    ] {
        refused(&sample, 7, move |_, _| {
            Answer::new(302).with("Location", location)
        });
    }
}

#[test]
fn as_many_redirects_as_are_allowed_are_followed_and_no_more() {
    let sample = Sample::new(&[10]);
    for (hops, followed) in [(limit::REDIRECTS, true), (limit::REDIRECTS + 1, false)] {
        let good = sample.clone();
        let registry = Fake::start(move |request| {
            let (path, hop) = request
                .path
                .split_once("?hop=")
                .unwrap_or((&request.path, "0"));
            let hop: usize = hop.parse().unwrap();
            if hop < hops && request.is("GET", "/blobs/") {
                return Answer::new(307).with("Location", &format!("{path}?hop={}", hop + 1));
            }
            let mut last = request.clone();
            last.path = path.to_owned();
            good.answer(&last)
        });
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        let mut pull = cas(&root, scratch.path());
        pull.args(["pull", &registry.image()]);
        if followed {
            ok(&mut pull);
        } else {
            let said = fails(&mut pull, 7);
            let bound = format!("at most {} redirects", limit::REDIRECTS);
            assert!(said.contains(&bound), "{said}");
        }
    }
}

/// URLs in a descriptor are not followed.
#[test]
fn addresses_in_a_manifest_are_never_followed() {
    let trap = Fake::start(|_| Answer::new(200).body(b"trapped"));
    let url = format!("http://{}/layer", trap.host);
    let sample = Sample::with(&[10, 20], |manifest| {
        manifest["layers"][0]["urls"] = json!([url]);
        manifest["layers"][1]["urls"] = json!([url]);
        manifest["layers"][1]["mediaType"] = json!(MediaType::DOCKER_LAYER_FOREIGN);
    });
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    let out = cas(&root, scratch.path())
        .args(["pull", &registry.image()])
        .output()
        .unwrap();
    assert!(out.status.success());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("not served by registries"), "{said}");
    assert_eq!(trap.seen().len(), 0);
    assert_eq!(registry.count("GET", "/blobs/"), 2);
}

#[test]
fn layers_come_three_at_a_time() {
    let sizes: Vec<usize> = (100..109).collect();
    let sample = Sample::new(&sizes);
    let in_flight = Arc::new(InFlight::default());
    let (good, counted) = (sample.clone(), Arc::clone(&in_flight));
    let registry = Fake::start(move |request| match request.path.contains("/blobs/") {
        true => counted.hold(3, || good.answer(request)),
        false => good.answer(request),
    });
    let scratch = tempfile::tempdir().unwrap();
    ok(cas(&scratch.path().join("root"), scratch.path()).args(["pull", &registry.image()]));
    assert_eq!(in_flight.most(), 3);
}

/// What is not HTTP is not HTTP in the next answer either.
#[test]
fn an_answer_that_is_not_http_fails_at_once_and_is_requested_once() {
    let head = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: 0\r\n\r\n");
    for raw in [
        "SSH-2.0-x\r\n\r\n".to_owned(),
        head("X-Bad: \u{1}\r\n"),
        head(&format!("X-Long: {}\r\n", "x".repeat(1 << 20))),
        head(&"X-Many: 1\r\n".repeat(1000)),
    ] {
        let registry = Fake::start(move |_| Answer::raw(raw.as_bytes()));
        let scratch = tempfile::tempdir().unwrap();
        let mut pull = cas(&scratch.path().join("root"), scratch.path());
        pull.args(["pull", "--plain-http", &registry.image()]);
        let said = fails(&mut pull, 7);
        assert!(said.contains("not valid HTTP"), "{said}");
        assert_eq!(registry.seen().len(), 1, "{:?}", registry.seen());
    }
}
