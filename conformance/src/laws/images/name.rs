//! Laws of names.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cas_core::image::Reference;
use cas_core::{Descriptor, Digest, ErrorKind, Image, MediaType, limit};

use super::Subject;
use crate::material::{image, kind, target};

fn named(text: &str) -> Reference {
    text.parse().expect("a name")
}

pub(super) async fn a_name_is_created_once(subject: Subject) {
    let images = subject.open().await;
    assert_eq!(images.get(&named("a")).await.unwrap(), None);
    let created = images.create(image("a", "one")).await.unwrap();
    assert_eq!(
        images.get(&named("a")).await.unwrap(),
        Some(created.clone())
    );
    for text in ["one", "two"] {
        let again = images.create(image("a", text)).await;
        assert_eq!(kind(again), Some(ErrorKind::AlreadyExists), "{text}");
    }
    assert_eq!(images.get(&named("a")).await.unwrap(), Some(created));
}

/// Times given by the caller are ignored.
pub(super) async fn the_store_sets_the_times(subject: Subject) {
    let images = subject.open().await;
    let mut given = image("a", "one");
    (given.created_at, given.updated_at) = (UNIX_EPOCH, UNIX_EPOCH);
    let before = SystemTime::now() - Duration::from_secs(1);
    let created = images.create(given.clone()).await.unwrap();
    let after = SystemTime::now() + Duration::from_secs(1);
    assert!(
        (before..after).contains(&created.created_at),
        "created_at is not the time of the call: {:?}",
        created.created_at
    );
    assert!(
        (before..after).contains(&created.updated_at),
        "updated_at is not the time of the call: {:?}",
        created.updated_at
    );
    tokio::time::sleep(Duration::from_millis(2)).await;
    let updated = images.update(given, &[]).await.unwrap();
    assert_eq!(updated.created_at, created.created_at);
    assert!(
        updated.updated_at > created.updated_at,
        "an update must set a later `updated_at`"
    );
    assert_eq!(images.get(&named("a")).await.unwrap(), Some(updated));
}

/// Creates a name of every form that the grammar of names accepts.
pub(super) async fn names_of_every_form_are_kept(subject: Subject) {
    let images = subject.open().await;
    let long = "a".repeat(limit::NAME);
    let names = [
        "a",
        "A",
        "a/b",
        "a-b",
        "a--b",
        "a_b",
        "a+b",
        "x.io:80/y:1.2",
        "x.io/a__b---c:1_",
        "[::1]:80/y:1",
        "x.io/a~1,os=linux",
        "x.io/größe/名前",
        "x.io/%2e%2E+",
        "x.io/y@sha256:12",
        &long,
    ];
    for name in names {
        images.create(image(name, name)).await.unwrap();
    }
    for name in names {
        let found = images.get(&named(name)).await.unwrap();
        assert_eq!(found.expect(name).target, target(name));
    }
    assert_eq!(images.list(&[]).await.unwrap().len(), names.len());
}

/// A target of zero bytes is refused.
pub(super) async fn an_image_needs_a_target(subject: Subject) {
    let images = subject.open().await;
    let empty = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(b""), 0);
    let outcome = images.create(Image::new(named("a"), empty)).await;
    assert_eq!(kind(outcome), Some(ErrorKind::InvalidArgument));
    assert_eq!(images.get(&named("a")).await.unwrap(), None);
}

/// A name that states a digest is given only to the target with this digest.
pub(super) async fn a_digest_in_a_name_is_that_of_the_target(subject: Subject) {
    let images = subject.open().await;
    let (right, other) = (target("one"), target("two"));
    for text in [
        format!("x.io/y@{}", right.digest),
        format!("x.io/größe:1@{}", right.digest),
        right.digest.to_string(),
    ] {
        let name = named(&text);
        let moved = Image::new(name.clone(), other.clone());
        let refused = images.create(moved.clone()).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument), "{text}");
        assert_eq!(images.get(&name).await.unwrap(), None, "{text}");
        let created = images.create(Image::new(name.clone(), right.clone())).await;
        let created = created.unwrap();
        for fields in [&[][..], &["target"]] {
            let refused = images.update(moved.clone(), fields).await;
            assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument), "{text}");
        }
        let refused = images.compare_and_swap(&right, moved).await;
        assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument), "{text}");
        assert_eq!(images.get(&name).await.unwrap(), Some(created), "{text}");
    }
}

