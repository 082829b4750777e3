//! The requests for the tables of contents of layers that are read on demand.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use cas::distribution::{Endpoint, Mirrors, Options};
use cas::layer::unpack::{LayerTable, LayerTables, TableContent};
use cas::lazy::soci::{INDEX_DIGEST, Index, LayerPrefetch, LayerZtoc, Prefetch, Version};
use cas::lazy::{StoredTable, Ztoc};
use cas::progress::{Event, Phase};
use cas::transfer::Quota;
use cas::{
    ContentExt, Descriptor, Digest, Document, Manifest, MediaType, PullModes, RegistryTables,
};
use cas_core::testing::memory::MemoryStore;
use serde_json::json;
use testkit::archive::Tar;

use super::fake::{Answer, Fake, GRACE, InFlight, Request};
use super::quick;
use crate::common::chunked;

/// Number of layers: more than the requests that are made at the same time.
const LAYERS: usize = 20;
/// Maximum number of requests at the same time.
const REQUESTS: usize = 8;

/// An image with a SOCI index.
struct Scene {
    root: Descriptor,
    own: Descriptor,
    manifest: Manifest,
    layers: Vec<(Descriptor, Digest)>,
    index: Index,
    /// Content by digest.
    content: BTreeMap<String, Vec<u8>>,
}

impl Scene {
    fn new() -> Self {
        let mut content = BTreeMap::new();
        let mut put = |media_type: MediaType, bytes: Vec<u8>| {
            let descriptor = Descriptor::of(media_type, &bytes);
            content.insert(descriptor.digest.to_string(), bytes);
            descriptor
        };
        let (mut layers, mut ztocs, mut prefetches) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..LAYERS {
            let tar = Tar::new().file("file", number.to_string()).end();
            let bytes = chunked::plain(&tar).bytes;
            let ztoc = Ztoc::build(&bytes[..], 16 << 10, "test").unwrap();
            let ztoc = put(MediaType::from(""), ztoc.encode().unwrap());
            let layer = Descriptor::of(
                MediaType::from("application/vnd.oci.image.layer.v1.tar+gzip"),
                &bytes,
            );
            let prefetch = Prefetch { spans: vec![0..=0] };
            let mut bytes = prefetch.encode().unwrap();
            bytes.resize(bytes.len() + number, b' ');
            let prefetch = put(MediaType::from(""), bytes);
            ztocs.push(LayerZtoc {
                digest: ztoc.digest,
                size: ztoc.size,
                layer: layer.digest,
                layer_media_type: String::new(),
                span_size: None,
                no_xattrs: false,
            });
            prefetches.push(LayerPrefetch {
                digest: prefetch.digest,
                size: prefetch.size,
                layer: layer.digest,
            });
            layers.push((layer, Digest::sha256(&tar)));
        }
        let index = Index {
            version: Version::V2,
            ztocs,
            prefetches,
            build_tool: String::new(),
        };
        let soci = put(MediaType::OCI_MANIFEST, index.encode().unwrap());
        let descriptors: Vec<_> = layers.iter().map(|(layer, _)| layer).collect();
        let config = Descriptor::of(MediaType::OCI_CONFIG, b"{}");
        let manifest = json!({
            "schemaVersion": 2, "config": config, "layers": descriptors,
            "annotations": {INDEX_DIGEST: soci.digest.to_string()},
        });
        let manifest = manifest.to_string().into_bytes();
        let own = put(MediaType::OCI_MANIFEST, manifest.clone());
        let root = json!({"schemaVersion": 2, "manifests": [own, soci]});
        let root = put(MediaType::OCI_INDEX, root.to_string().into_bytes());
        let parsed = Document::parse(&own.media_type, &manifest).unwrap();
        let Document::Manifest(manifest) = parsed else {
            panic!("not a manifest");
        };
        Scene {
            root,
            own,
            manifest: *manifest,
            layers,
            index,
            content,
        }
    }

    /// Returns the digests of the tables that the SOCI index lists, in the order of the layers.
    fn index_digests(&self) -> Vec<Digest> {
        let of_layer = |(layer, _): &(Descriptor, Digest)| self.index.of_layer(&layer.digest);
        let listed = self.layers.iter().filter_map(of_layer);
        listed.map(|ztoc| ztoc.digest).collect()
    }

    /// Returns the tables of the image in a registry, which may request `quota` documents at the
    /// same time, and the warnings.
    async fn tables(&self, registry: &Fake, quota: i64) -> (Vec<Option<LayerTable>>, Vec<String>) {
        let store = MemoryStore::new().with_images();
        let root = &self.content[&self.root.digest.to_string()];
        store.content.put(root.clone().into()).await.unwrap();
        let reference: cas::image::FullName = registry.image().parse().unwrap();
        let options = Options {
            timeouts: quick(),
            ..Options::default()
        };
        let client = Mirrors::new([(Endpoint::of(&reference), options)]);
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&warnings);
        let progress = Arc::new(move |event: Event<'_>| {
            assert_eq!(event.phase, Phase::Warning);
            sink.lock().unwrap().push(event.item.to_owned());
        });
        let content = Arc::clone(&store.content);
        let modes = PullModes::default();
        let tables = RegistryTables::new(client, content, reference, modes, progress);
        let tables = tables.with_quota(Quota::of_each_image(quota).for_image());
        let found = tables.tables(&self.root, &self.own, &self.manifest, &self.layers);
        let found = found.await.unwrap();
        let warnings = warnings.lock().unwrap().clone();
        (found, warnings)
    }
}

