//! Small sample images that share a layer.

use std::time::Duration;

use bytes::Bytes;
use cas_core::content::{ContentExt, Durability};
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::{Descriptor, Digest, Document, Image, Manifest, MediaType, Result, Store, dispatch};

/// The duration of each job's lease in laws and tests. The lease is longer than any law runs, and
/// shorter than a day.
pub const JOB_LEASE: Duration = Duration::from_secs(3600);

/// A blob, and the digests that it lists.
pub(crate) type Part = (Descriptor, Bytes, Vec<Digest>);

/// A sample image.
pub struct Sample {
    parts: Vec<Part>,
}

impl Sample {
    /// Returns the sample image with this number: a layer that all samples share, a layer and a
    /// configuration of its own, and a manifest.
    pub fn of(number: u64) -> Self {
        let blob = |media_type: MediaType, data: Vec<u8>| {
            (Descriptor::of(media_type, &data), Bytes::from(data))
        };
        let (base, base_data) = blob(MediaType::OCI_LAYER, b"base".to_vec());
        let (layer, layer_data) = blob(MediaType::OCI_LAYER, format!("{number}").into_bytes());
        let config = format!(r#"{{"os":"linux","architecture":"amd64","number":{number}}}"#);
        let (config, config_data) = blob(MediaType::OCI_CONFIG, config.into_bytes());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: None,
            config: config.clone(),
            layers: vec![base.clone(), layer.clone()],
            subject: None,
            annotations: None,
        };
        let children = vec![config.digest, base.digest, layer.digest];
        let manifest = serde_json::to_vec(&manifest).expect("a manifest serializes");
        let (manifest, manifest_data) = blob(MediaType::OCI_MANIFEST, manifest);
        let parts = vec![
            (base, base_data, Vec::new()),
            (layer, layer_data, Vec::new()),
            (config, config_data, Vec::new()),
            (manifest, manifest_data, children),
        ];
        Sample { parts }
    }

    /// Returns the descriptor of the manifest.
    ///
    /// # Panics
    /// Does not panic, because each sample has a manifest.
    pub fn root(&self) -> Descriptor {
        self.parts.last().expect("it has parts").0.clone()
    }

    /// Returns the blobs of the image, in the order of [`Sample::digests`].
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Returns the digests of the shared layer, the image's other layer, the configuration and the
    /// manifest.
    pub fn digests(&self) -> Vec<Digest> {
        self.parts.iter().map(|(part, ..)| part.digest).collect()
    }

    /// Pins the blobs of the image with `guard`, and stores the missing blobs. Records the children
    /// of the manifest.
    ///
    /// # Errors
    /// `Busy` while another task stores a blob of the image; errors of [`LeaseGuard::pin`] and
    /// [`LeaseGuard::publish`], such as `Conflict` if a blob was collected meanwhile.
    pub async fn store(&self, store: &Store, guard: &LeaseGuard) -> Result<()> {
        for (descriptor, data, children) in &self.parts {
            let wanted = BlobRef::of(descriptor, children.clone());
            if guard.pin(wanted.clone()).await? {
                continue;
            }
            let mut writer = store.writer(descriptor).await?;
            if writer.offset() > 0 {
                writer.rewind().await?;
            }
            writer.write(data.clone()).await?;
            guard.publish(writer, &wanted, Durability::Full).await?;
        }
        Ok(())
    }

    /// Imports the image under a name. If the name exists, changes its target to this image.
    ///
    /// # Errors
    /// `InvalidArgument` for an invalid name; errors of [`Sample::store`] and [`LeaseGuard::name`].
    pub async fn import(&self, store: &Store, name: &str) -> Result<()> {
        let guard = LeaseGuard::begin_for(store, "import", JOB_LEASE).await?;
        self.store(store, &guard).await?;
        let image = Image::new(name.parse()?, self.root());
        guard.name(vec![image], &["target"]).await.map(|_| ())
    }
}

/// Creates the name `to` for the image with the name `from`. If `to` exists, changes its target to
/// this image.
///
/// # Errors
/// `InvalidArgument` for an invalid name; `NotFound` if `from` does not exist; errors of
/// [`LeaseGuard::pin_tree`], such as `NotFound` if a blob of the image was collected; errors of
/// [`LeaseGuard::name`].
pub async fn tag(store: &Store, from: &str, to: &str) -> Result<()> {
    let image = store.images.get(&from.parse()?).await?;
    let image = image
        .ok_or_else(|| cas_core::Error::not_found("no such image; check the name").subject(from))?;
    let guard = LeaseGuard::begin_for(store, "tag", JOB_LEASE).await?;
    guard.pin_tree(&image.target).await?;
    let image = Image::new(to.parse()?, image.target);
    guard.name(vec![image], &["target"]).await.map(|_| ())
}

/// Checks that the manifest `root` and all blobs that it lists exist and have the right bytes. If
/// `root` is an index, checks only the index, not the manifests that it lists.
///
/// # Errors
/// `NotFound` if a blob is missing; `Corrupt` if a blob is damaged, or if `root` does not parse;
/// `OutOfRange` if a descriptor states more than
/// [`DOCUMENT_READ`](cas_core::limit::DOCUMENT_READ) bytes; `Unsupported` if `root` is neither a
/// manifest nor an index; errors of the store. The subject of the error is the digest of the blob.
pub async fn verify(store: &Store, root: &Descriptor) -> Result<()> {
    let document = dispatch::document(&*store.content, root).await?;
    if let Document::Manifest(manifest) = document {
        for child in std::iter::once(&manifest.config).chain(&manifest.layers) {
            store.content.fetch(child).await?;
        }
    }
    Ok(())
}
