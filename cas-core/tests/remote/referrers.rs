//! Referrers of an image are pulled, pushed, copied and collected with it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cas_core::blob;
use cas_core::check::{CheckOptions, check};
use cas_core::content::ContentExt;
use cas_core::gc::{GcOptions, collect};
use cas_core::labels::gc_ref_referrer;
use cas_core::lease::{LeaseGuard, UNLEASED_TTL};
use cas_core::platform::Platforms;
use cas_core::progress::{Event, Phase};
use cas_core::records::BlobRecord;
use cas_core::transfer::{
    ArtifactClient, CopyOptions, PullOptions, PushOptions, ReferrerPages, Referrers,
    StoreRepository, copy, pull, push, select_first,
};
use cas_core::{
    Descriptor, Digest, Error, ErrorKind, Image, ImageStoreExt, MediaType, Result, Store, limit,
    pool,
};
use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::support::{config, index, named, parts, put, store};

const PLATFORM: &str = "linux/amd64";
const SBOM: &str = "application/spdx+json";

/// Puts an artifact of this type that refers to `subject`. Returns its descriptor.
async fn artifact(store: &Store, kind: &str, subject: &Descriptor) -> Descriptor {
    let text = format!("{kind:.50} of {}", subject.digest);
    let layer = put(store, MediaType::from("text/plain"), text.as_bytes()).await;
    let empty = put(store, MediaType::OCI_EMPTY, b"{}").await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": kind,
        "config": empty, "layers": [layer], "subject": subject, "annotations": {"of": "test"},
    });
    let data = manifest.to_string().into_bytes();
    put(store, MediaType::OCI_MANIFEST, &data).await
}

/// Records referrers of a subject, as an import does.
async fn refer(store: &Store, subject: &Descriptor, referrers: &[&Descriptor]) {
    let guard = LeaseGuard::begin(store, "test").await.unwrap();
    let digests: Vec<Digest> = referrers.iter().map(|one| one.digest).collect();
    for one in referrers {
        guard.pin_tree(one).await.unwrap();
    }
    guard.record_referrers(subject, &digests).await.unwrap();
    guard.finish().await.unwrap();
}

/// A store with an index of one manifest, an SBOM of the manifest, and its signature.
struct Scene {
    store: Store,
    root: Descriptor,
    manifest: Descriptor,
    sbom: Descriptor,
    signature: Descriptor,
}

impl Scene {
    async fn new() -> Self {
        let store = store();
        let manifest = named(&store, PLATFORM).await;
        let root = index(&store, std::slice::from_ref(&manifest)).await;
        let image = Image::new("app:1".parse().unwrap(), root.clone());
        store.images.put(image).await.unwrap();
        let sbom = artifact(&store, SBOM, &manifest).await;
        let signature = artifact(&store, "application/x.signature", &sbom).await;
        refer(&store, &sbom, &[&signature]).await;
        refer(&store, &manifest, &[&sbom]).await;
        Scene {
            store,
            root,
            manifest,
            sbom,
            signature,
        }
    }

    fn repository(&self) -> StoreRepository {
        StoreRepository::new(&self.store, &"app:1".parse().unwrap())
    }

    /// Pulls everything into `to`, with the referrers that `lister` lists.
    async fn pull(&self, to: &Store, lister: &dyn Referrers) -> Result<Image> {
        let options = PullOptions::default()
            .with_platforms(Platforms::All)
            .with_referrers(lister);
        pull(to, &self.repository(), "copy".parse().unwrap(), &options).await
    }

    /// Asserts that a store has the referrers, and keeps them for as long as the image.
    async fn is_kept_in(&self, other: &Store, name: &str) {
        assert_eq!(collect_later(other).await, 0);
        assert_eq!(listed(other, &self.manifest).await, [self.sbom.digest]);
        assert_eq!(listed(other, &self.sbom).await, [self.signature.digest]);
        let found = blob::referrers(other, &self.manifest.digest).await.unwrap();
        assert_eq!(found[0].artifact_type.as_deref(), Some(SBOM));
        assert_eq!(found[0].annotations["of"], "test");
        other
            .images
            .delete(&name.parse().unwrap(), None)
            .await
            .unwrap();
        // An index, a manifest, its configuration and layer; two artifacts with a layer each, and
        // the empty configuration of both.
        assert_eq!(collect_later(other).await, 9);
        assert!(listed(other, &self.manifest).await.is_empty());
    }
}

