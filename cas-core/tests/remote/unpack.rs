//! Pulls with an unpacker: what the unpacker receives, and what the pull stores.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;

use async_trait::async_trait;
use cas_core::gc::{GcOptions, collect};
use cas_core::image::check;
use cas_core::platform::{All, Platforms};
use cas_core::transfer::{LayerFeed, PushOptions, Unpacker, Want, layer_channel, push};
use cas_core::{
    ContentExt, Descriptor, Digest, Error, ErrorKind, Manifest, MediaType, Platform, Result, Store,
    pool,
};

use super::fake::{FakeRemote, of, pulled};
use crate::support::wrapped::{Flaw, Wrapped};
use crate::support::{config, index, manifest, parts, put, store};

/// Gives the same answer for each layer, and keeps what it is fed.
struct TestUnpacker {
    answer: Want,
    /// The layer that the unpacker needs in the store after it has received the layer.
    needed: Option<Descriptor>,
    /// Whether it fails at the end of each layer.
    fails: bool,
    asked: Mutex<Vec<Digest>>,
    /// The layers that were fed, and the errors of those that were not fed to their end.
    fed: Mutex<BTreeMap<Digest, std::result::Result<Vec<u8>, ErrorKind>>>,
    /// The calls that are made once for each pull.
    calls: Mutex<Vec<&'static str>>,
}

