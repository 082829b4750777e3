//! Images small enough to be stored by the thousand, that have parts in common.

use std::time::Duration;

use bytes::Bytes;
use cas_core::content::{ContentExt, Durability};
use cas_core::lease::{BlobRef, LeaseGuard};
use cas_core::{Descriptor, Digest, Document, Image, Manifest, MediaType, Result, Store, dispatch};

/// Longer than any law; a lease of it has expired a day later.
pub const JOB: Duration = Duration::from_secs(3600);

/// A blob, and what it lists.
pub(crate) type Part = (Descriptor, Bytes, Vec<Digest>);

/// The blobs of an image, each after what it lists.
pub struct Sample {
    parts: Vec<Part>,
}

impl Sample {
    /// Image number `number`: a layer that all have, a layer and a configuration of its own, and
    /// a manifest.
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
        let manifest = serde_json::to_vec(&manifest).expect("a manifest serialises");
        let (manifest, manifest_data) = blob(MediaType::OCI_MANIFEST, manifest);
        let parts = vec![
            (base, base_data, Vec::new()),
            (layer, layer_data, Vec::new()),
            (config, config_data, Vec::new()),
            (manifest, manifest_data, children),
        ];
        Sample { parts }
    }

    /// Its manifest.
    ///
    /// # Panics
    /// Never: it has parts.
    pub fn root(&self) -> Descriptor {
        self.parts.last().expect("it has parts").0.clone()
    }

    /// Its blobs, in the order of [`Sample::digests`].
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// All its digests: base, layer, configuration, manifest.
    pub fn digests(&self) -> Vec<Digest> {
        self.parts.iter().map(|(part, ..)| part.digest).collect()
    }

    /// Stores what is not there, as an import does, held by `guard`.
    ///
    /// # Errors
    /// `Busy` while another stores one of its parts; those of the store.
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

    /// Imports it under a name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn import(&self, store: &Store, name: &str) -> Result<()> {
        let guard = LeaseGuard::begin_for(store, "import", JOB).await?;
        self.store(store, &guard).await?;
        let image = Image::new(name.parse()?, self.root());
        guard.name(vec![image], &["target"]).await.map(|_| ())
    }
}

/// Gives what `from` stands for the name `to`.
///
/// # Errors
/// `NotFound` where `from` is not there, or what it stood for was collected.
pub async fn tag(store: &Store, from: &str, to: &str) -> Result<()> {
    let image = store.images.get(&from.parse()?).await?;
    let image = image.ok_or_else(|| cas_core::Error::not_found("no such image").subject(from))?;
    let guard = LeaseGuard::begin_for(store, "tag", JOB).await?;
    guard.pin_tree(&image.target).await?;
    let image = Image::new(to.parse()?, image.target);
    guard.name(vec![image], &["target"]).await.map(|_| ())
}

/// Checks that all that an image lists is there, byte for byte.
///
/// # Errors
/// `NotFound` or `Corrupt`, naming what is not.
pub async fn whole(store: &Store, root: &Descriptor) -> Result<()> {
    let document = dispatch::document(&*store.content, root).await?;
    if let Document::Manifest(manifest) = document {
        for child in std::iter::once(&manifest.config).chain(&manifest.layers) {
            store.content.fetch(child).await?;
        }
    }
    Ok(())
}
