//! The parts of blob records that documents do not list: referrers and other labels, and the claims
//! of owners.

use std::fs;

use bytes::Bytes;
use cas::blocking::Cas;
use cas::content::Durability;
use cas::labels::gc_ref_referrer;
use cas::lease::LeaseGuard;
use cas::records::{Batch, BlobRecord, Expect, Table};
use cas::{ContentExt, Descriptor, Digest, Image, MediaType, Owner, Store, blob};
use serde_json::json;

use crate::common::{cas, ok, stores};
use crate::scene::{Scene, has};

/// Stores a document that refers to the image, under the lease of a job that ends. Returns the
/// digest of the document.
async fn refer(store: &Store, subject: &Descriptor) -> Digest {
    let guard = LeaseGuard::begin(store, "test").await.unwrap();
    let config = Descriptor::of(MediaType::OCI_EMPTY, b"{}");
    let (data, level) = (Bytes::from_static(b"{}"), Durability::Full);
    guard.put(&config, data, level).await.unwrap();
    let document = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST.as_str(),
        "artifactType": "application/vnd.example.signature",
        "config": config,
        "layers": [config],
        "subject": subject,
    });
    let data = Bytes::from(document.to_string());
    let referrer = Descriptor::of(MediaType::OCI_MANIFEST, &data);
    guard.put(&referrer, data, level).await.unwrap();
    let referrers = [referrer.digest];
    guard.record_referrers(subject, &referrers).await.unwrap();
    guard.finish().await.unwrap();
    referrer.digest
}

/// Returns a scene whose image has a referrer, in the store and in the sound copy.
fn with_referrer(store: &str) -> (Scene, Descriptor, Digest) {
    let scene = Scene::new(store.to_owned().leak());
    let size = scene.bytes(&scene.manifest_digest).len() as u64;
    let subject = Descriptor::new(MediaType::OCI_MANIFEST, scene.manifest_digest, size);
    let referrer = scene.open(async |store| refer(store, &subject).await);
    let source = Cas::open(scene.source()).unwrap();
    let copy = cas::backend::pool::wait(refer(source.store(), &subject));
    assert_eq!(copy, referrer);
    (scene, subject, referrer)
}

fn referrers(scene: &Scene) -> Vec<Digest> {
    let subject = scene.manifest_digest;
    let found = scene.open(async |store| blob::referrers(store, &subject).await.unwrap());
    found.iter().map(|one| one.digest).collect()
}

/// Changes the record of a blob.
fn change(scene: &Scene, digest: Digest, change: impl Fn(&mut BlobRecord) + Send + Sync) {
    scene.open(async |store| {
        let changed = |found: Option<BlobRecord>| {
            let mut record = found.unwrap();
            change(&mut record);
            Ok(record)
        };
        store.blobs().update(&digest, changed).await.unwrap();
    });
}

/// Deletes the records of all blobs, or of these.
fn lose_records(scene: &Scene, only: Option<&[Digest]>) {
    scene.open(async |store| {
        let mut batch = Batch::new();
        for record in store
            .records
            .scan(Table::Blobs, "", None, 100)
            .await
            .unwrap()
        {
            let digest: Digest = record.key.parse().unwrap();
            if only.is_none_or(|only| only.contains(&digest)) {
                batch.delete(Table::Blobs, record.key, Expect::Any);
            }
        }
        store.records.commit(&batch).await.unwrap();
    });
}

/// Changes the checksum of the record of a blob.
fn spoil_checksum(scene: &Scene, digest: &Digest) {
    scene.open(async |store| {
        let key = digest.to_string();
        let record = store.records.load(Table::Blobs, &key).await;
        let mut value = record.unwrap().unwrap().value.to_vec();
        let last_digit = value.len() - 3;
        value[last_digit] ^= 1;
        let mut batch = Batch::new();
        batch.put(Table::Blobs, key, Expect::Any, value.into());
        store.records.commit(&batch).await.unwrap();
    });
}

#[test]
fn lost_referrers_are_found_and_fetched_again_or_linked() {
    for store in stores("fsck-referrers") {
        let (scene, _, referrer) = with_referrer(&store);
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        let removed = scene.open(async |store| store.content.remove(&referrer).await);
        assert!(removed.unwrap());
        scene.heals("blob-missing", referrer.hex());
        change(&scene, scene.manifest_digest, |record| {
            record.labels.clear()
        });
        scene.heals("referrer-unlinked", referrer.hex());
        assert_eq!(referrers(&scene), [referrer], "on {store}");
        lose_records(&scene, Some(&[scene.manifest_digest]));
        scene.heals("referrer-unlinked", referrer.hex());
        lose_records(&scene, None);
        scene.heals("referrer-unlinked", referrer.hex());
        ok(cas(&scene.root).arg("gc"));
        assert_eq!(referrers(&scene), [referrer], "on {store}");
    }
}