async fn listed(store: &Store, subject: &Descriptor) -> Vec<Digest> {
    let found = blob::referrers(store, &subject.digest).await.unwrap();
    found.iter().map(|one| one.digest).collect()
}

async fn collect_later(store: &Store) -> usize {
    let later = SystemTime::now() + 2 * UNLEASED_TTL;
    let options = GcOptions::default().with_now(later);
    collect(store, &[], &options).await.unwrap().blobs.len()
}

/// A layer, or a document of a type that this program does not know, can have referrers, too.
#[tokio::test]
async fn a_referrer_of_a_blob_that_is_not_a_document_is_pushed_and_kept() {
    let (from, to) = (store(), store());
    let manifest = named(&to, PLATFORM).await;
    let image = Image::new("app:1".parse().unwrap(), manifest.clone());
    to.images.put(image).await.unwrap();
    let layer = parts(&to, &manifest).await.remove(1);
    let sbom = artifact(&from, SBOM, &layer).await;
    let name = "sbom".parse().unwrap();
    let there = StoreRepository::new(&to, &name);
    let pushed = push(&from, &there, &sbom, &PushOptions::default()).await;
    assert_eq!(pushed.unwrap(), sbom);
    drop(there);
    assert!(pool::wait_until_idle(Duration::from_secs(60)));
    to.images.remove(&name).await.unwrap();
    assert_eq!(listed(&to, &layer).await, [sbom.digest]);
    assert_eq!(collect_later(&to).await, 0);
}

#[tokio::test]
async fn referrers_are_pulled_with_theirs_and_collected_with_their_subject() {
    let scene = Scene::new().await;
    let to = store();
    scene.pull(&to, &scene.repository()).await.unwrap();
    scene.is_kept_in(&to, "copy").await;
    scene.is_kept_in(&scene.store, "app:1").await;
}

#[tokio::test]
async fn a_pull_without_referrers_leaves_them_and_a_later_one_adds_them() {
    let scene = Scene::new().await;
    let to = store();
    let options = PullOptions::default().with_platforms(Platforms::All);
    let name = || "copy".parse().unwrap();
    pull(&to, &scene.repository(), name(), &options)
        .await
        .unwrap();
    assert!(listed(&to, &scene.manifest).await.is_empty());
    scene.pull(&to, &scene.repository()).await.unwrap();
    scene.is_kept_in(&to, "copy").await;
}

#[tokio::test]
async fn a_pull_of_referrers_that_is_dropped_at_any_point_is_all_or_nothing() {
    let scene = Scene::new().await;
    let repository = scene.repository();
    for polls in 0.. {
        let to = store();
        let ended = {
            let mut pulling = pin!(scene.pull(&to, &repository));
            let mut left = polls;
            poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(false);
                }
                left -= 1;
                let polled = pulling.as_mut().poll(context);
                polled.map(|done| done.is_ok())
            })
            .await
        };
        assert!(pool::wait_until_idle(Duration::from_secs(60)));
        let is_named = !to.images.list(&[]).await.unwrap().is_empty();
        assert!(is_named || !ended, "after {polls} polls");
        if !is_named {
            collect_later(&to).await;
            let left = to.content.list(None, 1).await.unwrap();
            assert!(left.is_empty(), "after {polls} polls");
            scene.pull(&to, &repository).await.unwrap();
        }
        scene.is_kept_in(&to, "copy").await;
        if ended {
            assert!(polls > 1);
            return;
        }
    }
}

#[tokio::test]
async fn a_copy_takes_referrers_along() {
    let scene = Scene::new().await;
    let to = store();
    let image = Image::new("copy".parse().unwrap(), scene.root.clone());
    copy(&scene.store, &to, &image, &CopyOptions::default())
        .await
        .unwrap();
    scene.is_kept_in(&to, "copy").await;
}

