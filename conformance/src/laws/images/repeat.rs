//! Laws of [`cas_core::ImageStoreExt`], whose changes a job can repeat.

use std::sync::Arc;

use cas_core::image::Reference;
use cas_core::{ErrorKind, ImageStore, ImageStoreExt, Result};

use super::Subject;
use crate::material::{image, kind, target};

/// Number of callers that change one name concurrently.
const CALLERS: usize = 8;

fn name() -> Reference {
    "a".parse().expect("a name")
}

/// Runs `call` with a store and a number, in several concurrent tasks. Returns the results.
async fn at_once<T, F>(
    images: &Arc<dyn ImageStore>,
    call: fn(Arc<dyn ImageStore>, usize) -> F,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..CALLERS)
        .map(|number| tokio::spawn(call(Arc::clone(images), number)))
        .collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("each task must end without a panic"));
    }
    results
}

pub(super) async fn an_image_can_be_put_again(subject: Subject) {
    let images = subject.open().await;
    let mut given = image("a", "one");
    given.labels.insert("empty".to_owned(), String::new());
    given.labels.insert("k".to_owned(), "v".to_owned());
    let made = images.put(given.clone()).await.unwrap();
    assert_eq!(made.target, target("one"));
    assert_eq!(made.labels.len(), 1, "{:?}", made.labels);
    assert_eq!(
        images.put(given).await.unwrap(),
        made,
        "putting an image again must change nothing"
    );
    let put = images.put(image("a", "two")).await.unwrap();
    assert_eq!(
        (&put.target, put.created_at),
        (&target("two"), made.created_at)
    );
    assert!(
        put.labels.is_empty(),
        "expected no labels, found {:?}",
        put.labels
    );
    assert_eq!(images.get(&name()).await.unwrap(), Some(put));
    let mut empty = image("a", "one");
    empty.target.size = 0;
    let refused = images.put(empty).await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
}

pub(super) async fn a_name_is_put_once_and_never_moved(subject: Subject) {
    let images = subject.open().await;
    let made = images.put_new(image("a", "one")).await.unwrap();
    assert_eq!(images.put_new(image("a", "one")).await.unwrap(), made);
    let mut labelled = image("a", "one");
    labelled.labels.insert("k".to_owned(), "v".to_owned());
    for other in [image("a", "two"), labelled] {
        let refused = images.put_new(other).await;
        assert_eq!(kind(refused), Some(ErrorKind::AlreadyExists));
        assert_eq!(images.get(&name()).await.unwrap().as_ref(), Some(&made));
    }
    images.remove(&name()).await.unwrap();
    let made = images.put_new(image("a", "two")).await.unwrap();
    assert_eq!(made.target, target("two"));
}

pub(super) async fn a_name_can_be_removed_again(subject: Subject) {
    let images = subject.open().await;
    assert!(!images.remove(&name()).await.unwrap());
    images.put(image("a", "one")).await.unwrap();
    images.put(image("b", "one")).await.unwrap();
    assert!(images.remove(&name()).await.unwrap());
    assert!(!images.remove(&name()).await.unwrap());
    assert_eq!(images.list(&[]).await.unwrap().len(), 1);
}

pub(super) async fn a_replacement_asks_for_the_target(subject: Subject) {
    let images = subject.open().await;
    let absent = images.replace(&target("one"), image("a", "two")).await;
    assert_eq!(kind(absent), Some(ErrorKind::NotFound));
    let made = images.put(image("a", "one")).await.unwrap();
    let other = images.replace(&target("three"), image("a", "two")).await;
    assert_eq!(kind(other), Some(ErrorKind::Conflict));
    assert_eq!(images.get(&name()).await.unwrap(), Some(made.clone()));
    let replaced = images.replace(&target("one"), image("a", "two")).await;
    let replaced = replaced.unwrap();
    assert_eq!(replaced.target, target("two"));
    assert_eq!(replaced.created_at, made.created_at);
    let again = images.replace(&target("one"), image("a", "two")).await;
    assert_eq!(
        again.unwrap(),
        replaced,
        "repeating a replacement must change nothing"
    );
    assert_eq!(images.get(&name()).await.unwrap(), Some(replaced));
}

/// Half of the callers put one name while the other half remove it.
pub(super) async fn putting_and_removing_at_once_succeed(subject: Subject) {
    let images = subject.open().await;
    let results: Vec<Result<()>> = at_once(&images, |images, number| async move {
        for _ in 0..10 {
            if number % 2 == 0 {
                images.put(image("a", &number.to_string())).await?;
            } else {
                images.remove(&name()).await?;
            }
        }
        Ok(())
    })
    .await;
    for result in results {
        result.expect("every call must succeed");
    }
}

/// All callers expect the same target, and each sets a different new target.
pub(super) async fn one_of_many_replacements_wins(subject: Subject) {
    let images = subject.open().await;
    images.put(image("a", "old")).await.unwrap();
    let results = at_once(&images, |images, number| async move {
        let new = image("a", &number.to_string());
        images.replace(&target("old"), new).await
    })
    .await;
    let mut winners = Vec::new();
    for result in results {
        match result {
            Ok(won) => winners.push(won),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
        }
    }
    assert_eq!(winners.len(), 1, "exactly one replacement must win");
    assert_eq!(images.get(&name()).await.unwrap().as_ref(), winners.first());
}