/// The key and the value of a label may have at most 4,096 bytes together.
pub(super) async fn labels_have_bounds(subject: Subject) {
    let images = subject.open().await;
    let mut given = image("a", "one");
    given
        .labels
        .insert("k".to_owned(), "v".repeat(limit::LABEL));
    assert_eq!(
        kind(images.create(given.clone()).await),
        Some(ErrorKind::InvalidArgument)
    );
    given
        .labels
        .insert("k".to_owned(), "v".repeat(limit::LABEL - 1));
    let created = images.create(given.clone()).await.unwrap();
    assert_eq!(created.labels, given.labels);
    given
        .labels
        .insert("k".to_owned(), "v".repeat(limit::LABEL));
    assert_eq!(
        kind(images.update(given, &["labels"]).await),
        Some(ErrorKind::InvalidArgument)
    );
    assert_eq!(images.get(&named("a")).await.unwrap(), Some(created));
}

/// A deleted name can be created again.
pub(super) async fn a_deleted_name_is_not_found(subject: Subject) {
    let images = subject.open().await;
    assert_eq!(
        kind(images.delete(&named("a"), None).await),
        Some(ErrorKind::NotFound)
    );
    images.create(image("a", "one")).await.unwrap();
    images.create(image("b", "one")).await.unwrap();
    images.delete(&named("a"), None).await.unwrap();
    assert_eq!(images.get(&named("a")).await.unwrap(), None);
    assert_eq!(images.list(&[]).await.unwrap().len(), 1);
    assert_eq!(
        kind(images.delete(&named("a"), None).await),
        Some(ErrorKind::NotFound)
    );
    images
        .create(image("a", "two"))
        .await
        .expect("a deleted name must be free");
}

/// A deletion with a target deletes a name only if the name has that target. `delete_unchanged`
/// deletes only the names of images that have not changed since they were read.
pub(super) async fn deletion_asks_for_the_target(subject: Subject) {
    let images = subject.open().await;
    images.create(image("a", "one")).await.unwrap();
    let other = images.delete(&named("a"), Some(&target("two"))).await;
    assert_eq!(kind(other), Some(ErrorKind::NotFound));
    assert!(images.get(&named("a")).await.unwrap().is_some());
    images
        .delete(&named("a"), Some(&target("one")))
        .await
        .unwrap();
    assert_eq!(images.get(&named("a")).await.unwrap(), None);

    for name in ["changed", "gone", "stays", "unchanged"] {
        images.create(image(name, "one")).await.unwrap();
    }
    let mut seen = images.list(&[]).await.unwrap();
    seen.retain(|image| image.name != named("stays"));
    images.delete(&named("gone"), None).await.unwrap();
    // Stored again with the same target, as by a second pull.
    let changed = image("changed", "one");
    images.update(changed, &["target"]).await.unwrap();
    let deleted = images.delete_unchanged(&seen).await.unwrap();
    assert_eq!(deleted, [named("unchanged")]);
    for (name, is_left) in [("changed", true), ("stays", true), ("unchanged", false)] {
        let found = images.get(&named(name)).await.unwrap();
        assert_eq!(found.is_some(), is_left, "{name}");
    }
    assert_eq!(images.delete_unchanged(&seen).await.unwrap(), []);
}

/// Forty tasks create different names.
pub(super) async fn forty_creators_lose_none(subject: Subject) {
    let images = subject.open().await;
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let images = Arc::clone(&images);
            tokio::spawn(async move { images.create(image(&format!("n{number}"), "x")).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().expect("each creator must succeed");
    }
    assert_eq!(images.list(&[]).await.unwrap().len(), 40);
}

/// Exactly one of many creators must win, and its target must stay.
pub(super) async fn one_creator_of_a_name_wins(subject: Subject) {
    let images = subject.open().await;
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let images = Arc::clone(&images);
            tokio::spawn(async move { images.create(image("a", &number.to_string())).await })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(won) => winners.push(won),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
        }
    }
    assert_eq!(winners.len(), 1, "exactly one creator of a name must win");
    assert_eq!(
        images.get(&named("a")).await.unwrap().as_ref(),
        winners.first()
    );
}