#[tokio::test]
async fn a_push_takes_referrers_along_if_it_is_asked_to() {
    let scene = Scene::new().await;
    for with in [false, true] {
        let to = store();
        let repository = StoreRepository::new(&to, &"copy".parse().unwrap());
        let options = PushOptions::default().with_referrers(with);
        push(&scene.store, &repository, &scene.root, &options)
            .await
            .unwrap();
        drop(repository);
        if with {
            scene.is_kept_in(&to, "copy").await;
        } else {
            assert!(listed(&to, &scene.manifest).await.is_empty());
        }
    }
}

/// Lists the referrers that a test sets, one on each page.
#[derive(Default)]
struct Lister(BTreeMap<Digest, Vec<Descriptor>>);

impl Lister {
    fn with(mut self, subject: &Descriptor, listed: &[&Descriptor]) -> Self {
        let listed = listed.iter().copied().cloned().collect();
        self.0.insert(subject.digest, listed);
        self
    }
}

#[async_trait]
impl Referrers for Lister {
    async fn referrers(&self, subject: &Descriptor, wanted: Option<&str>) -> Result<ReferrerPages> {
        let mut found = self.0.get(&subject.digest).cloned().unwrap_or_default();
        found.retain(|one| wanted.is_none() || one.artifact_type.as_deref() == wanted);
        Ok(stream::iter(found).map(|one| Ok(vec![one])).boxed())
    }
}

#[tokio::test]
async fn a_list_that_lies_is_an_error_and_writes_no_name() {
    let scene = Scene::new().await;
    let Scene { manifest, sbom, .. } = &scene;
    let text = Descriptor::new("text/plain".into(), sbom.digest, sbom.size);
    let larger = Descriptor::new(MediaType::OCI_MANIFEST, sbom.digest, sbom.size + 1);
    let other_type = Descriptor::new(MediaType::OCI_INDEX, sbom.digest, sbom.size);
    let circle = Lister::default()
        .with(manifest, &[sbom])
        .with(sbom, &[manifest]);
    for (lister, said) in [
        (
            Lister::default().with(&scene.root, &[sbom]),
            "expected the subject",
        ),
        (
            Lister::default()
                .with(sbom, &[])
                .with(manifest, &[manifest]),
            "found none",
        ),
        (
            Lister::default().with(manifest, &[&text]),
            "found text/plain",
        ),
        (Lister::default().with(manifest, &[&larger]), "expected"),
        (
            Lister::default().with(manifest, &[&other_type]),
            "the document states",
        ),
        (circle, "found none"),
    ] {
        let to = store();
        let error = scene.pull(&to, &lister).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(to.images.list(&[]).await.unwrap().is_empty());
        collect_later(&to).await;
        assert!(to.content.list(None, 1).await.unwrap().is_empty());
    }
}

/// A collection removes what the failed pull has stored. Until then, it does not count as damage.
#[tokio::test]
async fn referrers_that_a_failed_pull_has_stored_are_left_over_and_not_unlinked() {
    let scene = Scene::new().await;
    let stray = artifact(&scene.store, "a/b", &scene.root).await;
    let lister = Lister::default().with(&scene.manifest, &[&scene.sbom, &stray]);
    let to = store();
    let error = scene.pull(&to, &lister).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(to.present(&scene.sbom).await.unwrap());
    let options = PullOptions::default().with_platforms(Platforms::All);
    let name = "copy".parse().unwrap();
    pull(&to, &scene.repository(), name, &options)
        .await
        .unwrap();
    let report = check(&to, &[], &CheckOptions::default()).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    let lister = Lister::default()
        .with(&scene.manifest, &[&scene.sbom])
        .with(&scene.sbom, &[&scene.signature]);
    scene.pull(&to, &lister).await.unwrap();
    assert_eq!(collect_later(&to).await, 2, "the stray and its layer");
    scene.is_kept_in(&to, "copy").await;
}