/// Answers from content, as a registry without tags does.
fn answer(content: &BTreeMap<String, Vec<u8>>, request: &Request) -> Answer {
    let name = request.path.rsplit('/').next().unwrap();
    match content.get(name) {
        Some(bytes) => Answer::new(200).body(bytes),
        None => Answer::error(404, "MANIFEST_UNKNOWN", "unknown here"),
    }
}

/// Returns the layers that tables belong to.
fn layers_of(tables: &[Option<LayerTable>]) -> Vec<Option<Digest>> {
    let layer = |table: &LayerTable| {
        let (StoredTable::FILE, TableContent::Bytes(bytes)) = &table.files[0] else {
            panic!("not a description");
        };
        StoredTable::from_bytes(bytes).unwrap().layer.digest
    };
    (tables.iter())
        .map(|table| table.as_ref().map(layer))
        .collect()
}

/// Returns the digests of the tables, which must be in files.
fn digests_of(tables: &[Option<LayerTable>]) -> Vec<Digest> {
    let digest = |table: &LayerTable| {
        let is_table = |(name, _): &&(&str, TableContent)| *name == StoredTable::TABLE_FILE;
        let Some((_, TableContent::File(file))) = table.files.iter().find(is_table) else {
            panic!("no file with the table");
        };
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        Digest::sha256(&bytes)
    };
    tables.iter().flatten().map(digest).collect()
}

#[tokio::test]
async fn tables_are_requested_at_the_same_time_within_both_bounds_and_each_once() {
    for (quota, expected) in [(0, REQUESTS), (3, 3)] {
        let scene = Scene::new();
        let content = scene.content.clone();
        let in_flight = Arc::new(InFlight::default());
        let counted = Arc::clone(&in_flight);
        let registry = Fake::start(move |request| match request.path.contains("/blobs/") {
            true => counted.hold(expected, || answer(&content, request)),
            false => answer(&content, request),
        });
        let (tables, warnings) = scene.tables(&registry, quota).await;
        assert_eq!(warnings, [""; 0]);
        let expected_layers: Vec<_> = (scene.layers.iter())
            .map(|(layer, _)| Some(layer.digest))
            .collect();
        assert_eq!(layers_of(&tables), expected_layers);
        for table in tables.iter().flatten() {
            let names: Vec<_> = table.files.iter().map(|(name, _)| *name).collect();
            assert!(names.contains(&StoredTable::PREFETCH_FILE), "{names:?}");
        }
        assert_eq!(digests_of(&tables), scene.index_digests());
        assert_eq!(in_flight.most(), expected);
        // The index of SOCI, the tables and the prefetch artifacts. The store has the index of the
        // image.
        let paths = |request: Request| (request.method, request.path);
        let mut seen: Vec<_> = registry.seen().into_iter().map(paths).collect();
        seen.sort();
        let requests = seen.len();
        seen.dedup();
        assert_eq!((seen.len(), requests), (1 + 2 * LAYERS, 1 + 2 * LAYERS));
    }
}

/// The answers for lower layers arrive last.
#[tokio::test]
async fn warnings_come_in_the_order_of_the_layers() {
    let scene = Scene::new();
    let mut content = scene.content.clone();
    let (first, second) = (&scene.index.prefetches[1], &scene.index.ztocs[4]);
    let third = &scene.index.ztocs[LAYERS - 1];
    for damaged in [&first.digest, &second.digest, &third.digest] {
        content.get_mut(&damaged.to_string()).unwrap()[0] ^= 1;
    }
    let late = [first.digest, second.digest].map(|digest| digest.to_string());
    let registry = Fake::start(move |request| {
        let answer = answer(&content, request);
        match late
            .iter()
            .position(|digest| request.path.ends_with(digest))
        {
            Some(at) => answer.late(GRACE * (2 - at as u32)),
            None => answer,
        }
    });
    let (tables, warnings) = scene.tables(&registry, 0).await;
    let missing: Vec<_> = (0..LAYERS).filter(|at| tables[*at].is_none()).collect();
    assert_eq!(missing, [4, LAYERS - 1]);
    let subjects = [first.digest, second.layer, third.layer];
    assert_eq!(warnings.len(), subjects.len(), "{warnings:#?}");
    for (warning, subject) in warnings.iter().zip(subjects) {
        assert!(warning.contains(&subject.to_string()), "{warnings:#?}");
    }
}
