//! A store to collect: manifests of a hundred blobs each, and names for some of them.

use anyhow::Result;
use cas::content::{Durability, Expected, Writer};
use cas::image::Image;
use cas::records::{Batch, BlobRecord, Blobs, Expect};
use cas::{Descriptor, Digest, MediaType, Store};

/// Blobs in all, the manifests among them.
pub(super) const BLOBS: u32 = 100_000;
/// Blobs of one image, its manifest among them.
const IMAGE: u32 = 100;

/// Fills the store; of every two images as many as `named` says get a name.
pub(super) async fn fill(store: &Store, named: u32) -> Result<()> {
    let images = (0..BLOBS / IMAGE).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { image(&store, number, number % 2 < named).await })
    });
    for image in images.collect::<Vec<_>>() {
        image.await??;
    }
    store.content.flush().await?;
    Ok(())
}

async fn image(store: &Store, number: u32, named: bool) -> Result<()> {
    let mut children = Vec::new();
    for child in 1..IMAGE {
        let data = data(number, child);
        children.push(put(store, &data, MediaType::OCI_LAYER, Vec::new()).await?);
    }
    let data = data(number, 0);
    let target = put(store, &data, MediaType::OCI_MANIFEST, children).await?;
    if named {
        let name = format!("example.org/image:{number}").parse()?;
        let target = Descriptor::new(MediaType::OCI_MANIFEST, target, data.len() as u64);
        store.images.create(Image::new(name, target)).await?;
    }
    Ok(())
}

/// About a hundred bytes, as short documents have.
fn data(image: u32, child: u32) -> Vec<u8> {
    format!("{image} {child} ").repeat(10).into_bytes()
}

/// Stores one blob with its record.
pub(super) async fn put(
    store: &Store,
    data: &[u8],
    media_type: MediaType,
    children: Vec<Digest>,
) -> Result<Digest> {
    let digest = Digest::sha256(data);
    let expected = Expected::exactly(digest, data.len() as u64);
    let mut writer = Writer::begin(&*store.content, &digest.to_string(), expected).await?;
    writer.write(data.to_vec().into()).await?;
    let mut record = BlobRecord::new(data.len() as u64, Some(media_type));
    record.children = children;
    let mut batch = Batch::new();
    Blobs::put(&mut batch, &digest, &record, Expect::Absent)?;
    if !writer.commit(&batch, Durability::Relaxed).await?.batch {
        store.records.commit(&batch).await?;
    }
    Ok(digest)
}
