//! The policies that decide when a pull queries the registry.

use bytes::Bytes;
use cas::image::ImageStoreExt;
use cas::{
    Cas, ContentExt, Descriptor, ErrorKind, Image, MediaType, Platforms, Policy, PullOptions,
    Result, StoredImage,
};
use serde_json::json;

use crate::registry::fake::Fake;
use crate::registry::sample::Sample;

async fn pull(cas: &Cas, registry: &Fake, policy: Policy) -> Result<StoredImage> {
    for platforms in [Platforms::All, Platforms::Host] {
        let options = PullOptions::default()
            .with_policy(policy)
            .with_platforms(platforms);
        cas.pull_with(registry.image(), options).await?;
    }
    let options = PullOptions::default().with_policy(policy);
    cas.pull_with(registry.image(), options).await
}

#[tokio::test]
async fn a_pull_asks_always_or_for_what_is_missing_or_never() {
    let sample = Sample::new(&[1000, 2000]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir().unwrap();
    let cas = Cas::open(scratch.path().join("root")).await.unwrap();

    let error = pull(&cas, &registry, Policy::Never).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("never"), "{error}");
    assert_eq!(registry.seen().len(), 0);

    pull(&cas, &registry, Policy::Missing).await.unwrap();
    let asked = registry.seen().len();
    assert!(asked >= 5, "{asked}");
    let found = pull(&cas, &registry, Policy::Missing).await.unwrap();
    assert_eq!(found.image.target.digest, sample.root.digest);
    let found = pull(&cas, &registry, Policy::Never).await.unwrap();
    assert_eq!(found.image.target.digest, sample.root.digest);
    assert_eq!(registry.seen().len(), asked);

    pull(&cas, &registry, Policy::Always).await.unwrap();
    assert_eq!(registry.count("HEAD", "/manifests/1"), 4);

    let lost = &sample.layers[0].digest;
    assert!(cas.store().content.remove(lost).await.unwrap());
    let error = pull(&cas, &registry, Policy::Never).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    pull(&cas, &registry, Policy::Missing).await.unwrap();
    assert!(cas.store().content.stat(lost).await.unwrap().is_some());
}

/// An import and a pull leave such an index out, but another program can store it.
#[tokio::test]
async fn an_image_with_an_index_that_cannot_be_verified_is_not_whole() {
    let sample = Sample::new(&[1000]);
    let good = sample.clone();
    let registry = Fake::start(move |request| good.answer(request));
    let scratch = tempfile::tempdir().unwrap();
    let cas = Cas::open(scratch.path().join("root")).await.unwrap();
    let image = cas.pull(registry.image()).await.unwrap();
    let put = async |text: String| {
        let index = Descriptor::of(MediaType::OCI_INDEX, text.as_bytes());
        cas.store().content.put(Bytes::from(text)).await.unwrap();
        index
    };
    let entries = json!([{"digest": "sha384:00", "size": 2}]);
    let nested = put(json!({"schemaVersion": 2, "manifests": entries}).to_string()).await;
    let entries = json!([sample.root, nested]);
    let index = put(json!({"schemaVersion": 2, "manifests": entries}).to_string()).await;
    for (target, platforms) in [
        (&index, Platforms::All),
        (&nested, Platforms::All),
        (&nested, Platforms::Host),
    ] {
        let image = Image::new(image.name.clone(), target.clone());
        cas.store().images.put(image).await.unwrap();
        let pull = async |policy| {
            let options = PullOptions::default()
                .with_policy(policy)
                .with_platforms(platforms.clone());
            cas.pull_with(registry.image(), options).await
        };
        let error = pull(Policy::Never).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let pulled = pull(Policy::Missing).await.unwrap();
        assert_eq!(pulled.image.target.digest, sample.root.digest);
    }
}
