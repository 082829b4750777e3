//! A program that uses this store and this snapshotter through the facade `cas`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use backend_sqlite::{CopiesOpener, SqliteOpener};
use cas::content::Durability;
use cas::{Cas, Descriptor, Engines, GcOptions, Image, MediaType, OpenOptions, Registry, Result};
use conformance::sample::{Sample, verify};

/// Opens a root that keeps its images in `store`.
async fn open(root: &Path, store: &str) -> Result<Cas> {
    let options = OpenOptions::default()
        .with_store(store)
        .with_registry(cas::registry().with(SqliteOpener));
    Cas::open_with(root, options).await
}

#[tokio::test]
async fn an_image_passes_through_the_store_alone_and_composed() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let archive = scratch.path().join("app.tar");

    let cas = open(&scratch.path().join("one"), "sqlite").await?;
    Sample::of(1).import(cas.store(), "app:1").await?;
    cas.export(["app:1"], &archive).await?;
    cas.close().await?;

    let other = scratch.path().join("other");
    let cas = open(&other, "by-size://?small=sqlite&large=fs").await?;
    let images = cas.import(&archive).await?;
    verify(cas.store(), &images[0].target).await?;
    assert_eq!(cas.gc().await?.blobs.len(), 0, "a named image is kept");
    Ok(())
}

#[tokio::test]
async fn a_root_of_this_store_and_this_snapshotter_has_its_snapshots_collected() -> Result<()> {
    let registry = || {
        Registry::new()
            .with(SqliteOpener)
            .with_snapshotter(CopiesOpener)
    };
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("root");
    let mut engines = Engines::default();
    engines.store = "sqlite".to_owned();
    let (engines, _) = Cas::init_with(&root, engines, &registry())?;
    assert_eq!(engines.snapshotter, "copies");

    let options = OpenOptions::default().with_registry(registry());
    let cas = Cas::open_with(&root, options).await?;
    let image = store_image(&cas).await?;
    cas.snapshot(&image).await?;
    assert!(cas.gc().await?.is_empty(), "the image keeps its snapshot");

    cas.remove(&image).await?;
    let later = SystemTime::now() + Duration::from_secs(2 * 24 * 60 * 60);
    let removed = cas.gc_with(GcOptions::default().with_now(later)).await?;
    assert_eq!((removed.blobs.len(), removed.snapshots.len()), (3, 1));
    assert!(cas.snapshotter()?.walk(None, 1).await?.is_empty());
    Ok(())
}

/// Stores an image whose only layer is an empty archive.
async fn store_image(cas: &Cas) -> Result<Image> {
    let listed = |one: &Descriptor| {
        let (media_type, digest, size) = (&one.media_type, one.digest, one.size);
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    };
    let layer = vec![0; 1024];
    let first = Descriptor::of(MediaType::OCI_LAYER, &layer);
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64",
            "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        first.digest
    );
    let second = Descriptor::of(MediaType::OCI_CONFIG, config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        listed(&second),
        listed(&first)
    );
    let root = Descriptor::of(MediaType::OCI_MANIFEST, manifest.as_bytes());
    let blobs = [
        (first, layer),
        (second, config.into()),
        (root.clone(), manifest.into()),
    ];
    for (descriptor, data) in blobs {
        let stored = cas.store().put(&descriptor, data.into(), Durability::Full);
        stored.await?;
    }
    let image = Image::new("app:1".parse()?, root);
    cas.store().images.create(image).await
}
