//! Laws of updates of whole images, and of updates by field path.

use std::sync::Arc;

use cas_core::{ErrorKind, Image, Labels};

use super::Subject;
use crate::material::{image, kind, target};

fn map(pairs: &[(&str, &str)]) -> Labels {
    let owned = pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    owned.collect()
}

fn with(text: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Image {
    let mut image = image("a", text);
    image.labels = map(labels);
    image.target.annotations = map(annotations);
    image
}

/// Updates an image without field paths.
pub(super) async fn an_update_replaces_all_but_name_and_creation_time(subject: Subject) {
    let images = subject.open().await;
    let old = images
        .create(with("one", &[("old", "1")], &[]))
        .await
        .unwrap();
    let update = with("two", &[("new", "2")], &[("note", "x")]);
    let updated = images.update(update.clone(), &[]).await.unwrap();
    assert_eq!(
        (&updated.target, &updated.labels),
        (&update.target, &update.labels)
    );
    assert_eq!(
        (&updated.name, updated.created_at),
        (&old.name, old.created_at)
    );
    assert_eq!(images.get(&old.name).await.unwrap(), Some(updated));
}

/// In `labels.<key>`, the rest of the path is the key, including dots and slashes.
pub(super) async fn field_paths_change_what_they_name(subject: Subject) {
    let images = subject.open().await;
    let labels = [("keep", "1"), ("x.y/z", "1")];
    images
        .create(with("one", &labels, &[("keep", "1")]))
        .await
        .unwrap();
    let update = with("two", &[("x.y/z", "2")], &[("n.o", "2")]);
    let one = images
        .update(update.clone(), &["labels.x.y/z"])
        .await
        .unwrap();
    assert_eq!(one.labels, map(&[("keep", "1"), ("x.y/z", "2")]));
    assert_eq!(one.target.digest, target("one").digest);
    let two = images
        .update(update.clone(), &["annotations.n.o"])
        .await
        .unwrap();
    assert_eq!(two.target.annotations, map(&[("keep", "1"), ("n.o", "2")]));
    let three = images
        .update(update.clone(), &["labels", "labels.gone"])
        .await
        .unwrap();
    assert_eq!(three.labels, update.labels);
    assert_eq!(three.target.digest, target("one").digest);
    let four = images.update(update.clone(), &["target"]).await.unwrap();
    assert_eq!(four.target, update.target);
    assert_eq!(images.get(&four.name).await.unwrap(), Some(four));
}

/// An update with an unknown path changes nothing, even if it has a known path, too.
pub(super) async fn unknown_field_paths_are_refused(subject: Subject) {
    let images = subject.open().await;
    let old = images
        .create(with("one", &[("old", "1")], &[]))
        .await
        .unwrap();
    for path in [
        "name",
        "created_at",
        "labels.",
        "labelsx",
        "target.digest",
        "",
    ] {
        let outcome = images
            .update(with("two", &[], &[]), &["labels", path])
            .await;
        assert_eq!(kind(outcome), Some(ErrorKind::InvalidArgument), "{path:?}");
    }
    assert_eq!(images.get(&old.name).await.unwrap(), Some(old));
}

pub(super) async fn an_update_of_an_unknown_name_is_not_found(subject: Subject) {
    let images = subject.open().await;
    for paths in [&[][..], &["labels"][..]] {
        let outcome = images.update(image("a", "one"), paths).await;
        assert_eq!(kind(outcome), Some(ErrorKind::NotFound));
    }
    assert_eq!(images.list(&[]).await.unwrap(), []);
}

/// Creates an image with an empty label. Then updates two of its labels. The update empties one of
/// them and leaves out the other.
pub(super) async fn an_empty_label_is_not_stored(subject: Subject) {
    let images = subject.open().await;
    let created = images
        .create(with("one", &[("a", "1"), ("b", ""), ("c", "1")], &[]))
        .await;
    assert_eq!(created.unwrap().labels, map(&[("a", "1"), ("c", "1")]));
    let update = with("one", &[("a", "")], &[]);
    let updated = images
        .update(update, &["labels.a", "labels.c"])
        .await
        .unwrap();
    assert_eq!(updated.labels, Labels::new());
    assert_eq!(images.get(&updated.name).await.unwrap(), Some(updated));
}

/// Updates different labels of one image concurrently, by field path.
pub(super) async fn updates_of_different_labels_lose_none(subject: Subject) {
    let images = subject.open().await;
    images.create(image("a", "one")).await.unwrap();
    let tasks: Vec<_> = (0..12)
        .map(|number| {
            let images = Arc::clone(&images);
            tokio::spawn(async move {
                let key = format!("k{number}");
                let update = with("one", &[(&key, "v")], &[]);
                images.update(update, &[&format!("labels.{key}")]).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().expect("each update must succeed");
    }
    let found = images.get(&image("a", "one").name).await.unwrap().unwrap();
    assert_eq!(found.labels.len(), 12, "{:?}", found.labels);
}
