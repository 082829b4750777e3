//! A store, images, and what must hold of them in the end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cas_core::collect::{Guard, Options, Wanted};
use cas_core::content::{ContentExt, Durability};
use cas_core::image::RecordImages;
use cas_core::strict::StrictStore;
use cas_core::{Descriptor, Digest, Document, Image, Manifest, MediaType, Result, Store, dispatch};

/// Longer than any run; a lease of it has expired a day later.
pub(crate) const JOB: Duration = Duration::from_secs(3600);

/// One store and what was promised of it.
pub(crate) struct World {
    pub(crate) store: Store,
    /// Names that were acknowledged, and not asked to be removed by anybody.
    pub(crate) promised: Arc<Mutex<BTreeSet<String>>>,
}

/// The blobs of an image, each after what it lists.
pub(crate) struct Parts(pub(crate) Vec<(Descriptor, Bytes, Vec<Digest>)>);

impl Parts {
    /// Image number `number`; all have their layer in common.
    pub(crate) fn of(number: u8) -> Self {
        let blob = |media_type: MediaType, data: Vec<u8>| {
            (Descriptor::of(media_type, &data), Bytes::from(data))
        };
        let (layer, layer_data) = blob(MediaType::OCI_LAYER, b"layer".to_vec());
        let config = format!(r#"{{"os":"linux","architecture":"amd64","number":{number}}}"#);
        let (config, config_data) = blob(MediaType::OCI_CONFIG, config.into_bytes());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::OCI_MANIFEST),
            artifact_type: None,
            config: config.clone(),
            layers: vec![layer.clone()],
            subject: None,
            annotations: None,
        };
        let children = vec![config.digest, layer.digest];
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let (manifest, manifest_data) = blob(MediaType::OCI_MANIFEST, manifest);
        Parts(vec![
            (layer, layer_data, Vec::new()),
            (config, config_data, Vec::new()),
            (manifest, manifest_data, children),
        ])
    }

    pub(crate) fn root(&self) -> Descriptor {
        self.0.last().unwrap().0.clone()
    }
}

/// What a pull or an import does.
pub(crate) async fn store_image(store: &Store, number: u8, name: &str) -> Result<()> {
    let parts = Parts::of(number);
    let guard = Guard::begin_for(store, "import", JOB).await?;
    for (descriptor, data, children) in &parts.0 {
        let wanted = Wanted::described(descriptor, children.clone());
        if guard.hold(wanted.clone()).await? {
            continue;
        }
        let mut writer = store.writer(descriptor).await?;
        if writer.offset() > 0 {
            writer.rewind().await?;
        }
        writer.write(data.clone()).await?;
        guard.publish(writer, &wanted, Durability::Full).await?;
    }
    let image = Image::new(name.parse()?, parts.root());
    guard.name(vec![image], &["target"]).await.map(|_| ())
}

impl World {
    /// A store with image 0 under these names, or without any, held by nothing.
    pub(crate) async fn new(names: &[&str]) -> Self {
        let strict = Arc::new(StrictStore::new());
        let store = Store {
            content: strict.clone(),
            records: strict.clone(),
            images: Arc::new(RecordImages::new(strict)),
        };
        for name in names.iter().chain(names.is_empty().then_some(&"gone")) {
            store_image(&store, 0, name).await.unwrap();
        }
        if names.is_empty() {
            store
                .images
                .delete(&"gone".parse().unwrap(), None)
                .await
                .unwrap();
        }
        World {
            store,
            promised: Arc::default(),
        }
    }

    /// Checks the promises, now and once more after a collection at a time when all leases have
    /// expired; what is wrong.
    pub(crate) async fn judge(&self) -> Option<String> {
        if let Some(wrong) = self.look().await {
            return Some(wrong);
        }
        let later = Options {
            now: SystemTime::now() + Duration::from_secs(3 * 86_400),
            ..Options::default()
        };
        cas_core::collect::collect(&self.store, &[], &later)
            .await
            .unwrap();
        self.look()
            .await
            .map(|wrong| format!("{wrong}, after another collection"))
    }

    async fn look(&self) -> Option<String> {
        let images = self.store.images.list(&[]).await.unwrap();
        for name in self.promised.lock().unwrap().iter() {
            if !images.iter().any(|image| image.name.as_str() == name) {
                return Some(format!("the name {name} is lost"));
            }
        }
        for image in images {
            if let Err(error) = whole(&self.store, &image.target).await {
                return Some(format!("{} is not whole: {error}", image.name));
            }
        }
        None
    }
}

async fn whole(store: &Store, root: &Descriptor) -> Result<()> {
    let document = dispatch::document(&*store.content, root).await?;
    let Document::Manifest(manifest) = document else {
        return Ok(());
    };
    for child in std::iter::once(&manifest.config).chain(&manifest.layers) {
        store.content.fetch(child).await?;
    }
    Ok(())
}
