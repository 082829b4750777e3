//! A program that registers this store in addition to the stores of the facade `cas`.

use std::path::Path;
use std::sync::Arc;

use backend_sqlite::SqliteOpener;
use cas::layer::export::{self, Target};
use cas::layer::import::{self, Source};
use cas::progress::{Progress, Silent};
use cas::{Cas, Options, Result};
use conformance::sample::{Sample, verify};

/// Opens a root that keeps its images in `store`.
async fn open(root: &Path, store: &str) -> Result<Cas> {
    let options = Options {
        store: Some(store.to_owned()),
        registry: Some(cas::registry().with(SqliteOpener)),
        ..Options::default()
    };
    Cas::open_with(root, options).await
}

#[tokio::test]
async fn an_image_passes_through_the_store_alone_and_composed() -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let archive = scratch.path().join("app.tar");
    let quiet: Arc<dyn Progress> = Arc::new(Silent);

    let cas = open(&scratch.path().join("one"), "sqlite").await?;
    Sample::of(1).import(cas.store(), "app:1").await?;
    let target = Target::Path(archive.clone());
    cas.export(&["app:1"], target, &export::Options::default(), &quiet)
        .await?;
    drop(cas);

    let other = scratch.path().join("other");
    let cas = open(&other, "by-size://?small=sqlite&large=fs").await?;
    let source = Source::Path(archive);
    let images = cas
        .import(source, &import::Options::default(), &quiet)
        .await?;
    verify(cas.store(), &images[0].target).await?;
    assert_eq!(
        cas.collect(false).await?.blobs.len(),
        0,
        "a named image is kept"
    );
    Ok(())
}
