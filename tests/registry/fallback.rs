//! The tag that lists referrers in a registry without the API for them, and clients that change the
//! tag at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cas::transfer::{ArtifactClient, DocumentName, Pusher};
use cas::{Descriptor, ErrorKind, MediaType, Result};
use serde_json::json;

use super::artifacts::artifact;
use super::fake::Fake;
use super::spec::{Abilities, INDEX, Spec};
use super::{client, quick};

const CONDITIONS: Abilities = Abilities {
    conditions: true,
    ..Abilities::OLD
};

fn subject() -> Descriptor {
    Descriptor::of(MediaType::OCI_MANIFEST, b"subject")
}

/// Pushes an artifact of this type. Returns its digest.
async fn push(registry: &Fake, kind: &str) -> Result<String> {
    let (own, data) = artifact(kind, &subject());
    let client = client(registry, quick()).await;
    let data = Bytes::from(data);
    client
        .push_document(&own, data, DocumentName::Digest)
        .await?;
    Ok(own.digest.to_string())
}

fn listed(spec: &Spec) -> Vec<String> {
    spec.listed_by_tag(&subject().digest.to_string())
}

fn tag() -> String {
    subject().digest.to_string().replace(':', "-")
}

#[tokio::test]
async fn each_artifact_is_listed_once_with_its_type_and_annotations() {
    let spec = Spec::new(Abilities::OLD);
    let registry = spec.start();
    let first = push(&registry, "application/x.1").await.unwrap();
    let second = push(&registry, "application/x.2").await.unwrap();
    assert_eq!(push(&registry, "application/x.1").await.unwrap(), first);
    assert_eq!(listed(&spec), [first, second]);
    let index = spec.get(&tag()).unwrap();
    assert_eq!(index["manifests"][1]["artifactType"], "application/x.2");
    assert_eq!(index["manifests"][1]["annotations"]["made"], "now");
    // The first push reads, writes and reads again; the third only reads.
    assert_eq!(registry.count("PUT", &tag()), 2);
    assert_eq!(registry.count("GET", &tag()), 5);
}

#[tokio::test]
async fn a_change_that_another_client_replaces_is_repeated() {
    let spec = Spec::new(Abilities::OLD);
    let (other, _) = artifact("application/x.other", &subject());
    let (puts, entry) = (Arc::new(AtomicUsize::new(0)), other.clone());
    let counted = Arc::clone(&puts);
    let registry = spec.start_with(move |request, spec| {
        if !request.is("PUT", &tag()) || counted.fetch_add(1, Ordering::SeqCst) > 0 {
            return None;
        }
        // Another client has read the tag before this change, and replaces the change.
        let answer = spec.answer(request);
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
        spec.put(Some(&tag()), INDEX, index.to_string().as_bytes());
        Some(answer)
    });
    let own = push(&registry, "application/x.own").await.unwrap();
    assert_eq!(listed(&spec), [other.digest.to_string(), own]);
    assert_eq!(puts.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_registry_with_conditions_loses_none_of_many_changes_at_once() {
    let spec = Spec::new(CONDITIONS);
    let registry = spec.start();
    let kinds: Vec<String> = (0..8)
        .map(|number| format!("application/x.{number}"))
        .collect();
    let pushes = kinds.iter().map(|kind| push(&registry, kind));
    let mut pushed: Vec<String> = futures_util::future::join_all(pushes)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let mut found = listed(&spec);
    pushed.sort();
    found.sort();
    assert_eq!(found, pushed);
    let conditions = registry
        .seen()
        .into_iter()
        .filter(|one| one.is("PUT", &tag()));
    let mut conditions = conditions.map(|one| {
        (
            one.header("if-none-match").is_some(),
            one.header("if-match").is_some(),
        )
    });
    assert!(conditions.all(|(absent, present)| absent != present));
}

#[tokio::test]
async fn a_change_that_is_always_replaced_is_a_conflict_in_the_end() {
    let spec = Spec::new(Abilities::OLD);
    let registry = spec.start_with(|request, spec| {
        let is_change = request.is("PUT", &tag());
        is_change.then(|| {
            let answer = spec.answer(request);
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
            spec.put(Some(&tag()), INDEX, index.to_string().as_bytes());
            answer
        })
    });
    let error = push(&registry, "application/x.own").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(
        registry.count("PUT", &tag()) as u32,
        cas::limit::REFERRER_ATTEMPTS
    );
}

#[tokio::test]
async fn something_else_at_the_tag_is_never_replaced() {
    let (manifest, data) = artifact("application/x.own", &subject());
    let broken = br#"{"schemaVersion":2,"manifests":0}"#;
    for (kind, data) in [
        (manifest.media_type.as_str(), &data[..]),
        ("application/octet-stream", b"{}"),
        (INDEX, broken),
    ] {
        let spec = Spec::new(Abilities::OLD);
        spec.put(Some(&tag()), kind, data);
        let registry = spec.start();
        let error = push(&registry, "application/x.new").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(error.to_string().contains(&tag()), "{error}");
        assert_eq!(registry.count("PUT", &tag()), 0);
    }
}

/// A client that knows the algorithm may have added the entry.
#[tokio::test]
async fn entries_with_digests_of_other_algorithms_stay_in_the_list() {
    let (known, _) = artifact("application/x.known", &subject());
    let other = json!({"digest": "sha384:00", "size": 2, "other": [1]});
    for entries in [vec![], vec![json!(known)]] {
        let found: Vec<String> = entries.iter().map(|_| known.digest.to_string()).collect();
        let listing = [std::slice::from_ref(&other), &entries[..]].concat();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": listing});
        let spec = Spec::new(Abilities::OLD);
        spec.put(Some(&tag()), INDEX, index.to_string().as_bytes());
        let registry = spec.start();

        let client = client(&registry, quick()).await;
        let referrers = ArtifactClient::new(&client).all_referrers(&subject()).await;
        let digests = referrers.unwrap().into_iter();
        let digests: Vec<String> = digests.map(|one| one.digest.to_string()).collect();
        assert_eq!(digests, found);
        let said = client.warnings();
        assert!(said.len() == 1 && said[0].contains("sha384:00"), "{said:?}");

        let own = push(&registry, "application/x.own").await.unwrap();
        let expected = [found, vec![own, "sha384:00".to_owned()]].concat();
        assert_eq!(listed(&spec), expected);
        let index = spec.get(&tag()).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().last(), Some(&other));
    }
}

#[tokio::test]
async fn the_list_at_the_tag_is_bounded() {
    let spec = Spec::new(Abilities::OLD);
    let entry =
        |number: usize| Descriptor::of(MediaType::OCI_MANIFEST, number.to_string().as_bytes());
    let entries: Vec<Descriptor> = (0..cas::limit::DESCRIPTORS).map(entry).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    spec.put(Some(&tag()), INDEX, index.to_string().as_bytes());
    let registry = spec.start();
    let error = push(&registry, "application/x.own").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    let spec = Spec::new(Abilities::OLD);
    let registry = spec.start();
    let long = format!("application/{}", "x".repeat(5 << 20));
    let error = push(&registry, &long).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    assert_eq!(registry.count("PUT", &tag()), 0);
}
