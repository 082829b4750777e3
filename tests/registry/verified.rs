//! Content for callers without a store: it is verified while it is read.

use bytes::Bytes;
use cas::{Descriptor, ErrorKind, MediaType, limit};
use futures_util::StreamExt;

use super::fake::{Answer, Fake};
use super::sample::Sample;
use super::{client, quick};

/// Size in bytes of a blob that arrives in more than one piece.
const SIZE: usize = 700_000;

/// Returns the pieces of the layer of a registry that changes it, and the kind of the last error.
async fn read(change: fn(Answer) -> Answer) -> (Vec<Bytes>, Option<ErrorKind>) {
    let sample = Sample::new(&[SIZE]);
    let good = sample.clone();
    let registry = Fake::start(move |request| match request.path.contains("/blobs/") {
        true => change(good.answer(request)),
        false => good.answer(request),
    });
    let client = client(&registry, quick()).await;
    let mut pieces = client.blob(&sample.layers[0]).await.unwrap();
    let (mut read, mut kind) = (Vec::new(), None);
    while let Some(piece) = pieces.next().await {
        // An error is the last piece.
        assert_eq!(kind, None);
        match piece {
            Ok(piece) => read.push(piece),
            Err(error) => kind = Some(error.kind()),
        }
    }
    (read, kind)
}

#[tokio::test]
async fn a_blob_ends_with_an_error_unless_it_is_the_right_one() {
    let (pieces, kind) = read(|good| good).await;
    assert!(pieces.len() > 1);
    assert_eq!(kind, None);
    let sample = Sample::new(&[SIZE]);
    assert!(pieces.concat() == sample.data(&sample.layers[0]));
    type Change = fn(Answer) -> Answer;
    let changes: [(&str, Change); 5] = [
        ("a flipped bit", |good| {
            good.edit(|body| body[SIZE - 1] ^= 1)
        }),
        ("too short", |good| {
            good.edit(|body| body.truncate(SIZE - 1))
        }),
        ("nothing", |good| good.body(&[])),
        ("too long", |good| good.edit(|body| body.push(7))),
        ("endless", |good| good.endless()),
    ];
    for (what, change) in changes {
        let (pieces, kind) = read(change).await;
        assert_eq!(kind, Some(ErrorKind::Corrupt), "{what}");
        let length: usize = pieces.iter().map(Bytes::len).sum();
        assert!(length <= SIZE, "{what}: {length}");
    }
}

#[tokio::test]
async fn a_document_is_right_or_an_error_and_has_a_bound() {
    let sample = Sample::new(&[10]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let there = client(&registry, quick()).await;
    let document = there.document(&sample.root).await.unwrap();
    assert!(document == sample.data(&sample.root));
    let large = Descriptor {
        size: limit::DOCUMENT_READ + 1,
        ..sample.root.clone()
    };
    let error = there.document(&large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    let asked = registry.seen().len();
    assert_eq!(asked, 1, "a document beyond the bound is not asked for");
    let wrong = Fake::start(|_| Answer::new(200).body(b"{}"));
    let there = client(&wrong, quick()).await;
    let expected = Descriptor::of(MediaType::OCI_MANIFEST, b"[]");
    let error = there.document(&expected).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.to_string().contains(&expected.digest.to_string()),
        "{error}"
    );
}