impl TestUnpacker {
    fn new(answer: Want) -> Self {
        TestUnpacker {
            answer,
            needed: None,
            fails: false,
            asked: Mutex::default(),
            fed: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    fn fed(&self) -> Vec<Vec<u8>> {
        let fed = self.fed.lock().unwrap();
        fed.values().map(|fed| fed.clone().unwrap()).collect()
    }

    fn call(&self, name: &'static str) {
        self.calls.lock().unwrap().push(name);
    }
}

#[async_trait]
impl Unpacker for TestUnpacker {
    async fn begin(&self, _: &Descriptor, _: &Descriptor, _: &Manifest) -> Result<()> {
        self.call("begin");
        Ok(())
    }

    fn wants(&self, layer: &Descriptor) -> Want {
        self.asked.lock().unwrap().push(layer.digest);
        self.answer
    }

    fn receive(&self, layer: &Descriptor) -> Option<LayerFeed<'_>> {
        let (sender, mut reader) = layer_channel();
        let digest = layer.digest;
        let unpacked = Box::pin(async move {
            let work = move || {
                let mut bytes = Vec::new();
                let read = reader.read_to_end(&mut bytes);
                Ok(read.map(|_| bytes).map_err(cas_core::Error::from))
            };
            let read = pool::apart("test-unpack", work).await?;
            let fed = read.as_ref().map(Clone::clone);
            let fed = fed.map_err(cas_core::Error::kind);
            self.fed.lock().unwrap().insert(digest, fed);
            if self.fails {
                return Err(Error::corrupt("this test wants a failure"));
            }
            read.map(|_| ())
        });
        Some(LayerFeed { sender, unpacked })
    }

    fn needs(&self) -> Vec<Descriptor> {
        self.needed.clone().into_iter().collect()
    }

    async fn finish(&self) -> Result<()> {
        self.call("finish");
        Ok(())
    }

    async fn abandon(&self) {
        self.call("abandon");
    }
}

const LAYERS: [&[u8]; 2] = [b"the lower layer", b"the upper layer"];

/// Puts an image of two layers for this machine.
async fn made(store: &Store) -> Descriptor {
    let mut layers = Vec::new();
    for data in LAYERS {
        layers.push(put(store, MediaType::OCI_LAYER, data).await);
    }
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let config = config(store, &Platform::host().to_string(), &diff_ids).await;
    manifest(store, config, &layers).await
}

async fn pulled_by(to: &Store, remote: &FakeRemote, unpacker: &TestUnpacker) -> Result<Descriptor> {
    pulled(to, remote, &of(Platforms::Host).with_unpacker(unpacker)).await
}

/// Returns the layers that the record of a manifest lists as absent.
async fn absent(store: &Store, manifest: &Descriptor) -> Vec<Digest> {
    let record = store.blobs().load(&manifest.digest).await.unwrap().unwrap();
    record.0.absent.into_iter().collect()
}

async fn stored(store: &Store, layers: &[Descriptor]) -> usize {
    let mut stored = 0;
    for layer in layers {
        stored += usize::from(store.present(layer).await.unwrap());
    }
    stored
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

#[tokio::test]
async fn each_answer_is_obeyed_and_a_later_pull_completes_the_image() {
    for answer in [Want::Store, Want::StoreAndFeed, Want::Feed, Want::Nothing] {
        let (from, to) = (store(), store());
        let root = made(&from).await;
        let layers = parts(&from, &root).await.split_off(1);
        let digests = sorted(layers.iter().map(|layer| layer.digest).collect());
        let remote = FakeRemote::new(&from, &root);
        let unpacker = TestUnpacker::new(answer);
        pulled_by(&to, &remote, &unpacker).await.unwrap();
        assert_eq!(sorted(unpacker.asked.lock().unwrap().clone()), digests);
        assert_eq!(*unpacker.calls.lock().unwrap(), ["begin", "finish"]);
        let fetched = if answer == Want::Nothing { 2 } else { 4 };
        assert_eq!(remote.fetches(), fetched, "{answer:?}");
        let fed: &[&[u8]] = if answer.is_fed() { &LAYERS } else { &[] };
        assert_eq!(sorted(unpacker.fed()), sorted(fed.to_vec()), "{answer:?}");

        collect(&to, &[], &GcOptions::default()).await.unwrap();
        let (left_out, there) = match answer.is_stored() {
            true => (Vec::new(), 2),
            false => (digests, 0),
        };
        assert_eq!(absent(&to, &root).await, left_out, "{answer:?}");
        assert_eq!(stored(&to, &layers).await, there, "{answer:?}");
        let found = check(&*to.content, &root, &All).await.unwrap();
        assert_eq!((found.available, found.missing.len()), (true, 2 - there));

        let unpacker = TestUnpacker::new(Want::Store);
        pulled_by(&to, &remote, &unpacker).await.unwrap();
        collect(&to, &[], &GcOptions::default()).await.unwrap();
        assert!(absent(&to, &root).await.is_empty());
        assert_eq!(stored(&to, &layers).await, 2);
    }
}

/// An index may list an artifact, such as an index of SOCI, that states no platform.
#[tokio::test]
async fn an_artifact_beside_an_image_is_not_unpacked() {
    let (from, to) = (store(), store());
    let image = made(&from).await;
    let kind = MediaType::from("application/vnd.example.artifact");
    let nothing = put(&from, kind, b"{}").await;
    let blob = put(&from, MediaType::from("application/octet-stream"), b"data").await;
    let artifact = manifest(&from, nothing, &[blob]).await;
    let root = index(&from, &[artifact, image]).await;
    let remote = FakeRemote::new(&from, &root);
    let unpacker = TestUnpacker::new(Want::Nothing);
    pulled_by(&to, &remote, &unpacker).await.unwrap();
    assert_eq!(*unpacker.calls.lock().unwrap(), ["begin", "finish"]);
    let layers = LAYERS.map(Digest::sha256).to_vec();
    assert_eq!(
        sorted(unpacker.asked.lock().unwrap().clone()),
        sorted(layers)
    );
}

#[tokio::test]
async fn a_damaged_layer_is_refused_whether_stored_or_fed() {
    for answer in [Want::Feed, Want::StoreAndFeed] {
        let (from, to) = (store(), store());
        let root = made(&from).await;
        let layer = parts(&from, &root).await.remove(1);
        let mut remote = FakeRemote::new(&from, &root);
        remote.damaged = Some(layer.digest);
        let unpacker = TestUnpacker::new(answer);
        let error = pulled_by(&to, &remote, &unpacker).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(unpacker.calls.lock().unwrap().last(), Some(&"abandon"));
        // The unpacker received an error in place of the rest of the layer.
        let fed = unpacker.fed.lock().unwrap().remove(&layer.digest);
        assert_eq!(fed, Some(Err(ErrorKind::Cancelled)));
        assert!(to.images.list(&[]).await.unwrap().is_empty());
        let ingests = to.content.ingests().await.unwrap();
        let key = layer.digest.to_string();
        assert!(ingests.iter().all(|ingest| ingest.key != key));
        collect(&to, &[], &GcOptions::default()).await.unwrap();
        assert!(to.content.list(None, 1).await.unwrap().is_empty());
    }
}

/// Once a layer was stored with a manifest, the record of the manifest cannot list it as absent.
#[tokio::test]
async fn a_layer_that_was_lost_is_stored_again_whatever_the_answer() {
    for answer in [Want::Feed, Want::Nothing] {
        let (from, to) = (store(), store());
        let root = made(&from).await;
        let layer = parts(&from, &root).await.remove(1);
        let remote = FakeRemote::new(&from, &root);
        pulled(&to, &remote, &of(Platforms::Host)).await.unwrap();
        assert!(to.content.remove(&layer.digest).await.unwrap());
        let unpacker = TestUnpacker::new(answer);
        pulled_by(&to, &remote, &unpacker).await.unwrap();
        assert!(to.present(&layer).await.unwrap());
        assert!(absent(&to, &root).await.is_empty());
    }
}

#[tokio::test]
async fn a_stored_layer_is_fed_from_the_store() {
    let (from, to) = (store(), store());
    let root = made(&from).await;
    let remote = FakeRemote::new(&from, &root);
    pulled(&to, &remote, &of(Platforms::Host)).await.unwrap();
    let fetches = remote.fetches();
    let unpacker = TestUnpacker::new(Want::Feed);
    pulled_by(&to, &remote, &unpacker).await.unwrap();
    assert_eq!(remote.fetches(), fetches);
    assert_eq!(
        sorted(unpacker.fed()),
        sorted(LAYERS.map(<[u8]>::to_vec).to_vec())
    );
}

#[tokio::test]
async fn a_stored_layer_that_is_damaged_is_fed_from_the_remote() {
    use ErrorKind::{Corrupt, NotFound};
    for flaw in [
        Flaw::First,
        Flaw::Last,
        Flaw::Cut,
        Flaw::Opens(Corrupt),
        Flaw::Reads(Corrupt),
        Flaw::Reads(NotFound),
    ] {
        let (from, to) = (store(), store());
        let root = made(&from).await;
        let layer = parts(&from, &root).await.remove(1);
        let remote = FakeRemote::new(&from, &root);
        pulled(&to, &remote, &of(Platforms::Host)).await.unwrap();
        let mut content = Wrapped::new(&to);
        content.damaged = Some((layer.digest, flaw));
        let to = content.of(&to);
        let unpacker = TestUnpacker::new(Want::Feed);
        pulled_by(&to, &remote, &unpacker).await.unwrap();
        assert_eq!(remote.ranges_of(&layer.digest).len(), 2, "{flaw:?}");
        assert_eq!(
            sorted(unpacker.fed()),
            sorted(LAYERS.map(<[u8]>::to_vec).to_vec())
        );
    }
}

#[tokio::test]
async fn an_error_of_the_unpacker_is_not_ignored() {
    for answer in [Want::Feed, Want::StoreAndFeed] {
        let (from, to) = (store(), store());
        let root = made(&from).await;
        let remote = FakeRemote::new(&from, &root);
        let mut unpacker = TestUnpacker::new(answer);
        unpacker.fails = true;
        let error = pulled_by(&to, &remote, &unpacker).await.unwrap_err();
        assert!(error.to_string().contains("wants a failure"), "{error}");
        assert!(to.images.list(&[]).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_layer_that_the_unpacker_needs_after_all_is_stored() {
    let (from, to) = (store(), store());
    let root = made(&from).await;
    let layers = parts(&from, &root).await.split_off(1);
    let remote = FakeRemote::new(&from, &root);
    let mut unpacker = TestUnpacker::new(Want::Feed);
    unpacker.needed = Some(layers[1].clone());
    pulled_by(&to, &remote, &unpacker).await.unwrap();
    assert_eq!(remote.ranges_of(&layers[1].digest).len(), 2);
    assert_eq!(absent(&to, &root).await, [layers[0].digest]);
    collect(&to, &[], &GcOptions::default()).await.unwrap();
    assert_eq!(stored(&to, &layers).await, 1);
}

#[tokio::test]
async fn one_answer_holds_for_all_manifests_that_list_the_layer() {
    let (from, to) = (store(), store());
    let layer = put(&from, MediaType::OCI_LAYER, b"shared").await;
    let mut manifests = Vec::new();
    for platform in ["linux/amd64", "linux/arm64"] {
        let config = config(&from, platform, &[layer.digest]).await;
        let made = manifest(&from, config, std::slice::from_ref(&layer)).await;
        manifests.push(made.with_platform(platform.parse().unwrap()));
    }
    let root = index(&from, &manifests).await;
    let remote = FakeRemote::new(&from, &root);
    let unpacker = TestUnpacker::new(Want::Feed);
    let options = of(Platforms::All).with_unpacker(&unpacker);
    pulled(&to, &remote, &options).await.unwrap();
    assert_eq!(*unpacker.asked.lock().unwrap(), [layer.digest]);
    assert_eq!(unpacker.fed(), [b"shared"]);
    for manifest in &manifests {
        assert_eq!(absent(&to, manifest).await, [layer.digest]);
    }
}

#[tokio::test]
async fn a_left_out_layer_is_pushed_where_it_is_and_missing_elsewhere() {
    let (from, to) = (store(), store());
    let root = made(&from).await;
    let remote = FakeRemote::new(&from, &root);
    let unpacker = TestUnpacker::new(Want::Feed);
    pulled_by(&to, &remote, &unpacker).await.unwrap();
    let options = PushOptions::default();
    push(&to, &remote, &root, &options).await.unwrap();
    let elsewhere = FakeRemote::new(&store(), &root);
    let error = push(&to, &elsewhere, &root, &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("pull or import the whole image"),
        "{error}"
    );
}