#[tokio::test]
async fn a_referrer_that_is_listed_but_absent_is_left_out_with_a_warning() {
    let scene = Scene::new().await;
    let gone = Descriptor::of(MediaType::OCI_MANIFEST, b"gone");
    let lister = Lister::default().with(&scene.manifest, &[&gone, &scene.sbom]);
    let to = store();
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&warnings);
    let options = PullOptions::default()
        .with_platforms(Platforms::All)
        .with_referrers(&lister)
        .with_progress(Arc::new(move |event: Event<'_>| {
            if event.phase == Phase::Warning {
                sink.lock().unwrap().push(event.item.to_owned());
            }
        }));
    let name = "copy".parse().unwrap();
    pull(&to, &scene.repository(), name, &options)
        .await
        .unwrap();
    assert_eq!(listed(&to, &scene.manifest).await, [scene.sbom.digest]);
    let warnings = warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains(&gone.digest.to_string()),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn chains_and_numbers_of_referrers_are_bounded() {
    let scene = Scene::new().await;
    let chain = |length: usize| {
        let (scene, mut lister) = (&scene, Lister::default());
        async move {
            let mut last = scene.manifest.clone();
            for number in 0..length {
                let next = artifact(&scene.store, &format!("a/{number}"), &last).await;
                lister = lister.with(&last, &[&next]);
                last = next;
            }
            scene.pull(&store(), &lister).await
        }
    };
    chain(limit::REFERRER_DEPTH).await.unwrap();
    let error = chain(limit::REFERRER_DEPTH + 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");

    // Referrers that are listed but absent count, too. All of one subject, or spread over two.
    let absent = |numbers: Range<usize>| -> Vec<Descriptor> {
        let named = numbers.map(|number| number.to_string());
        named
            .map(|text| Descriptor::of(MediaType::OCI_MANIFEST, text.as_bytes()))
            .collect()
    };
    for spread in [0, 100] {
        let pulled = |most: usize| {
            let lister = Lister(BTreeMap::from([
                (scene.root.digest, absent(0..spread)),
                (scene.manifest.digest, absent(spread..most)),
            ]));
            let scene = &scene;
            async move { scene.pull(&store(), &lister).await }
        };
        pulled(limit::REFERRERS).await.unwrap();
        let error = pulled(limit::REFERRERS + 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        assert!(
            error.to_string().contains("more than 1024 referrers"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_store_keeps_and_lists_as_many_referrers_of_one_subject_as_are_allowed() {
    let scene = Scene::new().await;
    let Scene {
        store, manifest, ..
    } = &scene;
    let config = put(store, MediaType::OCI_EMPTY, b"{}").await;
    // The subject has one referrer already.
    let mut referrers = Vec::new();
    for number in 0..limit::REFERRERS {
        let document = json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "artifactType": "a/b",
            "config": config, "layers": [], "subject": manifest,
            "annotations": {"number": number.to_string()},
        });
        let data = document.to_string().into_bytes();
        let referrer = put(store, MediaType::OCI_MANIFEST, &data).await;
        referrers.push(referrer.digest);
    }
    let last = referrers.pop().unwrap();
    let guard = LeaseGuard::begin(store, "test").await.unwrap();
    guard.record_referrers(manifest, &referrers).await.unwrap();
    assert_eq!(listed(store, manifest).await.len(), limit::REFERRERS);
    let error = guard.record_referrers(manifest, &[last]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    let said = "would keep 1025 referrers: at most 1024 are allowed";
    assert!(error.to_string().contains(said), "{error}");
    // One that is kept already is recorded again.
    guard
        .record_referrers(manifest, &referrers[..1])
        .await
        .unwrap();
    assert_eq!(listed(store, manifest).await.len(), limit::REFERRERS);
    guard.finish().await.unwrap();

    // Only another program can set more labels.
    let label = |found: Option<BlobRecord>| {
        let mut record = found.unwrap();
        let label = (gc_ref_referrer(&last), last.to_string());
        record.labels.extend([label]);
        Ok(record)
    };
    store.blobs().update(&manifest.digest, label).await.unwrap();
    let error = blob::referrers(store, &manifest.digest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    let said = "has 1025 referrers: at most 1024 can be listed";
    assert!(error.to_string().contains(said), "{error}");
}

#[tokio::test]
async fn annotations_are_bounded_however_they_are_spread() {
    let scene = Scene::new().await;
    let entries: Vec<Descriptor> = (0..9)
        .map(|number: u32| {
            let data = number.to_string();
            let mut entry = Descriptor::of(MediaType::OCI_MANIFEST, data.as_bytes());
            entry.annotations.insert("a".into(), "x".repeat(1 << 20));
            entry
        })
        .collect();
    let lister = Lister(BTreeMap::from([(scene.manifest.digest, entries)]));
    let client = ArtifactClient::new(&lister);
    let error = client.all_referrers(&scene.manifest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    // A store lists all its referrers, whatever their size, but not all of their annotations.
    let mut referrers = Vec::new();
    for number in 0..3 {
        let long = format!("{number}{}", "x".repeat(3 << 20));
        referrers.push(artifact(&scene.store, &long, &scene.manifest).await);
    }
    refer(
        &scene.store,
        &scene.manifest,
        &referrers.iter().collect::<Vec<_>>(),
    )
    .await;
    let found = blob::referrers(&scene.store, &scene.manifest.digest)
        .await
        .unwrap();
    assert_eq!(found.len(), 4);
    let texts = found.iter().filter_map(|one| one.artifact_type.as_ref());
    assert!(texts.map(String::len).sum::<usize>() < 8 << 20);
}

#[tokio::test]
async fn a_referrer_that_was_lost_is_neither_listed_nor_missed() {
    let scene = Scene::new().await;
    let digest = scene.sbom.digest;
    scene.store.content.remove(&digest).await.unwrap();
    assert!(listed(&scene.store, &scene.manifest).await.is_empty());
    // What is left of the image is copied as before.
    let to = store();
    let image = Image::new("copy".parse().unwrap(), scene.root.clone());
    copy(&scene.store, &to, &image, &CopyOptions::default())
        .await
        .unwrap();
    assert!(listed(&to, &scene.manifest).await.is_empty());
}

#[tokio::test]
async fn artifacts_are_found_by_type_and_one_is_selected() {
    let scene = Scene::new().await;
    let other = artifact(&scene.store, "application/x.other", &scene.manifest).await;
    refer(&scene.store, &scene.manifest, &[&other]).await;
    let client = ArtifactClient::new(scene.repository());
    let all = client.all_referrers(&scene.manifest).await.unwrap();
    assert_eq!(all.len(), 2);
    let first = client
        .select_referrer(&scene.manifest, select_first)
        .await
        .unwrap();
    assert_eq!(first, all[0]);
    let last = client
        .select_referrer(&scene.manifest, |found| Ok(found[found.len() - 1].clone()))
        .await;
    assert_eq!(last.unwrap(), all[1]);
    let refused = client
        .select_referrer(&scene.manifest, |_| Err(Error::invalid("neither")))
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidArgument);

    let client = client.with_artifact_type(SBOM.to_owned());
    let found = client.all_referrers(&scene.manifest).await.unwrap();
    assert_eq!(
        found.iter().map(|one| one.digest).collect::<Vec<_>>(),
        [scene.sbom.digest]
    );
    // The client is also a client of the content.
    let fetched = cas_core::transfer::Fetcher::fetch(client.inner(), &found[0], 0..1).await;
    assert!(fetched.is_ok());
    let none = client.select_referrer(&scene.signature, select_first).await;
    assert_eq!(none.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(select_first(&[]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_label_on_a_document_of_another_program_does_not_hide_what_it_lists() {
    let store = store();
    let layer = put(&store, MediaType::OCI_LAYER, b"layer").await;
    let config = config(&store, PLATFORM, &[]).await;
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    let manifest = Descriptor::of(MediaType::OCI_MANIFEST, manifest.as_bytes());
    let kept = put(&store, MediaType::BYTES, b"kept").await;
    // The record has a label, but no children.
    let data = json!({"schemaVersion": 2, "config": config, "layers": [layer]}).to_string();
    put(&store, MediaType::BYTES, data.as_bytes()).await;
    let key = cas_core::labels::gc_ref_referrer(&kept.digest);
    let label = (key, kept.digest.to_string());
    cas_core::lease::set_labels(&store, &manifest, &[label].into())
        .await
        .unwrap();
    let image = Image::new("app".parse().unwrap(), manifest);
    store.images.put(image).await.unwrap();
    assert_eq!(collect_later(&store).await, 0);
}
