//! Every bound of this crate: an input of exactly that size is accepted, and an input that is one
//! larger is refused with an error that names the bound. The bounds of notes and of owners are
//! tested next to their code. The laws test the bounds of keys and labels of stores.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail anywhere"
)]

use std::fmt::Display;

use cas_core::dispatch::{handler_fn, walk};
use cas_core::document::{Document, check_json};
use cas_core::image::filter::Filters;
use cas_core::image::{FullName, ImageConfig, Reference};
use cas_core::labels::check_labels;
use cas_core::records::Lease;
use cas_core::testing::memory::MemoryStore;
use cas_core::{Descriptor, Digest, Labels, MediaType, Next, Result, limit, pool::wait};
use serde_json::json;

/// Checks what `tried` does with the largest allowed size, and with one more.
fn edge<T>(bound: impl Display, most: usize, tried: impl Fn(usize) -> Result<T>) {
    if let Err(error) = tried(most) {
        panic!("{most} is allowed: {error}");
    }
    let error = tried(most + 1).err().expect("one more is refused");
    let said = error.to_string();
    assert!(said.contains(&bound.to_string()), "{bound}: {said}");
}

fn descriptor() -> serde_json::Value {
    json!({"mediaType": "a/b", "digest": Digest::sha256(b""), "size": 0})
}

fn parse(kind: &MediaType, document: &serde_json::Value) -> Result<Document> {
    Document::parse(kind, document.to_string().as_bytes())
}

#[test]
fn documents() {
    let padded = |size: usize| format!("{{}}{}", " ".repeat(size - 2));
    let read = limit::DOCUMENT_READ as usize;
    edge(read, read, |size| check_json(padded(size).as_bytes()));
    edge(read, read, |size| limit::check_document(size as u64));
    edge(limit::JSON_DEPTH, limit::JSON_DEPTH, |depth| {
        check_json(format!("{}{}", "[".repeat(depth), "]".repeat(depth)).as_bytes())
    });
    edge(limit::DESCRIPTORS, limit::DESCRIPTORS, |count| {
        let index = json!({"schemaVersion": 2, "manifests": vec![descriptor(); count]});
        parse(&MediaType::OCI_INDEX, &index)
    });
    edge(limit::LAYERS, limit::LAYERS, |count| {
        let layers = vec![descriptor(); count];
        let manifest = json!({"schemaVersion": 2, "config": descriptor(), "layers": layers});
        parse(&MediaType::OCI_MANIFEST, &manifest)
    });
    edge(limit::LAYERS, limit::LAYERS, |count| {
        let ids = vec![Digest::sha256(b""); count];
        let config = json!({"rootfs": {"type": "layers", "diff_ids": ids}});
        ImageConfig::parse(config.to_string().as_bytes())
    });
}

#[test]
fn names_and_keys() {
    edge(limit::NAME, limit::NAME, |length| {
        "a".repeat(length).parse::<Reference>()
    });
    // 253 for the domain name and 6 for the longest port.
    edge(limit::HOST, limit::HOST, |length| {
        format!("{}.b:65535/c", "a".repeat(length - 8)).parse::<FullName>()
    });
    let store = MemoryStore::new().with_images();
    edge(limit::NAME, limit::NAME, |length| {
        let lease = Lease::new("test", None);
        wait(store.leases().create(&"l".repeat(length), &lease))
    });
    edge(limit::KEY, limit::KEY, |length| {
        wait(store.content.begin(&"k".repeat(length))).map(drop)
    });
    edge(limit::FILTER, limit::FILTER, |length| {
        Filters::parse(&[&format!("name=={}", "x".repeat(length - 6))])
    });
}

#[test]
fn labels() {
    edge(limit::LABEL, limit::LABEL, |length| {
        check_labels(&Labels::from([("key".to_owned(), "v".repeat(length - 3))]))
    });
    let many = |prefix: &str, count: usize| -> Labels {
        let label = |number| (format!("{prefix}{number}"), String::new());
        (0..count).map(label).collect()
    };
    edge(limit::LABELS, limit::LABELS, |count| {
        check_labels(&many("key", count))
    });
    for prefix in [
        "containerd.io/gc.ref.content.",
        "containerd.io/gc.bref.content.",
    ] {
        edge(limit::DESCRIPTORS, limit::DESCRIPTORS, |count| {
            check_labels(&many(prefix, count))
        });
    }
}

/// A walk counts the root, and counts a repeated descriptor each time.
#[test]
fn a_walk() {
    let node = |text: &str| Descriptor::of(MediaType::from("test/node"), text.as_bytes());
    let (root, child) = (node("root"), node("child"));
    edge(limit::WALK, limit::WALK, |count| {
        let children = handler_fn(|descriptor| {
            let is_root = descriptor == root;
            let children = vec![child.clone(); if is_root { count - 1 } else { 0 }];
            async { Ok(Next::Children(children)) }
        });
        wait(walk(&children, std::slice::from_ref(&root)))
    });
}
