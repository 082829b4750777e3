//! Entries without a name that refer to another entry of the source.

use std::time::{Duration, SystemTime};

use cas_core::gc::{GcOptions, collect};
use cas_core::{Descriptor, Digest, Image, MediaType, Store, blob};
use cas_layer::import::ImportOptions;
use serde_json::json;

use super::{for_platform, import, named, store};
use crate::common::source::{Files, in_stream};

/// Adds a manifest, or an index of `listed`, that refers to `subject`. Returns its descriptor.
fn referrer(files: &mut Files, listed: Option<&Descriptor>, subject: &Descriptor) -> Descriptor {
    let empty = files.blob(MediaType::OCI_EMPTY, b"{}");
    let (media_type, document) = match listed {
        None => (
            MediaType::OCI_MANIFEST,
            json!({"config": empty, "subject": subject}),
        ),
        Some(listed) => (
            MediaType::OCI_INDEX,
            json!({"manifests": [listed], "subject": subject}),
        ),
    };
    files.blob(media_type, document.to_string().as_bytes())
}

async fn imported(files: &Files, options: &ImportOptions) -> (Store, Vec<Image>) {
    let store = store();
    let made = import(&store, in_stream(&files.tar()), options).await;
    (store, made.unwrap())
}

async fn listed(store: &Store, subject: &Descriptor) -> Vec<Digest> {
    let found = blob::referrers(store, &subject.digest).await.unwrap();
    found.iter().map(|one| one.digest).collect()
}

/// Returns the targets of images.
fn targets(images: &[Image]) -> Vec<Digest> {
    let mut targets: Vec<Digest> = images.iter().map(|image| image.target.digest).collect();
    targets.sort();
    targets
}

fn sorted(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort();
    digests
}

#[tokio::test]
async fn a_referrer_without_a_name_belongs_to_its_subject_and_a_named_one_is_an_image() {
    let mut files = Files::layout();
    let image = files.image(1, "amd64");
    let other = files.image(2, "arm64");
    let index = files.index(vec![image.clone(), other]);
    let signature = referrer(&mut files, None, &image);
    let signed = referrer(&mut files, None, &signature);
    let called = referrer(&mut files, None, &index);
    files.entries(&[
        (None, &signed),
        (None, &signature),
        (Some("app:1"), &index),
        (Some("sig:1"), &called),
    ]);
    for options in [ImportOptions::default(), for_platform("linux/amd64")] {
        let (store, images) = imported(&files, &options).await;
        assert_eq!(targets(&images), sorted(vec![index.digest, called.digest]));
        assert_eq!(listed(&store, &image).await, [signature.digest]);
        assert_eq!(listed(&store, &signature).await, [signed.digest]);
        assert!(listed(&store, &index).await.is_empty());
        let options = GcOptions::default().with_now(SystemTime::now() + Duration::from_hours(48));
        assert!(
            collect(&store, &[], &options)
                .await
                .unwrap()
                .blobs
                .is_empty()
        );
    }
}

#[tokio::test]
async fn an_image_and_its_referrer_get_one_name() {
    let mut files = Files::layout();
    let image = files.image(1, "amd64");
    let signature = referrer(&mut files, None, &image);
    files.entries(&[(None, &signature), (None, &image)]);
    let (store, images) = imported(&files, &named("app:1")).await;
    assert_eq!(targets(&images), [image.digest]);
    assert_eq!(listed(&store, &image).await, [signature.digest]);
}

#[tokio::test]
async fn a_referrer_whose_subject_nothing_else_reaches_stays_an_image() {
    let mut files = Files::layout();
    let absent = Descriptor::of(MediaType::OCI_MANIFEST, b"absent");
    let alone = referrer(&mut files, None, &absent);
    files.entries(&[(None, &alone)]);
    let (_, images) = imported(&files, &ImportOptions::default()).await;
    assert_eq!(targets(&images), [alone.digest]);

    // Each of two indexes refers to what only the other one lists.
    let mut files = Files::layout();
    let (first, second) = (files.image(1, "amd64"), files.image(2, "amd64"));
    let one = referrer(&mut files, Some(&first), &second);
    let two = referrer(&mut files, Some(&second), &first);
    files.entries(&[(None, &one), (None, &two)]);
    let (store, images) = imported(&files, &ImportOptions::default()).await;
    assert_eq!(targets(&images), sorted(vec![one.digest, two.digest]));
    assert!(listed(&store, &first).await.is_empty());
}
