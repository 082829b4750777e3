//! Laws of `find`, of lists, and of containerd's filters.

use cas_core::{ErrorKind, ImageStore};

use super::Subject;
use crate::material::{image, kind, target};

/// Returns the names that `find` returns for the first digits of the digest of `target(text)`.
async fn found(images: &dyn ImageStore, text: &str) -> Vec<String> {
    let prefix = target(text).digest.to_string();
    let found = images
        .find(&prefix[..19].parse().unwrap())
        .await
        .expect("find must succeed");
    assert!(
        found
            .iter()
            .all(|image| image.target.digest == target(text).digest)
    );
    found
        .into_iter()
        .map(|image| image.name.to_string())
        .collect()
}

/// Creates, updates, replaces and deletes names.
pub(super) async fn images_are_found_by_their_targets(subject: Subject) {
    let images = subject.open().await;
    assert_eq!(found(&*images, "one").await, [""; 0]);
    for (name, text) in [
        ("b:1", "one"),
        ("a:1", "one"),
        ("c:1", "two"),
        ("d:1", "one"),
    ] {
        images.create(image(name, text)).await.unwrap();
    }
    assert_eq!(found(&*images, "one").await, ["a:1", "b:1", "d:1"]);
    let whole = target("two").digest.hex();
    let named = images.find(&whole.parse().unwrap()).await.unwrap();
    assert_eq!(named, images.list(&["name==c:1"]).await.unwrap());
    images
        .update(image("a:1", "two"), &["target"])
        .await
        .unwrap();
    let (one, swapped) = (target("one"), image("b:1", "three"));
    images.compare_and_swap(&one, swapped).await.unwrap();
    images
        .update(image("c:1", "two"), &["labels"])
        .await
        .unwrap();
    images
        .delete(&image("d:1", "one").name, None)
        .await
        .unwrap();
    assert_eq!(found(&*images, "one").await, [""; 0]);
    assert_eq!(found(&*images, "two").await, ["a:1", "c:1"]);
    assert_eq!(found(&*images, "three").await, ["b:1"]);
    let seen = images.list(&["name==a:1", "name==b:1"]).await.unwrap();
    images.delete_unchanged(&seen).await.unwrap();
    images.create(image("a:1", "one")).await.unwrap();
    assert_eq!(found(&*images, "one").await, ["a:1"]);
    assert_eq!(found(&*images, "two").await, ["c:1"]);
    let any = images.find(&"sha512:a".parse().unwrap()).await.unwrap();
    assert_eq!(any, []);
}

async fn fill(images: &dyn ImageStore) {
    for (name, label) in [("web:2", "front"), ("db:1", "back"), ("web:1", "front")] {
        let mut given = image(name, name);
        given
            .labels
            .insert("x.io/tier".to_owned(), label.to_owned());
        images.create(given).await.unwrap();
    }
    images.create(image("plain", "plain")).await.unwrap();
}

async fn names(images: &dyn ImageStore, filters: &[&str]) -> Vec<String> {
    let found = images.list(filters).await.expect("list must succeed");
    found
        .into_iter()
        .map(|image| image.name.to_string())
        .collect()
}

pub(super) async fn images_are_listed_by_name(subject: Subject) {
    let images = subject.open().await;
    assert_eq!(names(&*images, &[]).await, [""; 0]);
    fill(&*images).await;
    assert_eq!(
        names(&*images, &[]).await,
        ["db:1", "plain", "web:1", "web:2"]
    );
}

/// A comma means "and". Several filters mean "or". Names, targets and labels are fields.
pub(super) async fn filters_choose_images(subject: Subject) {
    let images = subject.open().await;
    fill(&*images).await;
    let digest = format!("target.digest=={}", target("db:1").digest);
    let cases: [(&[&str], &[&str]); 9] = [
        (&["name==web:1"], &["web:1"]),
        (&["name~=/^web/"], &["web:1", "web:2"]),
        (&["labels.\"x.io/tier\"==front,name!=web:2"], &["web:1"]),
        (
            &["labels.\"x.io/tier\"==back", "name==plain"],
            &["db:1", "plain"],
        ),
        (&["labels.\"x.io/tier\""], &["db:1", "web:1", "web:2"]),
        (&[&digest], &["db:1"]),
        (
            &["target.mediatype~=/manifest/"],
            &["db:1", "plain", "web:1", "web:2"],
        ),
        (&["name==none"], &[]),
        (&["name==web"], &[]),
    ];
    for (filters, expected) in cases {
        assert_eq!(names(&*images, filters).await, expected, "{filters:?}");
    }
}

pub(super) async fn bad_filters_are_refused(subject: Subject) {
    let images = subject.open().await;
    fill(&*images).await;
    for bad in ["name=", "name==\"open", ",", "name~=/(/", "a b"] {
        let outcome = images.list(&["name==web:1", bad]).await;
        assert_eq!(kind(outcome), Some(ErrorKind::InvalidArgument), "{bad:?}");
    }
}