#[test]
fn a_repair_keeps_the_labels_of_damaged_records() {
    for store in stores("fsck-labels") {
        let (scene, subject, referrer) = with_referrer(&store);
        let layer = scene.layer();
        change(&scene, layer, |record| {
            record.labels.insert("team".to_owned(), "blue".to_owned());
        });
        for digest in [&subject.digest, &layer] {
            spoil_checksum(&scene, digest);
        }
        let (code, found) = scene.fsck(&["--repair"]);
        assert_eq!(code, 0, "on {store}: {found:#?}");
        assert_eq!(found.len(), 2, "on {store}: {found:#?}");
        for digest in [&subject.digest, &layer] {
            assert!(has(&found, "record-damaged", digest.hex()), "{found:#?}");
        }
        assert_eq!(referrers(&scene), [referrer], "on {store}");
        let record = scene.open(async |store| store.blobs().load(&layer).await);
        let (record, _) = record.unwrap().unwrap();
        assert_eq!(record.labels["team"], "blue", "on {store}");
        assert_eq!(scene.fsck(&["--read-data"]), (0, Vec::new()), "on {store}");
        scene.works();
    }
}

/// Without the bytes and the record of the referrer, its size is unknown.
#[test]
fn a_referrer_of_which_nothing_is_left_is_reported() {
    let (scene, _, referrer) = with_referrer("fs");
    scene
        .open(async |store| store.content.remove(&referrer).await)
        .unwrap();
    lose_records(&scene, Some(&[referrer]));
    for arguments in [&[][..], &["--repair"]] {
        let (code, found) = scene.fsck(arguments);
        assert_eq!(code, 4, "{found:#?}");
        assert!(has(&found, "blob-missing", referrer.hex()), "{found:#?}");
    }
    let key = gc_ref_referrer(&referrer);
    change(&scene, scene.manifest_digest, |record| {
        record.labels.remove(&key).unwrap();
    });
    assert_eq!(scene.fsck(&[]), (0, Vec::new()));
}

#[test]
fn a_missing_blob_that_only_a_label_keeps_is_fetched_again() {
    for store in stores("fsck-labelled") {
        let scene = Scene::new(store.leak());
        let bytes = b"only a label keeps these bytes";
        let (digest, file) = (Digest::sha256(bytes), scene.scratch.path().join("free"));
        fs::write(&file, bytes).unwrap();
        for root in [&scene.source(), &scene.root] {
            ok(cas(root).args(["blob", "add"]).arg(&file));
        }
        ok(cas(&scene.root).args(["snapshot", "prepare", "work"]));
        let (blob, layer) = (digest.to_string(), scene.layer().to_string());
        let reference = format!("containerd.io/gc.ref.content.x={blob}");
        let back_reference = "containerd.io/gc.bref.snapshot.native=work";
        for (labelled, label) in [(&layer, &*reference), (&blob, back_reference)] {
            let set = ["blob", "label", labelled, label];
            ok(cas(&scene.root).args(set));
            let removed = scene.open(async |store| store.content.remove(&digest).await);
            assert!(removed.unwrap());
            scene.heals("blob-missing", digest.hex());
            let (key, _) = label.split_once('=').unwrap();
            let unset = ["blob", "label", labelled, &format!("{key}=")];
            ok(cas(&scene.root).args(unset));
        }
    }
}

/// Such a document may have been stored for a job that has not begun yet.
#[test]
fn a_referrer_that_was_just_stored_without_a_lease_is_not_linked() {
    let (scene, subject, referrer) = with_referrer("fs");
    change(&scene, subject.digest, |record| record.labels.clear());
    let document = Descriptor::new(MediaType::OCI_MANIFEST, referrer, 0);
    scene.open(async |store| {
        let size = store.content.stat(&referrer).await.unwrap().unwrap().size;
        let document = Descriptor { size, ..document };
        store.describe(&document, Vec::new()).await.unwrap();
    });
    assert_eq!(scene.fsck(&["--repair"]), (0, Vec::new()));
    assert_eq!(referrers(&scene), []);
}

#[test]
fn records_that_are_made_again_have_the_claims_of_owners() {
    let owner: Owner = "alice".parse().unwrap();
    for store in stores("fsck-owners") {
        let (scene, target, referrer) = with_referrer(&store);
        let name = async |store: &Store| {
            let own = store.for_owner(&owner).unwrap();
            let guard = LeaseGuard::begin(&own, "test").await.unwrap();
            guard.pin_tree(&target).await.unwrap();
            let image = Image::new("alice:1".parse().unwrap(), target.clone());
            guard.name_one(image, &[]).await.unwrap();
        };
        scene.open(name);
        let claimed = || {
            let claims = scene.open(async |store| store.blobs().claimed_by(&owner).await);
            claims.unwrap()
        };
        let before = claimed();
        assert!(before.iter().any(|(digest, _)| *digest == referrer));
        assert!(before.len() > 4, "on {store}: {before:?}");
        lose_records(&scene, Some(&[scene.layer(), referrer]));
        assert_eq!(scene.fsck(&["--repair"]).0, 0, "on {store}");
        assert_eq!(claimed(), before, "on {store}");
        lose_records(&scene, None);
        assert_eq!(scene.fsck(&["--repair"]).0, 0, "on {store}");
        assert_eq!(claimed(), before, "on {store}");
        // An administrator may take claims away, and a name may be removed before its claims.
        change(&scene, scene.layer(), |record| record.owners.clear());
        assert_eq!(scene.fsck(&["--repair"]), (0, Vec::new()), "on {store}");
        assert_eq!(claimed().len(), before.len() - 1, "on {store}");
        scene.open(async |store| {
            let name = "alice:1".parse().unwrap();
            store.images.delete(&name, None).await.unwrap();
        });
        assert_eq!(scene.fsck(&["--repair"]), (0, Vec::new()), "on {store}");
        assert_eq!(claimed().len(), before.len() - 1, "on {store}");
    }
}
