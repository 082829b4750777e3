//! A program that registers this store in addition to the stores of the facade `cas`.

use std::path::Path;

use backend_sqlite::SqliteOpener;
use cas::{Cas, OpenOptions, Result};
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
